//! The data that a store keeps: responses, and the indexes of their variants.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};

use crate::key::CacheKey;
pub use crate::rfc9111::SelectingField;
use crate::tag::{LogPosition, Tag, Validity};

/// A stored response without its body. Times are in milliseconds since the Unix epoch, by the store's clock.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
/// use tower_mysql_cache::{CacheLayer, MemoryStore};
///
/// let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
/// for found in cache.inspect("https://shop.example/").await? {
///     println!("{} in {} ms, tags {:?}", found.head.status, found.head.gen_ms, found.head.tags);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct StoredHead {
    /// The status code.
    pub status: StatusCode,
    /// The header fields as received, without those of a single connection (RFC 9111 3.1).
    pub headers: HeaderMap,
    /// When the handler was called (`request_time` of RFC 9111 4.2.3).
    pub requested_ms: u64,
    /// When the handler returned the head (`response_time` of RFC 9111 4.2.3).
    pub received_ms: u64,
    /// The age of the response at `received_ms`, in milliseconds (`corrected_initial_age` of RFC 9111 4.2.3).
    pub initial_age_ms: u64,
    /// The time from which the response is stale.
    pub fresh_until_ms: u64,
    /// How long the handler took, in milliseconds.
    pub gen_ms: u32,
    /// `true` if the response (`public`, `s-maxage`) or the application's override allows to serve it to requests
    /// with credentials.
    pub shared: bool,
    /// The request's header fields that `Vary` names, each as a hash of its value: the secondary key (RFC 9111 4.1).
    /// Empty without `Vary`.
    pub vary: Vec<SelectingField>,
    /// The tags of the response.
    pub tags: Vec<Tag>,
    /// The log position before the handler ran.
    pub position: LogPosition,
    /// The override's `stale_while_revalidate`, in milliseconds. `None` if the response or the policy gives the window.
    pub stale_while_revalidate_ms: Option<u64>,
    /// The override's `stale_if_error`, in milliseconds. `None` if the response or the policy gives the window.
    pub stale_if_error_ms: Option<u64>,
}

impl StoredHead {
    /// A head of a response that was requested and received at `at_ms`, in milliseconds since the Unix epoch. It is stale
    /// from then on, and has no tags. The other fields can be set.
    ///
    /// ```
    /// use http::{HeaderMap, StatusCode};
    /// use tower_mysql_cache::store::StoredHead;
    ///
    /// let mut head = StoredHead::new(StatusCode::OK, HeaderMap::new(), 1_000);
    /// head.fresh_until_ms = 61_000;
    /// assert_eq!(head.received_ms, 1_000);
    /// ```
    #[must_use]
    pub fn new(status: StatusCode, headers: HeaderMap, at_ms: u64) -> Self {
        Self {
            status,
            headers,
            requested_ms: at_ms,
            received_ms: at_ms,
            initial_age_ms: 0,
            fresh_until_ms: at_ms,
            gen_ms: 0,
            shared: false,
            vary: Vec::new(),
            tags: Vec::new(),
            position: LogPosition::default(),
            stale_while_revalidate_ms: None,
            stale_if_error_ms: None,
        }
    }
}

/// A stored response. Clones are cheap: they share the head and the bytes of the body.
///
/// ```
/// use http::{HeaderMap, StatusCode};
/// use tower_mysql_cache::store::{Stored, StoredHead, StoredResponse};
///
/// let head = StoredHead::new(StatusCode::OK, HeaderMap::new(), 1_700_000_000_000);
/// let response = StoredResponse::new(head, "hello".into());
/// assert!(Stored::Response(response).size_bytes() >= 5);
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct StoredResponse {
    /// Status, header fields, times, tags and log position.
    pub head: Arc<StoredHead>,
    /// The complete body.
    pub body: Bytes,
    /// Whether the body is known to be no small part of a large buffer. A store in memory copies other bodies.
    pub(crate) is_compact: bool,
}

impl StoredResponse {
    /// A response with a complete body.
    ///
    /// ```
    /// use http::{HeaderMap, StatusCode};
    /// use tower_mysql_cache::store::{StoredHead, StoredResponse};
    ///
    /// let head = StoredHead::new(StatusCode::OK, HeaderMap::new(), 1_700_000_000_000);
    /// let response = StoredResponse::new(head, "hello".into());
    /// assert_eq!(response.body, "hello");
    /// ```
    #[must_use]
    pub fn new(head: impl Into<Arc<StoredHead>>, body: Bytes) -> Self {
        Self { head: head.into(), body, is_compact: false }
    }

    /// A response with a body that is no small part of a large buffer.
    pub(crate) fn compact(head: Arc<StoredHead>, body: Bytes) -> Self {
        Self { head, body, is_compact: true }
    }

    /// The same body with another head.
    pub(crate) fn with_head(self, head: Arc<StoredHead>) -> Self {
        Self { head, ..self }
    }
}

impl PartialEq for StoredResponse {
    fn eq(&self, other: &Self) -> bool {
        self.head == other.head && self.body == other.body
    }
}

impl fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredResponse")
            .field("head", &self.head)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// An index that is stored in addition to responses. There are two kinds:
