//! What is in the `head` column? A stored response without its body, or the index of a target's variants.
//!
//! Version 1, in this order (integers little-endian, `len` is LEB128):
//!
//! | bytes | meaning |
//! |---|---|
//! | u8 | version, 1 |
//! | u8 | kind: 1 response, 2 index of variants |
//! | u64 | `expires` as written |
//! | | **kind 1:** |
//! | u16, u8 | status, flags (bit 0: may be shared; bits 1 and 2: the two windows below are given) |
//! | 4 x u64, u32 | requested, received, initial age, fresh until; how long it took to make (ms) |
//! | len, then each: len name, len value | header fields in order, repeats as fields of their own |
//! | len, then each: len name, u8, 16 bytes if that is 1 | selecting header fields |
//! | len, then each: len tag | tags |
//! | u64, len, then each: 2 x u64 | log position: largest id, gaps from first to last id |
//! | u64 if given, u64 if given | the override's `stale-while-revalidate` and `stale-if-error` (ms) |
//! | | **kind 2:** |
//! | len, then each: len name | the names |
//! | len, then each: 16 bytes | the variants, the oldest first |
//! | u8, len field if that is 1 | the `No-Vary-Search` of a path |
//! | u32 | CRC-32 over the cache key and all bytes before |
//! The checksum includes the key, so that a head in the row of another key is unreadable.

