//! How are log rows written, on a connection of the store or in the application's transaction?

use std::sync::Arc;

use sqlx::mysql::MySqlConnection;

use super::super::conn::{Connection, Failure, Statement, statement};
use super::super::shared::Shared;
use super::super::sql::{MAX_APPEND, MAX_ID};
use crate::store::{SqlStatement, StoreError};
use crate::tag::{LogRecord, reason_of};

/// Binds rows of tag, kind, reason.
fn bind(mut query: Statement, records: &[LogRecord]) -> Statement {
    for record in records {
        query = query
            .bind(record.scope.to_column().to_vec())
            .bind(kind_of(record))
            .bind(reason_of(record));
    }
    query
}

/// Bytes of one statement. It is below the packet limit of every server, even if the limit was changed after the
/// store connected.
const MAX_BYTES: usize = 12 * 1024;

/// Bytes of a row in addition to tag and reason.
const ROW: usize = 16;
/// The statement that appends rows, and its values, for other drivers.
pub(in super::super) fn append_sql(table: &str, records: &[LogRecord]) -> SqlStatement {
    let mut values = Vec::with_capacity(records.len());
    let row = |record: &LogRecord| {
        values.push(record.scope.to_column().to_vec());
        let reason = reason_of(record).map(|reason| values.push(reason.into_bytes()));
        let reason = if reason.is_some() { "?" } else { "NULL" };
        format!("(?, '{}', {reason})", kind_of(record))
    };
    let rows: Vec<String> = records.iter().map(row).collect();
    let text = format!("INSERT INTO {table} (tag, kind, reason) VALUES {}", rows.join(", "));
    SqlStatement { text, values }
}

fn kind_of(record: &LogRecord) -> &'static str {
    if record.soft { "s" } else { "h" }
}

/// How many of the rows one statement writes. If the server leaves out ids (`auto_increment_increment` above 1), the
/// ids of a list are not known. Then each row is written alone.
fn listed(shared: &Shared, rest: &[LogRecord]) -> usize {
    if shared.id_step != 1 {
        return 1;
    }
    let mut bytes = 0_usize;
    let fits = |record: &&LogRecord| {
        let reason = record.reason.as_ref().map_or(0, String::len);
        bytes = bytes.saturating_add(record.scope.to_column().len() + reason + ROW);
        bytes <= MAX_BYTES
    };
    rest.iter().take(MAX_APPEND).take_while(fits).count().max(1)
}

/// Writes rows, one list after the other, and returns their ids. If a list fails, the earlier lists stay written.
pub(in super::super) async fn write(
    connection: &mut Connection,
    shared: &Arc<Shared>,
    records: &[LogRecord],
) -> Result<Vec<u64>, Failure> {
    let (mut rest, mut ids) = (records, Vec::with_capacity(records.len()));
    while !rest.is_empty() {
        let (text, count) = shared.sql.log.append(listed(shared, rest));
        let (now, later) = rest.split_at(count.min(rest.len()));
        let first = connection.insert(bind(statement(text), now), shared).await?;
        if first > MAX_ID {
            // rows of this process must not prevent a repair of the log
            let last = first.saturating_add(now.len() as u64);
            let remove = statement(&shared.sql.log.prune).bind(first - 1).bind(last);
            connection.run(remove, shared).await?;
            return Err(Failure::sound(Failure::no_ids_left(&shared.settings.log_table)));
        }
        ids.extend((first..).take(now.len()));
        rest = later;
    }
    Ok(ids)
}

/// Writes rows on the application's connection, and reports the first id of each list.
pub(in super::super) async fn append_on(
    shared: &Arc<Shared>,
    connection: &mut MySqlConnection,
    records: &[LogRecord],
    mut written: impl FnMut(u64, &[LogRecord]),
) -> Result<(), StoreError> {
    let mut rest = records;
    while !rest.is_empty() {
        let (text, count) = shared.sql.log.append(listed(shared, rest));
        let (now, later) = rest.split_at(count.min(rest.len()));
        let done = bind(statement(text), now).execute(&mut *connection).await;
        let done = done.map_err(|error| Failure::of(error, &shared.settings.log_table).error)?;
        if done.last_insert_id() > MAX_ID {
            return Err(Failure::no_ids_left(&shared.settings.log_table));
        }
        written(done.last_insert_id(), now);
        rest = later;
    }
    Ok(())
}
