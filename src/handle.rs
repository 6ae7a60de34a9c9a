//! The application's hand on its cache.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::engine::{Engine, Route};
use crate::key::TargetKey;
use crate::store::{CullReport, Store, StoreError, StoreStats};
use crate::telemetry::Counts;

/// Invalidates, culls, counts and flushes. Cheap to clone; goes well into an application's state.
///
/// A handle knows the keys of the layer it was made by: its prefix, version and query rules.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use tower_mysql_cache::{CacheLayer, MemoryStore};
/// let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
/// assert_eq!(cache.invalidate_uri("/products/7").await.unwrap(), 0);
/// # });
/// ```
pub struct CacheHandle<St> {
    engine: Arc<Engine<St>>,
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

impl<St: Store> CacheHandle<St> {
    pub(crate) fn new(engine: Arc<Engine<St>>, route: Arc<Route>) -> Self {
        Self { engine, route }
    }

    /// Removes everything stored for one target URI, all its variants and partitions included, and
    /// returns how many entries there were. `uri` is an absolute URI, or a path with or without a
    /// query (`/products?page=2`), which then means that path on every authority.
    ///
    /// Another query is another URI: `/products` leaves `/products?page=2` alone.
    ///
    /// When this returns, no process finds an entry that was stored before, and none made in this
    /// process meanwhile. A response that another process is making at this moment from older data
    /// may still be stored afterwards.
    ///
    /// # Errors
    /// [`StoreError::Config`] when `uri` is not one, any other when the store could not be asked: the
    /// entries may then still be there.
    pub async fn invalidate_uri(&self, uri: &str) -> Result<u64, StoreError> {
        let (target, with_origin) = self.route.keys.target_of_uri(uri)?;
        self.engine.invalidate_targets(&self.route, vec![target], with_origin).await
    }

    /// Removes everything stored under a key of the application's own ([`TargetKey::custom`]), as
    /// [`CacheHandle::invalidate_uri`] does for a URI.
    ///
    /// # Errors
    /// [`StoreError`] when the store could not be asked.
    pub async fn invalidate_key(&self, key: &TargetKey) -> Result<u64, StoreError> {
        self.engine.invalidate_targets(&self.route, vec![key.clone()], true).await
    }

    /// Removes everything stored under the layer's prefix, all versions included, and nothing of any
    /// other prefix. Returns how many entries there were.
    ///
    /// # Errors
    /// [`StoreError`] when the store could not be asked.
    pub async fn purge(&self) -> Result<u64, StoreError> {
        self.engine.purge(&self.route).await
    }

    /// Removes everything that has expired and evicts down to the store's limits, now. Culling goes
    /// on by itself; this is for people who want it at a time of their own.
    ///
    /// # Errors
    /// [`StoreError`] when the store could not be asked.
    pub async fn cull(&self) -> Result<CullReport, StoreError> {
        self.engine.store.cull().await
    }

    /// What the cache holds and has done.
    ///
    /// # Errors
    /// [`StoreError`] when the store could not be asked; [`CacheHandle::counts`] always can.
    pub async fn stats(&self) -> Result<CacheStats, StoreError> {
        let store = self.engine.store.stats().await?;
        Ok(CacheStats { layer: self.counts(), store })
    }

    /// What the layer has done in this process. Asks nobody.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.engine.counters.snapshot()
    }

    /// How often each named reason kept a request from the store or a response out of it, in this
    /// process: the names of [`CacheStatus::detail`](crate::CacheStatus::detail), of
    /// [`Forward`](crate::Forward) where there is no detail, and for bodies that were being recorded
    /// `aborted`, `body-error`, `too-large`, `trailers` and `incomplete`.
    #[must_use]
    pub fn reasons(&self) -> BTreeMap<&'static str, u64> {
        self.engine.reasons.snapshot()
    }

    /// Waits until every response that is complete by now has been written or has failed: for
    /// shutdown and tests.
    ///
    /// # Errors
    /// [`StoreError`] when the store could not be asked.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.engine.flush().await
    }
}

impl<St> Clone for CacheHandle<St> {
    fn clone(&self) -> Self {
        Self { engine: Arc::clone(&self.engine), route: Arc::clone(&self.route) }
    }
}

impl<St> fmt::Debug for CacheHandle<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheHandle").field("engine", &self.engine).finish_non_exhaustive()
    }
}
