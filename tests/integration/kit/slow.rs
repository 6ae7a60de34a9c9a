//! A store that is slow or failing when a test wants it to be.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tower_mysql_cache::key::{CacheKey, KeyRange};
use tower_mysql_cache::store::{Admin, Entries, Entry, HeadUpdate, MemoryLog, Store, Stored};
use tower_mysql_cache::{MemoryStore, StoreError};

/// A store in memory, with switches.
#[derive(Clone)]
pub(crate) struct Slow {
    inner: MemoryStore,
    writes_wait: Arc<AtomicBool>,
    heads_wait: Arc<AtomicBool>,
    writes_fail: Arc<AtomicBool>,
    go: Arc<Notify>,
    /// The number of keys of each lookup.
    pub(crate) lookups: Arc<Mutex<Vec<usize>>>,
}

impl Slow {
    pub(crate) fn new() -> Self {
        Self {
            inner: MemoryStore::new(),
            writes_wait: Arc::default(),
            heads_wait: Arc::default(),
            writes_fail: Arc::default(),
            go: Arc::default(),
            lookups: Arc::default(),
        }
    }

    /// From now on, writes wait until they are released.
    pub(crate) fn hold_writes(&self) {
        self.writes_wait.store(true, Ordering::SeqCst);
    }

    /// Lets the waiting writes go on, and all later ones.
    pub(crate) fn release_writes(&self) {
        self.writes_wait.store(false, Ordering::SeqCst);
        self.go.notify_waiters();
    }

    /// From now on, new heads never get to the store.
    pub(crate) fn hold_heads(&self) {
        self.heads_wait.store(true, Ordering::SeqCst);
    }

    pub(crate) fn fail_writes(&self) {
        self.writes_fail.store(true, Ordering::SeqCst);
    }
}

impl Entries for Slow {
    async fn get_many(&self, keys: Vec<CacheKey>) -> Result<Vec<Option<Stored>>, StoreError> {
        self.lookups.lock().unwrap().push(keys.len());
        self.inner.get_many(keys).await
    }
    async fn put_many(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        if self.writes_wait.load(Ordering::SeqCst) {
            self.go.notified().await;
        }
        if self.writes_fail.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable);
        }
        self.inner.put_many(entries).await
    }
    async fn freshen(&self, update: HeadUpdate) -> Result<bool, StoreError> {
        if self.heads_wait.load(Ordering::SeqCst) {
            self.go.notified().await;
        }
        self.inner.freshen(update).await
    }
    async fn remove(&self, range: KeyRange) -> Result<u64, StoreError> {
        self.inner.remove(range).await
    }
}

impl Admin for Slow {}

impl Store for Slow {
    type Log = MemoryLog;

    fn log(&self) -> &MemoryLog {
        self.inner.log()
    }
}
