//! The application's hand on its cache.

mod erased;
mod sql;
#[cfg(feature = "mysql")]
mod transaction;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use self::erased::AnyEngine;
pub use crate::engine::Inspected;
use crate::engine::{Engine, Route};
use crate::key::TargetKey;
use crate::store::{CullReport, Named, Store, StoreError, StoreStats};
use crate::tag::{Invalidation, LogRow, Tag};
use crate::telemetry::Counts;

/// Invalidates, culls, counts and flushes. Cheap to clone; goes well into an application's state.
///
/// A handle knows the keys of the layer that made it: prefix, version and query rules. It has the same type for every
/// store.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use tower_mysql_cache::{CacheHandle, CacheLayer, MemoryStore};
/// let cache: CacheHandle = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
/// cache.invalidate_tags(["product:7"]).await.unwrap();
/// # });
/// ```
#[derive(Clone)]
pub struct CacheHandle {
    engine: Arc<dyn AnyEngine>,
    route: Arc<Route>,
}

/// What a cache holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// What the layer did, in this process.
    pub layer: Counts,
    /// What the store holds, and what went wrong in it, in this process.
    pub store: StoreStats,
}

impl CacheHandle {
    pub(crate) fn new<St: Store>(engine: Arc<Engine<St>>, route: Arc<Route>) -> Self {
        Self { engine, route }
    }

    fn engine(&self) -> Arc<dyn AnyEngine> {
        Arc::clone(&self.engine)
    }

    /// Invalidates what `wanted` names. When this returns, no process that shares the store serves a response that was
    /// made before the call, not even a response whose handler is still running. Other processes with memory in front
    /// follow within their `poll_interval`. Costs one row in the invalidation log for each thing named, whatever the
    /// number of stored responses.
    ///
    /// To invalidate together with data, see `CacheHandle::invalidate_on`.
    ///
    /// # Errors
    /// [`StoreError::Config`] for a tag that is empty or longer than [`Tag::MAX_BYTES`], a URI or a path
    /// that is none; any other when the log could not be written. What was named may then still be
    /// served by other processes; this process serves none of it and goes on trying to write it.
    pub async fn invalidate(&self, wanted: Invalidation) -> Result<(), StoreError> {
        self.engine().invalidate(&self.route, wanted).await
    }

    /// Invalidates every response with one of these tags, in all caches that share the log, whatever
    /// their prefix.
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

    /// Invalidates one target URI, all its variants and partitions included. `uri` is an absolute URI,
    /// or a path with or without a query (`/products?page=2`), which then means that path on every
    /// authority.
    ///
    /// Another query is another URI: `/products` leaves `/products?page=2` alone. Another spelling is the same URI:
    /// `/p/7` names `/p/%37` too, and `/café` names `/caf%c3%a9`. An entry under a key of the application's own
    /// ([`TargetKey::custom`]) is named by the URI of the request that filled it.
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn invalidate_uri(&self, uri: &str) -> Result<(), StoreError> {
        self.invalidate(Invalidation::uri(uri)).await
    }

    /// Invalidates everything stored under a key of the application's own ([`TargetKey::custom`]), as
    /// [`CacheHandle::invalidate_uri`] does for a URI.
    ///
    /// # Errors
    /// [`StoreError`] when the log could not be written.
    pub async fn invalidate_key(&self, key: &TargetKey) -> Result<(), StoreError> {
        self.engine().invalidate_key(&self.route, key).await
    }

    /// Invalidates everything at and below a path, on every authority: `/products` is `/products`,
    /// `/products?page=2` and `/products/7`, and not `/products-old`.
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn purge_prefix(&self, path: &str) -> Result<(), StoreError> {
        self.invalidate(Invalidation::path(path)).await
    }

    /// Invalidates everything under the layer's prefix, all versions included, and nothing of any
    /// other prefix: one row, whatever is stored. The entries go when they expire or are culled;
    /// [`CacheHandle::erase`] removes them.
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn purge(&self) -> Result<(), StoreError> {
        self.invalidate(Invalidation::all()).await
    }

    /// [`CacheHandle::invalidate_tags`], softly: the responses count as stale, and may be served where a
    /// stale response may.
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

    /// [`CacheHandle::purge`], softly.
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn soft_purge(&self) -> Result<(), StoreError> {
        self.invalidate(Invalidation::all().soft()).await
    }

    /// Counts what `wanted` would invalidate, and invalidates nothing. Looks at everything that is stored:
    /// for people, not for requests.
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn dry_run(&self, wanted: &Invalidation) -> Result<Named, StoreError> {
        let records = self.engine.records(&self.route, wanted)?;
        let scopes = records.into_iter().map(|record| record.scope).collect();
        self.engine.admin().count_named(scopes).await
    }

