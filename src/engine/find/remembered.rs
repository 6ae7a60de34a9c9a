//! Tables of what a process remembers, bounded by the memory that they take.

use std::hash::Hash;

use moka::policy::EvictionPolicy;
use moka::sync::{Cache, CacheBuilder};

/// What each of these tables may take: 2 MiB, which is some 5,000 keys.
pub(in crate::engine) const TABLE_BYTES: u64 = 2 << 20;

/// What an entry costs beside what it holds elsewhere. Measured with the release of `moka` in use: `tests/memory.rs`
/// compares the sum with the memory of a process.
const ENTRY_OVERHEAD: usize = 384;

/// A table of at most so many bytes; `held` says how many an entry holds in memory of its own. When the table is full,
/// the least recently used entry is evicted: a new one is always found.
pub(in crate::engine) fn bounded_table<K, V>(
    bytes: u64,
    extra_bytes: fn(&K, &V) -> usize,
) -> CacheBuilder<K, V, Cache<K, V>>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder().max_capacity(bytes).eviction_policy(EvictionPolicy::lru()).weigher(
        move |key, value| {
            u32::try_from(ENTRY_OVERHEAD + extra_bytes(key, value)).unwrap_or(u32::MAX)
        },
    )
}

/// For entries that hold nothing elsewhere.
pub(in crate::engine) fn no_extra_bytes<K, V>(_: &K, _: &V) -> usize {
    0
}
