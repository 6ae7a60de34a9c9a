//! The target of a request, and the hook by which an application chooses its own keys.

use std::fmt::Write as _;

use bytes::{BufMut, Bytes, BytesMut};
use http::request::Parts;

use super::parts::{escape, normalised, without_default_port};
use super::{SEPARATOR, hash_values, hash128, shorten};

/// A path with its query is shortened to this many bytes. With the limits of the other parts, a key stays under
/// 1,024 bytes. So all keys of one target are in one range, even if the target is longer.
pub(super) const MAX_TARGET_BYTES: usize = 480;

/// What a request asks for: the target URI, or a custom key of the application, and its partitions. Requests with
/// different target keys never share an entry.
///
/// ```
/// use tower_mysql_cache::key::TargetKey;
///
/// let home = TargetKey::custom("home").partition("locale", "de");
/// assert_ne!(home, TargetKey::custom("home").partition("locale", "fr"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetKey {
    pub(super) target: Target,
    pub(super) partition: Vec<u8>,
    spelling: Spelling,
    /// The request's URI, if the target is a custom key.
    request_uri: Option<Box<TargetKey>>,
}

/// Hashes of the path and the query as the client sent them, if they differ from the normal spelling.
///
/// A router may distinguish spellings of one URI (`/p/%37` and `/p/7`), so each spelling has its own entries. An
/// invalidation of one spelling invalidates all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spelling {
    path: Option<[u8; 16]>,
    query: Option<[u8; 16]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Uri { path_and_query: Bytes, origin: Bytes },
    Custom(Bytes),
}

impl TargetKey {
    /// A key that the application chooses instead of the URI. Any bytes are allowed. A custom key is never equal to
    /// the key of a URI.
    ///
    /// The entry belongs to the URI of the request that filled it: an invalidation of this URI, or of a path above
    /// it, invalidates the entry too.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// use tower_mysql_cache::key::TargetKey;
    /// use tower_mysql_cache::{CacheLayer, MemoryStore};
    ///
    /// // one entry for the start page, whatever the URI says
    /// let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").key_builder(
    ///     |request: &http::request::Parts, default: TargetKey| match request.uri.path() {
    ///         "/" | "/index.html" => Some(TargetKey::custom("start")),
    ///         _ => Some(default),
    ///     },
    /// );
    /// cache.handle().invalidate_key(&TargetKey::custom("start")).await?;
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn custom(key: impl AsRef<[u8]>) -> Self {
        let key = shorten(escape(key.as_ref()).into(), MAX_TARGET_BYTES);
        Self::of(Target::Custom(key))
    }

    /// Divides the entries of a target: requests with different partitions get different entries. Examples are
    /// `("tenant", "acme")` and `("locale", "de")`. Any bytes are allowed. A key can have several partitions, and
    /// their order matters.
    ///
    /// The name says what the value means. So two releases that partition by different things share no entry.
    ///
    /// Name and value are readable in the table's `cache_key` column. Do not put a secret there. A secret belongs in
    /// a cookie or in `Authorization`; the policy can add a hash of them to the key
    /// ([`Cookies::Key`](crate::Cookies::Key), [`Authorization::Key`](crate::policy::Authorization::Key)).
    ///
    /// ```
    /// use tower_mysql_cache::key::TargetKey;
    /// use tower_mysql_cache::{CacheLayer, MemoryStore};
    ///
    /// // requests without a tenant bypass the cache
    /// let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").key_builder(
    ///     |request: &http::request::Parts, default: TargetKey| {
    ///         let tenant = request.headers.get("x-tenant")?;
    ///         Some(default.partition("tenant", tenant))
    ///     },
    /// );
    /// # let _ = cache;
    /// ```
    #[must_use]
    pub fn partition(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        if !self.partition.is_empty() {
            self.partition.push(b',');
        }
        for byte in escape(name.as_ref()) {
            match byte {
                b'=' => self.partition.extend_from_slice(b"%3d"),
                _ => self.partition.push(byte),
            }
        }
        self.partition.push(b'=');
        self.partition.extend_from_slice(&escape(value.as_ref()));
        self
    }

    /// Scheme and authority of the request's URI, if it has them.
    pub(crate) fn origin(&self) -> Option<(&str, &str)> {
        std::str::from_utf8(self.origin_bytes()?).ok()?.split_once("://")
    }

    pub(super) fn origin_bytes(&self) -> Option<&Bytes> {
        match &self.target {
            Target::Uri { origin, .. } => Some(origin),
            Target::Custom(_) => self.request_uri.as_ref()?.origin_bytes(),
        }
    }

    /// The hash of the spelling that the client sent, if it is not the normal one.
    pub(super) fn spelling(&self) -> Option<[u8; 16]> {
        let Spelling { path, query } = &self.spelling;
        let hashes = [path, query].map(|hash| hash.as_ref().map(|hash| &hash[..]));
        (self.spelling != Spelling::default()).then(|| hash_values(hashes))
    }

    /// The request's URI, if the target is a custom key.
    pub(super) fn request_uri(&self) -> Option<&Self> {
        self.request_uri.as_deref()
    }

    /// `false` for a custom key.
    pub(crate) fn is_uri(&self) -> bool {
        matches!(self.target, Target::Uri { .. })
    }

