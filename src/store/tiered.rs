//! How does a small, fast store work in front of a large, shared one?

use std::time::Duration;

use crate::key::{CacheKey, KeyRange};
use crate::store::entries::INDEX_MS;
use crate::store::{
    Admin, CullReport, Entries, Fence, InvalidationLog, Leases, Named, Store, StoreError,
    StoreFuture, StoreStats,
};
use crate::stored::{Entry, HeadUpdate, Stored};
use crate::tag::{Scope, Validity};

/// How soon an invalidation that another process has committed counts for the front.
///
/// ```
/// use tower_mysql_cache::store::Consistency;
/// use tower_mysql_cache::{MemoryStore, Tiered};
///
/// # let shared = MemoryStore::new();
/// // a price must never be old, not even for 100 ms
/// let store = Tiered::new(MemoryStore::new(), shared).consistency(Consistency::Strict);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// After the `poll_interval` of the back (100 ms) at the latest. The default.
    ///
    /// A hit in the front waits for a read of the log only if the last read is older than that, or began before the
    /// response to an unsafe request through the layer. So invalidations of this process count at once, by its handle
    /// and by plain SQL in the handler of such a request. After any other commit, call
    /// [`CacheHandle::sync`](crate::CacheHandle::sync).
    #[default]
    Bounded,
    /// At once: a hit in the front waits for one read of the log, which all waiting hits share.
    Strict,
}

/// A store in front of another store. The front keeps copies of what is found behind. The invalidation log of the store
/// behind judges both.
///
/// ```no_run
/// # #[cfg(feature = "mysql")]
/// # async fn run() -> Result<(), tower_mysql_cache::StoreError> {
/// use tower_mysql_cache::{MemoryStore, MySqlStore, Tiered};
///
/// let behind = MySqlStore::connect("mysql://cache:secret@db.internal/shop").await?;
/// behind.migrate().await?;
/// let store = Tiered::new(MemoryStore::new(), behind);
/// # let _ = store;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Tiered<F, B> {
    front: F,
    back: B,
    consistency: Consistency,
}

impl<F: Store, B: Store> Tiered<F, B> {
    /// `front` before `back`, with [`Consistency::Bounded`].
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore, Tiered};
    /// # let shared = MemoryStore::new();
    /// // `shared` is a MySqlStore
    /// let cache = CacheLayer::new(Tiered::new(MemoryStore::new(), shared));
    /// ```
    #[must_use]
    pub fn new(front: F, back: B) -> Self {
        Self { front, back, consistency: Consistency::Bounded }
    }

    /// How soon invalidations of other processes count for the front. Default: [`Consistency::Bounded`].
    ///
    /// ```
    /// # use tower_mysql_cache::{MemoryStore, Tiered};
    /// # let shared = MemoryStore::new();
    /// use tower_mysql_cache::store::Consistency;
    /// let store = Tiered::new(MemoryStore::new(), shared).consistency(Consistency::Strict);
    /// ```
    #[must_use]
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// The store in front.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{MemoryStore, Tiered};
    /// # let shared = MemoryStore::new();
    /// use tower_mysql_cache::store::Admin;
    ///
    /// let store = Tiered::new(MemoryStore::new(), shared);
    /// println!("{} bytes in memory", store.front().stats().await?.bytes);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn front(&self) -> &F {
        &self.front
    }

    /// The store in the back.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{MemoryStore, Tiered};
    /// # let shared = MemoryStore::new();
    /// use tower_mysql_cache::store::Admin;
    ///
    /// let store = Tiered::new(MemoryStore::new(), shared);
    /// println!("{} bytes in the table", store.back().stats().await?.bytes);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn back(&self) -> &B {
        &self.back
    }

    /// Entries of the front that are as good as the back's: fresh, and valid by a recent read of the log.
    async fn in_front(&self, keys: &[CacheKey]) -> Result<Vec<Option<Stored>>, StoreError> {
        let mut found = self.front.get_many(keys.to_vec()).await?;
        for (slot, key) in found.iter_mut().zip(keys) {
            if let Some(stored) = slot
                && !self.is_current(key, stored).await?
            {
                *slot = None;
            }
        }
        Ok(found)
    }

    /// Whether an entry of the front is as good as the back's.
    async fn is_current(&self, key: &CacheKey, stored: &Stored) -> Result<bool, StoreError> {
        let Stored::Response(response) = stored else { return Ok(true) };
        let head = &response.head;
        // another process may have stored a newer one
        if head.fresh_until_ms <= self.now_ms() {
            return Ok(false);
        }
        self.back.log().catch_up(key, head, self.max_staleness()).await?;
        Ok(self.back.log().validity(key, head).await? == Validity::Valid)
    }

    /// Copies entries into the front.
    async fn keep(&self, entries: Vec<Entry>) {
        let now_ms = self.now_ms();
        let cut = |mut entry: Entry| {
            if matches!(entry.stored, Stored::Variants(_)) {
                entry.expires_ms = entry.expires_ms.min(now_ms.saturating_add(INDEX_MS));
            }
            entry
        };
        // an entry that the front refuses is found in the back
        let _ = self.front.put_many(entries.into_iter().map(cut).collect()).await;
    }

    async fn find(&self, keys: Vec<CacheKey>) -> Result<Vec<Option<Entry>>, StoreError> {
        let mut found: Vec<Option<Entry>> = Vec::with_capacity(keys.len());
        let mut missing = Vec::new();
        for (stored, key) in self.in_front(&keys).await?.into_iter().zip(&keys) {
            let entry = stored.map(|stored| {
                let expires_ms = match &stored {
                    Stored::Response(response) => response.head.fresh_until_ms,
                    Stored::Variants(_) => u64::MAX,
                };
                Entry { key: key.clone(), stored, expires_ms }
            });
            if entry.is_none() {
                missing.push(key.clone());
            }
            found.push(entry);
        }
        if missing.is_empty() {
            return Ok(found);
        }
        let mut behind = self.back.get_entries(missing).await?.into_iter();
        let mut copies = Vec::new();
        for slot in found.iter_mut().filter(|slot| slot.is_none()) {
            *slot = behind.next().flatten();
            copies.extend(slot.clone());
        }
        self.keep(copies).await;
        Ok(found)
    }
}

