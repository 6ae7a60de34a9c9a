//! What can people ask of a store? Counts, culls and statistics.

use crate::store::{StoreError, StoreFuture};
use crate::tag::Scope;
use crate::telemetry::Counts;

/// What people ask of a store, by [`CacheHandle`](crate::CacheHandle) and when the application shuts down.
///
/// Every method has a default, so a simple store writes `impl Admin for MyStore {}`.
pub trait Admin: Send + Sync {
    /// Counts the stored responses that these scopes name. Looks at everything that is stored:
    /// for dry runs, not for requests. Default: an error, because there is no number that would be true.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked, [`StoreError::Unsupported`].
    fn count_named(&self, scopes: Vec<Scope>) -> StoreFuture<'_, Named> {
        let _ = scopes;
        Box::pin(async { Err(StoreError::Unsupported("count what an invalidation names")) })
    }

    /// Removes every entry that has expired, and evicts down to the store's limits. Default: nothing, for stores that
    /// do so by themselves.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn cull(&self) -> StoreFuture<'_, CullReport> {
        Box::pin(async { Ok(CullReport::default()) })
    }

    /// How much is stored, and what has gone wrong so far. Default: all numbers are zero.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn stats(&self) -> StoreFuture<'_, StoreStats> {
        Box::pin(async { Ok(StoreStats::default()) })
    }

    /// Waits until every put that was called before it has been written or has failed. Default: nothing, for stores
    /// whose puts wait until they are written.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn flush(&self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// How many stored responses an invalidation names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Named {
    /// Responses looked at: those that have not expired and can be read.
    pub examined: u64,
    /// Those that are named.
    pub named: u64,
    /// Bytes of those, as stored.
    pub bytes: u64,
}

impl Named {
    /// Counts a response.
    pub fn add(&mut self, named: bool, bytes: u64) {
        self.examined += 1;
        if named {
            self.named += 1;
            self.bytes += bytes;
        }
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

/// What a cache holds, and what it has done in this process.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
/// # use tower_mysql_cache::{CacheLayer, MemoryStore};
/// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
/// let stats = cache.stats().await?;
/// println!("{} entries, {} hits", stats.store.entries, stats.layer.hits);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// What the layer has done in this process.
    pub layer: Counts,
    /// What the store holds, and its failures in this process.
    pub store: StoreStats,
}

/// How much a store holds, and what went wrong in it since it was made.
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
    /// Rows of the invalidation log that could not be written and are tried again.
    pub owed_invalidations: u64,
    /// Whether the invalidation log has a row with an id so large that no other can follow: nothing is
    /// served until it is removed. The error log says how.
    pub log_is_damaged: bool,
    /// Reads of the invalidation log.
    pub log_reads: u64,
    /// How often a response in memory had to wait for a read of the log, because the last one was too
    /// old for it.
    pub log_waits: u64,
}
