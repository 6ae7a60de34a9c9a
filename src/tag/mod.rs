//! Tags of stored responses, and the words of the invalidation log: what a row names, where a response
//! stands, and what becomes of it.

mod position;
mod record;
mod scope;

use std::fmt;

use bytes::Bytes;

pub use position::LogPosition;
pub use record::{Invalidation, LogRecord, LogRow};
pub(crate) use record::{Subject, reason_of};
pub use scope::Scope;
pub(crate) use scope::{Implied, has_any_query, implied_by, of_path, path_of};
#[cfg(feature = "mysql")]
pub(crate) use scope::{homes, queries_of_path};

use crate::error::ConfigError;

/// A name shared by stored responses that are invalidated together: a *cache group* on the wire
/// (RFC 9875). Any bytes, 1 to [`Tag::MAX_BYTES`] of them. Tags belong to the data, not to one cache:
/// all caches that share a log share its tags, whatever their prefix.
///
/// ```
/// use tower_mysql_cache::Tag;
/// let tag = Tag::from("product:7");
/// assert_eq!(tag.as_bytes(), b"product:7");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Bytes);

impl Tag {
    /// The longest tag, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// A tag of these bytes. Whether it has a length that a tag may have is checked where it is used:
    /// by the invalidation that names it, and by the layer when it is to store a response with it.
    #[must_use]
    pub fn new(name: impl Into<Bytes>) -> Self {
        Self(name.into())
    }

    /// The bytes of the tag.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// Checks the length.
    ///
    /// # Errors
    /// [`ConfigError`] for an empty tag and for one of more than [`Tag::MAX_BYTES`].
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.0.is_empty() {
            return Err(ConfigError::new("tag", "", "it must have at least one byte"));
        }
        if self.0.len() > Self::MAX_BYTES {
            let rule = "it must have at most 255 bytes";
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

/// What the log says about a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Validity {
    /// Nothing that names it came after its position.
    Valid,
    /// Something *soft* did: it counts as stale.
    Outdated,
    /// Something did: it is not served without validation, by nobody and under no permission
    /// (RFC 9111 4.4).
    Invalid,
}