impl<F: Store, B: Store> Entries for Tiered<F, B> {
    fn now_ms(&self) -> u64 {
        self.back.now_ms()
    }

    async fn get_many(&self, keys: Vec<CacheKey>) -> Result<Vec<Option<Stored>>, StoreError> {
        let found = self.find(keys).await?;
        Ok(found.into_iter().map(|entry| entry.map(|entry| entry.stored)).collect())
    }

    async fn get(&self, key: CacheKey) -> Result<Option<Stored>, StoreError> {
        if let Some(stored) = self.front.get(key.clone()).await?
            && self.is_current(&key, &stored).await?
        {
            return Ok(Some(stored));
        }
        let found = Box::pin(self.find(vec![key])).await?.pop().flatten();
        Ok(found.map(|entry| entry.stored))
    }

    async fn get_entries(&self, keys: Vec<CacheKey>) -> Result<Vec<Option<Entry>>, StoreError> {
        self.find(keys).await
    }

    async fn put_many(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.keep(entries.clone()).await;
        self.back.put_many(entries).await
    }

    async fn put_fenced(&self, entries: Vec<Entry>, fence: &Fence) -> Result<bool, StoreError> {
        // only after the write: another process may have got the lease
        let written = self.back.put_fenced(entries.clone(), fence).await;
        if matches!(written, Ok(true)) {
            self.keep(entries).await;
        } else {
            // the back has a newer response, or it is not known
            for entry in &entries {
                let _ = self.front.remove(KeyRange::only(&entry.key)).await;
            }
        }
        written
    }

    async fn freshen(&self, update: HeadUpdate) -> Result<bool, StoreError> {
        // if the front has another head, its copy is deleted, because the back decides
        if !self.front.freshen(update.clone()).await? {
            self.front.remove(KeyRange::only(&update.key)).await?;
        }
        self.back.freshen(update).await
    }

    async fn remove(&self, range: KeyRange) -> Result<u64, StoreError> {
        let removed = self.back.remove(range.clone()).await;
        // after the back, so that no lookup copies it again; also if the back failed
        self.front.remove(range).await?;
        removed
    }

    async fn remove_named(&self, range: KeyRange, scopes: Vec<Scope>) -> Result<u64, StoreError> {
        let removed = self.back.remove_named(range.clone(), scopes.clone()).await;
        self.front.remove_named(range, scopes).await?;
        removed
    }
}

impl<F: Store, B: Store> Store for Tiered<F, B> {
    type Log = B::Log;

    fn log(&self) -> &B::Log {
        self.back.log()
    }

    fn leases(&self) -> &dyn Leases {
        self.back.leases()
    }

    fn max_staleness(&self) -> Duration {
        match self.consistency {
            Consistency::Bounded => self.log().poll_interval(),
            Consistency::Strict => Duration::ZERO,
        }
    }
}

impl<F: Store, B: Store> Admin for Tiered<F, B> {
    fn count_named(&self, scopes: Vec<Scope>) -> StoreFuture<'_, Named> {
        self.back.count_named(scopes)
    }

    fn cull(&self) -> StoreFuture<'_, CullReport> {
        Box::pin(async move {
            self.front.cull().await?;
            self.back.cull().await
        })
    }

    fn stats(&self) -> StoreFuture<'_, StoreStats> {
        self.back.stats()
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        self.back.flush()
    }
}
