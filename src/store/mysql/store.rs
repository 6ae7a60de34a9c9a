//! The store as the layer sees it: encodes and decodes in the caller's task, leaves the rest to queues.

mod find;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sqlx::mysql::MySqlConnection;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::codec::{self, Hash, Row};
use super::log::{append_on, append_sql};
use super::maintain::Command;
use super::sql::MAX_APPEND;
use super::write::{Freshen, Job, LeaseJob, Put, Ticket};
use super::{Inner, MySqlStore};
use crate::key::{CacheKey, KeyRange};
use crate::store::{
    CullReport, Fence, Lease, Named, SqlStatement, Store, StoreError, StoreStats, Transactional,
};
use crate::stored::{Entry, HeadUpdate, Stored, StoredHead, StoredOrHead};
use crate::sync::lock;
use crate::tag::{LogPosition, LogRecord, LogRow, Scope, Validity};

/// Bytes of `max_allowed_packet` that are left for the rest of a statement.
const PACKET_RESERVE: usize = 64 * 1024;

/// Whether a row was written: not, where a lease has passed on.
type Done = Result<bool, StoreError>;

impl MySqlStore {
    /// Makes the row of an entry, off the async threads when there is much to compress.
    async fn row(&self, entry: Entry) -> Result<Row, StoreError> {
        let compressing = self.inner.shared.settings.compressing;
        let now_ms = self.now_ms();
        let row = if codec::is_slow_to_encode(&entry, compressing) {
            spawn_blocking(move || codec::encode(&entry, compressing, now_ms))
                .await
                .map_err(|_| StoreError::Closed)?
        } else {
            codec::encode(&entry, compressing, now_ms)
        }?;
        self.fits(row.packet_bytes(), self.inner.shared.max_packet.saturating_sub(PACKET_RESERVE))?;
        Ok(row)
    }

    fn fits(&self, size: usize, limit: usize) -> Result<(), StoreError> {
        if size > limit {
            return Err(StoreError::TooLarge { size, limit });
        }
        Ok(())
    }

    /// Counts an entry that is not stored without having got as far as the database.
    fn refused(&self, error: StoreError) -> StoreError {
        let counters = &self.inner.shared.counters;
        match &error {
            StoreError::TooLarge { .. } => {
                counters.too_large.fetch_add(1, Relaxed);
            }
            StoreError::Overloaded => self.inner.shared.shed(),
            _ => {}
        }
        error
    }

    /// Reserves room for an entry, makes its row and gives both to be queued.
    async fn prepare(
        &self,
        entry: Entry,
        fence: Option<(Hash, u64)>,
    ) -> Result<(Put, oneshot::Receiver<Done>), StoreError> {
        let size = entry.stored.size_bytes().saturating_add(entry.key.as_bytes().len());
        self.fits(size, self.inner.shared.settings.max_entry_bytes)?;
        let share = self.inner.writes.reserve(size)?;
        let row = self.row(entry).await?;
        let (ack, done) = oneshot::channel();
        Ok((Put { row, fence, share, ack }, done))
    }

    /// Writes entries, each with what it takes for it to count.
    async fn write(
        &self,
        entries: Vec<Entry>,
        fence: Option<(Hash, u64)>,
    ) -> Result<bool, StoreError> {
        self.inner.running().await?;
        let compressing = self.inner.shared.settings.compressing;
        let slow = entries.iter().any(|entry| codec::is_slow_to_encode(entry, compressing));
        let ticket: Option<Ticket> = slow.then(|| self.inner.writes.ticket());
        let (mut puts, mut waiting, mut outcome) = (Vec::new(), Vec::new(), Ok(true));
        for entry in entries {
            match self.prepare(entry, fence).await {
                Ok((put, done)) => {
                    puts.push(put);
                    waiting.push(done);
                }
                Err(error) => outcome = outcome.and(Err(self.refused(error))),
            }
        }
        self.inner.writes.put(puts, ticket.as_ref())?;
        drop(ticket);
        for done in waiting {
            let done = done.await.unwrap_or(Err(StoreError::Closed));
            outcome = outcome.and_then(|all| done.map(|written| all && written));
        }
        outcome
    }

