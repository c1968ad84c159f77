//! Users, organisations and robots.
//!
//! Deleting one takes along what hangs on it: robots, teams, tokens, permissions. Its repositories are marked as deleted first, by
//! whoever deletes it; until garbage collection has taken away what they held, they hang on an account that nobody can name.

use std::collections::HashMap;

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{Expr, Query};
use sea_orm::{ActiveModelTrait, ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::entity::accounts::{AccountKind, Superuser, TeamRole, account, team, team_member};
use super::entity::repositories::{RepositoryState, repository};
use super::{Change, Meta, MetaError, Millis, now};

pub(crate) use super::entity::accounts::account::Model as Account;

/// Where repositories hang whose account is gone. No name of an account has an exclamation mark.
const NOBODY: &str = "!deleted";

/// How often it is written down that something was used.
pub(super) const USE_INTERVAL: Millis = 60_000;

/// An account that is to be.
#[derive(Clone, Debug)]
pub(crate) struct NewAccount {
    /// Unique among all kinds.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: AccountKind,
    /// For people to write to.
    pub(crate) email: Option<String>,
    /// Argon2, in PHC format.
    pub(crate) password: Option<String>,
    /// Whose robot it is.
    pub(crate) owner: Option<i64>,
    /// SHA-256 of a robot's token.
    pub(crate) token_hash: Option<String>,
    /// A robot's token, sealed.
    pub(crate) token_sealed: Option<Vec<u8>>,
    /// What it is for.
    pub(crate) description: String,
    /// What it may everywhere.
    pub(crate) superuser: Superuser,
}

impl NewAccount {
    /// An account that can do nothing yet.
    pub(crate) fn new(name: &str, kind: AccountKind) -> NewAccount {
        NewAccount {
            name: name.to_owned(),
            kind,
            email: None,
            password: None,
            owner: None,
            token_hash: None,
            token_sealed: None,
            description: String::new(),
            superuser: Superuser::No,
        }
    }
}

/// What changes of an account; the rest stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct AccountEdit {
    /// For people to write to.
    pub(crate) email: Option<Option<String>>,
    /// Argon2, in PHC format. Wrong passwords before it are forgotten.
    pub(crate) password: Option<String>,
    /// SHA-256 of a robot's token, and the token, sealed, if it is kept.
    pub(crate) token: Option<(String, Option<Vec<u8>>)>,
    /// What it is for.
    pub(crate) description: Option<String>,
    /// Whether it may log in.
    pub(crate) enabled: Option<bool>,
    /// What it may everywhere.
    pub(crate) superuser: Option<Superuser>,
}

impl Meta {
    /// The account of this name.
    pub(crate) async fn account(&self, name: &str) -> Result<Option<Account>, MetaError> {
        if name == NOBODY {
            return Ok(None);
        }
        Ok(account::Entity::find().filter(account::Column::Name.eq(name)).one(&self.connections).await?)
    }

    /// The account with this number.
    pub(crate) async fn account_by_id(&self, id: i64) -> Result<Option<Account>, MetaError> {
        Ok(account::Entity::find_by_id(id).one(&self.connections).await?)
    }

    /// Accounts of a kind, by name.
    pub(crate) async fn accounts(
        &self,
        kind: AccountKind,
        enabled: Option<bool>,
        after: Option<&str>,
        limit: u64,
    ) -> Result<Vec<Account>, MetaError> {
        let mut query = account::Entity::find()
            .filter(account::Column::Kind.eq(kind))
            .filter(account::Column::Name.ne(NOBODY))
            .order_by_asc(account::Column::Name)
            .limit(limit);
        if let Some(enabled) = enabled {
            query = query.filter(account::Column::Enabled.eq(enabled));
        }
        if let Some(after) = after {
            query = query.filter(account::Column::Name.gt(after));
        }
        Ok(query.all(&self.connections).await?)
    }

    /// Notes that a user or robot logged in, at most once a minute.
    pub(crate) async fn account_used(&self, account: &Account, now: Millis) -> Result<(), MetaError> {
        let due = now - USE_INTERVAL;
        if account.last_login.is_some_and(|last| last > due) {
            return Ok(());
        }
        // Many may use it at once; one of them writes.
        let stale = Condition::any().add(account::Column::LastLogin.is_null()).add(account::Column::LastLogin.lte(due));
        let used = account::Entity::update_many()
            .col_expr(account::Column::LastLogin, Expr::value(now))
            .filter(account::Column::Id.eq(account.id))
            .filter(stale);
        let change = self.change().await?;
        used.exec(&change.transaction).await?;
        change.commit().await
    }

