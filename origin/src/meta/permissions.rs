//! Who may do what in repositories: what was granted to accounts and teams, and what a caller may see.
//!
//! This reads and writes grants. What follows from them is decided elsewhere, without a database.

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{OnConflict, Query};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::accounts::{Account, teams_of};
use super::entity::accounts::{TeamRole, team};
use super::entity::repositories::{RepositoryState, Role, default_permission, repository, repository_permission};
use super::repositories::Repository;
use super::teams::Team;
use super::{Change, Meta, MetaError};

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
        let query = repository_permission::Entity::find()
            .filter(repository_permission::Column::RepositoryId.eq(repository))
            .filter(repository_permission::Column::AccountId.is_not_null());
        let given = query.all(&self.connections).await?;
        let mut accounts = self.accounts_by_id(given.iter().filter_map(|row| row.account_id).collect()).await?;
        accounts.sort_by(|a, b| a.name.cmp(&b.name));
        let role = |id| given.iter().find(|row| row.account_id == Some(id)).map(|row| row.role);
        Ok(accounts.into_iter().filter_map(|found| role(found.id).map(|role| (found, role))).collect())
    }

    /// What teams were given in a repository, by name.
    pub(crate) async fn team_permissions(&self, repository: i64) -> Result<Vec<(Team, Role)>, MetaError> {
        let query = repository_permission::Entity::find()
            .filter(repository_permission::Column::RepositoryId.eq(repository))
            .filter(repository_permission::Column::TeamId.is_not_null());
        let given = query.all(&self.connections).await?;
        let ids: Vec<i64> = given.iter().filter_map(|row| row.team_id).collect();
        let query = team::Entity::find().filter(team::Column::Id.is_in(ids)).order_by_asc(team::Column::Name);
        let teams = query.all(&self.connections).await?;
        let role = |id| given.iter().find(|row| row.team_id == Some(id)).map(|row| row.role);
        Ok(teams.into_iter().filter_map(|found| role(found.id).map(|role| (found, role))).collect())
    }

    /// Where somebody was given something, by the name of the repository.
    pub(crate) async fn permissions_of(&self, who: Grantee, limit: u64) -> Result<Vec<(Repository, Role)>, MetaError> {
        let given = repository_permission::Entity::find().filter(given_to(who)).all(&self.connections).await?;
        let query = repository::Entity::find()
            .filter(repository::Column::Id.is_in(given.iter().map(|row| row.repository_id)))
            .filter(repository::Column::State.ne(RepositoryState::Deleted))
            .order_by_asc(repository::Column::Name)
            .limit(limit);
        let repositories = query.all(&self.connections).await?;
        let role = |id| given.iter().find(|row| row.repository_id == id).map(|row| row.role);
        Ok(repositories.into_iter().filter_map(|found| role(found.id).map(|role| (found, role))).collect())
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
