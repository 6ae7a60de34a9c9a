//! What a request asks for, and hooks that say so.

use std::borrow::Cow;

use bytes::Bytes;
use http::request::Parts;

use super::parts::{escape, normalised, without_default_port};
use super::{hash_values, hash128, shorten};

/// Bytes of path and query kept whole. With the other parts' limits, a key stays under 1,024 bytes,
/// and all keys of one target lie in one range even when the target is longer.
pub(super) const MAX_TARGET_BYTES: usize = 480;

/// What a request asks for, as the cache tells requests apart: the target URI, or a key of the
/// application's own, and any partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetKey {
    pub(super) target: Target,
    pub(super) partition: Vec<u8>,
    spelling: Spelling,
    /// The request's own URI, where the target is not one.
    home: Option<Box<TargetKey>>,
}

/// Hashes of the path and the query as they were sent, where that is not the normal spelling. A router may tell
/// spellings of one URI apart, so each has entries of its own; and whatever names one of them names all.
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
    /// A key of the application's own in place of the URI. Any bytes; it can never be confused with
    /// a URI's key.
    ///
    /// The entry is still named by the URI of the request that filled it, in invalidations by URI and by path.
    #[must_use]
    pub fn custom(key: impl AsRef<[u8]>) -> Self {
        let key = shorten(escape(key.as_ref()).into(), MAX_TARGET_BYTES);
        Self::of(Target::Custom(key))
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
            Target::Custom(_) => self.home.as_ref()?.origin_bytes(),
        }
    }

    /// The hash of the spelling that was sent, where it is not the normal one.
    pub(super) fn spelling(&self) -> Option<[u8; 16]> {
        let Spelling { path, query } = &self.spelling;
        let hashes = [path, query].map(|hash| hash.as_ref().map(|hash| &hash[..]));
        (self.spelling != Spelling::default()).then(|| hash_values(hashes))
    }

    /// The request's own URI, where the target is not one.
    pub(super) fn home(&self) -> Option<&Self> {
        self.home.as_deref()
    }

    /// Whether it is a URI's, not one of the application's own.
    pub(crate) fn is_uri(&self) -> bool {
        matches!(self.target, Target::Uri { .. })
    }

    /// The same, of a request to where `other` is.
    pub(super) fn at_home_with(mut self, other: &Self) -> Self {
        self.home = (!self.is_uri()).then(|| Box::new(other.clone()));
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
            Target::Custom(_) => target.home = target.home?.with_other_scheme().map(Box::new),
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
            target.spelling.query = None;
        }
        target
    }

    pub(super) fn uri(path_and_query: &str, origin: String) -> Self {
        let normal = normalised(path_and_query);
        let spelling = match &normal {
            Cow::Borrowed(_) => Spelling::default(),
            Cow::Owned(normal) => Spelling::of(path_and_query, normal),
        };
        let path_and_query = shorten(Bytes::copy_from_slice(normal.as_bytes()), MAX_TARGET_BYTES);
        let target = Target::Uri { path_and_query, origin: origin.into() };
        Self { spelling, ..Self::of(target) }
    }

    fn of(target: Target) -> Self {
        Self { target, partition: Vec::new(), spelling: Spelling::default(), home: None }
    }
}

impl Spelling {
    fn of(sent: &str, normal: &str) -> Self {
        let (path, query) = sent.split_once('?').unwrap_or((sent, ""));
        let (normal_path, normal_query) = normal.split_once('?').unwrap_or((normal, ""));
        let hash = |sent: &str, normal| (sent != normal).then(|| hash128(sent.as_bytes()));
        Self { path: hash(path, normal_path), query: hash(query, normal_query) }
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