///
/// - The index of a target has the field names that its responses had in `Vary`. The store keeps one variant for each
///   combination of these request header fields.
/// - The index of a path has its `No-Vary-Search`, which says which parts of a query do not matter.
///
/// ```
/// use http::header::ACCEPT_LANGUAGE;
/// use tower_mysql_cache::store::{Stored, VariantIndex};
///
/// let index = VariantIndex::new(vec![ACCEPT_LANGUAGE], Vec::new());
/// let stored = Stored::Variants(index.into());
/// # let _ = stored;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VariantIndex {
    /// The field names, sorted, without repeats.
    pub(crate) names: Vec<HeaderName>,
    /// The stored variants, the oldest first, each as the hash at the end of its key. If there are too many, the
    /// oldest is deleted.
    pub(crate) variants: Vec<[u8; 16]>,
    /// For the index of a path: the `No-Vary-Search` field of its responses.
    pub search: Option<Bytes>,
}

impl VariantIndex {
    /// An index with these names and variants. Sorts the names and removes repeats.
    ///
    /// ```
    /// use http::header::{ACCEPT, ACCEPT_LANGUAGE};
    /// use tower_mysql_cache::store::VariantIndex;
    ///
    /// let index = VariantIndex::new(vec![ACCEPT_LANGUAGE, ACCEPT, ACCEPT], Vec::new());
    /// assert_eq!(index.names(), [ACCEPT, ACCEPT_LANGUAGE]);
    /// ```
    #[must_use]
    pub fn new(mut names: Vec<HeaderName>, variants: Vec<[u8; 16]>) -> Self {
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        Self { names, variants, search: None }
    }

    /// The names, sorted, without repeats.
    ///
    /// ```
    /// use http::header::{ACCEPT, ACCEPT_LANGUAGE};
    /// use tower_mysql_cache::store::VariantIndex;
    ///
    /// let index = VariantIndex::new(vec![ACCEPT_LANGUAGE, ACCEPT], Vec::new());
    /// assert_eq!(index.names(), [ACCEPT, ACCEPT_LANGUAGE]);
    /// ```
    #[must_use]
    pub fn names(&self) -> &[HeaderName] {
        &self.names
    }

    /// The stored variants, the oldest first, each as the hash at the end of its key. If there are too many, the oldest is
    /// deleted.
    ///
    /// ```
    /// use tower_mysql_cache::store::VariantIndex;
    /// assert_eq!(VariantIndex::new(Vec::new(), vec![[7; 16]]).variants(), [[7; 16]]);
    /// ```
    #[must_use]
    pub fn variants(&self) -> &[[u8; 16]] {
        &self.variants
    }

    /// The memory that the index takes, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        const NAME: usize = size_of::<HeaderName>() + 48; // with its allocations
        let names: usize = self.names.iter().map(|name| NAME + name.as_str().len()).sum();
        let variants = size_of_val(self.variants.as_slice());
        size_of::<Self>() + names + variants + self.search.as_ref().map_or(0, Bytes::len)
    }
}

/// The data that is stored under one key.
///
/// ```
/// use tower_mysql_cache::store::Stored;
///
/// fn describe(stored: &Stored) -> String {
///     match stored {
///         Stored::Response(response) => format!("a response, {}", response.head.status),
///         Stored::Variants(index) => format!("{} variants", index.variants().len()),
///         _ => "something newer".to_owned(),
///     }
/// }
/// # let _ = describe;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Stored {
    /// A response.
    Response(StoredResponse),
    /// The target has variants, each of which has its own key.
    Variants(Arc<VariantIndex>),
}

impl Stored {
    /// An estimate of the bytes that this takes in memory or in the table: names, values and the body.
    ///
    /// ```
    /// use tower_mysql_cache::store::{Stored, VariantIndex};
    /// assert_eq!(Stored::Variants(VariantIndex::default().into()).size_bytes(), 128);
    /// ```
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        const FIXED: usize = 128; // for times, status and lengths
        match self {
            Self::Response(response) => {
                let head = &response.head;
                let fields = head.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 32);
                let tags = head.tags.iter().map(|tag| tag.as_bytes().len() + 32);
                let vary = head.vary.iter().map(|field| field.name.as_str().len() + 32);
                let parts: usize = fields.chain(tags).chain(vary).sum();
                FIXED + parts + head.position.gaps.len() * 16 + response.body.len()
            }
            Self::Variants(index) => {
                let names = index.names.iter().map(|name| name.as_str().len() + 32);
                FIXED
                    + names.sum::<usize>()
                    + index.variants.len() * 16
                    + index.search.as_ref().map_or(0, Bytes::len)
            }
        }
    }
}

