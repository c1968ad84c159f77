//! Application tokens: what stands for a user where a password would, one for each place that logs in.

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::Expr;
use sea_orm::{ActiveModelTrait, ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::accounts::USE_INTERVAL;
use super::entity::accounts::app_token;
use super::{Change, Meta, MetaError, Millis};

pub(crate) use super::entity::accounts::app_token::Model as AppToken;

/// A token that is to be.
#[derive(Clone, Debug)]
pub(crate) struct NewAppToken {
    /// Its public name.
    pub(crate) uuid: String,
    /// Whose.
    pub(crate) account: i64,
    /// What for.
    pub(crate) title: String,
    /// SHA-256 of it.
    pub(crate) hash: String,
    /// Until when it is good.
    pub(crate) expires: Option<Millis>,
    /// What it may do.
    pub(crate) scopes: Option<String>,
}

impl Meta {
    /// The token with this hash, expired or not.
    pub(crate) async fn app_token_by_hash(&self, hash: &str) -> Result<Option<AppToken>, MetaError> {
        Ok(app_token::Entity::find().filter(app_token::Column::TokenHash.eq(hash)).one(&self.connections).await?)
    }

    /// A token of an account, by its public name.
    pub(crate) async fn app_token(&self, account: i64, uuid: &str) -> Result<Option<AppToken>, MetaError> {
        let query = app_token::Entity::find()
            .filter(app_token::Column::Uuid.eq(uuid))
            .filter(app_token::Column::AccountId.eq(account));
        Ok(query.one(&self.connections).await?)
    }

    /// The tokens of an account, those that expire first first; `before`: only those that expire before then.
    pub(crate) async fn app_tokens(
        &self,
        account: i64,
        before: Option<Millis>,
        limit: u64,
    ) -> Result<Vec<AppToken>, MetaError> {
        let mut query = app_token::Entity::find().filter(app_token::Column::AccountId.eq(account));
        if let Some(before) = before {
            query = query.filter(app_token::Column::Expires.lt(before));
        }
        let query = query.order_by_asc(app_token::Column::Expires).order_by_asc(app_token::Column::Id).limit(limit);
        Ok(query.all(&self.connections).await?)
    }

    /// Notes that a token was used, at most once a minute.
    pub(crate) async fn app_token_used(&self, token: &AppToken, now: Millis) -> Result<(), MetaError> {
        let due = now - USE_INTERVAL;
        if token.last_accessed.is_some_and(|last| last > due) {
            return Ok(());
        }
        // Many may use it at once; one of them writes.
        let stale = Condition::any()
            .add(app_token::Column::LastAccessed.is_null())
            .add(app_token::Column::LastAccessed.lte(due));
        let used = app_token::Entity::update_many()
            .col_expr(app_token::Column::LastAccessed, Expr::value(now))
            .filter(app_token::Column::Id.eq(token.id))
            .filter(stale);
        let change = self.change().await?;
        used.exec(&change.transaction).await?;
        change.commit().await
    }
}

impl Change {
    /// Makes a token.
    pub(crate) async fn create_app_token(&self, new: NewAppToken, now: Millis) -> Result<AppToken, MetaError> {
        let row = app_token::ActiveModel {
            uuid: Set(new.uuid),
            account_id: Set(new.account),
            title: Set(new.title),
            token_hash: Set(new.hash),
            created: Set(now),
            expires: Set(new.expires),
            scopes: Set(new.scopes),
            ..Default::default()
        };
        Ok(row.insert(&self.transaction).await?)
    }

    /// Takes a token away.
    pub(crate) async fn delete_app_token(&self, id: i64) -> Result<bool, MetaError> {
        Ok(app_token::Entity::delete_by_id(id).exec(&self.transaction).await?.rows_affected > 0)
    }
}
