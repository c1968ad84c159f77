//! Who did what: one line a change, written in the transaction of the change, so that neither is there without the other.
//!
//! Kinds and the keys of the metadata are Quay's, for those who read its logs already.

use sea_orm::ActiveValue::Set;
use sea_orm::{ActiveModelTrait, ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

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
    /// What else there is to know, by Quay's keys.
    pub(crate) metadata: serde_json::Value,
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

impl Meta {
    /// Lines, the newest first.
    pub(crate) async fn actions(&self, filter: ActionFilter, limit: u64) -> Result<Vec<ActionLine>, MetaError> {
        let mut query = action::Entity::find();
        if let Some(namespace) = filter.namespace {
            query = query.filter(action::Column::Namespace.eq(namespace));
        }
        if let Some(repository) = filter.repository {
            query = query.filter(action::Column::Repository.eq(repository));
        }
        if let Some(performer) = filter.performer {
            query = query.filter(action::Column::Performer.eq(performer));
        }
        if let Some(from) = filter.from {
            query = query.filter(action::Column::At.gte(from));
        }
        if let Some(to) = filter.to {
            query = query.filter(action::Column::At.lt(to));
        }
        if let Some((at, id)) = filter.after {
            let same = Condition::all().add(action::Column::At.eq(at)).add(action::Column::Id.lt(id));
            query = query.filter(Condition::any().add(action::Column::At.lt(at)).add(same));
        }
        let query = query.order_by_desc(action::Column::At).order_by_desc(action::Column::Id).limit(limit);
        Ok(query.all(&self.connections).await?)
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