    /// Invalidates everything under the layer's prefix, then removes it from the store, row by row.
    /// Returns how many entries there were.
    ///
    /// Nothing that was made before is served after that, as with [`CacheHandle::invalidate`]. Its bytes may
    /// reach the table once more: a response that another process had completed when it did not know of the invalidation yet may be
    /// written after the removal. It is invalid, and stays until it is overwritten, expires or is culled. To be
    /// sure, call this again 15 seconds later: each process knows of the invalidation by then, and what it had
    /// completed before has been written or given up. Copies in the memory of other processes
    /// ([`Tiered`](crate::Tiered)) are not served either, and stay until they expire or are evicted.
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`]; what could not be removed may still be stored.
    pub async fn erase(&self) -> Result<u64, StoreError> {
        self.engine().erase(&self.route).await
    }

    /// Invalidates a target as [`CacheHandle::invalidate_uri`] does, then removes its entries: for data that must not be
    /// kept. Returns how many entries there were. What [`CacheHandle::erase`] says
    /// about other processes holds here too.
    ///
    /// Costs a look at all entries under keys of the application's own, because their keys do not say which URI
    /// they are for; without such keys, nothing. Where requests for several URIs share such a key, the entry
    /// is removed by the URI of the request that filled it.
    ///
    /// # Errors
    /// As [`CacheHandle::erase`].
    pub async fn erase_uri(&self, uri: &str) -> Result<u64, StoreError> {
        self.engine().erase_uri(&self.route, uri.to_owned()).await
    }

    /// Waits for one read of the invalidation log that begins now. When this has returned, this process
    /// serves nothing that a row names which was committed before the call, by whatever connection: also
    /// not out of memory, where [`Consistency::Bounded`](crate::Consistency::Bounded) allows
    /// `poll_interval` (100 ms).
    ///
    /// Call it after a commit that neither this handle nor an unsafe request through the layer knows of: a
    /// background job, a consumer of messages, a stream that writes after its response has begun. The
    /// layer does the same after each unsafe request.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be read. Nothing is served out of memory then until a read
    /// succeeds.
    pub async fn sync(&self) -> Result<(), StoreError> {
        // if the read fails or is not waited for, hits in memory wait for the next one
        self.engine.log().note_write();
        self.engine.log().sync().await
    }

    /// The newest rows of the invalidation log, the newest first: what, when, why.
    ///
    /// # Errors
    /// [`StoreError`] when the store could not be asked.
    pub async fn invalidations(&self, limit: usize) -> Result<Vec<LogRow>, StoreError> {
        self.engine.log().tail(limit).await
    }

    /// The entries for an absolute URI, as a lookup would find them now: for people who want to know why a response is
    /// served or not. It does not show entries in partitions, nor those with cookies or `Authorization` in their key.
    ///
    /// # Errors
    /// [`StoreError::Config`] when `uri` is not an absolute one, any other when the store could not be
    /// asked.
    pub async fn inspect(&self, uri: &str) -> Result<Vec<Inspected>, StoreError> {
        self.engine.inspect(&self.route, uri).await
    }

    /// Removes everything that has expired and evicts down to the store's limits, now. The store also culls in the
    /// background; this is for people who want to choose the time.
    ///
    /// # Errors
    /// [`StoreError`] when the store could not be asked.
    pub async fn cull(&self) -> Result<CullReport, StoreError> {
        self.engine.admin().cull().await
    }

    /// What the cache holds and has done.
    ///
    /// # Errors
    /// [`StoreError`] when the store could not be asked; [`CacheHandle::counts`] always can.
    pub async fn stats(&self) -> Result<CacheStats, StoreError> {
        let store = self.engine.admin().stats().await?;
        Ok(CacheStats { layer: self.counts(), store })
    }

    /// What the layer has done in this process. Does not ask the store.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.engine.counters().snapshot()
    }

    /// How often each reason kept a request from the store, or a response out of it, in this process. The names are those
    /// of [`CacheStatus::detail`](crate::CacheStatus::detail), and those of [`Forward`](crate::Forward) where there is no
    /// detail. Bodies that were being recorded have `aborted`, `body-error`, `too-large`, `trailers`, `incomplete` and
    /// `recording-budget`.
    #[must_use]
    pub fn reasons(&self) -> BTreeMap<&'static str, u64> {
        self.engine.reasons().snapshot()
    }

    /// Waits until every response that is complete by now has been written or has failed: for
    /// shutdown and tests. A handler that calls it while the layer refreshes its response does not wait for
    /// that refresh.
    ///
    /// # Errors
    /// [`StoreError`] when the store could not be asked.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.engine.flush().await
    }
}

impl fmt::Debug for CacheHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheHandle").field("engine", &self.engine).finish_non_exhaustive()
    }
}
