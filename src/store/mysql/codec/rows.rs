//! What holds for any row, for `cargo fuzz` and the replay of its corpus.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used)] // assertions

use bytes::Bytes;

use super::*;

const NOW_MS: u64 = 1_000;

/// Reads a row that was found by the hash of `key`.
pub(super) fn read(key: &CacheKey, row: RawRow, now_ms: u64) -> Reading {
    if row.is_current(key, now_ms) { reading(&decode(row), now_ms) } else { Reading::Absent }
}

fn compressing(compression: Compression) -> Compressing {
    Compressing { compression, when: Arc::new(|_, _| true) }
}

/// A column with a correct checksum, or unchanged.
fn column(key: &CacheKey, bytes: &[u8], sealed: bool) -> Bytes {
    let crc = wire::crc32(&[key.as_bytes(), bytes]).to_le_bytes();
    if sealed { [bytes, &crc].concat().into() } else { Bytes::copy_from_slice(bytes) }
}

/// The input is a byte of flags, the length of the head in one and a half bytes, the head column, and the value
/// column. Flags: 1 seals the head, 2 seals the value, 4 is zlib, 8 is a variant index, 16 is zstd.
///
/// Hostile rows are decoded without a panic, and without more memory than they justify. A decoded entry is the same
/// after encoding. It is absent after its expiry and under another key.
pub fn rows(data: &[u8]) {
    let [flags, low, high, rest @ ..] = data else { return };
    let len = usize::from(*low) | usize::from(*high & 0x0f) << 8;
    let (head, value) = rest.split_at_checked(len).unwrap_or((rest, &[]));
    let key = CacheKey::new("fuzz:1:/ http://h");
    let value_type = match flags & 28 {
        0 => b'r',
        4 => b'R',
        16 => b'Z',
        _ => b'v',
    };
    let row = RawRow {
        key: key.to_bytes(),
        value_type,
        expires_ms: u64::MAX,
        head: Some(column(&key, head, flags & 1 != 0)),
        value: if value_type == b'v' && value.is_empty() {
            Bytes::new()
        } else {
            column(&key, value, flags & 2 != 0)
        },
    };
    let column_bytes = row.value.len();
    let slow = is_slow_to_decode(&row);
    let Reading::Found(stored) = read(&key, row.clone(), NOW_MS) else { return };
    if let Stored::Response(response) = &stored {
        let ratio = if value_type == b'Z' { 32 << 10 } else { 1032 };
        assert!(response.body.len() <= column_bytes.saturating_mul(ratio), "a bomb");
        assert!(slow || value_type == b'r' || response.body.len() < body::BLOCKING_BYTES);
    }
    let expires_ms = u64::from_le_bytes(head[2..10].try_into().unwrap());
    assert!(expires_ms > NOW_MS, "expired");
    assert_eq!(read(&key, row.clone(), expires_ms), Reading::Absent);
    let other = CacheKey::new("fuzz:1:/other http://h");
    assert_eq!(read(&other, row.clone(), NOW_MS), Reading::Absent);
    let moved = RawRow { key: other.to_bytes(), ..row.clone() };
    assert_eq!(read(&other, moved, NOW_MS), Reading::Unreadable, "checksums cover the key");
    let entry = Entry { key: key.clone(), stored: stored.clone(), expires_ms };
    let ways = [
        Compression::Zlib(6),
        #[cfg(feature = "zstd")]
        Compression::Zstd(3),
    ];
    for way in ways {
        let written = encode(&entry, &compressing(way), NOW_MS).expect("as large as it was");
        let again = RawRow {
            key: written.key.clone(),
            value_type: written.value_type.as_bytes()[0],
            expires_ms: written.expires_ms,
            head: Some(written.head.into()),
            value: written.value.to_bytes(),
        };
        assert_eq!(read(&key, again, NOW_MS), Reading::Found(stored.clone()));
    }
}