use bytes::{BufMut, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::wire::{CRC_BYTES, Reader, crc32, put_bytes, put_len};
use crate::stored::{SelectingField, StoredHead, VariantIndex};
use crate::tag::{LogPosition, Tag};

/// The version that this release writes and reads.
pub(super) const VERSION: u8 = 1;
/// Bytes before the content of a head: version, kind, expiry. `sql/mod.rs` depends on this.
pub(super) const CONTENT_FROM: usize = 1 + 1 + 8;
const RESPONSE: u8 = 1;
const VARIANTS: u8 = 2;
const SHARED: u8 = 1;
const WHILE_REVALIDATE: u8 = 2;
const IF_ERROR: u8 = 4;

/// The content of a head column.
#[derive(Debug, PartialEq)]
pub(super) enum Head {
    Response(StoredHead),
    Variants(VariantIndex),
}

pub(super) fn encode_response(key: &[u8], head: &StoredHead, expires_ms: u64) -> Vec<u8> {
    let mut out = start(RESPONSE, expires_ms);
    out.put_u16_le(head.status.as_u16());
    out.put_u8(flags(head));
    for time in [head.requested_ms, head.received_ms, head.initial_age_ms, head.fresh_until_ms] {
        out.put_u64_le(time);
    }
    out.put_u32_le(head.gen_ms);
    put_len(&mut out, head.headers.len());
    for (name, value) in &head.headers {
        put_bytes(&mut out, name.as_str().as_bytes());
        put_bytes(&mut out, value.as_bytes());
    }
    put_len(&mut out, head.vary.len());
    for field in &head.vary {
        put_bytes(&mut out, field.name.as_str().as_bytes());
        out.put_u8(u8::from(field.value.is_some()));
        out.extend_from_slice(field.value.as_ref().map_or(&[][..], |hash| &hash[..]));
    }
    put_len(&mut out, head.tags.len());
    for tag in &head.tags {
        put_bytes(&mut out, tag.as_bytes());
    }
    out.put_u64_le(head.position.largest);
    put_len(&mut out, head.position.gaps.len());
    for (from, to) in &head.position.gaps {
        out.put_u64_le(*from);
        out.put_u64_le(*to);
    }
    for window in [head.stale_while_revalidate_ms, head.stale_if_error_ms].into_iter().flatten() {
        out.put_u64_le(window);
    }
    finish(out, key)
}

fn flags(head: &StoredHead) -> u8 {
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    flag(head.shared, SHARED)
        | flag(head.stale_while_revalidate_ms.is_some(), WHILE_REVALIDATE)
        | flag(head.stale_if_error_ms.is_some(), IF_ERROR)
}

/// The head column of a variant index.
pub(super) fn encode_variants(key: &[u8], index: &VariantIndex, expires_ms: u64) -> Vec<u8> {
    let mut out = start(VARIANTS, expires_ms);
    put_len(&mut out, index.names.len());
    for name in &index.names {
        put_bytes(&mut out, name.as_str().as_bytes());
    }
    put_len(&mut out, index.variants.len());
    for variant in &index.variants {
        out.extend_from_slice(variant);
    }
    out.put_u8(u8::from(index.search.is_some()));
    if let Some(search) = &index.search {
        put_bytes(&mut out, search);
    }
    finish(out, key)
}

fn start(kind: u8, expires_ms: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(512); // a typical head; measured: 300 to 600 bytes
    out.put_u8(VERSION);
    out.put_u8(kind);
    out.put_u64_le(expires_ms);
    out
}

fn finish(mut out: Vec<u8>, key: &[u8]) -> Vec<u8> {
    let crc = crc32(&[key, &out]);
    out.put_u32_le(crc);
    out
}

/// Decodes a head column: its content and expiry. `None` for all bytes that none of the encoders writes.
pub(super) fn decode(key: &[u8], mut column: Bytes) -> Option<(Head, u64)> {
    let fields = column.len().checked_sub(CRC_BYTES)?;
    let crc = Reader(column.split_off(fields)).u32()?;
    if crc32(&[key, &column]) != crc {
        return None;
    }
    let mut reader = Reader(column);
    if reader.u8()? != VERSION {
        return None;
    }
    let kind = reader.u8()?;
    let expires_ms = reader.u64()?;
    let head = match kind {
        RESPONSE => Head::Response(response(&mut reader)?),
        VARIANTS => Head::Variants(variants(&mut reader)?),
        _ => return None,
    };
    reader.end()?;
    Some((head, expires_ms))
}

fn response(reader: &mut Reader) -> Option<StoredHead> {
    let status = StatusCode::from_u16(reader.u16()?).ok()?;
    let flags = reader.u8()?;
    if flags & !(SHARED | WHILE_REVALIDATE | IF_ERROR) != 0 {
        return None;
    }
    let (requested_ms, received_ms) = (reader.u64()?, reader.u64()?);
    let (initial_age_ms, fresh_until_ms) = (reader.u64()?, reader.u64()?);
    let gen_ms = reader.u32()?;
    let headers = headers(reader)?;
    let vary = vary(reader)?;
    let mut tags = Vec::new();
    let count = reader.count(1)?;
    tags.reserve_exact(count.min(MAX_RESERVED_ITEMS));
    for _ in 0..count {
        tags.push(Tag::new(reader.bytes()?));
    }
    let position = position(reader)?;
    let mut window = |flag| match flags & flag {
        0 => Some(None),
        _ => reader.u64().map(Some),
    };
    let stale_while_revalidate_ms = window(WHILE_REVALIDATE)?;
    let stale_if_error_ms = window(IF_ERROR)?;
    Some(StoredHead {
        status,
        headers,
        requested_ms,
        received_ms,
        initial_age_ms,
        fresh_until_ms,
        gen_ms,
        shared: flags & SHARED != 0,
        vary,
        tags,
        position,
        stale_while_revalidate_ms,
        stale_if_error_ms,
    })
}

/// The most items for which memory is reserved at once. Longer lists grow while they are read.
const MAX_RESERVED_ITEMS: usize = 256;

fn headers(reader: &mut Reader) -> Option<HeaderMap> {
    let count = reader.count(2)?;
    let mut headers = HeaderMap::try_with_capacity(count.min(MAX_RESERVED_ITEMS)).ok()?;
    for _ in 0..count {
        let name = name(reader)?;
        let value = HeaderValue::from_maybe_shared(reader.bytes()?).ok()?;
        headers.try_append(name, value).ok()?;
    }
    Some(headers)
}

fn vary(reader: &mut Reader) -> Option<Vec<SelectingField>> {
    let count = reader.count(2)?;
    let mut vary = Vec::with_capacity(count.min(MAX_RESERVED_ITEMS));
    for _ in 0..count {
        let name = name(reader)?;
        let value = match reader.u8()? {
            0 => None,
            1 => Some(reader.hash()?),
            _ => return None,
        };
        vary.push(SelectingField { name, value });
    }
    Some(vary)
}

fn position(reader: &mut Reader) -> Option<LogPosition> {
    let largest = reader.u64()?;
    let count = reader.count(16)?;
    if count > LogPosition::MAX_GAPS {
        return None;
    }
    let mut gap = || Some((reader.u64()?, reader.u64()?));
    let gaps = (0..count).map(|_| gap()).collect::<Option<Vec<_>>>()?;
    Some(LogPosition { largest, gaps })
}

fn variants(reader: &mut Reader) -> Option<VariantIndex> {
    let count = reader.count(1)?;
    let names = (0..count).map(|_| name(reader)).collect::<Option<Vec<_>>>()?;
    let count = reader.count(16)?;
    let variants = (0..count).map(|_| reader.hash()).collect::<Option<Vec<_>>>()?;
    let search = match reader.u8()? {
        0 => None,
        1 => Some(reader.bytes()?),
        _ => return None,
    };
    Some(VariantIndex { names, variants, search })
}

fn name(reader: &mut Reader) -> Option<HeaderName> {
    HeaderName::from_lowercase(&reader.bytes()?).ok()
}
