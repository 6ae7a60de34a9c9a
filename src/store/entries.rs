//! How does a store keep responses by key?

use std::future::Future;

use crate::clock::{Clock, SystemClock};
use crate::key::{CacheKey, KeyRange};
use crate::store::{Fence, StoreError};
use crate::stored::{Entry, HeadUpdate, Stored, StoredOrHead};
use crate::tag::Scope;

/// How long an index of variants may be kept in front of the store that holds it: other processes add to it.
pub(super) const INDEX_MS: u64 = 60_000;

/// Keeps responses by key.
///
/// What every store promises (one contract suite runs on all stores of this crate):
/// - what was put is found until `expires_ms`, and not from that moment on;
/// - keys are compared whole, byte for byte, never by their hash alone;
/// - a put replaces; the later put wins;
/// - answers come in the order of the keys, repeated keys included.
///
/// A store is a handle: its clones share one state. The layer limits the time that it waits for any of these futures,
/// and may drop a future half way. A dropped future must not damage what the store owns. Every error is a miss for
/// the client; a store never fails a request.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
/// use http::{HeaderMap, StatusCode};
/// use tower_mysql_cache::MemoryStore;
/// use tower_mysql_cache::invalidation::{Scope, Tag};
/// use tower_mysql_cache::key::{CacheKey, KeyRange};
/// use tower_mysql_cache::store::{Entries, Entry, Stored, StoredHead, StoredResponse};
///
/// let store = MemoryStore::new();
/// let now_ms = store.now_ms();
/// let mut head = StoredHead::new(StatusCode::OK, HeaderMap::new(), now_ms);
/// head.tags = vec![Tag::from("home")];
/// let page = Stored::Response(StoredResponse::new(head, "hello".into()));
/// let entry = |path| Entry::new(CacheKey::new(path), page.clone(), now_ms + 60_000);
/// store.put(entry("shop:1:/")).await?;
/// store.put_many(vec![entry("shop:1:/a"), entry("shop:1:/b")]).await?;
///
/// let key = CacheKey::new("shop:1:/");
/// assert_eq!(store.get(key.clone()).await?, Some(page.clone()));
/// let keys = vec![key, CacheKey::new("shop:1:/other")];
/// assert_eq!(store.get_many(keys.clone()).await?, [Some(page.clone()), None]);
/// assert!(matches!(store.get_heads(keys.clone()).await?[..], [Some(_), None]));
/// assert!(matches!(store.get_entries(keys).await?[..], [Some(_), None]));
///
/// assert_eq!(store.remove(KeyRange::only(&CacheKey::new("shop:1:/"))).await?, 1);
/// let home = vec![Scope::Tag(Tag::from("home"))];
/// assert_eq!(store.remove_named(KeyRange::starting_with("shop:"), home).await?, 2);
/// # Ok(())
/// # }
/// ```
pub trait Entries: Clone + Send + Sync + 'static {
    /// The time on this store's clock, in milliseconds since the Unix epoch. All processes that share the store must
    /// agree on this clock. Default: the machine's clock.
    fn now_ms(&self) -> u64 {
        SystemClock.now_ms()
    }

    /// Looks up several keys at once. Returns one answer for each key, in the order of the keys.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked. A damaged or unknown entry is `None`, not an
    /// error.
    fn get_many(
        &self,
        keys: Vec<CacheKey>,
    ) -> impl Future<Output = Result<Vec<Option<Stored>>, StoreError>> + Send;

    /// Looks up one key. Default: by [`Entries::get_many`].
    ///
    /// # Errors
    /// As [`Entries::get_many`].
    fn get(
        &self,
        key: CacheKey,
    ) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send {
        async move { Ok(self.get_many(vec![key]).await?.pop().flatten()) }
    }

    /// [`Entries::get_many`] for a request that may need no body, such as a HEAD or a request with conditions. The store
    /// may leave out bodies that are expensive to read. Default: returns all bodies.
    ///
    /// # Errors
    /// As [`Entries::get_many`].
    fn get_heads(
        &self,
        keys: Vec<CacheKey>,
    ) -> impl Future<Output = Result<Vec<Option<StoredOrHead>>, StoreError>> + Send {
        async move {
            let found = self.get_many(keys).await?;
            Ok(found.into_iter().map(|found| found.map(StoredOrHead::Stored)).collect())
        }
    }

    /// [`Entries::get_many`] with the time when each entry may be removed, for a store in front of this one.
    /// Default: a response may stay in front while it is fresh, an index of variants for a minute.
    ///
    /// # Errors
    /// As [`Entries::get_many`].
    fn get_entries(
        &self,
        keys: Vec<CacheKey>,
    ) -> impl Future<Output = Result<Vec<Option<Entry>>, StoreError>> + Send {
        async move {
            let found = self.get_many(keys.clone()).await?;
            let now_ms = self.now_ms();
            let entry = |(stored, key): (Option<Stored>, CacheKey)| {
                let stored = stored?;
                let expires_ms = match &stored {
                    Stored::Response(response) => response.head.fresh_until_ms,
                    Stored::Variants(_) => now_ms.saturating_add(INDEX_MS),
                };
                Some(Entry { key, stored, expires_ms })
            };
            Ok(found.into_iter().zip(keys).map(entry).collect())
        }
    }

    /// Stores entries and replaces what their keys led to. Returns when lookups in every process that
    /// shares the store find them.
    ///
    /// # Errors
    /// [`StoreError`] when an entry could not be stored, [`StoreError::TooLarge`] when it never can.
    fn put_many(&self, entries: Vec<Entry>) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Stores one entry. Default: by [`Entries::put_many`].
    ///
    /// # Errors
    /// As [`Entries::put_many`].
    fn put(&self, entry: Entry) -> impl Future<Output = Result<(), StoreError>> + Send {
        self.put_many(vec![entry])
    }

    /// [`Entries::put_many`] by the holder of a lease. If another process has been granted the lease since, this
    /// changes nothing and returns `false`. Default: [`Entries::put_many`], for stores without
    /// [`Leases`](super::Leases).
    ///
    /// # Errors
    /// As [`Entries::put_many`].
    fn put_fenced(
        &self,
        entries: Vec<Entry>,
        fence: &Fence,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        let _ = fence;
        async move { self.put_many(entries).await.map(|()| true) }
    }

    /// Replaces the head and the expiry of a stored response and leaves its body where it is. If there is no response,
    /// or its head is not the old one, this changes nothing and returns `false`.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn freshen(&self, update: HeadUpdate) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Removes every entry in a range of keys and returns how many there were. Puts that were called
    /// before this call are removed too. Puts that are called after it stay.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn remove(&self, range: KeyRange) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Removes the responses in a range of keys that these scopes name, and returns how many there were.
    /// [`CacheHandle::erase_uri`](crate::CacheHandle::erase_uri) calls this for the application's own keys.
    /// Default: removes the whole range, which is safe.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn remove_named(
        &self,
        range: KeyRange,
        scopes: Vec<Scope>,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send {
        let _ = scopes;
        self.remove(range)
    }
}
