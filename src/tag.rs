//! Tags of a stored response and its position in the invalidation log.

use bytes::Bytes;

/// A name shared by stored responses that are invalidated together: a *cache group* on the wire
/// (RFC 9875). Any bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Bytes);

impl Tag {
    /// A tag of these bytes.
    #[must_use]
    pub fn new(name: impl Into<Bytes>) -> Self {
        Self(name.into())
    }

    /// The bytes of the tag.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Where in the invalidation log a response stands: everything up to `largest` was seen before its
/// handler ran, but for the ids in `gaps`, which were handed out and not yet committed.
///
/// Responses carry it from the moment they are made, so that rows written by one release can be
/// judged by the next. The default position, `0` without gaps, is older than every invalidation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// The largest id seen.
    pub largest: u64,
    /// Ids below `largest` that were not visible, in ascending order, at most
    /// [`LogPosition::MAX_GAPS`].
    pub gaps: Vec<u64>,
}

impl LogPosition {
    /// How many gaps a position can hold.
    pub const MAX_GAPS: usize = 64;
}
