//! A store chosen at run time.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::key::{CacheKey, KeyRange};
use crate::store::{CullReport, Fence, Lease, Named, Store, StoreError, StoreStats};
use crate::stored::{Entry, HeadUpdate, Stored, StoredHead, StoredOrHead};
use crate::tag::{LogPosition, LogRecord, LogRow, Scope, Validity};

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Any store behind one type, for applications that choose their store at run time.
///
/// It has no `invalidate_tags_on`, `invalidate_uri_on`, `invalidate_all_on` or `to_sql`, because not every store has a database.
/// An application that invalidates in its transactions keeps the store's own type, as in
/// `CacheHandle<Tiered<MemoryStore, MySqlStore>>`.
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
    fn get_heads(&self, keys: Vec<CacheKey>) -> Answer<'_, Vec<Option<StoredOrHead>>>;
    fn get(&self, key: CacheKey) -> Answer<'_, Option<Stored>>;
    fn put_many(&self, entries: Vec<Entry>) -> Answer<'_, ()>;
    fn lease<'a>(&'a self, key: &'a CacheKey, time: Duration) -> Answer<'a, Lease>;
    fn release<'a>(&'a self, fence: &'a Fence, unshareable: Option<Duration>) -> Answer<'a, ()>;
    fn put_fenced<'a>(&'a self, entries: Vec<Entry>, fence: &'a Fence) -> Answer<'a, bool>;
    fn freshen(&self, update: HeadUpdate) -> Answer<'_, bool>;
    fn get_entries(&self, keys: Vec<CacheKey>) -> Answer<'_, Vec<Option<Entry>>>;
    fn position(&self) -> Arc<LogPosition>;
    fn append(&self, records: Vec<LogRecord>) -> Answer<'_, Vec<u64>>;
    fn validity<'a>(&'a self, key: &'a CacheKey, head: &'a StoredHead) -> Answer<'a, Validity>;
    fn catch_up<'a>(
        &'a self,
        key: &'a CacheKey,
        head: &'a StoredHead,
        at_most: Duration,
    ) -> Answer<'a, ()>;
    fn note_write(&self);
    fn sync(&self) -> Answer<'_, ()>;
    fn max_staleness(&self) -> Duration;
    fn poll_interval(&self) -> Duration;
    fn log_tail(&self, limit: usize) -> Answer<'_, Vec<LogRow>>;
    fn count_named(&self, scopes: Vec<Scope>) -> Answer<'_, Named>;
    fn remove(&self, range: KeyRange) -> Answer<'_, u64>;
    fn remove_named(&self, range: KeyRange, scopes: Vec<Scope>) -> Answer<'_, u64>;
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
    fn get_heads(&self, keys: Vec<CacheKey>) -> Answer<'_, Vec<Option<StoredOrHead>>> {
        Box::pin(Store::get_heads(self, keys))
    }
    fn get(&self, key: CacheKey) -> Answer<'_, Option<Stored>> {
        Box::pin(Store::get(self, key))
    }
    fn put_many(&self, entries: Vec<Entry>) -> Answer<'_, ()> {
        Box::pin(Store::put_many(self, entries))
    }
    fn lease<'a>(&'a self, key: &'a CacheKey, time: Duration) -> Answer<'a, Lease> {
        Box::pin(Store::lease(self, key, time))
    }
    fn release<'a>(&'a self, fence: &'a Fence, unshareable: Option<Duration>) -> Answer<'a, ()> {
        Box::pin(Store::release(self, fence, unshareable))
    }
    fn put_fenced<'a>(&'a self, entries: Vec<Entry>, fence: &'a Fence) -> Answer<'a, bool> {
        Box::pin(Store::put_fenced(self, entries, fence))
    }
    fn freshen(&self, update: HeadUpdate) -> Answer<'_, bool> {
        Box::pin(Store::freshen(self, update))
    }
    fn get_entries(&self, keys: Vec<CacheKey>) -> Answer<'_, Vec<Option<Entry>>> {
        Box::pin(Store::get_entries(self, keys))
    }
    fn position(&self) -> Arc<LogPosition> {
        Store::position(self)
    }
    fn append(&self, records: Vec<LogRecord>) -> Answer<'_, Vec<u64>> {
        Box::pin(Store::append(self, records))
    }
    fn validity<'a>(&'a self, key: &'a CacheKey, head: &'a StoredHead) -> Answer<'a, Validity> {
        Box::pin(Store::validity(self, key, head))
    }
    fn catch_up<'a>(
        &'a self,
        key: &'a CacheKey,
        head: &'a StoredHead,
        at_most: Duration,
    ) -> Answer<'a, ()> {
        Box::pin(Store::catch_up(self, key, head, at_most))
    }
    fn note_write(&self) {
        Store::note_write(self);
    }
    fn sync(&self) -> Answer<'_, ()> {
        Box::pin(Store::sync(self))
    }
    fn max_staleness(&self) -> Duration {
        Store::max_staleness(self)
    }
    fn poll_interval(&self) -> Duration {
        Store::poll_interval(self)
    }
    fn log_tail(&self, limit: usize) -> Answer<'_, Vec<LogRow>> {
        Box::pin(Store::log_tail(self, limit))
    }
    fn count_named(&self, scopes: Vec<Scope>) -> Answer<'_, Named> {
        Box::pin(Store::count_named(self, scopes))
    }
    fn remove(&self, range: KeyRange) -> Answer<'_, u64> {
        Box::pin(Store::remove(self, range))
    }
    fn remove_named(&self, range: KeyRange, scopes: Vec<Scope>) -> Answer<'_, u64> {
        Box::pin(Store::remove_named(self, range, scopes))
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
    async fn get_heads(
        &self,
        keys: Vec<CacheKey>,
    ) -> Result<Vec<Option<StoredOrHead>>, StoreError> {
        self.0.get_heads(keys).await
    }
    async fn get(&self, key: CacheKey) -> Result<Option<Stored>, StoreError> {
        self.0.get(key).await
    }
    async fn put_many(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.0.put_many(entries).await
    }
    async fn lease(&self, key: &CacheKey, time: Duration) -> Result<Lease, StoreError> {
        self.0.lease(key, time).await
    }
    async fn release(
        &self,
        fence: &Fence,
        unshareable: Option<Duration>,
    ) -> Result<(), StoreError> {
        self.0.release(fence, unshareable).await
    }
    async fn put_fenced(&self, entries: Vec<Entry>, fence: &Fence) -> Result<bool, StoreError> {
        self.0.put_fenced(entries, fence).await
    }
    async fn freshen(&self, update: HeadUpdate) -> Result<bool, StoreError> {
        self.0.freshen(update).await
    }
    async fn get_entries(&self, keys: Vec<CacheKey>) -> Result<Vec<Option<Entry>>, StoreError> {
        self.0.get_entries(keys).await
    }
    fn position(&self) -> Arc<LogPosition> {
        self.0.position()
    }
    async fn append(&self, records: Vec<LogRecord>) -> Result<Vec<u64>, StoreError> {
        self.0.append(records).await
    }
    async fn validity(&self, key: &CacheKey, head: &StoredHead) -> Result<Validity, StoreError> {
        self.0.validity(key, head).await
    }
    async fn catch_up(
        &self,
        key: &CacheKey,
        head: &StoredHead,
        at_most: Duration,
    ) -> Result<(), StoreError> {
        self.0.catch_up(key, head, at_most).await
    }
    fn note_write(&self) {
        self.0.note_write();
    }
    async fn sync(&self) -> Result<(), StoreError> {
        self.0.sync().await
    }
    fn max_staleness(&self) -> Duration {
        self.0.max_staleness()
    }
    fn poll_interval(&self) -> Duration {
        self.0.poll_interval()
    }
    async fn log_tail(&self, limit: usize) -> Result<Vec<LogRow>, StoreError> {
        self.0.log_tail(limit).await
    }
    async fn count_named(&self, scopes: Vec<Scope>) -> Result<Named, StoreError> {
        self.0.count_named(scopes).await
    }
    async fn remove(&self, range: KeyRange) -> Result<u64, StoreError> {
        self.0.remove(range).await
    }
    async fn remove_named(&self, range: KeyRange, scopes: Vec<Scope>) -> Result<u64, StoreError> {
        self.0.remove_named(range, scopes).await
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
