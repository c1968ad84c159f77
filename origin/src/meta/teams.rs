//! Teams of organisations, and who is in them.

use std::collections::HashMap;

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{OnConflict, Query, SelectStatement};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, Select,
};

use super::accounts::{Account, teams_of};
use super::entity::accounts::{TeamRole, account, team, team_member};
use super::entity::repositories::repository_permission;
use super::{AccountKind, Change, Meta, MetaError, sql};

pub(crate) use super::entity::accounts::team::Model as Team;

/// A team, and how much hangs on it.
#[derive(Clone, Debug)]
pub(crate) struct TeamSize {
    /// Which.
    pub(crate) team: Team,
    /// How many are in it.
    pub(crate) members: u64,
    /// How many repositories it has permissions in.
    pub(crate) repositories: u64,
}

impl Meta {
    /// A team of an organisation.
    pub(crate) async fn team(&self, organization: i64, name: &str) -> Result<Option<Team>, MetaError> {
        Ok(named(organization, name).one(&self.connections).await?)
    }

    /// The teams of an organisation, by name.
    pub(crate) async fn teams(&self, organization: i64) -> Result<Vec<TeamSize>, MetaError> {
        let query =
            team::Entity::find().filter(team::Column::OrganizationId.eq(organization)).order_by_asc(team::Column::Name);
        let teams = query.all(&self.connections).await?;
        let members: HashMap<i64, i64> = team_member::Entity::find()
            .select_only()
            .column(team_member::Column::TeamId)
            .column_as(team_member::Column::AccountId.count(), "members")
            .filter(team_member::Column::TeamId.in_subquery(teams_in(organization)))
            .group_by(team_member::Column::TeamId)
            .into_tuple()
            .all(&self.connections)
            .await?
            .into_iter()
            .collect();
        let repositories: HashMap<i64, i64> = repository_permission::Entity::find()
            .select_only()
            .column(repository_permission::Column::TeamId)
            .column_as(repository_permission::Column::Id.count(), "repositories")
            .filter(repository_permission::Column::TeamId.in_subquery(teams_in(organization)))
            .group_by(repository_permission::Column::TeamId)
            .into_tuple()
            .all(&self.connections)
            .await?
            .into_iter()
            .collect();
        let count = |counts: &HashMap<i64, i64>, id| counts.get(&id).map_or(0, |count| count.unsigned_abs());
        let sized = |team: Team| TeamSize {
            members: count(&members, team.id),
            repositories: count(&repositories, team.id),
            team,
        };
        Ok(teams.into_iter().map(sized).collect())
    }

    /// Who is in a team, by name.
    pub(crate) async fn team_members(&self, team: i64) -> Result<Vec<Account>, MetaError> {
        let members = Query::select()
            .column(team_member::Column::AccountId)
            .from(team_member::Entity)
            .and_where(team_member::Column::TeamId.eq(team))
            .take();
        let query = account::Entity::find()
            .filter(account::Column::Id.in_subquery(members))
            .order_by_asc(account::Column::Name);
        Ok(query.all(&self.connections).await?)
    }

    /// Who is in any team of an organisation, by name, with the names of the teams.
    pub(crate) async fn members(&self, organization: i64) -> Result<Vec<(Account, Vec<String>)>, MetaError> {
        let teams = team::Entity::find().filter(team::Column::OrganizationId.eq(organization));
        let teams: HashMap<i64, String> =
            teams.all(&self.connections).await?.into_iter().map(|team| (team.id, team.name)).collect();
        let within = team_member::Entity::find()
            .filter(team_member::Column::TeamId.in_subquery(teams_in(organization)))
            .all(&self.connections);
        let mut of: HashMap<i64, Vec<String>> = HashMap::new();
        for member in within.await? {
            of.entry(member.account_id).or_default().extend(teams.get(&member.team_id).cloned());
        }
        let members = Query::select()
            .column(team_member::Column::AccountId)
            .from(team_member::Entity)
            .and_where(team_member::Column::TeamId.in_subquery(teams_in(organization)))
            .take();
        let query = account::Entity::find()
            .filter(account::Column::Id.in_subquery(members))
            .order_by_asc(account::Column::Name);
        let accounts = query.all(&self.connections).await?;
        let named = |found: Account| {
            let mut names = of.remove(&found.id).unwrap_or_default();
            names.sort();
            (found, names)
        };
        Ok(accounts.into_iter().map(named).collect())
    }

