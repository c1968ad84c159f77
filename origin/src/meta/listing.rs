//! Lists of repositories as people want them: with what they hold, when they changed, and those that somebody starred.

use std::collections::HashMap;

use sea_orm::{FromQueryResult, Value};

use super::repositories::{Repository, Viewer};
use super::{Change, Meta, MetaError, Millis, RepositoryState, Visibility, sql};

/// Which repositories to list.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    /// Through whose eyes.
    pub(crate) viewer: Viewer,
    /// Those too that are seen only because everybody sees them.
    pub(crate) public: bool,
    /// Of this namespace.
    pub(crate) namespace: Option<i64>,
    /// Those that this account starred.
    pub(crate) starred_by: Option<i64>,
    /// From after this name on.
    pub(crate) after: String,
    /// How many.
    pub(crate) limit: u32,
}

/// What changes of a repository; the rest stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct RepositoryEdit {
    /// What it is.
    pub(crate) description: Option<String>,
    /// Who may pull it.
    pub(crate) visibility: Option<Visibility>,
    /// Whether it takes pushes.
    pub(crate) state: Option<RepositoryState>,
}

#[derive(FromQueryResult)]
struct Count {
    id: i64,
    count: i64,
}

#[derive(FromQueryResult)]
struct Sum {
    sum: i64,
}

impl Meta {
    /// Repositories by name.
    pub(crate) async fn repositories(&self, listing: &Listing) -> Result<Vec<Repository>, MetaError> {
        let mut values: Vec<Value> = vec![listing.after.as_str().into(), i64::from(listing.limit).into()];
        let mut conditions = Vec::new();
        let mut place = |value: i64| {
            values.push(value.into());
            values.len()
        };
        match listing.viewer {
            Viewer::Account(id) if !listing.public => conditions.push(Viewer::given(place(id))),
            Viewer::Account(id) => conditions.push(listing.viewer.condition(place(id))),
            viewer => conditions.push(viewer.condition(0)),
        }
        if let Some(namespace) = listing.namespace {
            conditions.push(format!("r.namespace_id = ${}", place(namespace)));
        }
        if let Some(account) = listing.starred_by {
            let place = place(account);
            conditions.push(format!("r.id IN (SELECT s.repository_id FROM star s WHERE s.account_id = ${place})"));
        }
        let select = format!(
            "SELECT r.* FROM repository r WHERE r.name > $1 AND r.state <> 2 AND {} ORDER BY r.name LIMIT $2",
            conditions.join(" AND ")
        );
        sql::all(&self.connections, &select, values).await
    }

    /// When a tag last moved, for each of these repositories that has one.
    pub(crate) async fn last_modified(&self, repositories: &[i64]) -> Result<HashMap<i64, Millis>, MetaError> {
        self.by_repository(
            repositories,
            "SELECT repository_id AS id, MAX(started) AS count FROM tag WHERE repository_id IN ({}) GROUP BY repository_id",
        )
        .await
    }

    /// The bytes that each of these repositories holds, a blob counted once in each.
    pub(crate) async fn sizes(&self, repositories: &[i64]) -> Result<HashMap<i64, i64>, MetaError> {
        self.by_repository(
            repositories,
            "SELECT d.repository_id AS id, CAST(SUM(b.size) AS BIGINT) AS count FROM \
             (SELECT DISTINCT repository_id, blob_id FROM manifest_blob WHERE repository_id IN ({})) d \
             JOIN blob b ON b.id = d.blob_id GROUP BY d.repository_id",
        )
        .await
    }

    async fn by_repository(&self, repositories: &[i64], select: &str) -> Result<HashMap<i64, i64>, MetaError> {
        if repositories.is_empty() {
            return Ok(HashMap::new());
        }
        let select = select.replace("{}", &sql::places(1, repositories.len()));
        let values = repositories.iter().map(|id| Value::from(*id));
        let counts: Vec<Count> = sql::all(&self.connections, &select, values).await?;
        Ok(counts.into_iter().map(|row| (row.id, row.count)).collect())
    }

    /// The bytes that a namespace holds, a blob counted once.
    pub(crate) async fn namespace_size(&self, namespace: i64) -> Result<i64, MetaError> {
        let select = "SELECT CAST(COALESCE(SUM(b.size), 0) AS BIGINT) AS sum FROM blob b WHERE b.id IN \
                      (SELECT m.blob_id FROM manifest_blob m JOIN repository r ON r.id = m.repository_id \
                       WHERE r.namespace_id = $1 AND r.state <> 2)";
        let sum: Option<Sum> = sql::one(&self.connections, select, [namespace.into()]).await?;
        Ok(sum.map_or(0, |row| row.sum))
    }

    /// Which of these repositories an account starred.
    pub(crate) async fn starred(&self, account: i64, repositories: &[i64]) -> Result<Vec<i64>, MetaError> {
        if repositories.is_empty() {
            return Ok(Vec::new());
        }
        let select = format!(
            "SELECT repository_id AS sum FROM star WHERE account_id = $1 AND repository_id IN ({})",
            sql::places(2, repositories.len())
        );
        let values = [account.into()].into_iter().chain(repositories.iter().map(|id| Value::from(*id)));
        let rows: Vec<Sum> = sql::all(&self.connections, &select, values).await?;
        Ok(rows.into_iter().map(|row| row.sum).collect())
    }
}

impl Change {
    /// Changes a repository. Whether it is there.
    pub(crate) async fn edit_repository(&self, id: i64, edit: RepositoryEdit) -> Result<bool, MetaError> {
        let update = "UPDATE repository SET description = COALESCE($2, description), \
                      visibility = COALESCE($3, visibility), state = COALESCE($4, state) WHERE id = $1 AND state <> 2";
        let values = [id.into(), edit.description.into(), edit.visibility.into(), edit.state.into()];
        Ok(sql::execute(&self.transaction, update, values).await? == 1)
    }

    /// Marks all repositories of a namespace as gone.
    pub(crate) async fn delete_repositories_of(&self, namespace: i64) -> Result<u64, MetaError> {
        let update = "UPDATE repository SET state = 2, name = ':' || id WHERE namespace_id = $1 AND state <> 2";
        sql::execute(&self.transaction, update, [namespace.into()]).await
    }

    /// Stars a repository, or does so no more.
    pub(crate) async fn star(&self, account: i64, repository: i64, starred: bool) -> Result<(), MetaError> {
        let statement = if starred {
            "INSERT INTO star (account_id, repository_id) VALUES ($1, $2) ON CONFLICT DO NOTHING"
        } else {
            "DELETE FROM star WHERE account_id = $1 AND repository_id = $2"
        };
        sql::execute(&self.transaction, statement, [account.into(), repository.into()]).await?;
        Ok(())
    }
}
