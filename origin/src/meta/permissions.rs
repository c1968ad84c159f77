//! Who may do what in repositories: what was granted to accounts and teams, and what a caller may see.
//!
//! This reads and writes grants. What follows from them is decided elsewhere, without a database.

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{OnConflict, Query};
use sea_orm::{
    ColumnTrait, Condition, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryResult, QuerySelect, Value,
};

use super::accounts::{Account, teams_of};
use super::entity::accounts::TeamRole;
use super::entity::repositories::{RepositoryState, Role, default_permission, repository, repository_permission};
use super::repositories::Repository;
use super::teams::Team;
use super::{Change, Meta, MetaError, sql};

/// Who may be given something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grantee {
    /// A user or robot.
    Account(i64),
    /// A team.
    Team(i64),
}

impl Grantee {
    fn columns(self) -> (Option<i64>, Option<i64>) {
        match self {
            Grantee::Account(id) => (Some(id), None),
            Grantee::Team(id) => (None, Some(id)),
        }
    }
}

/// A row of something, with the role that was given there.
struct Given<T> {
    what: T,
    role: Role,
}

impl<T: FromQueryResult> FromQueryResult for Given<T> {
    fn from_query_result(row: &QueryResult, prefix: &str) -> Result<Given<T>, DbErr> {
        Ok(Given { what: T::from_query_result(row, prefix)?, role: row.try_get(prefix, "given")? })
    }
}

/// What is known of a caller and a repository.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The user or organisation that the name belongs to.
    pub(crate) namespace: Option<Account>,
    /// The strongest of the caller's teams there.
    pub(crate) team: Option<TeamRole>,
    /// The repository.
    pub(crate) repository: Option<Repository>,
    /// The strongest role that the caller, or a team of the caller, was given in it.
    pub(crate) granted: Option<Role>,
}

impl Meta {
    /// What is known of a caller (`None`: nobody known) and a repository, by its whole name.
    pub(crate) async fn facts(&self, caller: Option<i64>, name: &str) -> Result<Facts, MetaError> {
        let Some((namespace, _)) = name.split_once('/') else { return Ok(Facts::default()) };
        let Some(namespace) = self.account(namespace).await? else { return Ok(Facts::default()) };
        let query = repository::Entity::find()
            .filter(repository::Column::Name.eq(name))
            .filter(repository::Column::State.ne(RepositoryState::Deleted));
        let repository = query.one(&self.connections).await?;
        let (mut team, mut granted) = (None, None);
        if let Some(caller) = caller {
            team = self.team_role(namespace.id, caller).await?;
            if let Some(repository) = &repository {
                let roles: Vec<Role> = repository_permission::Entity::find()
                    .select_only()
                    .column(repository_permission::Column::Role)
                    .filter(repository_permission::Column::RepositoryId.eq(repository.id))
                    .filter(held_by(caller))
                    .into_tuple()
                    .all(&self.connections)
                    .await?;
                granted = roles.into_iter().max();
            }
        }
        Ok(Facts { namespace: Some(namespace), team, repository, granted })
    }

    /// What accounts were given in a repository, by name.
    pub(crate) async fn account_permissions(&self, repository: i64) -> Result<Vec<(Account, Role)>, MetaError> {
        let select = "SELECT a.*, p.role AS given FROM repository_permission p JOIN account a ON a.id = p.account_id \
                      WHERE p.repository_id = $1 ORDER BY a.name";
        self.given(select, [repository.into()]).await
    }

    /// What teams were given in a repository, by name.
    pub(crate) async fn team_permissions(&self, repository: i64) -> Result<Vec<(Team, Role)>, MetaError> {
        let select = "SELECT t.*, p.role AS given FROM repository_permission p JOIN team t ON t.id = p.team_id \
                      WHERE p.repository_id = $1 ORDER BY t.name";
        self.given(select, [repository.into()]).await
    }

    /// Where somebody was given something, by the name of the repository.
    pub(crate) async fn permissions_of(&self, who: Grantee, limit: u64) -> Result<Vec<(Repository, Role)>, MetaError> {
        let (column, id) = match who {
            Grantee::Account(id) => ("account_id", id),
            Grantee::Team(id) => ("team_id", id),
        };
        let select = format!(
            "SELECT r.*, p.role AS given FROM repository_permission p JOIN repository r ON r.id = p.repository_id \
             WHERE p.{column} = $1 AND r.state <> 2 ORDER BY r.name LIMIT $2"
        );
        self.given(&select, [id.into(), i64::try_from(limit).unwrap_or(i64::MAX).into()]).await
    }

