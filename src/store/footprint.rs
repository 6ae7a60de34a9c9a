//! What an entry takes of a process's memory.

use std::mem::size_of;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};

use crate::key::CacheKey;
use crate::stored::{SelectingField, Stored, StoredHead, StoredResponse};
use crate::tag::Tag;

/// A body of this size or more is not copied: what it may be a slice of is not many times larger.
const WORTH_SHARING: usize = 64 << 10;

/// What a [`HeaderMap`] holds for each name it has room for, and for each further line of a name.
const FIELD: usize = 104;
const LINE: usize = 112;

/// What the maps of a store in memory add for each entry. Measured, with the release of `moka` and the allocator of
/// glibc: `tests/memory.rs` holds the sum against the memory of a process.
const MAPS: usize = 640;

/// The same in memory of its own. What comes from a connection is often a slice of a much larger buffer, which would
/// stay in memory as long as the slice.
pub(super) fn owned(stored: Stored) -> Stored {
    let Stored::Response(StoredResponse { head, body }) = stored else { return stored };
    let body = if body.len() < WORTH_SHARING { Bytes::copy_from_slice(&body) } else { body };
    Stored::Response(StoredResponse { head: owned_head(&head), body })
}

/// The same in memory of its own.
pub(super) fn owned_head(head: &StoredHead) -> Arc<StoredHead> {
    let mut copy = Copy::of(head);
    let mut headers = HeaderMap::with_capacity(head.headers.keys_len());
    for (name, value) in &head.headers {
        let mut owned = HeaderValue::from_maybe_shared(copy.next(value.as_bytes()));
        if let Ok(owned) = &mut owned {
            owned.set_sensitive(value.is_sensitive());
        }
        headers.append(name.clone(), owned.unwrap_or_else(|_| value.clone()));
    }
    let tags = head.tags.iter().map(|tag| Tag::new(copy.next(tag.as_bytes()))).collect();
    let (vary, position) = (head.vary.clone(), head.position.clone());
    Arc::new(StoredHead { headers, tags, vary, position, ..*head })
}

/// The values of a head, one after the other, in one buffer.
struct Copy(Bytes);

impl Copy {
    fn of(head: &StoredHead) -> Self {
        let parts = || {
            let values = head.headers.values().map(HeaderValue::as_bytes);
            values.chain(head.tags.iter().map(Tag::as_bytes))
        };
        let mut copy = BytesMut::with_capacity(parts().map(<[u8]>::len).sum());
        parts().for_each(|part| copy.extend_from_slice(part));
        Self(copy.freeze())
    }

    /// The part that is as long as this one.
    fn next(&mut self, part: &[u8]) -> Bytes {
        self.0.split_to(part.len())
    }
}

/// The bytes that an entry takes up with its places in the maps of a store.
pub(super) fn footprint(key: &CacheKey, stored: &Stored) -> usize {
    let held = match stored {
        Stored::Response(response) => head(&response.head) + shared(response.body.len()),
        Stored::Variants(index) => index.held_bytes(),
    };
    MAPS + shared(key.as_bytes().len()) + held
}

fn head(head: &StoredHead) -> usize {
    let StoredHead { headers, vary, tags, position, .. } = head;
    let places = headers.capacity();
    let lines = headers.len().saturating_sub(headers.keys_len());
    let names: usize = headers.keys().map(|name| shared(name.as_str().len())).sum();
    let values: usize = headers.values().map(HeaderValue::len).sum();
    let tagged: usize = tags.iter().map(|tag| tag.as_bytes().len()).sum();
    let selecting: usize = vary.iter().map(|field| shared(field.name.as_str().len())).sum();
    block(2 * size_of::<usize>() + size_of::<StoredHead>())
        + block(places * FIELD)
        + block(places.next_power_of_two() * 4)
        + lines * LINE
        + names
        + shared(values + tagged)
        + block(size_of_val(tags.as_slice()))
        + block(vary.len() * size_of::<SelectingField>())
        + selecting
        + block(size_of_val(position.gaps.as_slice()))
}

/// Bytes that are shared by reference: the allocation, and that of the count.
fn shared(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { block(bytes) + block(3 * size_of::<usize>()) }
}

/// What an allocator takes for so many bytes.
fn block(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16).max(32) }
}