    /// Notes the request's URI in a custom key.
    pub(super) fn with_request_uri(mut self, uri: &Self) -> Self {
        self.request_uri = (!self.is_uri()).then(|| Box::new(uri.clone()));
        self
    }

    /// The same target with `https` instead of `http`, or `http` instead of `https`. `None` without an origin.
    pub(super) fn with_other_scheme(&self) -> Option<Self> {
        let (scheme, authority) = self.origin()?;
        let other = if scheme == "http" { "https" } else { "http" };
        let new = Bytes::from(format!("{other}://{}", without_default_port(other, authority)));
        let mut target = self.clone();
        match &mut target.target {
            Target::Uri { origin, .. } => *origin = new,
            Target::Custom(_) => {
                target.request_uri = target.request_uri?.with_other_scheme().map(Box::new);
            }
        }
        Some(target)
    }

    /// The same target with another query; `query` begins with its question mark. Unchanged if path and query
    /// together would be too long.
    pub(crate) fn with_query(&self, path: &str, query: &str) -> Self {
        let mut target = self.clone();
        if let Target::Uri { path_and_query, .. } = &mut target.target
            && path.len() + query.len() < MAX_TARGET_BYTES
        {
            *path_and_query = format!("{path}{query}").into();
            target.spelling.query = None;
        }
        target
    }

    /// The target, and the beginning of its key, in one buffer.
    pub(super) fn in_key(
        (prefix, version): (&str, u32),
        path_and_query: &str,
        (scheme, host): (&str, &str),
    ) -> (Self, Bytes) {
        let normal = normalised(path_and_query);
        let spelling = Spelling::between(path_and_query, &normal);
        let mut path = normal.as_bytes();
        let short;
        if path.len() >= MAX_TARGET_BYTES {
            short = shorten(Bytes::copy_from_slice(path), MAX_TARGET_BYTES);
            path = &short;
        }
        const VERSION: usize = 10; // digits
        const PUNCTUATION: usize = 2 + 1 + 3;
        let parts = prefix.len() + path.len() + scheme.len() + host.len();
        let mut key = BytesMut::with_capacity(parts + VERSION + PUNCTUATION);
        let _ = write!(key, "{prefix}:{version}:");
        let path_from = key.len();
        key.extend_from_slice(path);
        let path_to = key.len();
        key.put_u8(SEPARATOR);
        for part in [scheme, "://", host] {
            key.extend_from_slice(part.as_bytes());
        }
        let key = key.freeze();
        let (path_and_query, origin) = (key.slice(path_from..path_to), key.slice(path_to + 1..));
        let target = Target::Uri { path_and_query, origin };
        (Self { spelling, ..Self::of(target) }, key)
    }

    /// Whether its key is the one that begins with the target and ends there.
    pub(super) fn is_plain(&self) -> bool {
        self.partition.is_empty() && self.spelling == Spelling::default()
    }

    pub(super) fn uri(path_and_query: &str, origin: String) -> Self {
        let normal = normalised(path_and_query);
        let spelling = Spelling::between(path_and_query, &normal);
        let path_and_query = shorten(Bytes::copy_from_slice(normal.as_bytes()), MAX_TARGET_BYTES);
        let target = Target::Uri { path_and_query, origin: origin.into() };
        Self { spelling, ..Self::of(target) }
    }

    fn of(target: Target) -> Self {
        Self { target, partition: Vec::new(), spelling: Spelling::default(), request_uri: None }
    }
}

impl Spelling {
    fn between(sent: &str, normal: &str) -> Self {
        if sent == normal {
            return Self::default();
        }
        let (path, query) = sent.split_once('?').unwrap_or((sent, ""));
        let (normal_path, normal_query) = normal.split_once('?').unwrap_or((normal, ""));
        let hash = |sent: &str, normal| (sent != normal).then(|| hash128(sent.as_bytes()));
        Self { path: hash(path, normal_path), query: hash(query, normal_query) }
    }
}

/// Chooses the key of a request, for [`CacheLayer::key_builder`](crate::CacheLayer::key_builder).
///
/// Closures with the same parameters are key builders too. The layer also calls the builder for unsafe methods, to
/// find out which entry the request invalidates.
///
/// ```
/// use http::request::Parts;
/// use tower_mysql_cache::key::{KeyBuilder, TargetKey};
/// use tower_mysql_cache::{CacheLayer, MemoryStore};
///
/// /// One entry per language; no cache for the languages that the shop does not have.
/// struct ByLanguage(&'static [&'static str]);
///
/// impl KeyBuilder for ByLanguage {
///     fn build(&self, request: &Parts, default: TargetKey) -> Option<TargetKey> {
///         let language = request.uri.path().split('/').nth(1)?;
///         self.0.contains(&language).then(|| default.partition("language", language))
///     }
/// }
///
/// let cache = CacheLayer::new(MemoryStore::new()).key_builder(ByLanguage(&["de", "fr"]));
/// # let _ = cache;
/// ```
pub trait KeyBuilder: Send + Sync + 'static {
    /// The key of `request`, or `None` to bypass the cache. `default` is the key that the layer would use.
    fn build(&self, request: &Parts, default: TargetKey) -> Option<TargetKey>;
}

impl<F> KeyBuilder for F
where
    F: Fn(&Parts, TargetKey) -> Option<TargetKey> + Send + Sync + 'static,
{
    fn build(&self, request: &Parts, default: TargetKey) -> Option<TargetKey> {
        self(request, default)
    }
}
