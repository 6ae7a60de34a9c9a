//! Questions to the log itself, about responses that are older than what a process remembers.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::Row as _;
use tokio::sync::{mpsc, oneshot};

use super::super::connection::{Connection, statement};
use super::super::failure::Failure;
use super::super::shared::Shared;
use super::super::sql::MAX_APPEND;
use super::{Checked, Log, columns};
use crate::key::CacheKey;
use crate::store::StoreError;
use crate::stored::StoredHead;
use crate::tag::Validity;

/// Which rows from an id on hold one of these columns?
pub(in super::super) struct Question {
    columns: Vec<Bytes>,
    lowest: u64,
    answer: oneshot::Sender<Result<Found, StoreError>>,
}

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
        let question = Question { columns, lowest, answer };
        self.questions.try_send(question).map_err(|error| match error {
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
            let (received_ms, largest) = (head.received_ms, head.position.largest);
            self.checked.insert(key.hash(), Checked { received_ms, largest, position });
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
        match find(connection, shared, &self.columns, self.lowest).await {
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

    pub(super) fn fail(self, error: &StoreError) {
        let _ = self.answer.send(Err(error.clone()));
    }
}

async fn find(
    connection: &mut Connection,
    shared: &Arc<Shared>,
    columns: &[Bytes],
    lowest: u64,
) -> Result<Found, Failure> {
    let sql = &shared.sql.log;
    let mut rows = Vec::new();
    for chunk in columns.chunks(MAX_APPEND) {
        let (text, binds) = sql.history(chunk.len());
        let last = chunk.last().cloned().unwrap_or_default();
        let columns = chunk.iter().cloned().chain(std::iter::repeat(last)).take(binds);
        let query = columns.fold(statement(text), |query, column| query.bind(column.to_vec()));
        for row in connection.rows(query.bind(lowest), shared).await? {
            let read = || -> Result<_, sqlx::Error> {
                Ok((row.try_get(0)?, row.try_get::<&str, _>(1)? == "s"))
            };
            rows.push(read().map_err(|error| Failure::of(error, &shared.settings.log_table))?);
        }
    }
    // asked for last: what was pruned before or between is missing from the rows, and shows here
    let floor = connection.number(&sql.floor, shared).await?;
    Ok(Found { rows, floor })
}