    /// Queues a job and waits for its outcome.
    async fn submit<T>(
        &self,
        job: Job,
        outcome: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.inner.running().await?;
        self.inner.writes.push(job)?;
        outcome.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Asks the maintaining task and waits for its answer.
    async fn command<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        self.inner.running().await?;
        let (answer, receiver) = oneshot::channel();
        let sent = lock(&self.inner.commands).try_send(command(answer));
        sent.map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        receiver.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Store for MySqlStore {
    fn now_ms(&self) -> u64 {
        self.inner.shared.clock.now_ms()
    }

    async fn get_many(&self, keys: Vec<CacheKey>) -> Result<Vec<Option<Stored>>, StoreError> {
        let found = self.find(&keys).await?;
        Ok(found.into_iter().map(|found| found.map(|(stored, _)| stored)).collect())
    }

    async fn get_heads(
        &self,
        keys: Vec<CacheKey>,
    ) -> Result<Vec<Option<StoredOrHead>>, StoreError> {
        self.find_heads(&keys).await
    }

    async fn get_entries(&self, keys: Vec<CacheKey>) -> Result<Vec<Option<Entry>>, StoreError> {
        let found = self.find(&keys).await?;
        let entry = |(found, key): (Option<(Stored, u64)>, CacheKey)| {
            found.map(|(stored, expires_ms)| Entry { key, stored, expires_ms })
        };
        Ok(found.into_iter().zip(keys).map(entry).collect())
    }

    async fn put_many(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.write(entries, None).await.map(drop)
    }

    async fn put_fenced(&self, entries: Vec<Entry>, fence: &Fence) -> Result<bool, StoreError> {
        self.write(entries, Some((fence.key.hash(), fence.number))).await
    }

    async fn lease(&self, key: &CacheKey, time: Duration) -> Result<Lease, StoreError> {
        let (ack, outcome) = oneshot::channel();
        let job = LeaseJob::Take { hash: key.hash(), time, ack };
        self.submit(Job::Lease(job), outcome).await
    }

    async fn release(
        &self,
        fence: &Fence,
        unshareable: Option<Duration>,
    ) -> Result<(), StoreError> {
        let (ack, outcome) = oneshot::channel();
        let (hash, number) = (fence.key.hash(), fence.number);
        let job = LeaseJob::Release { hash, number, unshareable, ack };
        self.submit(Job::Lease(job), outcome).await
    }

    async fn freshen(&self, update: HeadUpdate) -> Result<bool, StoreError> {
        self.inner.running().await?;
        let HeadUpdate { key, old, new: head, expires_ms } = update;
        let column = codec::encode_head(&key, &head, expires_ms)?;
        let limit = self.inner.shared.max_packet.saturating_sub(PACKET_RESERVE);
        self.fits(column.len(), limit).map_err(|error| self.refused(error))?;
        let share = self.inner.writes.reserve(column.len())?;
        let (ack, outcome) = oneshot::channel();
        let freshen = Freshen {
            hash: key.hash(),
            key: key.to_bytes(),
            head: column,
            expires_ms,
            born_ms: head.received_ms,
            fresh_until_ms: head.fresh_until_ms,
            gen_ms: head.gen_ms,
            status: head.status.as_u16(),
            old: codec::head_says(&key, &old)?,
            _share: share,
            ack,
        };
        self.submit(Job::Freshen(freshen), outcome).await
    }

    fn position(&self) -> Arc<LogPosition> {
        self.inner.log.position()
    }

    async fn append(&self, records: Vec<LogRecord>) -> Result<Vec<u64>, StoreError> {
        if let Err(error) = self.inner.log.check_damage() {
            self.inner.log.owe(records);
            return Err(error);
        }
        let (ack, outcome) = oneshot::channel();
        // whoever waits no longer than that serves nothing that they name either
        let under_way = self.inner.log.under_way(&records);
        let ids = match self.submit(Job::Append(records.clone(), ack), outcome).await {
            Ok(ids) => ids,
            Err(error) => {
                self.inner.log.owe(records);
                return Err(error);
            }
        };
        for (id, record) in ids.iter().zip(&records) {
            self.inner.log.await_rows(*id, std::slice::from_ref(record));
        }
        drop(under_way);
        // without it, what the rows name waits for the next look
        let _ = self.inner.log.looked().await;
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
        self.inner.log.looked().await
    }

    fn poll_interval(&self) -> Duration {
        self.inner.shared.settings.poll_interval
    }

    async fn log_tail(&self, limit: usize) -> Result<Vec<LogRow>, StoreError> {
        self.command(|answer| Command::Tail(limit, answer)).await
    }

    async fn count_named(&self, scopes: Vec<Scope>) -> Result<Named, StoreError> {
        self.command(|answer| Command::Count(scopes, answer)).await
    }

    async fn remove(&self, range: KeyRange) -> Result<u64, StoreError> {
        let (ack, outcome) = oneshot::channel();
        self.submit(Job::Remove(range, ack), outcome).await
    }

    async fn remove_named(&self, range: KeyRange, scopes: Vec<Scope>) -> Result<u64, StoreError> {
        let mut removed = 0;
        for key in self.command(|answer| Command::Named(range, scopes, answer)).await? {
            removed += self.remove(key).await?;
        }
        Ok(removed)
    }

    async fn cull(&self) -> Result<CullReport, StoreError> {
        self.command(Command::Cull).await
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        let figures = self.command(Command::Stats).await?;
        let counters = &self.inner.shared.counters;
        Ok(StoreStats {
            entries: figures.entries,
            bytes: figures.bytes,
            estimated: !figures.exact,
            unreadable: counters.unreadable.load(Relaxed),
            shed: counters.shed.load(Relaxed),
            too_large: counters.too_large.load(Relaxed),
            failures: counters.failures.load(Relaxed),
            culls: counters.culls.load(Relaxed),
            owed_invalidations: self.inner.log.owes() as u64,
            log_is_damaged: self.inner.log.is_damaged(),
            log_reads: self.inner.log.reads.load(Relaxed),
            log_waits: self.inner.log.waits.load(Relaxed),
        })
    }

    async fn flush(&self) -> Result<(), StoreError> {
        let (ack, outcome) = oneshot::channel();
        self.submit(Job::Flush(ack), outcome).await
    }
}

impl Transactional for MySqlStore {
    type Connection = MySqlConnection;

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

    fn append_sql(&self, records: &[LogRecord]) -> Vec<SqlStatement> {
        let table = self.inner.shared.settings.log_table.quoted();
        records.chunks(MAX_APPEND).map(|rows| append_sql(&table, rows)).collect()
    }
}
