//! How does a store in memory work? It is limited by bytes, and evicts the least recently used entry.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, ready};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use moka::ops::compute::{CompResult, Op};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::clock::{Clock, SystemClock};
use crate::error::ConfigError;
use crate::key::{CacheKey, KeyRange};
use crate::store::footprint::{footprint, owned, owned_head};
use crate::store::{
    Admin, CullReport, Entries, MemoryLog, Named, Store, StoreError, StoreFuture, StoreStats,
};
use crate::stored::{Entry, HeadUpdate, Stored};
use crate::sync::lock;
use crate::tag::Scope;

/// Default bound of a [`MemoryStore`]: 64 MiB.
const DEFAULT_MAX_BYTES: u64 = 64 << 20;

/// A store in the process's own memory: for development, tests and applications of a single process.
///
/// Its handle has the same methods as the handle of a store in MySQL. [`MemoryLog`](crate::store::MemoryLog#in-a-transaction) says
/// what an invalidation in a transaction does without a table.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use tower_mysql_cache::key::CacheKey;
/// use tower_mysql_cache::store::Entries;
/// use tower_mysql_cache::MemoryStore;
/// let store = MemoryStore::new();
/// assert!(store.get(CacheKey::new("shop:1:/")).await.unwrap().is_none());
/// # });
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    cache: Cache<CacheKey, Held>,
    /// The keys in order, so that a deletion takes time only for what it deletes. Contains all keys of `cache`, and
    /// those in `evicted`.
    keys: Mutex<BTreeMap<Bytes, CacheKey>>,
    /// Keys that the cache has evicted since the last insertion.
    evicted: Arc<Mutex<Vec<Arc<CacheKey>>>>,
    log: MemoryLog,
    clock: Arc<dyn Clock>,
    max_bytes: u64,
    too_large: AtomicU64,
    culls: AtomicU64,
}

#[derive(Clone)]
struct Held {
    stored: Stored,
    expires_ms: u64,
}

impl MemoryStore {
    /// A store of at most 64 MiB.
    ///
    /// ```
    /// use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new());
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::with_parts(DEFAULT_MAX_BYTES, Arc::new(SystemClock))
    }

    /// Other settings than the defaults.
    ///
    /// ```
    /// use tower_mysql_cache::MemoryStore;
    /// let store = MemoryStore::builder().max_bytes(256 << 20).build()?;
    /// # Ok::<(), tower_mysql_cache::ConfigError>(())
    /// ```
    #[must_use]
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder { max_bytes: DEFAULT_MAX_BYTES, clock: Arc::new(SystemClock) }
    }

    fn with_parts(max_bytes: u64, clock: Arc<dyn Clock>) -> Self {
        let evicted: Arc<Mutex<Vec<_>>> = Arc::default();
        let gone = Arc::clone(&evicted);
        let cache = Cache::builder()
            .max_capacity(max_bytes)
            // Least recently used, not TinyLFU: the next request must find an entry that has just been stored, even
            // if the store is full.
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|key: &CacheKey, held: &Held| weight(key, &held.stored))
            // not directly in `keys`, because an insertion holds its lock
            .eviction_listener(move |key, _, cause| {
                if cause.was_evicted() {
                    lock(&gone).push(key);
                }
            })
            .build();
        let (too_large, culls) = (AtomicU64::new(0), AtomicU64::new(0));
        let (keys, log) = (Mutex::default(), MemoryLog::with_clock(Arc::clone(&clock)));
        Self {
            shared: Arc::new(Shared {
                cache,
                keys,
                evicted,
                log,
                clock,
                max_bytes,
                too_large,
                culls,
            }),
        }
    }

    fn find(&self, key: &CacheKey) -> Option<Stored> {
        let held = self.shared.cache.get(key)?;
        (held.expires_ms > self.now_ms()).then_some(held.stored)
    }

    fn insert(&self, entry: Entry) -> Result<(), StoreError> {
        let Entry { key, stored, expires_ms } = entry;
        let stored = owned(stored);
        let size = weight(&key, &stored);
        if u64::from(size) > self.shared.max_bytes {
            self.shared.too_large.fetch_add(1, Ordering::Relaxed);
            let limit = usize::try_from(self.shared.max_bytes).unwrap_or(usize::MAX);
            return Err(StoreError::TooLarge { size: size as usize, limit });
        }
        let mut keys = self.keys();
        keys.insert(key.to_bytes(), key.clone());
        self.shared.cache.insert(key, Held { stored, expires_ms });
        let evicted = std::mem::take(&mut *lock(&self.shared.evicted));
        for key in evicted.iter().filter(|key| !self.shared.cache.contains_key(&***key)) {
            keys.remove(key.as_bytes());
        }
        Ok(())
    }

    /// Locked for insertions and deletions, so that no key is stored without being listed.
    fn keys(&self) -> MutexGuard<'_, BTreeMap<Bytes, CacheKey>> {
        lock(&self.shared.keys)
    }

    fn remove_range(&self, range: &KeyRange) -> u64 {
        if range.from >= range.to {
            return 0;
        }
        let mut keys = self.keys();
        let inside: Vec<_> = keys
            .range(range.from.clone()..range.to.clone())
            .map(|(bytes, key)| (bytes.clone(), key.clone()))
            .collect();
        let mut removed = 0;
        for (bytes, key) in inside {
            keys.remove(&bytes);
            removed += u64::from(self.shared.cache.remove(&key).is_some());
        }
        removed
    }

    fn replace_head(&self, update: HeadUpdate) -> bool {
        let HeadUpdate { key, old, new, expires_ms } = update;
        let now_ms = self.now_ms();
        let result = self.shared.cache.entry(key).and_compute_with(|current| {
            match current.map(moka::Entry::into_value) {
                Some(Held { stored: Stored::Response(mut response), expires_ms: until })
                    if until > now_ms && response.head == old =>
                {
                    response.head = owned_head(&new);
                    Op::Put(Held { stored: Stored::Response(response), expires_ms })
                }
                _ => Op::Nop,
            }
        });
        matches!(result, CompResult::ReplacedWith(_))
    }

    fn remove_where(&self, gone: impl Fn(&CacheKey, &Held) -> bool) -> (u64, u64) {
        let (mut seen, mut removed) = (0, 0);
        let mut keys = self.keys();
        for (key, held) in &self.shared.cache {
            seen += 1;
            if gone(&key, &held) && self.shared.cache.remove(&*key).is_some() {
                keys.remove(key.as_bytes());
                removed += 1;
            }
        }
        (seen, removed)
    }
}

