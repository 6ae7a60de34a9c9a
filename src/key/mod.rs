//! Cache keys: `prefix:version:target`, then the parts that distinguish requests for one target.
//!
//! The parts of a key have a fixed order and are separated by one space. No part contains a space: a URI cannot, and
//! all other parts are escaped or hashed. So two different requests never have the same key. Because of the order,
//! all keys of one path are in one half-open range of bytes, whatever their authority, partition or variant.

mod builder;
mod parts;
mod query;
mod search;
mod secret;
mod shared;
mod target;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

use bytes::Bytes;
use sha2::{Digest, Sha256};

pub use builder::{KeyBuilder, TargetKey};
pub(crate) use parts::hash_values;
#[cfg(any(test, fuzzing))]
pub(crate) use query::QueryRules;
pub(crate) use query::matches as matches_listed;
pub(crate) use search::Search;
pub(crate) use secret::Secret;
pub(crate) use target::{KeyRules, NoKey, TargetUri, variant_key};

/// A finished cache key, and its 128-bit hash, which is the primary key of the table.
///
/// The hash is the first 16 bytes of the key's SHA-256. So SQL can compute it too:
/// `UNHEX(LEFT(SHA2(cache_key, 256), 32))`.
///
/// ```
/// use tower_mysql_cache::key::CacheKey;
/// let key = CacheKey::new("shop:1:/products http://shop.example");
/// assert_eq!(key.prefix(), b"shop");
/// assert_ne!(key.hash(), CacheKey::new("shop:1:/product http://shop.example").hash());
/// ```
#[derive(Clone)]
pub struct CacheKey {
    bytes: Bytes,
    /// Computed when first needed: a hit in memory does not need it.
    hash: OnceLock<[u8; 16]>,
}

impl CacheKey {
    /// The maximum length of a key in bytes, and the width of the `cache_key` column. A longer key is shortened: it keeps
    /// its first bytes and ends with a 256-bit hash of the whole key.
    pub const MAX_BYTES: usize = 1024;

    /// Makes a key of these bytes. If they are not shorter than [`CacheKey::MAX_BYTES`], the key consists of the first
    /// bytes, a `#`, and the SHA-256 of the whole in hexadecimal.
    ///
    /// ```
    /// use tower_mysql_cache::key::CacheKey;
    ///
    /// assert_eq!(CacheKey::new("shop:1:/").as_bytes(), b"shop:1:/");
    /// assert_eq!(CacheKey::new("x".repeat(5_000)).as_bytes().len(), CacheKey::MAX_BYTES);
    /// ```
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: shorten(bytes.into(), CacheKey::MAX_BYTES), hash: OnceLock::new() }
    }

    /// The whole key.
    ///
    /// ```
    /// use tower_mysql_cache::key::CacheKey;
    /// assert_eq!(CacheKey::new("shop:1:/").as_bytes(), b"shop:1:/");
    /// ```
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The whole key, as a cheap clone.
    ///
    /// ```
    /// use tower_mysql_cache::key::CacheKey;
    /// let bytes: bytes::Bytes = CacheKey::new("shop:1:/").to_bytes();
    /// # let _ = bytes;
    /// ```
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The first 16 bytes of the key's SHA-256.
    ///
    /// ```
    /// use tower_mysql_cache::key::CacheKey;
    ///
    /// // SELECT HEX(LEFT(SHA2('abc', 256), 32))
    /// assert_eq!(CacheKey::new("abc").hash()[..4], [0xba, 0x78, 0x16, 0xbf]);
    /// ```
    #[must_use]
    pub fn hash(&self) -> [u8; 16] {
        *self.hash.get_or_init(|| hash128(&self.bytes))
    }

    /// The prefix of the cache that made the key: the bytes before the first colon.
    ///
    /// ```
    /// use tower_mysql_cache::key::CacheKey;
    /// assert_eq!(CacheKey::new("shop:1:/").prefix(), b"shop");
    /// ```
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        prefix_of(&self.bytes)
    }
}

impl PartialEq for CacheKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for CacheKey {}

impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
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
///
/// ```
/// use tower_mysql_cache::key::KeyRange;
///
/// let shop = KeyRange::starting_with("shop:");
/// assert!(shop.contains(b"shop:1:/products http://shop.example"));
/// assert!(!shop.contains(b"shop2:1:/products http://shop.example"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key of the range.
    pub(crate) from: Bytes,
    /// The first key after the range.
    pub(crate) to: Bytes,
}

impl KeyRange {
    /// The first key in the range.
    ///
    /// ```
    /// use tower_mysql_cache::key::KeyRange;
    /// assert_eq!(KeyRange::starting_with("shop:").start(), "shop:");
    /// ```
    #[must_use]
    pub fn start(&self) -> &Bytes {
        &self.from
    }

