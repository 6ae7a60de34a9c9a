//! How does an application choose its store at run time?

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::key::{CacheKey, KeyRange};
use crate::store::{
    Admin, CullReport, Entries, Fence, InvalidationLog, Leases, Named, SqlStatement, Store,
    StoreError, StoreFuture, StoreStats,
};
use crate::stored::{Entry, HeadUpdate, Stored, StoredHead, StoredOrHead};
use crate::tag::{LogPosition, LogRecord, LogRow, Scope, Validity};

/// Any store behind one type, for applications that choose their store at run time.
///
/// ```
/// use tower_mysql_cache::store::BoxStore;
/// use tower_mysql_cache::{CacheLayer, MemoryStore};
/// let store = BoxStore::new(MemoryStore::new());
/// let cache = CacheLayer::new(store);
/// # let _: CacheLayer<BoxStore> = cache;
/// ```
///
/// It can do what the store in it can do. In particular, its handle invalidates in the application's transactions.
#[derive(Clone)]
pub struct BoxStore(Arc<dyn DynStore>);

impl BoxStore {
    /// Boxes a store.
    ///
    /// ```no_run
    /// # #[cfg(feature = "mysql")]
    /// # async fn run() -> Result<(), tower_mysql_cache::StoreError> {
    /// use tower_mysql_cache::store::BoxStore;
    /// use tower_mysql_cache::{MemoryStore, MySqlStore};
    ///
    /// let store = match std::env::var("DATABASE_URL") {
    ///     Ok(url) => BoxStore::new(MySqlStore::connect(&url).await?),
    ///     Err(_) => BoxStore::new(MemoryStore::new()),
    /// };
    /// # Ok(())
    /// # }
    /// ```
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

/// The methods of [`Entries`] whose arguments are owned, for one of the macros below.
macro_rules! entries {
    ($each:ident) => {
        $each! { Entries
            get_many(keys: Vec<CacheKey>) -> Vec<Option<Stored>>;
            get(key: CacheKey) -> Option<Stored>;
            get_heads(keys: Vec<CacheKey>) -> Vec<Option<StoredOrHead>>;
            get_entries(keys: Vec<CacheKey>) -> Vec<Option<Entry>>;
            put_many(entries: Vec<Entry>) -> ();
            freshen(update: HeadUpdate) -> bool;
            remove(range: KeyRange) -> u64;
            remove_named(range: KeyRange, scopes: Vec<Scope>) -> u64;
        }
    };
}

/// The same of [`InvalidationLog`].
macro_rules! log {
    ($each:ident) => {
        $each! { InvalidationLog
            append(records: Vec<LogRecord>) -> Vec<u64>;
            tail(limit: usize) -> Vec<LogRow>;
            sync() -> ();
        }
    };
}

/// Methods of a trait with boxed futures.
macro_rules! declared {
    ($role:ident $($name:ident($($arg:ident: $of:ty),*) -> $answer:ty;)*) => {
        $(fn $name(&self $(, $arg: $of)*) -> StoreFuture<'_, $answer>;)*
    };
}

/// These methods of a store, boxed.
macro_rules! boxed {
    ($role:ident $($name:ident($($arg:ident: $of:ty),*) -> $answer:ty;)*) => {
        $(fn $name(&self $(, $arg: $of)*) -> StoreFuture<'_, $answer> {
            Box::pin($role::$name(self $(, $arg)*))
        })*
    };
}

/// These methods of a [`BoxStore`].
macro_rules! forwarded {
    (Entries $($name:ident($($arg:ident: $of:ty),*) -> $answer:ty;)*) => {
        $(async fn $name(&self $(, $arg: $of)*) -> Result<$answer, StoreError> {
            self.0.$name($($arg),*).await
        })*
    };
    (InvalidationLog $($name:ident($($arg:ident: $of:ty),*) -> $answer:ty;)*) => {
        $(async fn $name(&self $(, $arg: $of)*) -> Result<$answer, StoreError> {
            self.0.log().$name($($arg),*).await
        })*
    };
}

/// [`Entries`] with boxed futures.
trait DynEntries {
    entries!(declared);
    fn now_ms(&self) -> u64;
    fn put_fenced<'a>(&'a self, entries: Vec<Entry>, fence: &'a Fence) -> StoreFuture<'a, bool>;
}

impl<St: Entries> DynEntries for St {
    entries!(boxed);
    fn now_ms(&self) -> u64 {
        Entries::now_ms(self)
    }
    fn put_fenced<'a>(&'a self, entries: Vec<Entry>, fence: &'a Fence) -> StoreFuture<'a, bool> {
        Box::pin(Entries::put_fenced(self, entries, fence))
    }
}

impl Entries for BoxStore {
    entries!(forwarded);
    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }
    async fn put_fenced(&self, entries: Vec<Entry>, fence: &Fence) -> Result<bool, StoreError> {
        self.0.put_fenced(entries, fence).await
    }
}

