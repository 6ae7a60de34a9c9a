//! What a store holds: a response, or the index of a target's variants.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};

use crate::tag::{LogPosition, Tag};

/// Everything of a stored response but its body. Times are in milliseconds since the Unix epoch, on
/// the store's own clock.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct StoredHead {
    /// The status code.
    pub status: StatusCode,
    /// The header fields as received, without those that concern a single connection
    /// (RFC 9111 3.1).
    pub headers: HeaderMap,
    /// When the request was sent inside (`request_time` of RFC 9111 4.2.3).
    pub requested_ms: u64,
    /// When the response's head came back (`response_time` of RFC 9111 4.2.3).
    pub received_ms: u64,
    /// The response's age when it came back, in milliseconds (`corrected_initial_age` of
    /// RFC 9111 4.2.3).
    pub initial_age_ms: u64,
    /// The first moment at which the response is stale.
    pub fresh_until_ms: u64,
    /// How long the handler took, in milliseconds.
    pub gen_ms: u32,
    /// The response itself, or the application's override, says that it may be shared even where the
    /// request carries credentials.
    pub shared: bool,
    /// The request's header fields that `Vary` nominates, each as a hash of its value: the secondary
    /// key (RFC 9111 4.1). Empty without `Vary`.
    pub vary: Vec<SelectingField>,
    /// The tags of the response.
    pub tags: Vec<Tag>,
    /// Where the invalidation log stood before the handler ran.
    pub position: LogPosition,
}

impl StoredHead {
    /// A head of a response that was requested and received at this moment, in milliseconds since the Unix epoch. It is
    /// stale from then on and has no tags; the other fields can be set.
    ///
    /// ```
    /// use http::{HeaderMap, StatusCode};
    /// use tower_mysql_cache::StoredHead;
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
        }
    }
}

/// A request header field that selects a variant: a name, and 128 bits of hash over its normalised
/// value, or `None` where the request did not have it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SelectingField {
    /// The field's name.
    pub name: HeaderName,
    /// The hash of its value, `None` when absent (absent matches only absent).
    pub value: Option<[u8; 16]>,
}

impl SelectingField {
    /// A field with the hash of its value.
    #[must_use]
    pub fn new(name: HeaderName, value: Option<[u8; 16]>) -> Self {
        Self { name, value }
    }
}

/// A stored response. Cheap to clone: a shared head and a handle on the body.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct StoredResponse {
    /// Everything but the body.
    pub head: Arc<StoredHead>,
    /// The complete body.
    pub body: Bytes,
}

impl StoredResponse {
    /// A response with a complete body.
    #[must_use]
    pub fn new(head: impl Into<Arc<StoredHead>>, body: Bytes) -> Self {
        Self { head: head.into(), body }
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

/// What responses vary on, stored beside them: the names that have been seen in `Vary` for one target,
/// whose responses are stored one for each combination of these request header fields; or, for a path,
/// which parts of a query tell its responses apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VariantIndex {
    /// The names, sorted, without repeats.
    pub(crate) names: Vec<HeaderName>,
    /// The variants stored under these names, each by the hash that ends its key, the oldest first:
    /// so that the oldest can go when there are too many.
    pub variants: Vec<[u8; 16]>,
    /// The `No-Vary-Search` field of the path's responses, where this is the index of a path.
    pub search: Option<Bytes>,
}

impl VariantIndex {
    /// An index of these variants, under these names. The names are sorted here, and repeats removed.
    #[must_use]
    pub fn new(mut names: Vec<HeaderName>, variants: Vec<[u8; 16]>) -> Self {
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        Self { names, variants, search: None }
    }

    /// The names, sorted, without repeats.
    #[must_use]
    pub fn names(&self) -> &[HeaderName] {
        &self.names
    }

    /// Bytes of memory that this takes up.
    pub(crate) fn held_bytes(&self) -> usize {
        const NAME: usize = size_of::<HeaderName>() + 48; // with its allocations
        let names: usize = self.names.iter().map(|name| NAME + name.as_str().len()).sum();
        let variants = size_of_val(self.variants.as_slice());
        size_of::<Self>() + names + variants + self.search.as_ref().map_or(0, Bytes::len)
    }
}

/// What one key leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// A response.
    Response(StoredResponse),
    /// The target has variants; each is stored under a key of its own.
    Variants(Arc<VariantIndex>),
}

impl Stored {
    /// The memory or column bytes that this takes up, roughly: names, values and the body.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        const FIXED: usize = 128; // times, status, lengths
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

/// What one key leads to, for a request that may need no body: [`Entries::get_heads`](crate::Entries::get_heads).
#[derive(Clone, Debug, PartialEq)]
pub enum StoredOrHead {
    /// With its body.
    Stored(Stored),
    /// A response whose body was not read.
    Head {
        /// Everything but the body.
        head: Arc<StoredHead>,
        /// The length of the body, where the store knows that without reading it.
        body_bytes: Option<u64>,
    },
}

/// A new head for a stored response whose body stays as it is.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HeadUpdate {
    /// The key.
    pub key: crate::key::CacheKey,
    /// The head that the response has now. If it has another by the time of the update, because it was
    /// replaced meanwhile, nothing changes: the new head would not belong to that body.
    pub old: Arc<StoredHead>,
    /// The head that it gets.
    pub new: Arc<StoredHead>,
    /// When the entry may be removed, as in [`Entry`].
    pub expires_ms: u64,
}

impl HeadUpdate {
    /// The update of the response under `key` from the head `old` to the head `new`.
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

/// A row to be: what to store, where, and until when.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Entry {
    /// The key.
    pub key: crate::key::CacheKey,
    /// What it leads to.
    pub stored: Stored,
    /// When the entry may be removed, in milliseconds since the Unix epoch on the store's clock. From
    /// this moment on no store returns it.
    pub expires_ms: u64,
}

impl Entry {
    /// What to store under `key`, until `expires_ms`.
    #[must_use]
    pub fn new(key: crate::key::CacheKey, stored: Stored, expires_ms: u64) -> Self {
        Self { key, stored, expires_ms }
    }
}
