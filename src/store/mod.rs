//! Stores: where responses live. Rows and columns, no HTTP semantics.

mod boxed;
mod error;
mod footprint;
mod lease;
// a log in memory has no gaps
#[cfg_attr(not(feature = "mysql"), allow(dead_code, unused_imports))]
pub(crate) mod log;
mod memory;
#[cfg(feature = "mysql")]
pub(crate) mod mysql;
mod report;
mod statement;
mod tiered;

pub use boxed::BoxStore;
pub use error::{Source, StoreError};
pub use lease::{Fence, Lease};
pub use log::MemoryLog;
pub use memory::{MemoryStore, MemoryStoreBuilder};
pub use report::{CullReport, Named, StoreStats};
pub use statement::SqlStatement;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
pub use tiered::{Consistency, Tiered};

use crate::clock::{Clock, SystemClock};
use crate::key::{CacheKey, KeyRange};
use crate::stored::{Entry, HeadUpdate, Stored, StoredHead, StoredOrHead};
use crate::tag::{LogPosition, LogRecord, LogRow, Scope, Validity};

/// A place that keeps responses by key.
///
/// A store is a handle: clones share one state. The layer bounds the time that it waits for any of
/// these futures and may drop one half way, so a store must not let a dropped future harm what it
/// owns. Every error is a miss to the client; a store never fails a request.
///
/// What every store promises (one contract suite runs on all of them):
/// - what was put is found until `expires_ms`, and not from that moment on;
/// - keys are compared whole, byte for byte, never by their hash alone;
/// - a put replaces; the later put wins;
/// - answers come in the order of the keys, repeated keys included;
/// - a response is [valid](Store::validity) unless the invalidation log has a row after the response's
///   position that names it. A row appended, or committed, before a lookup was called counts when the
///   response that it found is judged.
pub trait Store: Clone + Send + Sync + 'static {
    /// The time on this store's clock, in milliseconds since the Unix epoch: the one clock that all
    /// processes sharing the store agree on. Default: the machine's.
    fn now_ms(&self) -> u64 {
        SystemClock.now_ms()
    }

    /// Looks several keys up in one go; one answer for each key, in their order.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked. A damaged or unknown entry is `None`, not an
    /// error.
    fn get_many(
        &self,
        keys: Vec<CacheKey>,
    ) -> impl Future<Output = Result<Vec<Option<Stored>>, StoreError>> + Send;

    /// Looks one key up.
    ///
    /// # Errors
    /// As [`Store::get_many`].
    fn get(
        &self,
        key: CacheKey,
    ) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send {
        async move { Ok(self.get_many(vec![key]).await?.pop().flatten()) }
    }

    /// [`Store::get_many`] for a request that may need no body, as a HEAD or one with conditions: a body that is
    /// expensive to read may be left out. Default: none is.
    ///
    /// # Errors
    /// As [`Store::get_many`].
    fn get_heads(
        &self,
        keys: Vec<CacheKey>,
    ) -> impl Future<Output = Result<Vec<Option<StoredOrHead>>, StoreError>> + Send {
        async move {
            let found = self.get_many(keys).await?;
            Ok(found.into_iter().map(|found| found.map(StoredOrHead::Stored)).collect())
        }
    }

    /// Stores entries, replacing what their keys led to. Returns when lookups in every process that
    /// shares the store find them.
    ///
    /// # Errors
    /// [`StoreError`] when an entry could not be stored, [`StoreError::TooLarge`] when it never can.
    fn put_many(&self, entries: Vec<Entry>) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Stores one entry.
    ///
    /// # Errors
    /// As [`Store::put_many`].
    fn put(&self, entry: Entry) -> impl Future<Output = Result<(), StoreError>> + Send {
        self.put_many(vec![entry])
    }

    /// Asks to be the one, of all processes that share the store, that goes inside for `key`; for this
    /// long, by the store's clock, unless it is given back before. Waits for nobody: whoever is denied asks
    /// again. Only routes with [`Collapse::Cluster`](crate::Collapse::Cluster) ask. Default: granted, for
    /// stores of one process.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked: the caller goes inside as if there were no leases.
    fn lease(
        &self,
        key: &CacheKey,
        time: Duration,
    ) -> impl Future<Output = Result<Lease, StoreError>> + Send {
        let _ = (key, time);
        async { Ok(Lease::Granted(0)) }
    }

    /// Gives a lease back, unless somebody else has it by now. With `unshareable`, those who ask for this
    /// long are told that there is nothing to wait for. Default: nothing.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked: the lease ends by itself.
    fn release(
        &self,
        fence: &Fence,
        unshareable: Option<Duration>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (fence, unshareable);
        async { Ok(()) }
    }

    /// [`Store::put_many`] by the holder of a lease: `false`, and what is stored stays, when somebody else
    /// has been granted it since. Default: as without a lease.
    ///
    /// # Errors
    /// As [`Store::put_many`].
    fn put_fenced(
        &self,
        entries: Vec<Entry>,
        fence: &Fence,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        let _ = fence;
        async move { self.put_many(entries).await.map(|()| true) }
    }

    /// Replaces the head and the expiry of a stored response and leaves its body where it is.
    /// `false`, and nothing changes, when there is no response or it has another head than the old one.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn freshen(&self, update: HeadUpdate) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// [`Store::get_many`] with the time when each entry may be removed, for stores in front of this one.
    /// Default: responses are kept in front while they are fresh, indexes for a minute.
    ///
    /// # Errors
    /// As [`Store::get_many`].
    fn get_entries(
        &self,
        keys: Vec<CacheKey>,
    ) -> impl Future<Output = Result<Vec<Option<Entry>>, StoreError>> + Send {
        async move {
            let found = self.get_many(keys.clone()).await?;
            let now_ms = self.now_ms();
            let entry = |(stored, key): (Option<Stored>, CacheKey)| {
                let stored = stored?;
                let expires_ms = match &stored {
                    Stored::Response(response) => response.head.fresh_until_ms,
                    Stored::Variants(_) => now_ms.saturating_add(60_000),
                };
                Some(Entry { key, stored, expires_ms })
            };
            Ok(found.into_iter().zip(keys).map(entry).collect())
        }
    }

    /// Where the invalidation log stands, as far as this process has seen: what is taken before a
    /// handler runs and stored with its response. Waits for nothing; older than the truth is safe.
    fn position(&self) -> Arc<LogPosition>;

    /// Appends rows to the invalidation log. When this returns `Ok`, no process that shares the store
    /// serves what they name, but for what its [`Consistency`] allows, and this one not at all. Returns
    /// the rows' ids.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be written: what the rows name may still be served.
    fn append(
        &self,
        records: Vec<LogRecord>,
    ) -> impl Future<Output = Result<Vec<u64>, StoreError>> + Send;

    /// What the log says about a stored response, as far as this process has seen it. A lookup and
    /// [`Store::catch_up`] bring that up to date.
    ///
    /// # Errors
    /// [`StoreError`] when the log has to be asked and cannot.
    fn validity(
        &self,
        key: &CacheKey,
        head: &StoredHead,
    ) -> impl Future<Output = Result<Validity, StoreError>> + Send;

    /// Makes sure that what this process has seen of the log is at most `at_most` old, and for a response
    /// that an invalidation of this process names whose transaction may be about to commit, not old at
    /// all: what has to precede [`Store::validity`] where a response does not come from a lookup.
    /// Default: it always is.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be read.
    fn catch_up(
        &self,
        key: &CacheKey,
        head: &StoredHead,
        at_most: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (key, head, at_most);
        async { Ok(()) }
    }

    /// Says that something may just have been committed to the log on a connection that this store does
    /// not know. From now on, [`Store::catch_up`] is content only with a read of the log that begins
    /// after this call. Waits for nothing; one read serves for any number of calls before it. The layer
    /// calls this when the handler of an unsafe request has ended, before the client gets the response.
    /// Default: nothing, for stores that always know what has been committed.
    fn note_write(&self) {}

    /// Reads the log, in a read that begins after this call. Default: nothing, for stores that always
    /// know what has been committed.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be read.
    fn sync(&self) -> impl Future<Output = Result<(), StoreError>> + Send {
        async { Ok(()) }
    }

    /// How old what this process has seen of the log may be for responses that it has in memory.
    /// Default: not at all.
    fn max_staleness(&self) -> Duration {
        Duration::ZERO
    }

    /// How often this store looks at the log by itself: what [`Consistency::Bounded`] allows in front of
    /// it. Default: zero, for stores that need not look.
    fn poll_interval(&self) -> Duration {
        Duration::ZERO
    }

    /// The newest rows of the log, the newest first, for people.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn log_tail(
        &self,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<LogRow>, StoreError>> + Send;

    /// Counts the stored responses that these name: a look at everything that is stored, for dry runs.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn count_named(
        &self,
        scopes: Vec<Scope>,
    ) -> impl Future<Output = Result<Named, StoreError>> + Send;

    /// Removes every entry in a range of keys and returns how many there were. Puts that were called
    /// before it are removed too, those called after it stay.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn remove(&self, range: KeyRange) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Removes those responses in a range of keys that these name, and returns how many there were: what
    /// [`CacheHandle::erase_uri`](crate::CacheHandle::erase_uri) asks for about the keys of the application's own.
    /// Default: removes the whole range, which is safe.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn remove_named(
        &self,
        range: KeyRange,
        scopes: Vec<Scope>,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send {
        let _ = scopes;
        self.remove(range)
    }

    /// Removes what has expired, everywhere, and evicts down to the store's limits.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn cull(&self) -> impl Future<Output = Result<CullReport, StoreError>> + Send;

    /// How much is stored, and what has gone wrong so far.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn stats(&self) -> impl Future<Output = Result<StoreStats, StoreError>> + Send;

    /// Waits until every put called before it has been written or has failed. Default: nothing is
    /// ever outstanding.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn flush(&self) -> impl Future<Output = Result<(), StoreError>> + Send {
        async { Ok(()) }
    }
}

/// A [`Store`] whose log can be written on a connection of the caller's, in the caller's transaction.
pub trait Transactional: Store {
    /// What the caller's transaction runs on.
    type Connection: Send;

    /// Appends rows to the log on this connection: they count when, and only if, its transaction
    /// commits; without a transaction at once. Nothing of this store's own is waited for, and no row is
    /// updated or locked that another transaction could wait for.
    ///
    /// When the commit has returned, no process serves what the rows name, but for what its
    /// [`Consistency`] allows, and this one not at all. Of MySQL and MariaDB, `LAST_INSERT_ID()` is that of a row of
    /// the log afterwards.
    ///
    /// # Errors
    /// [`StoreError::Database`] with the connection's own error.
    fn append_on(
        &self,
        connection: &mut Self::Connection,
        records: Vec<LogRecord>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The statements that append rows to the log, in short `VALUES` lists, for connections of other
    /// drivers.
    fn append_sql(&self, records: &[LogRecord]) -> Vec<SqlStatement>;
}
