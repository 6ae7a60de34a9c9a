//! How do the roles of a store use the queues? Encoding and decoding happen in the caller's task.

mod admin;
mod find;
mod lease;
mod log;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::codec::{self, Hash};
use super::maintain::Command;
use super::write::{Encoding, Freshen, Job, Put, Queued};
use super::{Inner, MySqlStore};
use crate::key::{CacheKey, KeyRange};
use crate::store::{Entries, Fence, Leases, Store, StoreError};
use crate::stored::{Entry, HeadUpdate, Stored, StoredOrHead};
use crate::sync::lock;
use crate::tag::Scope;

/// Bytes of `max_allowed_packet` that are reserved for the rest of a statement.
const PACKET_RESERVE: usize = 64 * 1024;

/// How long a row may take to be encoded, its wait for a thread included. Then it is not stored.
const ENCODE_LIMIT: Duration = Duration::from_secs(5);

/// Whether a row was written. `false` if another process has got the lease.
type Done = Result<bool, StoreError>;

fn fits(size: usize, limit: usize) -> Result<(), StoreError> {
    if size > limit {
        return Err(StoreError::TooLarge { size, limit });
    }
    Ok(())
}

impl MySqlStore {
    /// Counts an entry that is refused before it reaches the database.
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

    /// Reserves room for an entry, and makes the job that writes it. If compression takes long, the row is encoded
    /// outside the async threads.
    fn prepare(
        &self,
        entry: Entry,
        fence: Option<(Hash, u64)>,
    ) -> Result<(Queued, oneshot::Receiver<Done>), StoreError> {
        let Inner { shared, writes, .. } = &*self.inner;
        let size = entry.stored.size_bytes().saturating_add(entry.key.as_bytes().len());
        fits(size, shared.settings.max_entry_bytes)?;
        let share = writes.reserve(size)?;
        let (ack, done) = oneshot::channel();
        let (compressing, limit) = (shared.settings.compressing.clone(), self.packet_limit());
        let (is_slow, now_ms) = (codec::is_slow_to_encode(&entry, &compressing), self.now_ms());
        let (hash, key) = (entry.key.hash(), entry.key.to_bytes());
        let make = move || {
            let row = codec::encode(&entry, &compressing, now_ms)?;
            fits(row.packet_bytes(), limit)?;
            Ok(row)
        };
        if !is_slow {
            let put = Put { row: make()?, fence, share, ack };
            return Ok((Queued::Job(Job::Put(put)), done));
        }
        let (sender, row) = oneshot::channel();
        let writes = Arc::clone(writes);
        tokio::spawn(async move {
            // later writes to its key wait
            let made = match timeout(ENCODE_LIMIT, spawn_blocking(make)).await {
                Ok(made) => made.unwrap_or(Err(StoreError::Closed)),
                Err(_) => Err(StoreError::Timeout),
            };
            let _ = sender.send(made);
            writes.work.notify_one();
        });
        Ok((Queued::Encoding(Encoding { hash, key, row, fence, share, ack }), done))
    }

    /// The most bytes of a row.
    fn packet_limit(&self) -> usize {
        self.inner.shared.max_packet.saturating_sub(PACKET_RESERVE)
    }

    /// Writes entries, each with its lease if it has one.
    async fn write(
        &self,
        entries: Vec<Entry>,
        fence: Option<(Hash, u64)>,
    ) -> Result<bool, StoreError> {
        self.inner.running().await?;
        let (mut jobs, mut waiting, mut outcome) = (Vec::new(), Vec::new(), Ok(true));
        for entry in entries {
            match self.prepare(entry, fence) {
                Ok((job, done)) => {
                    jobs.push(job);
                    waiting.push(done);
                }
                Err(error) => outcome = outcome.and(Err(self.refused(error))),
            }
        }
        self.inner.writes.put(jobs)?;
        for done in waiting {
            let done = done.await.unwrap_or(Err(StoreError::Closed));
            let done = done.map_err(|error| self.refused(error));
            outcome = outcome.and_then(|all| done.map(|written| all && written));
        }
        outcome
    }

    /// Queues a job and waits for its result.
    async fn submit<T>(
        &self,
        job: Job,
        outcome: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.inner.running().await?;
        self.inner.writes.push(job)?;
        outcome.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Asks the maintenance task and waits for its answer.
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

impl Entries for MySqlStore {
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

    async fn freshen(&self, update: HeadUpdate) -> Result<bool, StoreError> {
        self.inner.running().await?;
        let HeadUpdate { key, old, new: head, expires_ms } = update;
        let column = codec::encode_head(&key, &head, expires_ms)?;
        fits(column.len(), self.packet_limit()).map_err(|error| self.refused(error))?;
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
            old: codec::head_content(&key, &old)?,
            _share: share,
            ack,
        };
        self.submit(Job::Freshen(freshen), outcome).await
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
}

impl Store for MySqlStore {
    type Log = Self;

    fn log(&self) -> &Self {
        self
    }

    fn leases(&self) -> &dyn Leases {
        self
    }
}
