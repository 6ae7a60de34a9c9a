//! How much memory may a process use for what it remembers?

use std::hash::Hash;

use moka::policy::EvictionPolicy;
use moka::sync::{Cache, CacheBuilder};

/// The limit of each of these tables: 2 MiB, which is about 5,000 keys.
pub(in crate::engine) const TABLE_BYTES: u64 = 2 << 20;

/// Bytes of an entry in addition to its `extra_bytes`. Measured with the version of `moka` in use: `tests/memory.rs`
/// compares the sum with the memory of a process.
const ENTRY_OVERHEAD: usize = 384;

/// A table of at most `bytes`. `extra_bytes` says how many bytes an entry has on the heap. When the table is full,
/// the least recently used entry is evicted, so a new one is always found.
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

/// For entries without bytes on the heap.
pub(in crate::engine) fn no_extra_bytes<K, V>(_: &K, _: &V) -> usize {
    0
}
