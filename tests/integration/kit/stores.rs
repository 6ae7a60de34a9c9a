//! One test body for every store: in memory, boxed, and in a real database.

use std::time::Duration;

use tower_mysql_cache::store::{BoxStore, Consistency, Store};
use tower_mysql_cache::{CacheHandle, CacheLayer, MemoryStore, MySqlStore, Tiered};

use crate::support::{self, TestDatabase, eventually};

/// A store of one kind, with its own database.
pub(crate) struct Kit {
    pub(crate) store: BoxStore,
    database: Option<TestDatabase>,
    /// Whether a store in memory is in front of the database.
    pub(crate) has_front: bool,
}

impl Kit {
    pub(crate) fn memory() -> Self {
        Self { store: BoxStore::new(MemoryStore::new()), database: None, has_front: false }
    }

    pub(crate) async fn mysql() -> Self {
        let database = support::database().await;
        // the suites count rows, and a random cull would change the counts
        let store = MySqlStore::builder(database.url()).expect("a URL").background_cull(false);
        let store = store.connect().await.expect("connects");
        store.migrate().await.expect("migrates");
        Self { store: BoxStore::new(store), database: Some(database), has_front: false }
    }

    /// The recommended set-up: a store in memory in front of a store in the database.
    pub(crate) async fn tiered() -> Self {
        let mut kit = Self::mysql().await;
        // invalidations of another process act at once
        let store = Tiered::new(MemoryStore::new(), kit.store).consistency(Consistency::Strict);
        (kit.store, kit.has_front) = (BoxStore::new(store), true);
        kit
    }

    /// Another process: another store on the same database, or the same store in memory.
    pub(crate) async fn neighbour(&self) -> BoxStore {
        match &self.database {
            Some(database) => {
                BoxStore::new(MySqlStore::connect(database.url()).await.expect("connects"))
            }
            None => self.store.clone(),
        }
    }

    /// The application's database: that of the store, if the store has one.
    pub(crate) async fn pool(&mut self) -> sqlx::MySqlPool {
        if self.database.is_none() {
            self.database = Some(support::database().await);
        }
        let url = self.database.as_ref().expect("a database").url();
        sqlx::MySqlPool::connect(url).await.expect("connects")
    }

    pub(crate) fn layer(&self) -> CacheLayer<BoxStore> {
        patient(self.store.clone())
    }

    /// Waits until everything is written, so that the next lookup asks the store itself.
    pub(crate) async fn settle(&self, handle: &CacheHandle) {
        handle.flush().await.expect("flushes");
    }
}

/// A layer that waits for this store. On a busy machine, a lookup must not fail: its request would call the handler.
pub(crate) fn patient<S: Store>(store: S) -> CacheLayer<S> {
    CacheLayer::new(store).prefix("test").store_timeout(Duration::from_secs(10))
}

/// A layer over this store.
pub(crate) fn over(store: impl Store) -> CacheLayer<BoxStore> {
    CacheLayer::new(BoxStore::new(store)).prefix("test")
}

/// A layer over a store in memory.
pub(crate) fn in_memory() -> CacheLayer<BoxStore> {
    over(MemoryStore::new())
}

/// Runs each test on every store.
macro_rules! on_every_store {
    ($(async fn $name:ident($($kit:ident)+: Kit) $body:block)*) => {
        $(async fn $name($($kit)+: Kit) $body)*

        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Kit::memory()).await;
            })*
        }

        mod mysql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Kit::mysql().await).await;
            })*
        }

        mod tiered {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Kit::tiered().await).await;
            })*
        }
    };
}
pub(crate) use on_every_store;

/// Waits until the store's clock shows a later time than now, so that what is written next has another timestamp.
pub(crate) async fn time_passes(store: &impl Store, ms: u64) {
    let before = store.now_ms();
    eventually("the clock moves on", async || store.now_ms() > before + ms).await;
}
