//! How many there are of everything that operators watch grow.

use sea_orm::{FromQueryResult, Value};

use super::entity::accounts::AccountKind;
use super::entity::repositories::RepositoryState;
use super::{Meta, MetaError, sql};

/// How many of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromQueryResult)]
pub(crate) struct Census {
    /// Those that are deleted left out.
    pub(crate) repositories: i64,
    /// Disabled ones too.
    pub(crate) users: i64,
    /// See the name.
    pub(crate) organizations: i64,
    /// See the name.
    pub(crate) robots: i64,
}

impl Meta {
    /// Counts them. It reads all of two tables' indexes: not for every request.
    pub(crate) async fn census(&self) -> Result<Census, MetaError> {
        let of_kind = "(SELECT COUNT(*) FROM account WHERE kind =";
        let statement = format!(
            "SELECT (SELECT COUNT(*) FROM repository WHERE state <> $1) AS repositories, {of_kind} $2) AS users, \
             {of_kind} $3) AS organizations, {of_kind} $4) AS robots"
        );
        let values: [Value; 4] = [
            RepositoryState::Deleted.into(),
            AccountKind::User.into(),
            AccountKind::Organization.into(),
            AccountKind::Robot.into(),
        ];
        Ok(sql::one(&self.connections, &statement, values).await?.unwrap_or_default())
    }
}
