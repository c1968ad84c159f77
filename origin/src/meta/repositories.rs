//! Repositories: found by name, listed by those who may see them, made and marked as gone.

use std::collections::BTreeSet;

use sea_orm::{FromQueryResult, Value};

use super::entity::repositories::repository;
use super::{Change, Meta, MetaError, RepositoryState, TeamRole, Visibility, now, sql};

/// A repository as it was when it was read.
pub(crate) type Repository = repository::Model;

/// Through whose eyes lists are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Viewer {
    /// A superuser's.
    Everything,
    /// An account's: what is public, what is its own, and what it was given.
    Account(i64),
    /// Nobody's: what is public.
    Anonymous,
}

impl Viewer {
    /// What must hold for a repository `r` to be seen. `$place` stands for the account.
    pub(super) fn condition(self, place: usize) -> String {
        match self {
            Viewer::Everything => "1 = 1".to_owned(),
            Viewer::Anonymous => "r.visibility = 1".to_owned(),
            Viewer::Account(_) => format!("(r.visibility = 1 OR {})", Viewer::given(place)),
        }
    }

    /// What must hold for it to be the account's own, or given to it.
    pub(super) fn given(place: usize) -> String {
        format!(
            "(r.namespace_id = ${place} \
             OR r.namespace_id IN (SELECT t.organization_id FROM team t JOIN team_member m ON m.team_id = t.id \
                WHERE m.account_id = ${place} AND t.role = 2) \
             OR r.id IN (SELECT p.repository_id FROM repository_permission p WHERE p.account_id = ${place}) \
             OR r.id IN (SELECT p.repository_id FROM repository_permission p JOIN team_member m ON m.team_id = p.team_id \
                WHERE m.account_id = ${place}))"
        )
    }
}

#[derive(FromQueryResult)]
struct Name {
    name: String,
}

/// A team that an account is in.
#[derive(FromQueryResult)]
struct Seat {
    team_id: i64,
    organization_id: i64,
    role: TeamRole,
}

/// Parts of one statement: SQLite takes 500.
const PARTS: usize = 100;
/// Repositories that everybody may see.
const PUBLIC: &str = "FROM repository r WHERE r.visibility = 1";
/// Those that `$3` was given. The join says which comes first: what was given is little.
const GIVEN_TO_ACCOUNT: &str = "FROM (SELECT p.repository_id AS id FROM repository_permission p WHERE p.account_id = $3) AS given \
     CROSS JOIN repository r WHERE r.id = given.id";

/// Those that teams were given, which stand at these places; each once, also where several have it.
fn given_to_teams(places: &str) -> String {
    format!(
        "FROM (SELECT DISTINCT p.repository_id AS id FROM repository_permission p WHERE p.team_id IN ({places})) AS given \
         CROSS JOIN repository r WHERE r.id = given.id"
    )
}

/// The first names after `$1`, at most `$2`.
fn some(of: &str) -> String {
    format!("SELECT r.name AS name {of} AND r.name > $1 AND r.state <> 2 ORDER BY r.name LIMIT $2")
}

impl Meta {
    /// The repository of that name.
    pub(crate) async fn repository(&self, name: &str) -> Result<Option<Repository>, MetaError> {
        // The names of deleted ones are none that anybody can ask for.
        sql::one(&self.connections, "SELECT * FROM repository WHERE name = $1", [name.into()]).await
    }

