//! How are log rows appended? By the writer task, or on the application's connection.

use std::sync::Arc;
use std::time::Duration;

use sqlx::mysql::MySqlConnection;
use tokio::sync::oneshot;

use super::super::log::{append_on, append_sql};
use super::super::maintain::Command;
use super::super::sql::MAX_APPEND;
use super::super::write::Job;
use super::super::{Inner, MySqlStore};
use crate::key::CacheKey;
use crate::store::{InvalidationLog, SqlStatement, StoreError};
use crate::stored::StoredHead;
use crate::tag::{LogPosition, LogRecord, LogRow, Validity};

impl InvalidationLog for MySqlStore {
    fn position(&self) -> Arc<LogPosition> {
        self.inner.log.position()
    }

    async fn append(&self, records: Vec<LogRecord>) -> Result<Vec<u64>, StoreError> {
        if let Err(error) = self.inner.log.check_damage() {
            self.inner.log.keep_unwritten(records);
            return Err(error);
        }
        let (ack, outcome) = oneshot::channel();
        // even if the caller stops waiting, this process does not serve what they name
        let being_written = self.inner.log.being_written(&records);
        let ids = match self.submit(Job::Append(records.clone(), ack), outcome).await {
            Ok(ids) => ids,
            Err(error) => {
                self.inner.log.keep_unwritten(records);
                return Err(error);
            }
        };
        for (id, record) in ids.iter().zip(&records) {
            self.inner.log.await_rows(*id, std::slice::from_ref(record));
        }
        drop(being_written);
        // otherwise, responses that the rows name would wait for the next read
        let _ = self.inner.log.read_now().await;
        Ok(ids)
    }

    async fn validity(&self, key: &CacheKey, head: &StoredHead) -> Result<Validity, StoreError> {
        self.inner.running().await?;
        self.inner.log.validity(key, head).await
    }

    async fn catch_up(
        &self,
        key: &CacheKey,
        head: &StoredHead,
        at_most: Duration,
    ) -> Result<(), StoreError> {
        self.inner.running().await?;
        self.inner.log.catch_up(key, head, at_most).await
    }

    fn note_write(&self) {
        self.inner.log.note_write();
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.inner.log.read_now().await
    }

    fn poll_interval(&self) -> Duration {
        self.inner.shared.settings.poll_interval
    }

    async fn tail(&self, limit: usize) -> Result<Vec<LogRow>, StoreError> {
        self.command(|answer| Command::Tail(limit, answer)).await
    }

    async fn append_on(
        &self,
        connection: &mut MySqlConnection,
        records: Vec<LogRecord>,
    ) -> Result<(), StoreError> {
        let Inner { shared, log, server, .. } = &*self.inner;
        log.check_damage()?;
        server.check(&shared.settings, connection).await?;
        append_on(shared, connection, &records, |first, rows| log.await_rows(first, rows)).await
    }

    fn append_sql(&self, records: &[LogRecord]) -> Result<Vec<SqlStatement>, StoreError> {
        let table = self.inner.shared.settings.log_table.quoted();
        Ok(records.chunks(MAX_APPEND).map(|rows| append_sql(&table, rows)).collect())
    }
}
