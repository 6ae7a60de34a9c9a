//! The handle, with which the application invalidates, inspects and measures its cache.

mod erased;
mod sql;
#[cfg(feature = "mysql")]
mod transaction;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use self::erased::AnyEngine;
use crate::engine::{Engine, Route};
use crate::key::TargetKey;
use crate::store::{CacheStats, CullReport, Named, Store, StoreError};
use crate::stored::Inspected;
use crate::tag::{Invalidation, LogRow, Tag};
use crate::telemetry::Counts;

/// Invalidates, erases, inspects, counts, culls and flushes. Cheap to clone, so it fits well into an application's
/// state.
///
/// A handle uses the prefix, the version and the query rules of the layer that made it. It has the same type for
/// every store.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
/// # use tower_mysql_cache::{CacheLayer, MemoryStore};
/// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
/// let counted = cache.clone();
/// cache.invalidate_tags(["product:7"]).await?;
/// assert_eq!(counted.counts().invalidations, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CacheHandle {
    engine: Arc<dyn AnyEngine>,
    route: Arc<Route>,
}

impl CacheHandle {
    pub(crate) fn new<St: Store>(engine: Arc<Engine<St>>, route: Arc<Route>) -> Self {
        Self { engine, route }
    }

    fn engine(&self) -> Arc<dyn AnyEngine> {
        Arc::clone(&self.engine)
    }

    /// Invalidates all responses that `wanted` names. When this returns, no process that shares the store serves such
    /// a response if it was made before the call. This includes responses whose handler is still running. Other
    /// processes with a front tier follow within their `poll_interval`.
    ///
    /// Costs one row in the invalidation log for each thing named, whatever the number of stored responses. To
    /// invalidate in the transaction that changes the data, see [`CacheHandle::invalidate_on`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// use tower_mysql_cache::invalidation::Invalidation;
    ///
    /// let import = Invalidation::tags(["prices"]).soft().reason("price import");
    /// cache.invalidate(import).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Config`] for a tag that is empty or longer than [`Tag::MAX_BYTES`], and for an invalid URI or
    /// path. Any other error if the log could not be written. Then other processes may still serve the responses;
    /// this process does not serve them, and tries to write the row again.
    pub async fn invalidate(&self, wanted: Invalidation) -> Result<(), StoreError> {
        self.engine().invalidate(&self.route, wanted).await
    }

