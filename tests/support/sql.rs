//! Statements that a test runs behind the store's back.

use sqlx::{AssertSqlSafe, MySqlConnection};

/// Runs these statements.
///
/// # Panics
///
/// If one of them fails.
#[track_caller]
pub fn execute(
    connection: &mut MySqlConnection,
    sql: impl Into<String>,
) -> impl Future<Output = ()> {
    let (sql, caller) = (sql.into(), std::panic::Location::caller());
    async move {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(connection).await;
        done.unwrap_or_else(|error| panic!("{caller}: {sql}: {error}"));
    }
}

/// The value of an expression or of a query with one value; 0 for NULL.
///
/// # Panics
///
/// If the statement fails.
#[track_caller]
pub fn number(connection: &mut MySqlConnection, sql: impl AsRef<str>) -> impl Future<Output = u64> {
    let sql = format!("SELECT CAST(COALESCE(({}), 0) AS UNSIGNED)", sql.as_ref());
    let caller = std::panic::Location::caller();
    async move {
        let found = sqlx::query_scalar(AssertSqlSafe(sql.clone())).fetch_one(connection).await;
        found.unwrap_or_else(|error| panic!("{caller}: {sql}: {error}"))
    }
}
