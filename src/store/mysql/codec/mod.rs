//! How is a response written as a row, and read from it? No other module knows the bytes of a row.
//!
//! Decoding is strict. A row is *unreadable* if one byte has changed, if it belongs to another key, or if its version
//! is unknown. An unreadable row is a miss, and the next write replaces it. So releases with different versions can
//! share a table.

mod body;
mod compression;
mod head;
mod pool;
#[cfg(any(test, fuzzing))]
mod rows;
mod value;
mod wire;
#[cfg(feature = "zstd")]
mod zstd;

use std::sync::Arc;

use bytes::Bytes;

use self::body::Format;
pub(super) use self::compression::Compressing;
pub use self::compression::Compression;
use self::head::Head;
#[cfg(any(test, fuzzing))]
pub use self::rows::rows;
pub(super) use self::value::Value;
use crate::key::CacheKey;
use crate::store::StoreError;
use crate::stored::{Entry, Stored, StoredHead, StoredResponse};
use crate::tag::Tag;

/// The largest head that the column can hold (MEDIUMBLOB).
const MAX_HEAD_BYTES: usize = (1 << 24) - 1;

/// The values of the `value_type` column.
const PLAIN: &str = "r";
const ZLIB: &str = "R";
#[cfg(feature = "zstd")]
const ZSTD: &str = "Z";
const VARIANTS: &str = "v";

/// The hash of a key, as in the table.
pub(super) type Hash = [u8; 16];

/// The 16 bytes of a `key_hash` column.
pub(super) fn hash_of(bytes: &[u8]) -> Result<Hash, sqlx::Error> {
    Hash::try_from(bytes).map_err(|_| {
        sqlx::Error::Decode(format!("key_hash has {} bytes instead of 16", bytes.len()).into())
    })
}

/// A row to be written.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) hash: [u8; 16],
    pub(super) key: Bytes,
    pub(super) value: Value,
    pub(super) value_type: &'static str,
    pub(super) expires_ms: u64,
    pub(super) head: Vec<u8>,
    pub(super) size: u32,
    pub(super) status: Option<u16>,
    pub(super) born_ms: u64,
    pub(super) fresh_until_ms: Option<u64>,
    pub(super) gen_ms: Option<u32>,
}

impl Row {
    /// Bytes of the row in a statement, with all columns and lengths.
    pub(super) fn packet_bytes(&self) -> usize {
        const FIXED: usize = 128;
        self.key.len() + self.head.len() + self.value.len() + FIXED
    }
}

/// A row as it was read, before decoding.
#[derive(Clone, Debug)]
pub(super) struct RawRow {
    pub(super) key: Bytes,
    pub(super) value_type: u8,
    pub(super) expires_ms: u64,
    pub(super) head: Option<Bytes>,
    pub(super) value: Bytes,
}

/// A decoded row: the entry, and the expiry in its head. `None` if the row is damaged or of an unknown version.
pub(super) type Decoded = Option<(Stored, u64)>;

/// What a lookup makes of a row.
#[derive(Debug, PartialEq)]
pub(super) enum Reading {
    /// The entry.
    Found(Stored),
    /// The row belongs to another key, or has expired.
    Absent,
    /// The row is damaged or of an unknown version.
    Unreadable,
}

impl RawRow {
    /// Whether a row that was found by the hash of `key` belongs to that key and has not expired, as its columns say.
    pub(super) fn is_current(&self, key: &CacheKey, now_ms: u64) -> bool {
        self.key == key.as_bytes() && self.expires_ms > now_ms
    }
}

/// Whether encoding is too slow for an async thread.
pub(super) fn is_slow_to_encode(entry: &Entry, compressing: &Compressing) -> bool {
    match &entry.stored {
        Stored::Response(response) => {
            response.body.len() >= body::BLOCKING_BYTES
                && compressing.of(response) != Compression::Off
        }
        Stored::Variants(_) => false,
    }
}

/// Whether decoding is too slow for an async thread.
pub(super) fn is_slow_to_decode(row: &RawRow) -> bool {
    body_format(row.value_type).is_some_and(|format| body::is_slow(format, &row.value))
}

/// Whether the body claims to be larger than this after decompression. Then it is not decoded: no row that this
/// process stores is larger.
pub(super) fn inflates_over(row: &RawRow, max_bytes: usize) -> bool {
    body_format(row.value_type).is_some_and(|format| format != Format::Plain)
        && body::raw_len(&row.value).is_some_and(|length| length > max_bytes)
}