    /// The robots of a user or organisation, by name.
    pub(crate) async fn robots(&self, owner: i64, limit: u64) -> Result<Vec<Account>, MetaError> {
        let query = account::Entity::find()
            .filter(account::Column::OwnerId.eq(owner))
            .order_by_asc(account::Column::Name)
            .limit(limit);
        Ok(query.all(&self.connections).await?)
    }

    /// The organisations that an account has a team in, by name, each with the strongest role there.
    pub(crate) async fn organizations_of(&self, member: i64) -> Result<Vec<(Account, TeamRole)>, MetaError> {
        let teams: Vec<(i64, TeamRole)> = team::Entity::find()
            .select_only()
            .column(team::Column::OrganizationId)
            .column(team::Column::Role)
            .filter(team::Column::Id.in_subquery(teams_of(member)))
            .into_tuple()
            .all(&self.connections)
            .await?;
        let within = Query::select()
            .column(team::Column::OrganizationId)
            .from(team::Entity)
            .and_where(team::Column::Id.in_subquery(teams_of(member)))
            .take();
        let query =
            account::Entity::find().filter(account::Column::Id.in_subquery(within)).order_by_asc(account::Column::Name);
        let organizations = query.all(&self.connections).await?;
        let mut roles: HashMap<i64, TeamRole> = HashMap::new();
        for (organization, role) in teams {
            roles.entry(organization).and_modify(|known| *known = role.max(*known)).or_insert(role);
        }
        let with_role = |found: Account| roles.get(&found.id).map(|role| (found, *role));
        Ok(organizations.into_iter().filter_map(with_role).collect())
    }
}

impl Change {
    /// Makes an account. [`MetaError::Exists`]: there is one of this name.
    pub(crate) async fn create_account(&self, new: NewAccount, now: Millis) -> Result<Account, MetaError> {
        let row = account::ActiveModel {
            name: Set(new.name),
            kind: Set(new.kind),
            email: Set(new.email),
            password: Set(new.password),
            owner_id: Set(new.owner),
            token_hash: Set(new.token_hash),
            token_sealed: Set(new.token_sealed),
            description: Set(new.description),
            superuser: Set(new.superuser),
            enabled: Set(true),
            created: Set(now),
            ..Default::default()
        };
        Ok(row.insert(&self.transaction).await?)
    }

    /// Changes an account.
    pub(crate) async fn edit_account(&self, id: i64, edit: AccountEdit) -> Result<(), MetaError> {
        let mut row = account::ActiveModel { id: Set(id), ..Default::default() };
        if let Some(email) = edit.email {
            row.email = Set(email);
        }
        if let Some(password) = edit.password {
            row.password = Set(Some(password));
            row.password_set = Set(Some(now()));
        }
        if let Some((hash, sealed)) = edit.token {
            row.token_hash = Set(Some(hash));
            row.token_sealed = Set(sealed);
        }
        if let Some(description) = edit.description {
            row.description = Set(description);
        }
        if let Some(enabled) = edit.enabled {
            row.enabled = Set(enabled);
        }
        if let Some(superuser) = edit.superuser {
            row.superuser = Set(superuser);
        }
        let changed = account::Entity::update_many().set(row).filter(account::Column::Id.eq(id));
        changed.exec(&self.transaction).await?;
        Ok(())
    }

    /// Takes an account away, with its robots, teams, tokens and permissions. Its repositories are marked as deleted already:
    /// [`MetaError::Gone`] when one is not.
    pub(crate) async fn delete_account(&self, id: i64, now: Millis) -> Result<(), MetaError> {
        let nobody = account::Entity::find().filter(account::Column::Name.eq(NOBODY)).one(&self.transaction).await?;
        let nobody = match nobody {
            Some(nobody) => nobody,
            None => self.create_account(NewAccount::new(NOBODY, AccountKind::Organization), now).await?,
        };
        let orphans = repository::Entity::update_many()
            .col_expr(repository::Column::NamespaceId, Expr::value(nobody.id))
            .filter(repository::Column::NamespaceId.eq(id))
            .filter(repository::Column::State.eq(RepositoryState::Deleted));
        orphans.exec(&self.transaction).await?;
        account::Entity::delete_by_id(id).exec(&self.transaction).await?;
        Ok(())
    }
}

/// The teams that an account is in.
pub(super) fn teams_of(member: i64) -> sea_orm::sea_query::SelectStatement {
    Query::select()
        .column(team_member::Column::TeamId)
        .from(team_member::Entity)
        .and_where(team_member::Column::AccountId.eq(member))
        .take()
}