/// The bytes that an entry counts.
fn weight(key: &CacheKey, stored: &Stored) -> u32 {
    u32::try_from(footprint(key, stored)).unwrap_or(u32::MAX)
}

impl Entries for MemoryStore {
    fn now_ms(&self) -> u64 {
        self.shared.clock.now_ms()
    }

    fn get_many(
        &self,
        keys: Vec<CacheKey>,
    ) -> impl Future<Output = Result<Vec<Option<Stored>>, StoreError>> + Send {
        ready(Ok(keys.iter().map(|key| self.find(key)).collect()))
    }

    fn get(
        &self,
        key: CacheKey,
    ) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send {
        ready(Ok(self.find(&key)))
    }

    fn put_many(&self, entries: Vec<Entry>) -> impl Future<Output = Result<(), StoreError>> + Send {
        // an entry that is too large does not keep the others out
        let results: Vec<_> = entries.into_iter().map(|entry| self.insert(entry)).collect();
        ready(results.into_iter().collect())
    }

    fn freshen(&self, update: HeadUpdate) -> impl Future<Output = Result<bool, StoreError>> + Send {
        ready(Ok(self.replace_head(update)))
    }

    fn remove(&self, range: KeyRange) -> impl Future<Output = Result<u64, StoreError>> + Send {
        ready(Ok(self.remove_range(&range)))
    }

    fn remove_named(
        &self,
        range: KeyRange,
        scopes: Vec<Scope>,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send {
        let (_, removed) = self.remove_where(|key, held| {
            let Stored::Response(response) = &held.stored else { return false };
            let tags = &response.head.tags;
            range.contains(key.as_bytes())
                && scopes.iter().any(|scope| scope.names(key.as_bytes(), tags))
        });
        ready(Ok(removed))
    }
}

impl Store for MemoryStore {
    type Log = MemoryLog;

    fn log(&self) -> &MemoryLog {
        &self.shared.log
    }
}

impl Admin for MemoryStore {
    fn count_named(&self, scopes: Vec<Scope>) -> StoreFuture<'_, Named> {
        let now_ms = self.now_ms();
        let mut count = Named::default();
        for (key, held) in &self.shared.cache {
            let Stored::Response(response) = &held.stored else { continue };
            if held.expires_ms > now_ms {
                let tags = &response.head.tags;
                let named = scopes.iter().any(|scope| scope.names(key.as_bytes(), tags));
                let bytes = key.as_bytes().len() + held.stored.size_bytes();
                count.add(named, bytes as u64);
            }
        }
        Box::pin(ready(Ok(count)))
    }

    fn cull(&self) -> StoreFuture<'_, CullReport> {
        self.shared.culls.fetch_add(1, Ordering::Relaxed);
        let now_ms = self.now_ms();
        let (examined, expired) = self.remove_where(|_, held| held.expires_ms <= now_ms);
        let before = self.shared.cache.entry_count();
        self.shared.cache.run_pending_tasks();
        let evicted = before.saturating_sub(self.shared.cache.entry_count());
        let evicted = evicted.saturating_sub(expired);
        Box::pin(ready(Ok(CullReport { examined, expired, evicted })))
    }

    fn stats(&self) -> StoreFuture<'_, StoreStats> {
        self.shared.cache.run_pending_tasks();
        Box::pin(ready(Ok(StoreStats {
            entries: self.shared.cache.entry_count(),
            bytes: self.shared.cache.weighted_size(),
            too_large: self.shared.too_large.load(Ordering::Relaxed),
            culls: self.shared.culls.load(Ordering::Relaxed),
            ..StoreStats::default()
        })))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("entries", &self.shared.cache.entry_count())
            .field("max_bytes", &self.shared.max_bytes)
            .finish()
    }
}