    /// The strongest role that an account has in an organisation.
    pub(crate) async fn team_role(&self, organization: i64, member: i64) -> Result<Option<TeamRole>, MetaError> {
        let roles: Vec<TeamRole> = team::Entity::find()
            .select_only()
            .column(team::Column::Role)
            .filter(team::Column::OrganizationId.eq(organization))
            .filter(team::Column::Id.in_subquery(teams_of(member)))
            .into_tuple()
            .all(&self.connections)
            .await?;
        Ok(roles.into_iter().max())
    }
}

impl Change {
    /// Makes a team.
    pub(crate) async fn create_team(
        &self,
        organization: i64,
        name: &str,
        role: TeamRole,
        description: &str,
    ) -> Result<Team, MetaError> {
        let row = team::ActiveModel {
            organization_id: Set(organization),
            name: Set(name.to_owned()),
            role: Set(role),
            description: Set(description.to_owned()),
            ..Default::default()
        };
        Ok(row.insert(&self.transaction).await?)
    }

    /// Changes a team.
    pub(crate) async fn edit_team(&self, team: &Team) -> Result<(), MetaError> {
        let row = team::ActiveModel {
            role: Set(team.role),
            description: Set(team.description.clone()),
            ..Default::default()
        };
        team::Entity::update_many().set(row).filter(team::Column::Id.eq(team.id)).exec(&self.transaction).await?;
        Ok(())
    }

    /// Takes a team away, with its permissions.
    pub(crate) async fn delete_team(&self, id: i64) -> Result<(), MetaError> {
        team::Entity::delete_by_id(id).exec(&self.transaction).await?;
        Ok(())
    }

    /// A team of an organisation.
    pub(crate) async fn team(&self, organization: i64, name: &str) -> Result<Option<Team>, MetaError> {
        Ok(named(organization, name).one(&self.transaction).await?)
    }

    /// Whether an organisation has a team of admins with a user in it who can log in. Until this change ends, nobody else takes one away:
    /// of two who are about to leave at once, the second is seen to be the last.
    pub(crate) async fn hold_admins(&self, organization: i64) -> Result<bool, MetaError> {
        #[derive(FromQueryResult)]
        struct Id {
            id: i64,
        }
        let hold = format!("SELECT id FROM account WHERE id = $1{}", self.locking());
        let held: Option<Id> = sql::one(&self.transaction, &hold, [organization.into()]).await?;
        let Some(Id { id }) = held else { return Err(MetaError::Gone) };
        // A statement of its own: it sees what was committed while the first one waited.
        let select = "SELECT a.id AS id FROM team t JOIN team_member m ON m.team_id = t.id JOIN account a ON a.id = m.account_id \
                      WHERE t.organization_id = $1 AND t.role = $2 AND a.kind = $3 AND a.enabled LIMIT 1";
        let values = [id.into(), TeamRole::Admin.into(), AccountKind::User.into()];
        Ok(sql::one::<Id>(&self.transaction, select, values).await?.is_some())
    }

    /// Puts somebody into a team; nothing changes when they are in it.
    pub(crate) async fn add_member(&self, team: i64, member: i64) -> Result<(), MetaError> {
        let row = team_member::ActiveModel { team_id: Set(team), account_id: Set(member) };
        let once = OnConflict::columns([team_member::Column::TeamId, team_member::Column::AccountId])
            .do_nothing_on([team_member::Column::TeamId, team_member::Column::AccountId])
            .to_owned();
        team_member::Entity::insert(row).on_conflict(once).exec_without_returning(&self.transaction).await?;
        Ok(())
    }

    /// Takes somebody out of a team.
    pub(crate) async fn remove_member(&self, team: i64, member: i64) -> Result<bool, MetaError> {
        let gone = team_member::Entity::delete_by_id((team, member)).exec(&self.transaction).await?;
        Ok(gone.rows_affected > 0)
    }

    /// Takes somebody out of all teams of an organisation.
    pub(crate) async fn remove_from_organization(&self, organization: i64, member: i64) -> Result<bool, MetaError> {
        let gone = team_member::Entity::delete_many()
            .filter(team_member::Column::AccountId.eq(member))
            .filter(team_member::Column::TeamId.in_subquery(teams_in(organization)));
        Ok(gone.exec(&self.transaction).await?.rows_affected > 0)
    }
}

fn named(organization: i64, name: &str) -> Select<team::Entity> {
    team::Entity::find().filter(team::Column::OrganizationId.eq(organization)).filter(team::Column::Name.eq(name))
}

/// The teams of an organisation.
fn teams_in(organization: i64) -> SelectStatement {
    Query::select()
        .column(team::Column::Id)
        .from(team::Entity)
        .and_where(team::Column::OrganizationId.eq(organization))
        .take()
}