/// The data that is stored under one key, for a request that may not need the body:
/// [`Entries::get_heads`](crate::store::Entries::get_heads).
///
/// ```
/// use tower_mysql_cache::store::{Stored, StoredOrHead};
///
/// fn body_bytes(found: &StoredOrHead) -> Option<u64> {
///     match found {
///         StoredOrHead::Stored(Stored::Response(response)) => Some(response.body.len() as u64),
///         StoredOrHead::Head { body_bytes, .. } => *body_bytes,
///         _ => None,
///     }
/// }
/// # let _ = body_bytes;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StoredOrHead {
    /// A response with its body, or an index.
    Stored(Stored),
    /// A response whose body was not read.
    Head {
        /// The head of the response.
        head: Arc<StoredHead>,
        /// The length of the body in bytes. `None` if the store would have to read the body to know it.
        body_bytes: Option<u64>,
    },
}

/// A new head for a stored response whose body does not change: [`Entries::freshen`](crate::store::Entries::freshen).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
/// use std::sync::Arc;
///
/// use http::{HeaderMap, StatusCode};
/// use tower_mysql_cache::MemoryStore;
/// use tower_mysql_cache::key::CacheKey;
/// use tower_mysql_cache::store::{Entries, Entry, HeadUpdate, Stored, StoredHead, StoredResponse};
///
/// let (store, key) = (MemoryStore::new(), CacheKey::new("shop:1:/ http://shop.example"));
/// let now_ms = store.now_ms();
/// let old = Arc::new(StoredHead::new(StatusCode::OK, HeaderMap::new(), now_ms));
/// let response = Stored::Response(StoredResponse::new(Arc::clone(&old), "hello".into()));
/// store.put(Entry::new(key.clone(), response, now_ms + 60_000)).await?;
///
/// let mut new = (*old).clone();
/// new.fresh_until_ms = now_ms + 60_000;
/// let update = HeadUpdate::new(key, old, Arc::new(new), now_ms + 60_000);
/// assert!(store.freshen(update.clone()).await?);
/// assert!(!store.freshen(update).await?); // the old head has been replaced
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HeadUpdate {
    /// The key of the response.
    pub key: crate::key::CacheKey,
    /// The head that the response must still have. If it was replaced meanwhile, the store changes nothing, because
    /// the new head would not fit the new body.
    pub old: Arc<StoredHead>,
    /// The new head.
    pub new: Arc<StoredHead>,
    /// When the entry expires, as in [`Entry`].
    pub expires_ms: u64,
}

impl HeadUpdate {
    /// Replaces the head `old` of the response under `key` by the head `new`.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tower_mysql_cache::key::CacheKey;
    /// use tower_mysql_cache::store::{HeadUpdate, StoredHead};
    ///
    /// /// Makes a stored response fresh for another minute.
    /// fn minute_more(key: CacheKey, old: Arc<StoredHead>, now_ms: u64) -> HeadUpdate {
    ///     let mut new = (*old).clone();
    ///     new.fresh_until_ms = now_ms + 60_000;
    ///     HeadUpdate::new(key, old, Arc::new(new), now_ms + 60_000)
    /// }
    /// # let _ = minute_more;
    /// ```
    #[must_use]
    pub fn new(
        key: crate::key::CacheKey,
        old: Arc<StoredHead>,
        new: Arc<StoredHead>,
        expires_ms: u64,
    ) -> Self {
        Self { key, old, new, expires_ms }
    }
}

/// An entry that a store writes.
///
/// ```
/// use tower_mysql_cache::key::CacheKey;
/// use tower_mysql_cache::store::{Entry, Stored, VariantIndex};
///
/// let index = Stored::Variants(VariantIndex::default().into());
/// let entry = Entry::new(CacheKey::new("shop:1:/ http://shop.example"), index, 1_700_000_060_000);
/// # let _ = entry;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Entry {
    /// The key of the entry.
    pub key: crate::key::CacheKey,
    /// The data.
    pub stored: Stored,
    /// When the entry expires, in milliseconds since the Unix epoch, by the store's clock. From then on, the store
    /// does not return the entry and may delete it.
    pub expires_ms: u64,
}

impl Entry {
    /// An entry with this key and data, which expires at `expires_ms`.
    ///
    /// ```
    /// use tower_mysql_cache::key::CacheKey;
    /// use tower_mysql_cache::store::{Entry, Stored};
    ///
    /// fn for_a_minute(key: CacheKey, stored: Stored, now_ms: u64) -> Entry {
    ///     Entry::new(key, stored, now_ms + 60_000)
    /// }
    /// # let _ = for_a_minute;
    /// ```
    #[must_use]
    pub fn new(key: crate::key::CacheKey, stored: Stored, expires_ms: u64) -> Self {
        Self { key, stored, expires_ms }
    }
}

/// A stored response, as returned by the handle's `inspect`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
/// # use tower_mysql_cache::{CacheLayer, MemoryStore};
/// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
/// for found in cache.inspect("https://shop.example/products").await? {
///     println!("{:?}: {:?}, fresh for {} s", found.key, found.validity, found.ttl_secs);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inspected {
    /// The key of the entry.
    pub key: CacheKey,
    /// Everything but the body: status, fields, times, tags, log position.
    pub head: Arc<StoredHead>,
    /// The length of the body in bytes.
    pub body_bytes: usize,
    /// Whether the invalidation log says that the response is valid.
    pub validity: Validity,
    /// For how many seconds the response is still fresh. Negative if it is stale.
    pub ttl_secs: i64,
}
