//! What does the log table say about responses that are older than the rows that a process remembers?

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::mysql::MySqlRow;
use tokio::sync::{mpsc, oneshot};

use super::super::conn::{Connection, Failure, Statement, statement};
use super::super::shared::Shared;
use super::super::sql::MAX_TAGS;
use super::Log;
use crate::key::CacheKey;
use crate::store::StoreError;
use crate::stored::StoredHead;
use crate::sync::lock;
use crate::tag::{
    Implied, LogPosition, Scope, Tag, Validity, has_any_query, implied_by, paths_of,
    queries_of_path, uri_keys,
};

/// A query for the rows, in a range of ids, that name one response.
pub(in super::super) struct HistoryQuery {
    columns: Vec<Bytes>,
    /// Also rows that name its path with any query.
    any_query: Option<AnyQuery>,
    lowest: u64,
    below: u64,
    answer: oneshot::Sender<Result<Found, StoreError>>,
}

/// Rows that name a path with some query. The response may answer each of them.
struct AnyQuery {
    key: Bytes,
    first: Bytes,
    too_far: Bytes,
}

impl AnyQuery {
    fn of(key: &CacheKey, tags: &[Tag]) -> Option<Self> {
        let home = uri_keys(tags).next().map(Bytes::copy_from_slice);
        let key = home.unwrap_or_else(|| key.to_bytes());
        let (first, too_far) = queries_of_path(&key)?;
        Some(Self { key, first, too_far })
    }
}

/// The most questions that are asked together.
pub(super) const BATCH: usize = 64;

/// The most rows for one question. With more, the response counts as invalidated.
const MAX_ROWS: u64 = 1_000;

/// The most rows for many questions. With more, each question is asked alone.
const MAX_ROWS_OF_ALL: u64 = 4_000;

/// Bytes of the values in one statement. Because lists are filled up, up to four times as many are sent.
const MAX_BYTES: usize = 16 * 1024;

/// A hard row that no position has seen.
const UNSEEN: (u64, bool) = (u64::MAX, false);

/// The rows that were found, and where the log begins.
#[derive(Clone, Default)]
struct Found {
    /// Id, and whether the row is soft.
    rows: Vec<(u64, bool)>,
    /// The first id that has not been pruned.
    floor: u64,
}

impl Log {
    /// The log verdict on a response that has seen the log up to `since`, by the rows in the table below `below`.
    pub(super) async fn query_history(
        &self,
        key: &CacheKey,
        head: &StoredHead,
        since: &LogPosition,
        below: u64,
    ) -> Result<Validity, StoreError> {
        // while a transaction is open, many rows above its own are committed: the response has seen them
        let (lowest, below) = (since.lowest_unseen(), since.unseen_end(below));
        let (answer, receiver) = oneshot::channel();
        let columns = columns(key.as_bytes(), &head.tags);
        let any_query = has_any_query(&head.tags).then(|| AnyQuery::of(key, &head.tags)).flatten();
        let query = HistoryQuery { columns, any_query, lowest, below, answer };
        lock(&self.history_queries).try_send(query).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        self.work.notify_one();
        let found = receiver.await.unwrap_or(Err(StoreError::Unavailable))?;
        // rows that the response has not seen may have been pruned
        if found.floor > lowest {
            return Ok(Validity::Invalid);
        }
        let unseen = found.rows.iter().filter(|(id, _)| !since.has_seen(*id));
        let verdicts = unseen.map(|(_, soft)| match soft {
            true => Validity::Outdated,
            false => Validity::Invalid,
        });
        Ok(verdicts.max().unwrap_or(Validity::Valid))
    }
}

/// Queries the server for these questions, and answers them. The error is the connection's.
pub(super) async fn put(
    mut history_queries: Vec<HistoryQuery>,
    connection: &mut Connection,
    shared: &Arc<Shared>,
) -> Result<(), Failure> {
    history_queries.retain(|query| !query.answer.is_closed());
    let found = find(&history_queries, connection, shared).await;
    match found {
        Ok(found) => {
            for (query, found) in history_queries.into_iter().zip(found) {
                let _ = query.answer.send(Ok(found));
            }
            Ok(())
        }
        Err(failure) => {
            history_queries.into_iter().for_each(|query| query.fail(&failure.error));
            Err(failure)
        }
    }
}

/// The rows for each question.
async fn find(
    history_queries: &[HistoryQuery],
    connection: &mut Connection,
    shared: &Arc<Shared>,
) -> Result<Vec<Found>, Failure> {
    let mut all = vec![Found::default(); history_queries.len()];
    let mut singly = history_queries.len() <= 1;
    if !singly {
        let mut of_column: HashMap<&Bytes, Vec<usize>> = HashMap::new();
        for (n, query) in history_queries.iter().enumerate() {
            for column in &query.columns {
                of_column.entry(column).or_default().push(n);
            }
        }
        let columns: Vec<&Bytes> = of_column.keys().copied().collect();
        let lowest = history_queries.iter().map(|query| query.lowest).min().unwrap_or(0);
        let below = history_queries.iter().map(|query| query.below).max().unwrap_or(0);
        for chunk in chunks(&columns) {
            let range = (lowest, below, MAX_ROWS_OF_ALL);
            let rows = of_columns(chunk, range, connection, shared).await?;
            if rows.len() as u64 >= MAX_ROWS_OF_ALL {
                singly = true;
                break;
            }
            for (id, soft, column) in rows {
                for &n in of_column.get(&column).into_iter().flatten() {
                    let asked =
                        history_queries.get(n).is_some_and(|it| it.lowest <= id && id < it.below);
                    if let (true, Some(found)) = (asked, all.get_mut(n)) {
                        found.rows.push((id, soft));
                    }
                }
            }
        }
    }
    for (query, found) in history_queries.iter().zip(&mut all) {
        if singly {
            found.rows = query.find(connection, shared).await?;
        }
        if let Some(any_query) = &query.any_query {
            let range = (query.lowest, query.below);
            found.rows.extend(any_query.find(range, connection, shared).await?);
        }
    }
    // asked last: rows that were pruned before or in between are missing, and this shows it
    let floor = connection.number(&shared.sql.log.floor, shared).await?;
    all.iter_mut().for_each(|found| found.floor = floor);
    Ok(all)
}

