//! What does a failed statement mean: for its callers, for the connection, and for trying again?

use std::sync::Arc;

use sqlx::mysql::MySqlDatabaseError;

use super::super::sql::TableName;
use crate::store::StoreError;

#[derive(Debug)]
pub(in super::super) struct Failure {
    pub(in super::super) error: StoreError,
    pub(in super::super) recovery: Recovery,
}

/// What to do after a failed statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Recovery {
    /// The connection can be used.
    Continue,
    /// The connection can be used, and the statement may succeed in a moment.
    Retry,
    /// The connection must be dropped.
    Reconnect,
    /// The connection was lost before the statement, so a new connection may succeed.
    ReconnectAndRetry,
}

impl Recovery {
    /// Whether the connection must be dropped.
    pub(in super::super) fn drops_connection(self) -> bool {
        matches!(self, Self::Reconnect | Self::ReconnectAndRetry)
    }
}

impl Failure {
    /// The same failure, about another table.
    pub(in super::super) fn about(mut self, of: &TableName) -> Self {
        if let StoreError::Schema { table, .. } = &mut self.error {
            *table = of.plain();
        }
        self
    }

    /// A statement over its deadline. The state of the connection is unknown.
    pub(in super::super) fn timeout() -> Self {
        Self { error: StoreError::Timeout, recovery: Recovery::Reconnect }
    }

    pub(in super::super) fn connect(error: StoreError) -> Self {
        Self { error, recovery: Recovery::Reconnect }
    }

    /// Another error, which does not affect the connection.
    pub(in super::super) fn sound(error: StoreError) -> Self {
        Self { error, recovery: Recovery::Continue }
    }

    /// The log has a row whose id is too large.
    pub(in super::super) fn no_ids_left(log: &TableName) -> StoreError {
        StoreError::Schema { table: log.plain(), problem: NO_IDS_LEFT.to_owned() }
    }

    /// The server's error number.
    pub(in super::super) fn number(&self) -> Option<u16> {
        let StoreError::Database(source) = &self.error else { return None };
        let sqlx::Error::Database(error) = source.downcast_ref::<sqlx::Error>()? else {
            return None;
        };
        error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
    }

    /// Classifies an error of sqlx.
    pub(in super::super) fn of(error: sqlx::Error, table: &TableName) -> Self {
        let recovery = match &error {
            sqlx::Error::Database(database) => {
                let number = database
                    .try_downcast_ref::<MySqlDatabaseError>()
                    .map_or(0, MySqlDatabaseError::number);
                if matches!(number, INTERRUPTED | STATEMENT_TIMEOUT | QUERY_TIMEOUT) {
                    return Self { error: StoreError::Timeout, recovery: Recovery::Continue };
                }
                if let Some(problem) = schema_problem(number, database.message()) {
                    let error = StoreError::Schema { table: table.plain(), problem };
                    return Self { error, recovery: Recovery::Continue };
                }
                after(number)
            }
            sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => Recovery::ReconnectAndRetry,
            sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::Decode(_) => {
                let problem = format!("has another shape ({error}): {OTHER_SHAPE}");
                let error = StoreError::Schema { table: table.plain(), problem };
                return Self { error, recovery: Recovery::Continue };
            }
            _ => Recovery::Reconnect,
        };
        Self { error: StoreError::Database(Arc::new(error)), recovery }
    }
}

/// What to do about a table with a wrong shape.
pub(in super::super) const OTHER_SHAPE: &str = "`migrate()` creates missing tables and never alters one: \
                                      choose another table name, or drop it and call `migrate()`";

/// What to do about a missing table.
pub(in super::super) const MISSING: &str =
    "does not exist: call `migrate()`, or create it from `ddl()`";

/// What to do about a row whose id is too large.
pub(in super::super) const NO_IDS_LEFT: &str = "has a row with an id above 9223372036854775807, so that no other can follow: \
     nothing is served and nothing invalidated until that is gone. As one batch: LOCK TABLES it WRITE, DELETE the rows \
     with such ids, ALTER TABLE it AUTO_INCREMENT = 1, INSERT a row with the tag ':everything', UNLOCK TABLES";

