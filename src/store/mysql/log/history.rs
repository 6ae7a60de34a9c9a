//! Questions to the log itself, about responses that are older than what a process remembers.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::mysql::MySqlRow;
use tokio::sync::{mpsc, oneshot};

use super::super::connection::{Connection, statement};
use super::super::failure::Failure;
use super::super::shared::{Shared, lock};
use super::super::sql::MAX_APPEND;
use super::{Checked, Log, columns};
use crate::key::CacheKey;
use crate::store::StoreError;
use crate::stored::StoredHead;
use crate::tag::{Scope, Tag, Validity, has_any_query, homes, queries_of_path};

/// Which rows from an id on hold one of these columns?
pub(in super::super) struct Question {
    columns: Vec<Bytes>,
    /// And rows that name its path with any query.
    any_query: Option<AnyQuery>,
    lowest: u64,
    answer: oneshot::Sender<Result<Found, StoreError>>,
}

/// Rows that name a path with some query, where a response may answer for each of them.
struct AnyQuery {
    key: Bytes,
    first: Bytes,
    too_far: Bytes,
}

impl AnyQuery {
    fn of(key: &CacheKey, tags: &[Tag]) -> Option<Self> {
        let home = homes(tags).next().map(Bytes::copy_from_slice);
        let key = home.unwrap_or_else(|| key.to_bytes());
        let (first, too_far) = queries_of_path(&key)?;
        Some(Self { key, first, too_far })
    }
}

/// Rows that one statement of a question reads. More, and the response counts as named.
const MAX_ROWS: u64 = 1_000;

/// A hard row that nobody has seen.
const UNSEEN: (u64, bool) = (u64::MAX, false);

/// The rows, and where the log begins.
struct Found {
    /// Id, and whether it is a soft one.
    rows: Vec<(u64, bool)>,
    /// The first id that has not been pruned.
    floor: u64,
}

impl Log {
    /// What the log itself says about a response. One that nothing speaks against is not asked about
    /// again: from then on only what is seen later counts.
    pub(super) async fn ask(
        &self,
        key: &CacheKey,
        head: &StoredHead,
    ) -> Result<Validity, StoreError> {
        // before the question: every row that this has seen is among the answer
        let position = self.position();
        let lowest = head.position.lowest_unseen();
        let (answer, receiver) = oneshot::channel();
        let columns = columns(key.as_bytes(), &head.tags);
        let any_query = has_any_query(&head.tags).then(|| AnyQuery::of(key, &head.tags)).flatten();
        let question = Question { columns, any_query, lowest, answer };
        lock(&self.questions).try_send(question).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        self.work.notify_one();
        let found = receiver.await.unwrap_or(Err(StoreError::Unavailable))?;
        // rows that it has not seen may have been pruned
        if found.floor > lowest {
            return Ok(Validity::Invalid);
        }
        let unseen = found.rows.iter().filter(|(id, _)| !head.position.has_seen(*id));
        let verdicts = unseen.map(|(_, soft)| match soft {
            true => Validity::Outdated,
            false => Validity::Invalid,
        });
        let verdict = verdicts.max().unwrap_or(Validity::Valid);
        if verdict == Validity::Valid {
            let (received_ms, at) = (head.received_ms, head.position.clone());
            self.checked.insert(key.hash(), Checked { received_ms, at, position });
        }
        Ok(verdict)
    }
}

impl Question {
    /// Asks the server and answers; the error is the connection's.
    pub(super) async fn put(
        self,
        connection: &mut Connection,
        shared: &Arc<Shared>,
    ) -> Result<(), Failure> {
        if self.answer.is_closed() {
            return Ok(());
        }
        match self.find(connection, shared).await {
            Ok(found) => {
                let _ = self.answer.send(Ok(found));
                Ok(())
            }
            Err(failure) => {
                let _ = self.answer.send(Err(failure.error.clone()));
                Err(failure)
            }
        }
    }

    async fn find(
        &self,
        connection: &mut Connection,
        shared: &Arc<Shared>,
    ) -> Result<Found, Failure> {
        let sql = &shared.sql.log;
        let failed = |error| Failure::of(error, &shared.settings.log_table);
        let mut rows = Vec::new();
        for chunk in self.columns.chunks(MAX_APPEND) {
            let (text, binds) = sql.history(chunk.len());
            let last = chunk.last().cloned().unwrap_or_default();
            let columns = chunk.iter().cloned().chain(std::iter::repeat(last)).take(binds);
            let query = columns.fold(statement(text), |query, column| query.bind(column.to_vec()));
            let query = query.bind(self.lowest).bind(MAX_ROWS);
            let found = connection.rows(query, shared).await?;
            if found.len() as u64 >= MAX_ROWS {
                rows.push(UNSEEN);
            }
            for row in found {
                rows.push(id_and_kind(&row).map_err(failed)?);
            }
        }
        if let Some(AnyQuery { key, first, too_far }) = &self.any_query {
            let query = statement(&sql.history_between).bind(first.to_vec()).bind(too_far.to_vec());
            let query = query.bind(self.lowest).bind(MAX_ROWS);
            let found = connection.rows(query, shared).await?;
            if found.len() as u64 >= MAX_ROWS {
                rows.push(UNSEEN);
            }
            for row in found {
                let column = row.try_get::<&[u8], _>(2).map(Bytes::copy_from_slice);
                let scope = Scope::from_column(&column.map_err(failed)?);
                if scope.names(key, &[Scope::any_query()]) {
                    rows.push(id_and_kind(&row).map_err(failed)?);
                }
            }
        }
        // asked for last: what was pruned before or between is missing from the rows, and shows here
        let floor = connection.number(&sql.floor, shared).await?;
        Ok(Found { rows, floor })
    }

    pub(super) fn fail(self, error: &StoreError) {
        let _ = self.answer.send(Err(error.clone()));
    }
}

/// The id of a row, and whether it is a soft one.
fn id_and_kind(row: &MySqlRow) -> Result<(u64, bool), sqlx::Error> {
    Ok((row.try_get(0)?, row.try_get::<&str, _>(1)? == "s"))
}
