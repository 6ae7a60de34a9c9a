//! Statements that a test runs behind the store's back.

use sqlx::{AssertSqlSafe, MySqlConnection, Row};

use super::waiting::eventually;

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

/// A number of `SHOW GLOBAL STATUS`; `None` if the server does not have it.
async fn status_if_any(connection: &mut MySqlConnection, name: &str) -> Option<u64> {
    let sql = format!("SHOW GLOBAL STATUS LIKE '{name}'");
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_optional(connection).await.expect("a status");
    row?.get::<String, _>(1).parse().ok()
}

/// A number of `SHOW GLOBAL STATUS`.
///
/// # Panics
///
/// If the server does not have it.
pub async fn status(connection: &mut MySqlConnection, name: &str) -> u64 {
    status_if_any(connection, name).await.unwrap_or_else(|| panic!("no status {name}"))
}

/// The number of deadlocks on the server. MariaDB and MySQL keep it in different places.
pub async fn deadlocks(connection: &mut MySqlConnection) -> u64 {
    match status_if_any(connection, "Innodb_deadlocks").await {
        Some(deadlocks) => deadlocks,
        None => {
            let metric = "SELECT count FROM information_schema.innodb_metrics \
                          WHERE name = 'lock_deadlocks' AND status = 'enabled'";
            number(connection, metric).await
        }
    }
}

/// The other sessions on the server for which this condition on `information_schema.processlist` holds.
pub async fn sessions(connection: &mut MySqlConnection, condition: &str) -> Vec<u64> {
    let sql = format!(
        "SELECT CAST(id AS UNSIGNED) FROM information_schema.processlist \
         WHERE {condition} AND id <> CONNECTION_ID()"
    );
    let mut found = None;
    // the view also shows statements of other tests, and MySQL 9 fails if they contain bytes that are not UTF-8
    eventually("the view can be read", async || {
        let ids = sqlx::query_scalar(AssertSqlSafe(sql.clone())).fetch_all(&mut *connection).await;
        found = ids.ok();
        found.is_some()
    })
    .await;
    found.expect("the ids")
}

/// Ends the other sessions for which this condition holds. Returns how many there were.
pub async fn kill_sessions(connection: &mut MySqlConnection, condition: &str) -> usize {
    let ids = sessions(connection, condition).await;
    for id in &ids {
        // it may have ended in the meantime
        let kill = format!("KILL {id}");
        let _ = sqlx::raw_sql(AssertSqlSafe(kill)).execute(&mut *connection).await;
    }
    ids.len()
}
