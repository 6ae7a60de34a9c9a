//! A store chosen at run time.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::key::{CacheKey, KeyRange};
use crate::store::{CullReport, Store, StoreError, StoreStats};
use crate::stored::{Entry, HeadUpdate, Stored};

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Any store behind one type, for applications that choose their store at run time.
///
/// ```
/// use tower_mysql_cache::{BoxStore, CacheLayer, MemoryStore};
/// let store = BoxStore::new(MemoryStore::new());
/// let cache = CacheLayer::new(store);
/// # let _: CacheLayer<BoxStore> = cache;
/// ```
#[derive(Clone)]
pub struct BoxStore(Arc<dyn DynStore>);

impl BoxStore {
    /// Boxes a store.
    #[must_use]
    pub fn new(store: impl Store) -> Self {
        Self(Arc::new(store))
    }
}

impl fmt::Debug for BoxStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxStore")
    }
}

/// [`Store`] with boxed futures.
trait DynStore: Send + Sync {
    fn now_ms(&self) -> u64;
    fn get_many(&self, keys: Vec<CacheKey>) -> Answer<'_, Vec<Option<Stored>>>;
    fn get(&self, key: CacheKey) -> Answer<'_, Option<Stored>>;
    fn put_many(&self, entries: Vec<Entry>) -> Answer<'_, ()>;
    fn freshen(&self, update: HeadUpdate) -> Answer<'_, bool>;
    fn remove(&self, range: KeyRange) -> Answer<'_, u64>;
    fn cull(&self) -> Answer<'_, CullReport>;
    fn stats(&self) -> Answer<'_, StoreStats>;
    fn flush(&self) -> Answer<'_, ()>;
}

impl<St: Store> DynStore for St {
    fn now_ms(&self) -> u64 {
        Store::now_ms(self)
    }
    fn get_many(&self, keys: Vec<CacheKey>) -> Answer<'_, Vec<Option<Stored>>> {
        Box::pin(Store::get_many(self, keys))
    }
    fn get(&self, key: CacheKey) -> Answer<'_, Option<Stored>> {
        Box::pin(Store::get(self, key))
    }
    fn put_many(&self, entries: Vec<Entry>) -> Answer<'_, ()> {
        Box::pin(Store::put_many(self, entries))
    }
    fn freshen(&self, update: HeadUpdate) -> Answer<'_, bool> {
        Box::pin(Store::freshen(self, update))
    }
    fn remove(&self, range: KeyRange) -> Answer<'_, u64> {
        Box::pin(Store::remove(self, range))
    }
    fn cull(&self) -> Answer<'_, CullReport> {
        Box::pin(Store::cull(self))
    }
    fn stats(&self) -> Answer<'_, StoreStats> {
        Box::pin(Store::stats(self))
    }
    fn flush(&self) -> Answer<'_, ()> {
        Box::pin(Store::flush(self))
    }
}

impl Store for BoxStore {
    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }
    async fn get_many(&self, keys: Vec<CacheKey>) -> Result<Vec<Option<Stored>>, StoreError> {
        self.0.get_many(keys).await
    }
    async fn get(&self, key: CacheKey) -> Result<Option<Stored>, StoreError> {
        self.0.get(key).await
    }
    async fn put_many(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.0.put_many(entries).await
    }
    async fn freshen(&self, update: HeadUpdate) -> Result<bool, StoreError> {
        self.0.freshen(update).await
    }
    async fn remove(&self, range: KeyRange) -> Result<u64, StoreError> {
        self.0.remove(range).await
    }
    async fn cull(&self) -> Result<CullReport, StoreError> {
        self.0.cull().await
    }
    async fn stats(&self) -> Result<StoreStats, StoreError> {
        self.0.stats().await
    }
    async fn flush(&self) -> Result<(), StoreError> {
        self.0.flush().await
    }
}
