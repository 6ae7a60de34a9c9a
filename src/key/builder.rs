//! What a request asks for, and hooks that say so.

use bytes::Bytes;
use http::request::Parts;

use super::parts::{escape, without_default_port};
use super::{CacheKey, shorten};

/// Bytes of path and query kept as they are. With the other parts' limits, a key stays under 1,024 bytes,
/// and all keys of one target lie in one range even when the target is longer.
pub(super) const MAX_TARGET_BYTES: usize = 480;

/// What a request asks for, as the cache tells requests apart: the target URI, or a key of the
/// application's own, and any partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetKey {
    pub(super) target: Target,
    pub(super) partition: Vec<u8>,
    /// Of the request's URI, where the target is not one.
    home: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Uri { path_and_query: Bytes, origin: Bytes },
    Custom(Bytes),
}

impl TargetKey {
    /// A key of the application's own in place of the URI. Any bytes; it can never be confused with
    /// a URI's key.
    #[must_use]
    pub fn custom(key: impl AsRef<[u8]>) -> Self {
        let key = shorten(escape(key.as_ref()).into(), MAX_TARGET_BYTES);
        Self { target: Target::Custom(key), partition: Vec::new(), home: None }
    }

    /// Adds something that tells requests for one target apart: `("tenant", "acme")`, `("locale", "de")`. The
    /// name says what the value means, so that two releases that partition by different things share no entry.
    /// Any bytes. May be called several times; the order counts.
    ///
    /// Name and value are readable in the table's `cache_key` column. A secret belongs in a cookie or in
    /// `Authorization`, which the policy can add to the key as a hash
    /// ([`Cookies::Key`](crate::Cookies::Key), [`Authorization::Key`](crate::Authorization::Key)).
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

    /// Scheme and authority of the request's URI, where it has them.
    pub(crate) fn origin(&self) -> Option<(&str, &str)> {
        std::str::from_utf8(self.origin_bytes()?).ok()?.split_once("://")
    }

    pub(super) fn origin_bytes(&self) -> Option<&Bytes> {
        match &self.target {
            Target::Uri { origin, .. } => Some(origin),
            Target::Custom(_) => self.home.as_ref(),
        }
    }

    /// Whether it is a URI's, not one of the application's own.
    pub(crate) fn is_uri(&self) -> bool {
        matches!(self.target, Target::Uri { .. })
    }

    /// The same, of a request to where `other` is.
    pub(super) fn at_home_with(mut self, other: &Self) -> Self {
        self.home = other.origin_bytes().cloned();
        self
    }

    /// The same under https where this is under http, and the other way round.
    pub(super) fn with_other_scheme(&self) -> Option<Self> {
        let (scheme, authority) = self.origin()?;
        let other = if scheme == "http" { "https" } else { "http" };
        let new = Bytes::from(format!("{other}://{}", without_default_port(other, authority)));
        let mut target = self.clone();
        match &mut target.target {
            Target::Uri { origin, .. } => *origin = new,
            Target::Custom(_) => target.home = Some(new),
        }
        Some(target)
    }

    /// The same with another query; `query` holds its question mark. As it is where that would be too long to be
    /// kept whole.
    pub(crate) fn with_query(&self, path: &str, query: &str) -> Self {
        let mut target = self.clone();
        if let Target::Uri { path_and_query, .. } = &mut target.target
            && path.len() + query.len() < MAX_TARGET_BYTES
        {
            *path_and_query = format!("{path}{query}").into();
        }
        target
    }

    pub(super) fn uri(path_and_query: &str, origin: String) -> Self {
        let path_and_query = Bytes::copy_from_slice(path_and_query.as_bytes());
        let path_and_query = shorten(path_and_query, MAX_TARGET_BYTES);
        Self {
            target: Target::Uri { path_and_query, origin: origin.into() },
            partition: Vec::new(),
            home: None,
        }
    }
}

/// Builds the key of a request: a hook for keys of the application's own.
///
/// Closures of the same shape are key builders too. For unsafe methods the builder is asked as well,
/// to find out what the request invalidates.
pub trait KeyBuilder: Send + Sync + 'static {
    /// The key of `request`, given the one that the layer would use, or `None` to bypass the cache.
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

/// A target whose query may matter less than it seems (`No-Vary-Search`).
#[derive(Clone, Debug)]
pub(crate) struct Search {
    /// Where the index of the path on its origin, in its partition, is stored.
    pub(crate) index: CacheKey,
    /// Where the latest of them all is: for those who name a path only.
    pub(crate) anywhere: CacheKey,
    pub(crate) path: String,
    pub(crate) query: String,
}
