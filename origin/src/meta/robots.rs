//! What the robots of a user or organisation were given: two questions for all of them, however many there are.

use std::collections::HashMap;

use sea_orm::FromQueryResult;

use super::{Meta, MetaError, sql};

/// What a robot was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RobotGrants {
    /// Names of the teams that it is in.
    pub(crate) teams: Vec<String>,
    /// Whole names of the repositories in which it has a role of its own.
    pub(crate) repositories: Vec<String>,
}

#[derive(FromQueryResult)]
struct Row {
    robot: i64,
    name: String,
}

impl Meta {
    /// By the robot's number; `limit` bounds the teams and the repositories of all of them together.
    pub(crate) async fn robots_given(&self, owner: i64, limit: u64) -> Result<HashMap<i64, RobotGrants>, MetaError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let teams = "SELECT m.account_id AS robot, t.name AS name FROM team_member m JOIN account a ON a.id = m.account_id \
             JOIN team t ON t.id = m.team_id WHERE a.owner_id = $1 ORDER BY t.name LIMIT $2";
        let repositories = "SELECT p.account_id AS robot, r.name AS name FROM repository_permission p \
             JOIN account a ON a.id = p.account_id JOIN repository r ON r.id = p.repository_id \
             WHERE a.owner_id = $1 AND r.state <> 2 ORDER BY r.name LIMIT $2";
        let mut given: HashMap<i64, RobotGrants> = HashMap::new();
        let rows: Vec<Row> = sql::all(&self.connections, teams, [owner.into(), limit.into()]).await?;
        rows.into_iter().for_each(|row| given.entry(row.robot).or_default().teams.push(row.name));
        let rows: Vec<Row> = sql::all(&self.connections, repositories, [owner.into(), limit.into()]).await?;
        rows.into_iter().for_each(|row| given.entry(row.robot).or_default().repositories.push(row.name));
        Ok(given)
    }
}