    /// Invalidates all responses with at least one of these tags, in all caches that share the log, whatever their
    /// prefix.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// cache.invalidate_tags(["product:7", "product-list"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn invalidate_tags(
        &self,
        tags: impl IntoIterator<Item: Into<Tag>> + Send,
    ) -> Result<(), StoreError> {
        let wanted = Invalidation::tags(tags);
        self.invalidate(wanted).await
    }

    /// Invalidates one target URI with all its variants and partitions. `uri` is an absolute URI, or a path with or
    /// without a query (`/products?page=2`). A path means this path on all authorities.
    ///
    /// - Another query is another URI: `/products` does not cover `/products?page=2`.
    /// - Another spelling is the same URI: `/p/7` covers `/p/%37` too, and `/café` covers `/caf%c3%a9`.
    /// - An entry under a custom key ([`TargetKey::custom`]) belongs to the URI of the request that filled it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// cache.invalidate_uri("/products?page=2").await?;
    /// cache.invalidate_uri("https://shop.example/").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn invalidate_uri(&self, uri: &str) -> Result<(), StoreError> {
        self.invalidate(Invalidation::uri(uri)).await
    }

    /// Invalidates all entries under a custom key ([`TargetKey::custom`]), as [`CacheHandle::invalidate_uri`] does
    /// for a URI.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// use tower_mysql_cache::key::TargetKey;
    ///
    /// cache.invalidate_key(&TargetKey::custom("start")).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] if the log could not be written.
    pub async fn invalidate_key(&self, key: &TargetKey) -> Result<(), StoreError> {
        self.engine().invalidate_key(&self.route, key).await
    }

    /// Invalidates all responses at and below a path, on all authorities. `/products` covers `/products`,
    /// `/products?page=2` and `/products/7`, but not `/products-old`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// cache.invalidate_path("/products").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn invalidate_path(&self, path: &str) -> Result<(), StoreError> {
        self.invalidate(Invalidation::path(path)).await
    }

    /// Invalidates all responses under the layer's prefix, of all versions, with one row. Other prefixes are not
    /// affected. The entries are deleted when they expire or are culled; [`CacheHandle::erase`] deletes them at once.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// cache.invalidate_all().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn invalidate_all(&self) -> Result<(), StoreError> {
        self.invalidate(Invalidation::all()).await
    }

    /// [`CacheHandle::invalidate_tags`], but the responses become stale instead of invalid. They may be served where
    /// a stale response may be served.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// cache.soft_invalidate_tags(["product-list"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn soft_invalidate_tags(
        &self,
        tags: impl IntoIterator<Item: Into<Tag>> + Send,
    ) -> Result<(), StoreError> {
        let wanted = Invalidation::tags(tags).soft();
        self.invalidate(wanted).await
    }

    /// [`CacheHandle::invalidate_all`], but the responses become stale instead of invalid.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// cache.soft_invalidate_all().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn soft_invalidate_all(&self) -> Result<(), StoreError> {
        self.invalidate(Invalidation::all().soft()).await
    }

    /// Counts the responses that `wanted` would invalidate, without invalidating them. Reads all entries of the
    /// store, so it is for people, not for requests.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// use tower_mysql_cache::invalidation::Invalidation;
    ///
    /// let named = cache.dry_run(&Invalidation::path("/products")).await?;
    /// println!("{} of {} responses, {} bytes", named.named, named.examined, named.bytes);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn dry_run(&self, wanted: &Invalidation) -> Result<Named, StoreError> {
        let records = self.engine.records(&self.route, wanted)?;
        let scopes = records.into_iter().map(|record| record.scope).collect();
        self.engine.admin().count_named(scopes).await
    }

    /// Invalidates all responses under the layer's prefix, then deletes them from the store, row by row. Returns the
    /// number of deleted entries.
    ///
    /// As with [`CacheHandle::invalidate`], no process serves a deleted response after that. But a deleted response
    /// can be written once more, by another process that had completed it before it read of the invalidation. It is
    /// invalid, and stays in the table until it is overwritten, expires or is culled. To be sure, call this again
    /// after 15 seconds: by then, each process has read of the invalidation, and has written or dropped what it had
    /// completed before.
    ///
    /// Copies in the memory of other processes ([`Tiered`](crate::Tiered)) are not served either. They stay until
    /// they expire or are evicted.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// let deleted = cache.erase().await?;
    /// println!("{deleted} entries deleted");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`]; entries that could not be deleted may still be stored.
    pub async fn erase(&self) -> Result<u64, StoreError> {
        self.engine().erase(&self.route).await
    }

    /// Invalidates a target as [`CacheHandle::invalidate_uri`] does, then deletes its entries: for data that must not
    /// be kept. Returns the number of deleted entries. What [`CacheHandle::erase`] says about other processes holds
    /// here too.
    ///
    /// If the application uses custom keys, this reads all entries under such keys, because the keys do not contain
    /// the URI. If requests for several URIs share a custom key, the entry is deleted with the URI of the request
    /// that filled it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// cache.erase_uri("/users/7/profile").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::erase`].
    pub async fn erase_uri(&self, uri: &str) -> Result<u64, StoreError> {
        self.engine().erase_uri(&self.route, uri.to_owned()).await
    }

    /// Reads the invalidation log once, and waits for this read. After that, this process serves no response that is
    /// invalidated by a row committed before the call, on whatever connection. This is true for responses in memory
    /// too, even where [`Consistency::Bounded`](crate::store::Consistency::Bounded) allows them to be `poll_interval` (100
    /// ms) behind.
    ///
    /// Call it after a commit that the cache cannot know of, that is, one that neither this handle nor an unsafe
    /// request through the layer has made. Examples are a background job, a consumer of messages, and a handler that
    /// writes while its response streams. After each unsafe request, the layer reads the log without being asked.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// // after the commit of a background job
    /// cache.sync().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] if the log cannot be read. Then responses in memory are not served until a read succeeds.
    pub async fn sync(&self) -> Result<(), StoreError> {
        // if this read fails, or if the caller stops waiting, hits in memory wait for the next read
        self.engine.log().note_write();
        self.engine.log().sync().await
    }

    /// The newest rows of the invalidation log, the newest first. `limit` is the maximum number of rows.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// for row in cache.invalidations(20).await? {
    ///     println!("{} {:?} {:?}", row.at_ms, row.scope, row.reason);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] if the store did not answer.
    pub async fn invalidations(&self, limit: usize) -> Result<Vec<LogRow>, StoreError> {
        self.engine.log().tail(limit).await
    }

    /// The entries that are stored for an absolute URI, for people who want to know why a response is served or not.
    /// It does not show entries in partitions, or with cookies or `Authorization` in their key.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// for found in cache.inspect("https://shop.example/products").await? {
    ///     println!("{:?}: fresh for {} s, {:?}", found.key, found.ttl_secs, found.validity);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Config`] if `uri` is not an absolute URI. Any other error if the store did not answer.
    pub async fn inspect(&self, uri: &str) -> Result<Vec<Inspected>, StoreError> {
        self.engine.inspect(&self.route, uri).await
    }

    /// Deletes all expired entries now, and evicts entries until the store is within its limits. The store also culls
    /// without being asked; this is for people who want to choose the time.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// let report = cache.cull().await?;
    /// println!("{} expired, {} evicted", report.expired, report.evicted);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] if the store did not answer.
    pub async fn cull(&self) -> Result<CullReport, StoreError> {
        self.engine.admin().cull().await
    }

    /// What the cache holds, and what it has done in this process.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// let stats = cache.stats().await?;
    /// println!("{} entries, {} bytes", stats.store.entries, stats.store.bytes);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] if the store did not answer. [`CacheHandle::counts`] needs no store.
    pub async fn stats(&self) -> Result<CacheStats, StoreError> {
        let store = self.engine.admin().stats().await?;
        Ok(CacheStats { layer: self.counts(), store })
    }

    /// What the layer has done in this process. Does not ask the store.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// let counts = cache.counts();
    /// println!("{} hits, {} misses", counts.hits, counts.misses);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.engine.counters().snapshot()
    }

    /// How many requests of this process are waiting for the response to another request (followers). A number that
    /// stays high shows a slow handler.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// println!("{} requests are waiting", cache.followers());
    /// # assert_eq!(cache.followers(), 0);
    /// ```
    #[must_use]
    pub fn followers(&self) -> usize {
        self.engine.followers()
    }

    /// How often a request was not answered from the store, or a response not stored, for each named reason, in this
    /// process. The names are:
    ///
    /// - those of [`CacheStatus::reason`](crate::CacheStatus::reason),
    /// - those of [`Forward`](crate::status::Forward), if there is no reason,
    /// - for bodies that were being recorded: `aborted`, `body-error`, `too-large`, `trailers`, `incomplete` and
    ///   `recording-budget`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// for (reason, count) in cache.reasons() {
    ///     println!("{reason}: {count}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn reasons(&self) -> BTreeMap<&'static str, u64> {
        self.engine.reasons().snapshot()
    }

    /// Waits until all responses that are complete now have been written or have failed: for shutdown and tests. If a
    /// handler calls this while the layer refreshes its response, it does not wait for that refresh.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// // before the process ends
    /// cache.flush().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] if the store did not answer.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.engine.flush().await
    }
}

impl fmt::Debug for CacheHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheHandle").field("engine", &self.engine).finish_non_exhaustive()
    }
}