/// Encodes an entry. `now_ms` is the time of birth for entries without one.
///
/// # Errors
/// [`StoreError::TooLarge`] if a column cannot hold it.
pub(super) fn encode(
    entry: &Entry,
    compressing: &Compressing,
    now_ms: u64,
) -> Result<Row, StoreError> {
    let key = entry.key.to_bytes();
    let expires_ms = entry.expires_ms;
    let mut row =
        match &entry.stored {
            Stored::Response(response) => {
                let compression = compressing.of(response);
                let (format, value) = body::encode(&key, &response.body, compression).ok_or(
                    StoreError::TooLarge { size: response.body.len(), limit: u32::MAX as usize },
                )?;
                let head = &response.head;
                Row {
                    hash: entry.key.hash(),
                    value,
                    value_type: value_type(format),
                    expires_ms,
                    head: head::encode_response(&key, head, expires_ms),
                    size: 0,
                    status: Some(head.status.as_u16()),
                    born_ms: head.received_ms,
                    fresh_until_ms: Some(head.fresh_until_ms),
                    gen_ms: Some(head.gen_ms),
                    key,
                }
            }
            Stored::Variants(index) => Row {
                hash: entry.key.hash(),
                value: Value::default(),
                value_type: VARIANTS,
                expires_ms,
                head: head::encode_variants(&key, index, expires_ms),
                size: 0,
                status: None,
                born_ms: now_ms,
                fresh_until_ms: None,
                gen_ms: None,
                key,
            },
        };
    check_head(&row.head)?;
    let size = row.key.len() + row.head.len() + row.value.len();
    row.size =
        u32::try_from(size).map_err(|_| StoreError::TooLarge { size, limit: u32::MAX as usize })?;
    Ok(row)
}

/// The head column of a response whose body does not change.
///
/// # Errors
/// [`StoreError::TooLarge`] if the column cannot hold it.
pub(super) fn encode_head(
    key: &CacheKey,
    head: &StoredHead,
    expires_ms: u64,
) -> Result<Vec<u8>, StoreError> {
    let column = head::encode_response(key.as_bytes(), head, expires_ms);
    check_head(&column)?;
    Ok(column)
}

/// The content of a head column, without version, kind, expiry and checksum. Equal heads have equal content.
pub(super) fn head_content(key: &CacheKey, head: &StoredHead) -> Result<Bytes, StoreError> {
    let column = Bytes::from(encode_head(key, head, 0)?);
    let end = column.len().saturating_sub(wire::CRC_BYTES);
    Ok(column.slice(head::CONTENT_FROM.min(end)..end))
}

fn check_head(column: &[u8]) -> Result<(), StoreError> {
    if column.len() > MAX_HEAD_BYTES {
        return Err(StoreError::TooLarge { size: column.len(), limit: MAX_HEAD_BYTES });
    }
    Ok(())
}

/// What a lookup makes of a row that is current by its columns. It has expired if the column or the head says so. So people
/// can shorten a lifetime in the column, but not extend it.
pub(super) fn reading(decoded: &Decoded, now_ms: u64) -> Reading {
    match decoded {
        None => Reading::Unreadable,
        Some((_, expires_ms)) if *expires_ms <= now_ms => Reading::Absent,
        Some((stored, _)) => Reading::Found(stored.clone()),
    }
}

pub(super) fn decode(row: RawRow) -> Decoded {
    let key = &row.key[..];
    let (head, expires_ms) = head::decode(key, row.head?)?;
    let stored = match (head, body_format(row.value_type)) {
        (Head::Response(head), Some(format)) => {
            let body = body::decode(key, row.value, format)?;
            // its column was copied out of the packet
            Stored::Response(StoredResponse::compact(Arc::new(head), body))
        }
        (Head::Variants(index), None) if row.value_type == b'v' && row.value.is_empty() => {
            Stored::Variants(Arc::new(index))
        }
        _ => return None,
    };
    Some((stored, expires_ms))
}

/// The head of a response whose row was read without its body. The length of the body is known if it is not
/// compressed, from `size`. `None` if the row is expired, damaged, or no response.
pub(super) fn decode_head(
    key: &CacheKey,
    row: &RawRow,
    size: u32,
    now_ms: u64,
) -> Option<(StoredHead, Option<u64>)> {
    if !row.is_current(key, now_ms) {
        return None;
    }
    let column = row.head.clone()?;
    let others = row.key.len() + column.len() + body::TRAILER_BYTES;
    let (Head::Response(head), expires_ms) = head::decode(key.as_bytes(), column)? else {
        return None;
    };
    let body_bytes = match body_format(row.value_type)? {
        Format::Plain => u64::from(size).checked_sub(others as u64),
        _ => None,
    };
    (expires_ms > now_ms).then_some((head, body_bytes))
}

/// The tags in the head column of a response. `None` for other rows, and unreadable ones.
pub(super) fn tags_of(key: &[u8], head: Bytes) -> Option<Vec<Tag>> {
    match head::decode(key, head)?.0 {
        Head::Response(head) => Some(head.tags),
        Head::Variants(_) => None,
    }
}

fn body_format(value_type: u8) -> Option<Format> {
    match value_type {
        b'r' => Some(Format::Plain),
        b'R' => Some(Format::Zlib),
        #[cfg(feature = "zstd")]
        b'Z' => Some(Format::Zstd),
        _ => None,
    }
}

const fn value_type(format: Format) -> &'static str {
    match format {
        Format::Plain => PLAIN,
        Format::Zlib => ZLIB,
        #[cfg(feature = "zstd")]
        Format::Zstd => ZSTD,
    }
}

#[cfg(test)]
mod tests;