    async fn given<T: FromQueryResult>(
        &self,
        select: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<(T, Role)>, MetaError> {
        let rows: Vec<Given<T>> = sql::all(&self.connections, select, values).await?;
        Ok(rows.into_iter().map(|row| (row.what, row.role)).collect())
    }
}

impl Change {
    /// Gives a role in a repository, or another one than before.
    pub(crate) async fn grant(&self, repository: i64, who: Grantee, role: Role) -> Result<(), MetaError> {
        let (account_id, team_id) = who.columns();
        let row = repository_permission::ActiveModel {
            repository_id: Set(repository),
            account_id: Set(account_id),
            team_id: Set(team_id),
            role: Set(role),
            ..Default::default()
        };
        let column = match who {
            Grantee::Account(_) => repository_permission::Column::AccountId,
            Grantee::Team(_) => repository_permission::Column::TeamId,
        };
        let replace = OnConflict::columns([repository_permission::Column::RepositoryId, column])
            .update_column(repository_permission::Column::Role)
            .to_owned();
        let insert = repository_permission::Entity::insert(row).on_conflict(replace);
        insert.exec_without_returning(&self.transaction).await?;
        Ok(())
    }

    /// Takes what was given in a repository.
    pub(crate) async fn revoke(&self, repository: i64, who: Grantee) -> Result<bool, MetaError> {
        let gone = repository_permission::Entity::delete_many()
            .filter(repository_permission::Column::RepositoryId.eq(repository))
            .filter(given_to(who));
        Ok(gone.exec(&self.transaction).await?.rows_affected > 0)
    }

    /// Takes what an account was given in all repositories of a namespace, and what it would be given in new ones. Whether that
    /// was anything.
    pub(crate) async fn revoke_in_namespace(&self, namespace: i64, account: i64) -> Result<bool, MetaError> {
        let within = Query::select()
            .column(repository::Column::Id)
            .from(repository::Entity)
            .and_where(repository::Column::NamespaceId.eq(namespace))
            .take();
        let gone = repository_permission::Entity::delete_many()
            .filter(repository_permission::Column::AccountId.eq(account))
            .filter(repository_permission::Column::RepositoryId.in_subquery(within));
        let given = gone.exec(&self.transaction).await?.rows_affected;
        let promised = default_permission::Entity::delete_many()
            .filter(default_permission::Column::OrganizationId.eq(namespace))
            .filter(default_permission::Column::AccountId.eq(account));
        Ok(promised.exec(&self.transaction).await?.rows_affected + given > 0)
    }

    /// Gives a new repository the permissions that it begins with: its creator's, where the namespace is not the creator's own,
    /// and the organisation's default permissions. Where several are for the same, the strongest holds.
    pub(crate) async fn grant_defaults(&self, repository: i64, namespace: i64, creator: i64) -> Result<(), MetaError> {
        let mut given: Vec<(Grantee, Role)> = Vec::new();
        if namespace != creator {
            given.push((Grantee::Account(creator), Role::Admin));
        }
        let for_all_or_creator = Condition::any()
            .add(default_permission::Column::ActivatingId.is_null())
            .add(default_permission::Column::ActivatingId.eq(creator));
        let defaults = default_permission::Entity::find()
            .filter(default_permission::Column::OrganizationId.eq(namespace))
            .filter(for_all_or_creator)
            .all(&self.transaction)
            .await?;
        for default in defaults {
            let who = default.account_id.map(Grantee::Account).or(default.team_id.map(Grantee::Team));
            let Some(who) = who else { continue };
            match given.iter_mut().find(|(known, _)| *known == who) {
                Some((_, role)) => *role = default.role.max(*role),
                None => given.push((who, default.role)),
            }
        }
        for (who, role) in given {
            self.grant(repository, who, role).await?;
        }
        Ok(())
    }
}

/// Permissions of an account itself, and of the teams that it is in.
fn held_by(account: i64) -> Condition {
    Condition::any()
        .add(repository_permission::Column::AccountId.eq(account))
        .add(repository_permission::Column::TeamId.in_subquery(teams_of(account)))
}

fn given_to(who: Grantee) -> sea_orm::sea_query::SimpleExpr {
    match who {
        Grantee::Account(id) => repository_permission::Column::AccountId.eq(id),
        Grantee::Team(id) => repository_permission::Column::TeamId.eq(id),
    }
}
