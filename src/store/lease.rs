//! Which of several processes calls the handler for a key, and whose write still counts?

use std::time::Duration;

use crate::key::CacheKey;
use crate::store::StoreFuture;

/// Lets processes that share a store agree on which of them calls the handler for a key.
///
/// Only routes with [`Collapse::Cluster`](crate::policy::Collapse::Cluster) ask. A store of a single process needs no leases:
/// [`Store::leases`](super::Store::leases) grants every lease by default.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
/// use std::time::Duration;
/// use tower_mysql_cache::MemoryStore;
/// use tower_mysql_cache::key::CacheKey;
/// use tower_mysql_cache::store::{Fence, Lease, Store};
///
/// // a store of one process grants every lease
/// let (store, key) = (MemoryStore::new(), CacheKey::new("shop:1:/report http://shop.example"));
/// if let Lease::Granted(number) = store.leases().lease(&key, Duration::from_secs(10)).await? {
///     // call the handler, store the response
///     store.leases().release(&Fence::new(key, number), None).await?;
/// }
/// # Ok(())
/// # }
/// ```
pub trait Leases: Send + Sync {
    /// Asks for the lease on `key`, for this time by the store's clock. It waits for no other process: a process that
    /// is denied asks again.
    ///
    /// # Errors
    /// [`StoreError`](crate::StoreError) if the store cannot be asked. The caller then calls the handler as if there
    /// were no leases.
    fn lease<'a>(&'a self, key: &'a CacheKey, time: Duration) -> StoreFuture<'a, Lease>;

    /// Releases a lease, unless another process has got it. With `unshareable`, processes that ask within this time
    /// do not wait.
    ///
    /// # Errors
    /// [`StoreError`](crate::StoreError) if the store cannot be asked. The lease then ends after its time.
    fn release<'a>(
        &'a self,
        fence: &'a Fence,
        unshareable: Option<Duration>,
    ) -> StoreFuture<'a, ()>;
}

/// The leases of a store that only one process uses.
pub(super) struct OneProcess;

impl Leases for OneProcess {
    fn lease<'a>(&'a self, _: &'a CacheKey, _: Duration) -> StoreFuture<'a, Lease> {
        Box::pin(async { Ok(Lease::Granted(0)) })
    }

    fn release<'a>(&'a self, _: &'a Fence, _: Option<Duration>) -> StoreFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// The answer to a process that asks for a lease.
///
/// ```
/// use tower_mysql_cache::store::Lease;
///
/// fn next_step(lease: Lease) -> &'static str {
///     match lease {
///         Lease::Granted(_) => "call the handler for all processes",
///         Lease::Held => "wait and ask again",
///         Lease::Unshareable(_) => "call the handler for this request",
///         _ => "call the handler",
///     }
/// }
/// assert_eq!(next_step(Lease::Held), "wait and ask again");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lease {
    /// The caller holds the lease, under this number, which is larger than the number of every holder before it.
    Granted(u64),
    /// Another process holds the lease.
    Held,
    /// The last holder failed, or its response must not be shared. For this time, a process does not wait.
    Unshareable(Duration),
}

/// The lease that a write must hold in order to count.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
/// use tower_mysql_cache::MemoryStore;
/// use tower_mysql_cache::key::CacheKey;
/// use tower_mysql_cache::store::{Entries, Entry, Fence, Stored, VariantIndex};
///
/// let (store, key) = (MemoryStore::new(), CacheKey::new("shop:1:/ http://shop.example"));
/// let index = Stored::Variants(VariantIndex::default().into());
/// let entry = Entry::new(key.clone(), index, store.now_ms() + 60_000);
/// assert!(store.put_fenced(vec![entry], &Fence::new(key, 7)).await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fence {
    /// The key of the lease.
    pub key: CacheKey,
    /// The number of [`Lease::Granted`].
    pub number: u64,
}

impl Fence {
    /// The lease on `key` that was granted under this number.
    ///
    /// ```
    /// use tower_mysql_cache::key::CacheKey;
    /// use tower_mysql_cache::store::Fence;
    /// assert_eq!(Fence::new(CacheKey::new("shop:1:/"), 7).number, 7);
    /// ```
    #[must_use]
    pub fn new(key: CacheKey, number: u64) -> Self {
        Self { key, number }
    }
}
