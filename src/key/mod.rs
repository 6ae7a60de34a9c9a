//! Cache keys: `prefix:version:target`, then what sets requests for one target apart.
//!
//! A key is built of parts in one order, each part free of the separator (a space) by construction,
//! so that no two requests can be confused: a target holds no spaces because a URI cannot, all other
//! parts are escaped or hashed. The order makes ranges useful: every key of one path lies in one
//! half-open range of bytes, whatever its authority, partition or variant.

mod builder;
mod known;
mod parts;
mod query;
mod secret;
mod target;

use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use sha2::{Digest, Sha256};

pub(crate) use builder::Search;
pub use builder::{KeyBuilder, TargetKey};
pub(crate) use parts::hash_values;
#[cfg(any(test, fuzzing))]
pub(crate) use query::QueryRules;
pub(crate) use query::matches as matches_listed;
pub(crate) use secret::Secret;
pub(crate) use target::{KeyRules, NoKey, TargetUri, variant_key};

/// The longest key in bytes, and the width of the `cache_key` column. Longer keys keep their first
/// bytes and end in a 256-bit hash of the whole.
pub const MAX_KEY_BYTES: usize = 1024;

/// A finished cache key and its 128-bit hash, the primary key of the table.
///
/// The hash is the first 16 bytes of SHA-256 over the key, so it can be computed in SQL as well:
/// `UNHEX(LEFT(SHA2(cache_key, 256), 32))`.
///
/// ```
/// use tower_mysql_cache::CacheKey;
/// let key = CacheKey::new("shop:1:/products http://shop.example");
/// assert_eq!(key.prefix(), b"shop");
/// assert_ne!(key.hash(), CacheKey::new("shop:1:/product http://shop.example").hash());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct CacheKey {
    hash: [u8; 16],
    bytes: Bytes,
}

impl CacheKey {
    /// A key of these bytes. One that does not stay under [`MAX_KEY_BYTES`] is kept as its first bytes, a `#` and the
    /// SHA-256 of the whole in hexadecimal.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = shorten(bytes.into(), MAX_KEY_BYTES);
        Self { hash: hash128(&bytes), bytes }
    }

    /// A key with a hash of the caller's choosing: only for tests that force two keys to collide.
    #[cfg(test)]
    pub(crate) fn with_forced_hash(bytes: impl Into<Bytes>, hash: [u8; 16]) -> Self {
        Self { hash, bytes: bytes.into() }
    }

    /// The whole key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The whole key, as cheaply cloned bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// 128 bits of SHA-256 over the key.
    #[must_use]
    pub fn hash(&self) -> [u8; 16] {
        self.hash
    }

    /// The bytes before the first colon: the prefix of the cache that made the key.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        prefix_of(&self.bytes)
    }
}

impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.hash);
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({})", self.bytes.escape_ascii())
    }
}

/// The bytes of a key before its first colon.
pub(crate) fn prefix_of(key: &[u8]) -> &[u8] {
    key.split(|&b| b == b':').next().unwrap_or(key)
}

/// A half-open range of keys, in byte order: `start <= key < end`. The start is never after the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key inside.
    pub(crate) from: Bytes,
    /// The first key beyond.
    pub(crate) to: Bytes,
}

impl KeyRange {
    /// The first key in the range.
    #[must_use]
    pub fn start(&self) -> &Bytes {
        &self.from
    }

    /// The first key after the range.
    #[must_use]
    pub fn end(&self) -> &Bytes {
        &self.to
    }

    /// One key and no other.
    #[must_use]
    pub fn only(key: &CacheKey) -> Self {
        Self::only_bytes(key.to_bytes())
    }

    pub(crate) fn only_bytes(key: Bytes) -> Self {
        let mut to = key.to_vec();
        to.push(0);
        Self { from: key, to: to.into() }
    }

    /// Every key that begins with `start`.
    #[must_use]
    pub fn starting_with(start: impl Into<Bytes>) -> Self {
        let from = start.into();
        let mut to = from.to_vec();
        while to.last() == Some(&u8::MAX) {
            to.pop();
        }
        match to.last_mut() {
            Some(last) => *last += 1,
            // nothing is larger than a run of 0xff but a longer run of it
            None => to = vec![u8::MAX; MAX_KEY_BYTES + 1],
        }
        Self { from, to: to.into() }
    }