/// Settings of a [`MemoryStore`].
///
/// ```
/// use tower_mysql_cache::MemoryStore;
/// use tower_mysql_cache::store::ManualClock;
///
/// let store = MemoryStore::builder().max_bytes(1 << 20).clock(ManualClock::at(0)).build()?;
/// # Ok::<(), tower_mysql_cache::ConfigError>(())
/// ```
pub struct MemoryStoreBuilder {
    max_bytes: u64,
    clock: Arc<dyn Clock>,
}

impl MemoryStoreBuilder {
    /// The most memory that entries may take up together: keys, heads and bodies, and the maps that hold them, which is
    /// some 1.5 KB for a small page. Default: 64 MiB.
    ///
    /// ```
    /// # use tower_mysql_cache::MemoryStore;
    /// let store = MemoryStore::builder().max_bytes(256 << 20).build()?;
    /// # Ok::<(), tower_mysql_cache::ConfigError>(())
    /// ```
    #[must_use]
    pub fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// The clock that ages and expires entries. Default: [`SystemClock`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use tower_mysql_cache::MemoryStore;
    /// use tower_mysql_cache::key::CacheKey;
    /// use tower_mysql_cache::store::{Entries, Entry, ManualClock, Stored, VariantIndex};
    ///
    /// let clock = ManualClock::at(0);
    /// let store = MemoryStore::builder().clock(clock.clone()).build()?;
    /// let key = CacheKey::new("shop:1:/");
    /// let index = Stored::Variants(VariantIndex::default().into());
    /// store.put(Entry::new(key.clone(), index, 60_000)).await?;
    /// assert!(store.get(key.clone()).await?.is_some());
    ///
    /// clock.advance(Duration::from_secs(60));
    /// assert!(store.get(key).await?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Makes the store.
    ///
    /// ```
    /// use tower_mysql_cache::MemoryStore;
    /// assert!(MemoryStore::builder().max_bytes(4096).build().is_ok());
    /// assert!(MemoryStore::builder().max_bytes(100).build().is_err());
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] when `max_bytes` is under 4 KiB: no response would fit.
    pub fn build(self) -> Result<MemoryStore, ConfigError> {
        if self.max_bytes < 4096 {
            let rule = "it must be at least 4096, or no response fits";
            return Err(ConfigError::new("max_bytes", self.max_bytes, rule));
        }
        Ok(MemoryStore::with_parts(self.max_bytes, self.clock))
    }
}

impl fmt::Debug for MemoryStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStoreBuilder").field("max_bytes", &self.max_bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::clock::ManualClock;
    use crate::stored::{StoredHead, StoredResponse};

    fn entry(key: String, bytes: usize, expires_ms: u64) -> Entry {
        let mut head = StoredHead::new(StatusCode::OK, HeaderMap::new(), 0);
        head.fresh_until_ms = expires_ms;
        let body = Bytes::from(vec![7; bytes]);
        let stored = Stored::Response(StoredResponse::new(head, body));
        Entry { key: CacheKey::new(key), stored, expires_ms }
    }

    #[tokio::test]
    async fn stays_within_its_bytes_and_keeps_the_newest() {
        let store = MemoryStore::builder().max_bytes(1 << 20).build().unwrap();
        for n in 0..2_000 {
            store.put(entry(format!("t:1:/{n}"), 10_000, u64::MAX)).await.unwrap();
            let newest = store.get(CacheKey::new(format!("t:1:/{n}"))).await.unwrap();
            assert!(newest.is_some(), "{n} was not admitted");
        }
        let stats = store.stats().await.unwrap();
        assert!(stats.bytes <= 1 << 20 && stats.entries > 50, "{stats:?}");
        assert!(store.get(CacheKey::new("t:1:/0")).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn expires_by_its_clock() {
        let clock = ManualClock::at(1_000);
        let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
        store.put(entry("t:1:/".to_owned(), 1, 3_000)).await.unwrap();
        clock.advance(Duration::from_millis(1_999));
        assert!(store.get(CacheKey::new("t:1:/")).await.unwrap().is_some());
        clock.advance(Duration::from_millis(1));
        assert!(store.get(CacheKey::new("t:1:/")).await.unwrap().is_none());
        assert_eq!(store.cull().await.unwrap().expired, 1);
    }

    #[test]
    fn a_bound_that_fits_nothing_is_refused() {
        let error = MemoryStore::builder().max_bytes(100).build().unwrap_err();
        assert!(
            error.to_string().contains("is 100;") && error.to_string().contains("4096"),
            "{error}"
        );
    }
}
