//! Between stored responses and rows: the only place that knows the bytes of a row.
//!
//! Reading is strict. A row that differs in one byte from what was written, belongs to another key, or
//! is of an unknown version is *unreadable*: a miss, and the next put overwrites it. So releases that
//! write different versions can share a table.

mod body;
mod head;
#[cfg(any(test, fuzzing))]
mod rows;
mod wire;

use std::sync::Arc;

use bytes::Bytes;

use self::body::Format;
use self::head::Head;
#[cfg(any(test, fuzzing))]
pub use self::rows::rows;
use crate::key::CacheKey;
use crate::store::StoreError;
use crate::stored::{Entry, Stored, StoredHead, StoredResponse};
use crate::tag::Tag;

/// The largest head that the column takes (MEDIUMBLOB).
const MAX_HEAD_BYTES: usize = (1 << 24) - 1;

/// What `value_type` says.
const PLAIN: &str = "r";
const COMPRESSED: &str = "R";
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
    pub(super) value: Vec<u8>,
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
    /// Bytes of the row in a statement, the fixed columns and the lengths of the others included.
    pub(super) fn packet_bytes(&self) -> usize {
        const FIXED: usize = 128;
        self.key.len() + self.head.len() + self.value.len() + FIXED
    }
}

/// A row as it was read, not yet understood.
#[derive(Clone, Debug)]
pub(super) struct RawRow {
    pub(super) key: Bytes,
    pub(super) value_type: u8,
    pub(super) expires_ms: u64,
    pub(super) head: Option<Bytes>,
    pub(super) value: Bytes,
}

/// When to compress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compressing {
    /// Bodies under this many bytes stay as they are.
    pub(super) min_bytes: usize,
    /// 0 is off, 9 is the smallest.
    pub(super) level: u32,
}

impl Compressing {
    fn level_for(self, response: &StoredResponse) -> Option<u32> {
        let wanted = self.level > 0
            && response.body.len() >= self.min_bytes
            && body::is_compressible(&response.head.headers);
        wanted.then_some(self.level)
    }
}

/// What reading a row came to.
#[derive(Debug, PartialEq)]
pub(super) enum Reading {
    /// The entry.
    Found(Stored),
    /// The row is another key's, or has expired.
    Absent,
    /// The row is damaged or of an unknown version.
    Unreadable,
}

/// Whether encoding takes so long that it should not run on an async thread.
pub(super) fn is_slow_to_encode(entry: &Entry, compressing: Compressing) -> bool {
    match &entry.stored {
        Stored::Response(response) => {
            response.body.len() >= body::BLOCKING_BYTES && compressing.level_for(response).is_some()
        }
        Stored::Variants(_) => false,
    }
}

/// Whether decoding takes so long that it should not run on an async thread.
pub(super) fn is_slow_to_decode(row: &RawRow) -> bool {
    body_format(row.value_type).is_some_and(|format| body::is_slow(format, &row.value))
}

/// Whether the body of a row claims to be longer than this when it is unpacked: it is not read then, and an honest row
/// is no longer than the largest entry that this process stores.
pub(super) fn inflates_over(row: &RawRow, max_bytes: usize) -> bool {
    body_format(row.value_type) == Some(Format::Zlib)
        && body::raw_len(&row.value).is_some_and(|length| length > max_bytes)
}

/// Makes the row of an entry. `now_ms` is the birth of what has none of its own.
///
/// # Errors
/// [`StoreError::TooLarge`] when a column cannot hold it.
pub(super) fn encode(
    entry: &Entry,
    compressing: Compressing,
    now_ms: u64,
) -> Result<Row, StoreError> {
    let key = entry.key.to_bytes();
    let expires_ms = entry.expires_ms;
    let mut row = match &entry.stored {
        Stored::Response(response) => {
            let level = compressing.level_for(response);
            let (format, value) =
                body::encode(&key, &response.body, level).ok_or(StoreError::TooLarge {
                    size: response.body.len(),
                    limit: u32::MAX as usize,
                })?;
            let head = &response.head;
            Row {
                hash: entry.key.hash(),
                value,
                value_type: if format == Format::Zlib { COMPRESSED } else { PLAIN },
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
            value: Vec::new(),
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

/// The head column of a response whose body stays where it is.
///
/// # Errors
/// [`StoreError::TooLarge`] when the column cannot hold it.
pub(super) fn encode_head(
    key: &CacheKey,
    head: &StoredHead,
    expires_ms: u64,
) -> Result<Vec<u8>, StoreError> {
    let column = head::encode_response(key.as_bytes(), head, expires_ms);
    check_head(&column)?;
    Ok(column)
}

/// What a head column says, without its version, kind and expiry before and its checksum after: equal for
/// equal heads.
pub(super) fn head_says(key: &CacheKey, head: &StoredHead) -> Result<Bytes, StoreError> {
    let column = Bytes::from(encode_head(key, head, 0)?);
    let end = column.len().saturating_sub(wire::CRC_BYTES);
    Ok(column.slice(head::SAYS_FROM.min(end)..end))
}

fn check_head(column: &[u8]) -> Result<(), StoreError> {
    if column.len() > MAX_HEAD_BYTES {
        return Err(StoreError::TooLarge { size: column.len(), limit: MAX_HEAD_BYTES });
    }
    Ok(())
}

/// Reads a row that was found under the hash of `key`. It has expired when either the column or the
/// head says so: the column may be shortened by hand, and never lengthens a life.
pub(super) fn decode(key: &CacheKey, row: RawRow, now_ms: u64) -> Reading {
    if row.key != key.as_bytes() || row.expires_ms <= now_ms {
        return Reading::Absent;
    }
    let Some((stored, expires_ms)) = stored(key.as_bytes(), row) else {
        return Reading::Unreadable;
    };
    if expires_ms <= now_ms {
        return Reading::Absent;
    }
    Reading::Found(stored)
}

fn stored(key: &[u8], row: RawRow) -> Option<(Stored, u64)> {
    let (head, expires_ms) = head::decode(key, row.head?)?;
    let stored = match (head, body_format(row.value_type)) {
        (Head::Response(head), Some(format)) => {
            let body = body::decode(key, row.value, format)?;
            Stored::Response(StoredResponse { head: Arc::new(head), body })
        }
        (Head::Variants(index), None) if row.value_type == b'v' && row.value.is_empty() => {
            Stored::Variants(Arc::new(index))
        }
        _ => return None,
    };
    Some((stored, expires_ms))
}

/// The head of a response whose row was read without its body, and the body's length where the row tells: by the
/// `size` of a body that is not compressed. `None` for what is expired, damaged or no response.
pub(super) fn decode_head(
    key: &CacheKey,
    row: &RawRow,
    size: u32,
    now_ms: u64,
) -> Option<(StoredHead, Option<u64>)> {
    if row.key != key.as_bytes() || row.expires_ms <= now_ms {
        return None;
    }
    let column = row.head.clone()?;
    let others = row.key.len() + column.len() + body::TRAILER_BYTES;
    let (Head::Response(head), expires_ms) = head::decode(key.as_bytes(), column)? else {
        return None;
    };
    let body_bytes = match body_format(row.value_type)? {
        Format::Plain => u64::from(size).checked_sub(others as u64),
        Format::Zlib => None,
    };
    (expires_ms > now_ms).then_some((head, body_bytes))
}

/// The tags of a response, by the head column of its row; `None` for what is none or cannot be read.
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
        _ => None,
    }
}

#[cfg(test)]
mod tests;
