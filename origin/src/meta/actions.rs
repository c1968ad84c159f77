//! Who did what: one line a change, written in the transaction of the change, so that neither is there without the other.
//!
//! Kinds and the keys of the metadata are Quay's, for those who read its logs already.

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect,
    Select,
};

use super::entity::service::action;
use super::{Change, Meta, MetaError, Millis};

pub(crate) use super::entity::service::action::Model as ActionLine;

/// Who does something, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Performer {
    /// `None`: nobody who is known.
    pub(crate) name: Option<String>,
    /// The client's address.
    pub(crate) ip: Option<String>,
}

/// Something that somebody does.
#[derive(Clone, Debug)]
pub(crate) struct Action<'a> {
    /// Quay's word for it.
    pub(crate) kind: &'static str,
    /// Whose namespace it is about.
    pub(crate) namespace: Option<&'a str>,
    /// The repository's whole name.
    pub(crate) repository: Option<&'a str>,
    /// What else there is to know, by Quay's keys: an object.
    pub(crate) metadata: serde_json::Value,
}

impl<'a> Action<'a> {
    /// About a user or organisation.
    pub(crate) fn in_namespace(kind: &'static str, namespace: &'a str, metadata: serde_json::Value) -> Action<'a> {
        Action { kind, namespace: Some(namespace), repository: None, metadata }
    }

    /// About a repository, by its whole name. The metadata, an object, says whose it is and what it is called there.
    pub(crate) fn in_repository(kind: &'static str, whole: &'a str, mut metadata: serde_json::Value) -> Action<'a> {
        let (namespace, own) = whole.split_once('/').unwrap_or((whole, whole));
        metadata["namespace"] = namespace.into();
        metadata["repo"] = own.into();
        Action { kind, namespace: Some(namespace), repository: Some(whole), metadata }
    }
}

/// Which lines to show.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActionFilter {
    /// Of this namespace.
    pub(crate) namespace: Option<String>,
    /// Of this repository.
    pub(crate) repository: Option<String>,
    /// By this account.
    pub(crate) performer: Option<String>,
    /// Not before.
    pub(crate) from: Option<Millis>,
    /// Before.
    pub(crate) to: Option<Millis>,
    /// After this one, in the order in which they are shown: when, and which of that time.
    pub(crate) after: Option<(Millis, i64)>,
}

/// How often something was done on a day.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub(crate) struct ActionCount {
    /// Quay's word for it.
    pub(crate) kind: String,
    /// Days since the epoch.
    pub(crate) day: i64,
    /// How often.
    pub(crate) count: i64,
}

impl Meta {
    /// Lines, the newest first.
    pub(crate) async fn actions(&self, filter: ActionFilter, limit: u64) -> Result<Vec<ActionLine>, MetaError> {
        let query = filter.lines().order_by_desc(action::Column::At).order_by_desc(action::Column::Id).limit(limit);
        Ok(query.all(&self.connections).await?)
    }

    /// How many lines there are of each kind and day, the earliest day first.
    pub(crate) async fn action_counts(&self, filter: ActionFilter, limit: u64) -> Result<Vec<ActionCount>, MetaError> {
        let day = || Expr::cust("at / 86400000");
        let query = filter
            .lines()
            .select_only()
            .column(action::Column::Kind)
            .column_as(day(), "day")
            .column_as(action::Column::Id.count(), "count")
            .group_by(day())
            .group_by(action::Column::Kind)
            .order_by_asc(day())
            .order_by_asc(action::Column::Kind)
            .limit(limit);
        Ok(query.into_model().all(&self.connections).await?)
    }
}

impl ActionFilter {
    fn lines(self) -> Select<action::Entity> {
        let mut query = action::Entity::find();
        if let Some(namespace) = self.namespace {
            query = query.filter(action::Column::Namespace.eq(namespace));
        }
        if let Some(repository) = self.repository {
            query = query.filter(action::Column::Repository.eq(repository));
        }
        if let Some(performer) = self.performer {
            query = query.filter(action::Column::Performer.eq(performer));
        }
        if let Some(from) = self.from {
            query = query.filter(action::Column::At.gte(from));
        }
        if let Some(to) = self.to {
            query = query.filter(action::Column::At.lt(to));
        }
        if let Some((at, id)) = self.after {
            let same = Condition::all().add(action::Column::At.eq(at)).add(action::Column::Id.lt(id));
            query = query.filter(Condition::any().add(action::Column::At.lt(at)).add(same));
        }
        query
    }
}

impl Change {
    /// Writes down that somebody does this.
    pub(crate) async fn log(&self, who: &Performer, what: Action<'_>, now: Millis) -> Result<(), MetaError> {
        let row = action::ActiveModel {
            kind: Set(what.kind.to_owned()),
            at: Set(now),
            namespace: Set(what.namespace.map(str::to_owned)),
            repository: Set(what.repository.map(str::to_owned)),
            performer: Set(who.name.clone()),
            ip: Set(who.ip.clone()),
            metadata: Set(what.metadata.to_string()),
            ..Default::default()
        };
        row.insert(&self.transaction).await?;
        Ok(())
    }
}
