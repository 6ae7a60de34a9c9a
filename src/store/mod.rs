//! What is a store? It keeps rows and columns, and knows nothing about HTTP.

mod admin;
mod boxed;
mod entries;
mod error;
mod footprint;
mod invalidation_log;
mod lease;
// a log in memory has no gaps
#[cfg_attr(not(feature = "mysql"), allow(dead_code, unused_imports))]
pub(crate) mod log;
mod memory;
#[cfg(feature = "mysql")]
pub(crate) mod mysql;
mod statement;
mod tiered;

pub use admin::{Admin, CacheStats, CullReport, Named, StoreStats};
pub use boxed::BoxStore;
pub(crate) use boxed::DynLog;
pub use entries::Entries;
pub use error::{Source, StoreError};
pub use invalidation_log::InvalidationLog;
pub use lease::{Fence, Lease, Leases};
pub use log::MemoryLog;
pub use memory::{MemoryStore, MemoryStoreBuilder};
#[cfg(feature = "mysql")]
pub use mysql::{Compression, MySqlStore, MySqlStoreBuilder};
pub use statement::SqlStatement;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
pub use tiered::{Consistency, Tiered};

pub use crate::clock::{Clock, ManualClock, SystemClock};
pub use crate::stored::{
    Entry, HeadUpdate, Inspected, SelectingField, Stored, StoredHead, StoredOrHead, StoredResponse,
    VariantIndex,
};

/// The future of a method that is not part of a hit. It is boxed, so that its trait can be used as `dyn`.
///
/// ```
/// use tower_mysql_cache::store::{CullReport, StoreFuture};
///
/// fn cull<'a>() -> StoreFuture<'a, CullReport> {
///     Box::pin(async { Ok(CullReport::default()) })
/// }
/// ```
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A place that keeps responses: the sum of four roles.
///
/// | role | what it does | what a store of a single process writes |
/// |---|---|---|
/// | [`Entries`] | keeps responses by key | four methods |
/// | [`InvalidationLog`] | says which responses are invalid | nothing: it keeps a [`MemoryLog`] |
/// | [`Leases`] | lets several processes agree on who calls the handler | nothing |
/// | [`Admin`] | counts, culls, statistics | nothing, or what people want to see |
///
/// `examples/custom_store.rs` in the repository is a whole store.
///
/// ```
/// # #[derive(Clone, Default)] struct MyStore { log: tower_mysql_cache::store::MemoryLog }
/// # use tower_mysql_cache::key::{CacheKey, KeyRange};
/// # use tower_mysql_cache::store::{Entries, Entry, HeadUpdate, Stored};
/// # use tower_mysql_cache::StoreError;
/// # impl Entries for MyStore {
/// #     async fn get_many(&self, keys: Vec<CacheKey>) -> Result<Vec<Option<Stored>>, StoreError> {
/// #         Ok(vec![None; keys.len()])
/// #     }
/// #     async fn put_many(&self, _: Vec<Entry>) -> Result<(), StoreError> { Ok(()) }
/// #     async fn freshen(&self, _: HeadUpdate) -> Result<bool, StoreError> { Ok(false) }
/// #     async fn remove(&self, _: KeyRange) -> Result<u64, StoreError> { Ok(0) }
/// # }
/// use tower_mysql_cache::store::{Admin, MemoryLog, Store};
/// use tower_mysql_cache::CacheLayer;
///
/// impl Admin for MyStore {}
///
/// impl Store for MyStore {
///     type Log = MemoryLog;
///
///     fn log(&self) -> &MemoryLog {
///         &self.log
///     }
/// }
///
/// let cache = CacheLayer::new(MyStore::default());
/// # let _ = cache;
/// ```
pub trait Store: Entries + Admin {
    /// The type of [`Store::log`].
    type Log: InvalidationLog;

    /// The invalidation log that decides whether entries are valid.
    fn log(&self) -> &Self::Log;

    /// The leases of the processes that share the store. Default: every lease is granted, for stores of a single
    /// process.
    fn leases(&self) -> &dyn Leases {
        &lease::OneProcess
    }

    /// How old the last read of the log may be for a response that this store has in memory. Default: zero, which means
    /// that a hit needs a new read.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_mysql_cache::store::{Consistency, Store};
    /// use tower_mysql_cache::{MemoryStore, Tiered};
    ///
    /// let store = Tiered::new(MemoryStore::new(), MemoryStore::new());
    /// assert_eq!(store.consistency(Consistency::Strict).max_staleness(), Duration::ZERO);
    /// ```
    fn max_staleness(&self) -> Duration {
        Duration::ZERO
    }
}