    /// The first key after the range.
    ///
    /// ```
    /// use tower_mysql_cache::key::KeyRange;
    /// assert_eq!(KeyRange::starting_with("shop:").end(), "shop;"); // `;` follows `:` in ASCII
    /// ```
    #[must_use]
    pub fn end(&self) -> &Bytes {
        &self.to
    }

    /// One key and no other.
    ///
    /// ```
    /// use tower_mysql_cache::key::{CacheKey, KeyRange};
    ///
    /// let range = KeyRange::only(&CacheKey::new("shop:1:/a"));
    /// assert!(range.contains(b"shop:1:/a") && !range.contains(b"shop:1:/a/b"));
    /// ```
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
    ///
    /// ```
    /// use tower_mysql_cache::key::KeyRange;
    ///
    /// let below = KeyRange::starting_with("shop:1:/products/");
    /// assert!(below.contains(b"shop:1:/products/7 http://shop.example"));
    /// assert!(!below.contains(b"shop:1:/products http://shop.example"));
    /// ```
    #[must_use]
    pub fn starting_with(start: impl Into<Bytes>) -> Self {
        let from = start.into();
        let mut to = from.to_vec();
        while to.last() == Some(&u8::MAX) {
            to.pop();
        }
        match to.last_mut() {
            Some(last) => *last += 1,
            // `start` is a run of 0xff: only a longer run is larger than all that begin with it
            None => to = vec![u8::MAX; CacheKey::MAX_BYTES + 1],
        }
        Self { from, to: to.into() }
    }

    /// The key `start`, and every key that continues it with a space: all authorities, partitions and variants of a
    /// target.
    ///
    /// ```
    /// use tower_mysql_cache::key::KeyRange;
    ///
    /// let page = KeyRange::continuing("shop:1:/products");
    /// assert!(page.contains(b"shop:1:/products http://shop.example"));
    /// assert!(!page.contains(b"shop:1:/products/7 http://shop.example"));
    /// ```
    #[must_use]
    pub fn continuing(start: impl Into<Bytes>) -> Self {
        let from = start.into();
        let mut to = from.to_vec();
        to.push(SEPARATOR + 1);
        Self { from, to: to.into() }
    }

    /// Whether `key` is in the range.
    ///
    /// ```
    /// use tower_mysql_cache::key::KeyRange;
    /// assert!(KeyRange::starting_with("shop:").contains(b"shop:1:/"));
    /// ```
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.from[..] && key < &self.to[..]
    }
}

/// Separates the parts of a key. No part contains this byte, and it is smaller than every byte of a URI, so the keys
/// that continue a target form one range.
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

/// `bytes` unchanged if they are shorter than `max`. Otherwise exactly `max` bytes: the first bytes, `#`, and the
/// SHA-256 of the whole in hexadecimal. The two forms differ in length, so no client can send the shortened form of
/// another target's key.
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
    fn long_keys_keep_their_first_bytes_and_end_in_a_hash() {
        let a = CacheKey::new(format!("p:1:/{}a", "x".repeat(9_000)));
        let b = CacheKey::new(format!("p:1:/{}b", "x".repeat(9_000)));
        assert_eq!(a.as_bytes().len(), CacheKey::MAX_BYTES);
        assert!(a.as_bytes().starts_with(b"p:1:/xxx"));
        assert_ne!(a, b);
        assert_ne!(a.hash(), b.hash());
    }

    #[test]
    fn a_shortened_key_equals_no_unshortened_key() {
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
    fn a_target_range_contains_only_keys_of_the_target() {
        let range = KeyRange::continuing("p:1:/a");
        for own in ["p:1:/a", "p:1:/a http://h", "p:1:/a http://h v=1"] {
            assert!(range.contains(own.as_bytes()), "{own}");
        }
        for other in ["p:1:/", "p:1:/a!", "p:1:/a?x", "p:1:/a/b", "p:1:/ab", "p:1:/b"] {
            assert!(!range.contains(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_range_by_start_has_no_wildcards_and_handles_0xff() {
        let range = KeyRange::starting_with("a_%");
        assert!(range.contains(b"a_%z") && !range.contains(b"axz") && !range.contains(b"a_&"));
        let high = KeyRange::starting_with(vec![b'a', 0xff]);
        assert!(high.contains(&[b'a', 0xff, 0xff]) && !high.contains(b"b"));
        let all = KeyRange::starting_with(vec![0xff]);
        assert!(all.contains(&[0xff, 0xff, 1]) && !all.contains(&[0xfe]));
    }
}