/// ER_QUERY_INTERRUPTED
const INTERRUPTED: u16 = 1317;
/// ER_STATEMENT_TIMEOUT of MariaDB (`max_statement_time`)
const STATEMENT_TIMEOUT: u16 = 1969;
/// ER_QUERY_TIMEOUT of MySQL (`max_execution_time`)
const QUERY_TIMEOUT: u16 = 3024;

fn schema_problem(number: u16, message: &str) -> Option<String> {
    match number {
        // ER_NO_SUCH_TABLE, ER_BAD_DB_ERROR
        1146 | 1049 => Some(MISSING.to_owned()),
        // ER_AUTOINC_READ_FAILED
        1467 => Some(NO_IDS_LEFT.to_owned()),
        // ER_BAD_FIELD_ERROR, ER_WRONG_VALUE_COUNT_ON_ROW, ER_NO_DEFAULT_FOR_FIELD,
        // ER_TRUNCATED_WRONG_VALUE_FOR_FIELD, ER_DATA_TOO_LONG, ER_WARN_DATA_OUT_OF_RANGE,
        // WARN_DATA_TRUNCATED
        1054 | 1136 | 1364 | 1366 | 1406 | 1264 | 1265 => {
            Some(format!("has another shape ({message}): {OTHER_SHAPE}"))
        }
        _ => None,
    }
}

fn after(number: u16) -> Recovery {
    match number {
        // ER_LOCK_DEADLOCK, ER_LOCK_WAIT_TIMEOUT, ER_CHECKREAD, ER_NEED_REPREPARE,
        // ER_TABLE_DEF_CHANGED
        1213 | 1205 | 1020 | 1615 | 1412 => Recovery::Retry,
        // ER_SERVER_SHUTDOWN, ER_UNKNOWN_STMT_HANDLER, ER_CONNECTION_KILLED of MariaDB,
        // ER_CLIENT_INTERACTION_TIMEOUT
        1053 | 1243 | 1927 | 4031 => Recovery::ReconnectAndRetry,
        // ER_NET_PACKET_TOO_LARGE: the server closes the connection
        1153 => Recovery::Reconnect,
        // not a primary (any more): ER_UNKNOWN_COM_ERROR (Galera), ER_OPTION_PREVENTS_STATEMENT, ER_READ_ONLY_MODE,
        // ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION; a new connection may reach another server
        1047 | 1290 | 1836 | 1792 => Recovery::Reconnect,
        _ => Recovery::Continue,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_temporary_failures_are_retried() {
        assert_eq!(after(1213), Recovery::Retry);
        assert_eq!(after(1205), Recovery::Retry);
        assert_eq!(after(1153), Recovery::Reconnect);
        assert_eq!(after(1836), Recovery::Reconnect);
        assert_eq!(after(1062), Recovery::Continue);
        assert!(
            Recovery::ReconnectAndRetry.drops_connection() && !Recovery::Retry.drops_connection()
        );
    }

    #[test]
    fn a_missing_table_or_column_says_what_to_do() {
        let missing = schema_problem(1146, "").unwrap();
        assert!(missing.contains("call `migrate()`"), "{missing}");
        let shape = schema_problem(1054, "Unknown column 'head' in 'SELECT'").unwrap();
        assert!(shape.contains("'head'") && shape.contains("never alters"), "{shape}");
        assert_eq!(schema_problem(1213, ""), None);
    }

    #[test]
    fn a_lost_connection_is_replaced() {
        let table = TableName::parse("table", "t").unwrap();
        let lost = sqlx::Error::Io(std::io::ErrorKind::BrokenPipe.into());
        assert_eq!(Failure::of(lost, &table).recovery, Recovery::ReconnectAndRetry);
        assert_eq!(
            Failure::of(sqlx::Error::Protocol("?".into()), &table).recovery,
            Recovery::Reconnect
        );
        assert!(Failure::timeout().recovery.drops_connection());
    }
}
