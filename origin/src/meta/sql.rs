//! Statements in text, for what reads better as SQL than as calls: joins, and conditions over several tables.
//!
//! Both databases take `$1`, `$2`, … for values, in any number of places. Values never become text.

use sea_orm::{ConnectionTrait, FromQueryResult, Statement, Value};

use super::MetaError;

fn statement(on: &impl ConnectionTrait, sql: &str, values: impl IntoIterator<Item = Value>) -> Statement {
    Statement::from_sql_and_values(on.get_database_backend(), sql, values)
}

/// All rows.
pub(super) async fn all<T: FromQueryResult>(
    on: &impl ConnectionTrait,
    sql: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<Vec<T>, MetaError> {
    let rows = on.query_all_raw(statement(on, sql, values)).await?;
    Ok(rows.iter().map(|row| T::from_query_result(row, "")).collect::<Result<_, _>>()?)
}

/// The first row, if there is any.
pub(super) async fn one<T: FromQueryResult>(
    on: &impl ConnectionTrait,
    sql: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<Option<T>, MetaError> {
    let row = on.query_one_raw(statement(on, sql, values)).await?;
    Ok(row.map(|row| T::from_query_result(&row, "")).transpose()?)
}

/// Does something, and says to how many rows.
pub(super) async fn execute(
    on: &impl ConnectionTrait,
    sql: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<u64, MetaError> {
    Ok(on.execute_raw(statement(on, sql, values)).await?.rows_affected())
}

/// `$first, …`: places for so many values.
pub(super) fn places(first: usize, count: usize) -> String {
    (first..first + count).map(|place| format!("${place}")).collect::<Vec<_>>().join(", ")
}
