//! Writing rows of the log: on a connection of the store's, or in the caller's transaction.

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

/// Bytes of one statement: less than the packet of any server, also of one that has been told another limit since
/// the store connected.
const MAX_BYTES: usize = 12 * 1024;

/// Bytes that a row takes beside its tag and its reason.
const ROW: usize = 16;
/// The statement that appends rows, and its values, for drivers that are not ours.
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

/// How many of the rows may be written in one statement, whose ids follow from the first of them: where the
/// server leaves ids out, by how many may change at any time, each row is told its own.
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

/// Writes rows, each list of them at once, and returns their ids. What has been written stays written
/// when a later list fails.
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
            // nothing of this process's own keeps the log from being repaired
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

/// Writes rows on a connection of the caller's, and tells of each list its first id.
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