    /// The key `start` and every key that continues it with a separator: all authorities, partitions
    /// and variants of a target.
    #[must_use]
    pub fn continuing(start: impl Into<Bytes>) -> Self {
        let from = start.into();
        let mut to = from.to_vec();
        to.push(SEPARATOR + 1);
        Self { from, to: to.into() }
    }

    /// Whether `key` lies in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.from[..] && key < &self.to[..]
    }
}

/// What stands between the parts of a key: a byte that no part can hold, and the smallest that a
/// URI's neighbours in byte order can have.
pub(crate) const SEPARATOR: u8 = b' ';

/// The first 16 bytes of SHA-256.
pub(crate) fn hash128(bytes: &[u8]) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let mut hash = [0; 16];
    for (to, from) in hash.iter_mut().zip(digest) {
        *to = from;
    }
    hash
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// `bytes` as they are when shorter than `max`, else their first bytes, `#` and their SHA-256 in
/// hexadecimal, exactly `max` bytes: the length tells the two forms apart, so that nobody can send
/// the short form of another's key.
pub(crate) fn shorten(bytes: Bytes, max: usize) -> Bytes {
    const HASHED: usize = 1 + 64;
    if bytes.len() < max {
        return bytes;
    }
    let digest: [u8; 32] = Sha256::digest(&bytes).into();
    let keep = bytes.get(..max.saturating_sub(HASHED)).unwrap_or_default();
    let mut short = Vec::with_capacity(keep.len() + HASHED);
    short.extend_from_slice(keep);
    short.push(b'#');
    short.extend_from_slice(hex(&digest).as_bytes());
    short.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_key_keeps_its_first_bytes_and_a_hash_of_the_whole() {
        let a = CacheKey::new(format!("p:1:/{}a", "x".repeat(9_000)));
        let b = CacheKey::new(format!("p:1:/{}b", "x".repeat(9_000)));
        assert_eq!(a.as_bytes().len(), MAX_KEY_BYTES);
        assert!(a.as_bytes().starts_with(b"p:1:/xxx"));
        assert_ne!(a, b);
        assert_ne!(a.hash(), b.hash());
    }

    #[test]
    fn the_short_form_of_a_key_is_no_other_keys_own_form() {
        let long = CacheKey::new("x".repeat(5_000));
        let forged = CacheKey::new(long.to_bytes());
        assert_ne!(long, forged);
        assert_ne!(long.hash(), forged.hash());
    }

    #[test]
    fn the_hash_is_the_start_of_sha_256() {
        // SELECT LEFT(SHA2('abc', 256), 32)
        assert_eq!(hex(&CacheKey::new("abc").hash()), "ba7816bf8f01cfea414140de5dae2223");
    }

    #[test]
    fn a_range_holds_just_the_continuations() {
        let range = KeyRange::continuing("p:1:/a");
        for inside in ["p:1:/a", "p:1:/a http://h", "p:1:/a http://h v=1"] {
            assert!(range.contains(inside.as_bytes()), "{inside}");
        }
        for outside in ["p:1:/", "p:1:/a!", "p:1:/a?x", "p:1:/a/b", "p:1:/ab", "p:1:/b"] {
            assert!(!range.contains(outside.as_bytes()), "{outside}");
        }
    }

    #[test]
    fn a_range_by_start_has_no_wildcards_and_survives_0xff() {
        let range = KeyRange::starting_with("a_%");
        assert!(range.contains(b"a_%z") && !range.contains(b"axz") && !range.contains(b"a_&"));
        let high = KeyRange::starting_with(vec![b'a', 0xff]);
        assert!(high.contains(&[b'a', 0xff, 0xff]) && !high.contains(b"b"));
        let all = KeyRange::starting_with(vec![0xff]);
        assert!(all.contains(&[0xff, 0xff, 1]) && !all.contains(&[0xfe]));
    }
}
