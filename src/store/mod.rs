//! Stores: where responses live. Rows and columns, no HTTP semantics.

mod boxed;
mod error;
mod memory;
#[cfg(feature = "mysql")]
pub(crate) mod mysql;

pub use boxed::BoxStore;
pub use error::{Source, StoreError};
pub use memory::{MemoryStore, MemoryStoreBuilder};
use std::future::Future;

use crate::clock::{Clock, SystemClock};
use crate::key::{CacheKey, KeyRange};
use crate::stored::{Entry, HeadUpdate, Stored};

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
/// - answers come in the order of the keys, repeated keys included.
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

    /// Replaces the head and the expiry of a stored response and leaves its body where it is.
    /// `false`, and nothing changes, when there is no response or it has another head than the old one.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn freshen(&self, update: HeadUpdate) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Removes every entry in a range of keys and returns how many there were. Puts that were called
    /// before it are removed too, those called after it stay.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn remove(&self, range: KeyRange) -> impl Future<Output = Result<u64, StoreError>> + Send;

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

/// What a cull did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CullReport {
    /// Rows looked at.
    pub examined: u64,
    /// Rows removed because they had expired.
    pub expired: u64,
    /// Rows removed because the store was over its limit.
    pub evicted: u64,
}

/// What a store holds, and what went wrong in it since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Entries held, expired ones not yet removed included.
    pub entries: u64,
    /// Bytes of their keys, heads and bodies as stored.
    pub bytes: u64,
    /// Whether the two figures are estimates.
    pub estimated: bool,
    /// Entries that could not be read (damaged, unknown version) and were treated as misses.
    pub unreadable: u64,
    /// Entries not stored because a queue was full.
    pub shed: u64,
    /// Entries refused because they are too large.
    pub too_large: u64,
    /// Statements or connections that failed.
    pub failures: u64,
    /// Culls done.
    pub culls: u64,
}
