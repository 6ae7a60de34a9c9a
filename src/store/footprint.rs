//! How much memory does an entry take?

use std::mem::size_of;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};

use crate::key::CacheKey;
use crate::stored::{SelectingField, Stored, StoredHead, StoredResponse};
use crate::tag::Tag;

/// A body of this size or more is not copied, because the buffer behind it is not many times larger.
const WORTH_SHARING: usize = 64 << 10;

/// Bytes that a [`HeaderMap`] holds for each name it has room for, and for each further value of a name.
const FIELD: usize = 104;
const LINE: usize = 112;

/// Bytes that the maps of a store in memory add for each entry. Measured with the version of `moka` in use and
/// glibc's allocator: `tests/memory.rs` compares the sum with the memory of a process.
const MAPS: usize = 640;

/// A copy with its own memory. Values from a connection are often slices of a much larger buffer, which would stay in
/// memory.
pub(super) fn owned(stored: Stored) -> Stored {
    let Stored::Response(StoredResponse { head, body, is_compact }) = stored else { return stored };
    let body = match is_compact || body.len() >= WORTH_SHARING {
        true => body,
        false => Bytes::copy_from_slice(&body),
    };
    Stored::Response(StoredResponse::compact(owned_head(&head), body))
}

/// The same for a head.
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

/// The values of a head, in one buffer.
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

    /// The next part, of the same length as `part`.
    fn next(&mut self, part: &[u8]) -> Bytes {
        self.0.split_to(part.len())
    }
}

/// The bytes of an entry, with its places in the maps of a store.
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

/// Bytes of a reference-counted allocation.
fn shared(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { block(bytes) + block(3 * size_of::<usize>()) }
}

/// Bytes that an allocator takes for this size.
fn block(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16).max(32) }
}