/// [`InvalidationLog`] with boxed futures.
pub(crate) trait DynLog: Send + Sync {
    log!(declared);
    fn position(&self) -> Arc<LogPosition>;
    fn note_write(&self);
    fn poll_interval(&self) -> Duration;
    fn validity<'a>(&'a self, key: &'a CacheKey, head: &'a StoredHead)
    -> StoreFuture<'a, Validity>;
    fn catch_up<'a>(
        &'a self,
        key: &'a CacheKey,
        head: &'a StoredHead,
        at_most: Duration,
    ) -> StoreFuture<'a, ()>;
    #[cfg(feature = "mysql")]
    fn append_on<'a>(
        &'a self,
        connection: &'a mut sqlx::MySqlConnection,
        records: Vec<LogRecord>,
    ) -> StoreFuture<'a, ()>;
    fn append_sql(&self, records: &[LogRecord]) -> Result<Vec<SqlStatement>, StoreError>;
}

impl<L: InvalidationLog> DynLog for L {
    log!(boxed);
    fn position(&self) -> Arc<LogPosition> {
        InvalidationLog::position(self)
    }
    fn note_write(&self) {
        InvalidationLog::note_write(self);
    }
    fn poll_interval(&self) -> Duration {
        InvalidationLog::poll_interval(self)
    }
    fn validity<'a>(
        &'a self,
        key: &'a CacheKey,
        head: &'a StoredHead,
    ) -> StoreFuture<'a, Validity> {
        Box::pin(InvalidationLog::validity(self, key, head))
    }
    fn catch_up<'a>(
        &'a self,
        key: &'a CacheKey,
        head: &'a StoredHead,
        at_most: Duration,
    ) -> StoreFuture<'a, ()> {
        Box::pin(InvalidationLog::catch_up(self, key, head, at_most))
    }
    #[cfg(feature = "mysql")]
    fn append_on<'a>(
        &'a self,
        connection: &'a mut sqlx::MySqlConnection,
        records: Vec<LogRecord>,
    ) -> StoreFuture<'a, ()> {
        Box::pin(InvalidationLog::append_on(self, connection, records))
    }
    fn append_sql(&self, records: &[LogRecord]) -> Result<Vec<SqlStatement>, StoreError> {
        InvalidationLog::append_sql(self, records)
    }
}

/// Any [`Store`], with boxed futures.
trait DynStore: DynEntries + Admin {
    fn log(&self) -> &dyn DynLog;
    fn leases(&self) -> &dyn Leases;
    fn max_staleness(&self) -> Duration;
}

impl<St: Store> DynStore for St {
    fn log(&self) -> &dyn DynLog {
        Store::log(self)
    }
    fn leases(&self) -> &dyn Leases {
        Store::leases(self)
    }
    fn max_staleness(&self) -> Duration {
        Store::max_staleness(self)
    }
}

impl Store for BoxStore {
    type Log = Self;

    fn log(&self) -> &Self {
        self
    }
    fn leases(&self) -> &dyn Leases {
        self.0.leases()
    }
    fn max_staleness(&self) -> Duration {
        self.0.max_staleness()
    }
}

impl InvalidationLog for BoxStore {
    log!(forwarded);
    fn position(&self) -> Arc<LogPosition> {
        self.0.log().position()
    }
    fn note_write(&self) {
        self.0.log().note_write();
    }
    fn poll_interval(&self) -> Duration {
        self.0.log().poll_interval()
    }
    async fn validity(&self, key: &CacheKey, head: &StoredHead) -> Result<Validity, StoreError> {
        self.0.log().validity(key, head).await
    }
    async fn catch_up(
        &self,
        key: &CacheKey,
        head: &StoredHead,
        at_most: Duration,
    ) -> Result<(), StoreError> {
        self.0.log().catch_up(key, head, at_most).await
    }
    #[cfg(feature = "mysql")]
    async fn append_on(
        &self,
        connection: &mut sqlx::MySqlConnection,
        records: Vec<LogRecord>,
    ) -> Result<(), StoreError> {
        self.0.log().append_on(connection, records).await
    }
    fn append_sql(&self, records: &[LogRecord]) -> Result<Vec<SqlStatement>, StoreError> {
        self.0.log().append_sql(records)
    }
}

impl Admin for BoxStore {
    fn count_named(&self, scopes: Vec<Scope>) -> StoreFuture<'_, Named> {
        self.0.count_named(scopes)
    }
    fn cull(&self) -> StoreFuture<'_, CullReport> {
        self.0.cull()
    }
    fn stats(&self) -> StoreFuture<'_, StoreStats> {
        self.0.stats()
    }
    fn flush(&self) -> StoreFuture<'_, ()> {
        self.0.flush()
    }
}
