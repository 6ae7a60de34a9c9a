//! What can people ask of a store? Counts, culls and statistics.

use crate::store::{StoreError, StoreFuture};
use crate::tag::Scope;
use crate::telemetry::Counts;

/// What people ask of a store, through [`CacheHandle`](crate::CacheHandle), and what the application asks when it
/// shuts down.
///
/// Every method has a default, so a simple store writes `impl Admin for MyStore {}`.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::Mutex;
/// use tower_mysql_cache::store::{Admin, StoreFuture, StoreStats, Stored};
///
/// struct MapStore {
///     map: Mutex<BTreeMap<Vec<u8>, Stored>>,
/// }
///
/// impl Admin for MapStore {
///     fn stats(&self) -> StoreFuture<'_, StoreStats> {
///         let mut stats = StoreStats::default();
///         for (key, stored) in self.map.lock().unwrap().iter() {
///             stats.entries += 1;
///             stats.bytes += (key.len() + stored.size_bytes()) as u64;
///         }
///         Box::pin(async move { Ok(stats) })
///     }
/// }
/// ```
///
/// An application can ask its store without a handle:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
/// use tower_mysql_cache::MemoryStore;
/// use tower_mysql_cache::invalidation::Scope;
/// use tower_mysql_cache::store::Admin;
///
/// let store = MemoryStore::new();
/// store.flush().await?;
/// println!("{:?}", store.stats().await?);
/// println!("{:?}", store.cull().await?);
/// println!("{:?}", store.count_named(vec![Scope::Prefix("shop".into())]).await?);
/// # Ok(())
/// # }
/// ```
pub trait Admin: Send + Sync {
    /// Counts the stored responses that these scopes name. It reads all entries: for dry runs, not for requests.
    /// Default: an error, because a default number would be wrong.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be asked, [`StoreError::Unsupported`].
    fn count_named(&self, scopes: Vec<Scope>) -> StoreFuture<'_, Named> {
        let _ = scopes;
        Box::pin(async { Err(StoreError::Unsupported("count what an invalidation names")) })
    }

    /// Deletes all expired entries, and evicts entries until the store is within its limits. Default: nothing, for
    /// stores that do this without being asked.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be asked.
    fn cull(&self) -> StoreFuture<'_, CullReport> {
        Box::pin(async { Ok(CullReport::default()) })
    }

    /// The size of the store, and its failures so far. Default: all numbers are zero.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be asked.
    fn stats(&self) -> StoreFuture<'_, StoreStats> {
        Box::pin(async { Ok(StoreStats::default()) })
    }

    /// Waits until every put that was called before has been written or has failed. Default: nothing, for stores
    /// whose puts return after they are written.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be asked.
    fn flush(&self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// How many stored responses an invalidation names.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
/// # use tower_mysql_cache::{CacheLayer, MemoryStore};
/// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
/// use tower_mysql_cache::invalidation::Invalidation;
///
/// let named = cache.dry_run(&Invalidation::tags(["prices"])).await?;
/// println!("{} of {} responses, {} bytes", named.named, named.examined, named.bytes);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Named {
    /// Responses that were examined: not expired, and readable.
    pub examined: u64,
    /// Responses that are named.
    pub named: u64,
    /// Bytes of the named responses, as stored.
    pub bytes: u64,
}

impl Named {
    /// Counts a response.
    ///
    /// ```
    /// use tower_mysql_cache::store::Named;
    ///
    /// let mut count = Named::default();
    /// count.add(true, 1_200);
    /// count.add(false, 800);
    /// assert_eq!((count.examined, count.named, count.bytes), (2, 1, 1_200));
    /// ```
    pub fn add(&mut self, named: bool, bytes: u64) {
        self.examined += 1;
        if named {
            self.named += 1;
            self.bytes += bytes;
        }
    }
}

/// What a cull did.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
/// # use tower_mysql_cache::{CacheLayer, MemoryStore};
/// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
/// let report = cache.cull().await?;
/// println!("{} of {} entries had expired, {} evicted", report.expired, report.examined, report.evicted);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CullReport {
    /// Rows that were examined.
    pub examined: u64,
    /// Rows that were deleted because they had expired.
    pub expired: u64,
    /// Rows that were deleted because the store was over its limit.
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

/// The size of a store, and its failures since it was created.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
/// # use tower_mysql_cache::{CacheLayer, MemoryStore};
/// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
/// let store = cache.stats().await?.store;
/// let about = if store.estimated { "about " } else { "" };
/// println!("{about}{} entries, {} bytes, {} failures", store.entries, store.bytes, store.failures);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Stored entries, including expired ones that have not been deleted yet.
    pub entries: u64,
    /// Bytes of the keys, heads and bodies, as stored.
    pub bytes: u64,
    /// Whether `entries` and `bytes` are estimates.
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
    /// Rows of the invalidation log that could not be written, and will be written later.
    pub owed_invalidations: u64,
    /// Whether the invalidation log has a row whose id is so large that no row can follow. Nothing is served until it
    /// is deleted. The error log says how.
    pub log_is_damaged: bool,
    /// Gaps in the invalidation log: ranges of ids whose rows may still be committed. While a transaction is open, its
    /// row is a gap; so a number that stays high shows transactions that stay open.
    pub log_gaps: u64,
    /// Reads of the invalidation log.
    pub log_reads: u64,
    /// How many responses in memory had to wait for a read of the log, because the last one was too old.
    pub log_waits: u64,
}
