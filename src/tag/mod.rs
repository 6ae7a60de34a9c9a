//! Tags of stored responses, and the types of the invalidation log: log rows, log positions, and the log verdict on a
//! stored response.

mod position;
mod record;
mod scope;

use std::fmt;

use bytes::Bytes;

pub use position::LogPosition;
pub use record::{Invalidation, LogRecord, LogRow};
pub(crate) use record::{Subject, reason_of};
pub use scope::Scope;
pub(crate) use scope::{Implied, has_any_query, implied_by, paths_of, without_query};
#[cfg(feature = "mysql")]
pub(crate) use scope::{queries_of_path, uri_keys};

use crate::error::ConfigError;

/// A name for stored responses that are invalidated together. It is not a cache group (RFC 9875):
/// [`CachePolicy::tags`](crate::CachePolicy::tags) says the difference. A tag consists of 1 to [`Tag::MAX_BYTES`]
/// bytes of any value.
///
/// Tags belong to the data, not to one cache: all caches that share an invalidation log share its tags, whatever
/// their prefix.
///
/// ```
/// use tower_mysql_cache::invalidation::Tag;
/// let tag = Tag::from("product:7");
/// assert_eq!(tag.as_bytes(), b"product:7");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Bytes);

impl Tag {
    /// The maximum length of a tag, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Makes a tag of these bytes. The length is checked later, when an invalidation uses the tag or when the layer
    /// stores a response with it.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::Tag;
    /// assert_eq!(Tag::new("product:7"), Tag::from("product:7"));
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Bytes>) -> Self {
        Self(name.into())
    }

    /// The bytes of the tag.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::Tag;
    /// assert_eq!(Tag::from("product:7").as_bytes(), b"product:7");
    /// ```
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// Checks the length.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::Tag;
    ///
    /// assert!(Tag::new("product:7").check().is_ok());
    /// let error = Tag::new("").check().unwrap_err();
    /// assert!(error.to_string().contains("it must have 1 to 255 bytes"));
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] if the tag is empty or longer than [`Tag::MAX_BYTES`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let rule = "it must have 1 to 255 bytes";
        if self.0.is_empty() {
            return Err(ConfigError::new("tag", "", rule));
        }
        if self.0.len() > Self::MAX_BYTES {
            return Err(ConfigError::new("tag", self.0.escape_ascii().to_string(), rule));
        }
        Ok(())
    }
}

impl From<&str> for Tag {
    fn from(name: &str) -> Self {
        Self(Bytes::copy_from_slice(name.as_bytes()))
    }
}

impl From<&String> for Tag {
    fn from(name: &String) -> Self {
        Self::from(name.as_str())
    }
}

impl From<String> for Tag {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<&[u8]> for Tag {
    fn from(name: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(name))
    }
}

impl From<Vec<u8>> for Tag {
    fn from(name: Vec<u8>) -> Self {
        Self(name.into())
    }
}

impl From<&Tag> for Tag {
    fn from(tag: &Tag) -> Self {
        tag.clone()
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({})", self.0.escape_ascii())
    }
}

/// The log verdict: what the invalidation log says about a stored response.
///
/// ```
/// use tower_mysql_cache::invalidation::Validity;
///
/// // the stricter verdict is the greater one
/// assert_eq!(Validity::Valid.max(Validity::Invalid), Validity::Invalid);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Validity {
    /// No log row after the response's position names it.
    Valid,
    /// A *soft* invalidation names it: it counts as stale.
    Outdated,
    /// An invalidation names it: it is never served without revalidation, not even where a stale response may be
    /// served (RFC 9111 4.4).
    Invalid,
}