/// Splits the values into lists for one statement each.
fn chunks<'a>(columns: &'a [&'a Bytes]) -> impl Iterator<Item = &'a [&'a Bytes]> {
    let mut rest = columns;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |column: &&&Bytes| {
            bytes += column.len();
            bytes <= MAX_BYTES
        };
        let count = rest.iter().take(MAX_TAGS).take_while(fits).count().max(1);
        let (chunk, later) = rest.split_at_checked(count)?;
        rest = later;
        Some(chunk)
    })
}

/// The rows with one of these values, with ids from `lowest` to below `below`, at most `limit`.
async fn of_columns(
    columns: &[&Bytes],
    (lowest, below, limit): (u64, u64, u64),
    connection: &mut Connection,
    shared: &Arc<Shared>,
) -> Result<Vec<(u64, bool, Bytes)>, Failure> {
    let (text, binds) = shared.sql.log.history(columns.len());
    let filler = columns.iter().min_by_key(|column| column.len()).copied().into_iter().cycle();
    let columns: Vec<&Bytes> = columns.iter().copied().chain(filler).take(binds).collect();
    let query = || {
        let query = statement(text);
        let query = columns.iter().fold(query, |query, column| query.bind(column.to_vec()));
        query.bind(lowest).bind(below).bind(limit)
    };
    rows(query, limit, connection, shared).await
}

/// The rows that a statement finds. The first query also reads uncommitted rows: an open transaction may have very
/// many, and the server would skip them one by one until the limit is reached. If the first query finds only a few
/// rows, a second one reads the committed ones.
async fn rows(
    query: impl Fn() -> Statement,
    limit: u64,
    connection: &mut Connection,
    shared: &Arc<Shared>,
) -> Result<Vec<(u64, bool, Bytes)>, Failure> {
    connection.run_text(&shared.sql.log.uncommitted, shared).await?;
    let mut rows = connection.rows(query(), shared).await?;
    if !rows.is_empty() && (rows.len() as u64) < limit {
        rows = connection.rows(query(), shared).await?;
    }
    let read = |row: &MySqlRow| -> Result<_, sqlx::Error> {
        let soft = row.try_get::<&str, _>(1)? == "s";
        Ok((row.try_get(0)?, soft, Bytes::copy_from_slice(row.try_get::<&[u8], _>(2)?)))
    };
    rows.iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::of(error, &shared.settings.log_table))
}

impl HistoryQuery {
    async fn find(
        &self,
        connection: &mut Connection,
        shared: &Arc<Shared>,
    ) -> Result<Vec<(u64, bool)>, Failure> {
        let columns: Vec<&Bytes> = self.columns.iter().collect();
        let mut all = Vec::new();
        for chunk in chunks(&columns) {
            let range = (self.lowest, self.below, MAX_ROWS);
            let found = of_columns(chunk, range, connection, shared).await?;
            if found.len() as u64 >= MAX_ROWS {
                all.push(UNSEEN);
            }
            all.extend(found.into_iter().map(|(id, soft, _)| (id, soft)));
        }
        Ok(all)
    }

    pub(super) fn fail(self, error: &StoreError) {
        let _ = self.answer.send(Err(error.clone()));
    }
}

impl AnyQuery {
    async fn find(
        &self,
        (lowest, below): (u64, u64),
        connection: &mut Connection,
        shared: &Arc<Shared>,
    ) -> Result<Vec<(u64, bool)>, Failure> {
        let query = || {
            let query = statement(&shared.sql.log.history_between);
            let query = query.bind(self.first.to_vec()).bind(self.too_far.to_vec());
            query.bind(lowest).bind(below).bind(MAX_ROWS)
        };
        let found = rows(query, MAX_ROWS, connection, shared).await?;
        if found.len() as u64 >= MAX_ROWS {
            return Ok(vec![UNSEEN]);
        }
        let names =
            |column: &Bytes| Scope::from_column(column).names(&self.key, &[Scope::any_query()]);
        let found = found.into_iter().filter(|(_, _, column)| names(column));
        Ok(found.map(|(id, soft, _)| (id, soft)).collect())
    }
}

/// The values that a row can have if it names the response.
fn columns(key: &[u8], tags: &[Tag]) -> Vec<Bytes> {
    let own = implied_by(key, tags).map(Implied::to_column);
    let tagged = tags.iter().map(|tag| Scope::Tag(tag.clone()).to_column());
    let mut columns: Vec<_> = own.chain(tagged).collect();
    if has_any_query(tags) {
        let path = |path: Cow<'_, [u8]>| Scope::uri(path.into_owned()).to_column();
        columns.extend(paths_of(key, tags).map(path));
    }
    columns
}