    /// Names of repositories that the viewer may see, in order, from after `last` on.
    pub(crate) async fn catalog(&self, viewer: Viewer, last: &str, limit: u32) -> Result<Vec<String>, MetaError> {
        let account = match viewer {
            Viewer::Everything => return self.names([some("FROM repository r WHERE 1 = 1")], last, limit, &[]).await,
            Viewer::Anonymous => return self.names([some(PUBLIC)], last, limit, &[]).await,
            Viewer::Account(account) => account,
        };
        let seats = self.seats_of(account).await?;
        let teams: Vec<i64> = seats.iter().map(|seat| seat.team_id).collect();
        let administrated = seats.iter().filter(|seat| seat.role == TeamRole::Admin).map(|seat| seat.organization_id);
        let namespaces = BTreeSet::from_iter(administrated.chain([account])).into_iter().collect::<Vec<i64>>();
        let (mut teams, mut namespaces) = (teams.chunks(PARTS), namespaces.chunks(PARTS));
        let mut names = BTreeSet::new();
        loop {
            let (teams, own) = match (teams.next(), namespaces.next()) {
                (None, None) => break,
                (teams, own) => (teams.unwrap_or_default(), own.unwrap_or_default()),
            };
            // Each part is a few steps along an index, or through what was given, however many repositories there are. One condition
            // with an OR would look at all of them, and so would PostgreSQL where it cannot tell that there is no team.
            let to_teams = (!teams.is_empty()).then(|| given_to_teams(&sql::places(4, teams.len())));
            let first = 4 + teams.len();
            let within =
                (first..first + own.len()).map(|place| format!("FROM repository r WHERE r.namespace_id = ${place}"));
            let parts = [PUBLIC, GIVEN_TO_ACCOUNT].map(str::to_owned).into_iter().chain(to_teams).chain(within);
            let ids: Vec<i64> = [account].iter().chain(teams).chain(own).copied().collect();
            names.extend(self.names(parts.map(|part| some(&part)), last, limit, &ids).await?);
        }
        Ok(names.into_iter().take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }

    /// The first names of all that these parts find; `ids` stand for `$3` and so on.
    async fn names(
        &self,
        parts: impl IntoIterator<Item = String>,
        last: &str,
        limit: u32,
        ids: &[i64],
    ) -> Result<Vec<String>, MetaError> {
        let parts: Vec<String> = parts.into_iter().map(|part| format!("SELECT * FROM ({part}) AS part")).collect();
        let select = format!("{} ORDER BY name LIMIT $2", parts.join(" UNION "));
        let values = [last.into(), i64::from(limit).into()].into_iter().chain(ids.iter().map(|id| Value::from(*id)));
        let names: Vec<Name> = sql::all(&self.connections, &select, values).await?;
        Ok(names.into_iter().map(|row| row.name).collect())
    }

    /// The teams that an account is in.
    async fn seats_of(&self, account: i64) -> Result<Vec<Seat>, MetaError> {
        let select = "SELECT m.team_id, t.organization_id, t.role FROM team_member m JOIN team t ON t.id = m.team_id \
                      WHERE m.account_id = $1";
        sql::all(&self.connections, select, [account.into()]).await
    }
}

impl Change {
    /// The repository, which stays as it is until this change ends.
    pub(crate) async fn hold_repository(&self, id: i64) -> Result<Option<Repository>, MetaError> {
        let select = format!("SELECT * FROM repository WHERE id = $1 AND state <> 2{}", self.sharing());
        sql::one(&self.transaction, &select, [id.into()]).await
    }

    /// Makes one. [`MetaError::Exists`] when somebody else was faster.
    pub(crate) async fn insert_repository(
        &self,
        namespace_id: i64,
        name: &str,
        visibility: Visibility,
        description: &str,
    ) -> Result<Repository, MetaError> {
        let insert = "INSERT INTO repository (namespace_id, name, visibility, state, description, created) \
                      VALUES ($1, $2, $3, $4, $5, $6) RETURNING *";
        let values = [
            namespace_id.into(),
            name.into(),
            visibility.into(),
            RepositoryState::Normal.into(),
            description.into(),
            now().into(),
        ];
        sql::one(&self.transaction, insert, values).await?.ok_or(MetaError::Corrupt("repository"))
    }

    /// Marks one as gone. Its name is free at once; what it held is taken away by garbage collection.
    pub(crate) async fn delete_repository(&self, id: i64) -> Result<bool, MetaError> {
        let update = "UPDATE repository SET state = 2, name = $2 WHERE id = $1 AND state <> 2";
        Ok(sql::execute(&self.transaction, update, [id.into(), format!(":{id}").into()]).await? == 1)
    }
}
