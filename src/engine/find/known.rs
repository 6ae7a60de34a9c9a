//! What does a process remember for its lookups?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use super::super::request::{Rule, extra_bytes};
use super::remembered::{TABLE_BYTES, bounded_table};
use crate::key::{CacheKey, Search};
use crate::stored::VariantIndex;
use crate::telemetry::Throttle;

/// The limit for remembered variant indexes: 8 MiB. Each index saves a round trip.
const INDEX_BYTES: u64 = 8 << 20;

/// How long a process relies on what it knows about a path's `No-Vary-Search`.
const RULES_FOR: Duration = Duration::from_secs(60);

/// What earlier lookups and fills have found.
pub(in crate::engine) struct Known {
    /// Variant indexes, by the target's key.
    indexes: Cache<CacheKey, Arc<VariantIndex>>,
    /// Whether there has been an index. Many sites have none, and then lookups need not search the table.
    has_indexes: AtomicBool,
    /// `No-Vary-Search` rules of paths, by the index's key.
    rules: Cache<CacheKey, Rule>,
    pub(super) warning: Throttle,
}

impl Default for Known {
    fn default() -> Self {
        let indexes = bounded_table(INDEX_BYTES, |key, index: &Arc<VariantIndex>| {
            key_bytes(key) + index.held_bytes()
        });
        let rules = bounded_table(TABLE_BYTES, |key, rule| key_bytes(key) + extra_bytes(rule));
        let rules = rules.time_to_live(RULES_FOR);
        Self {
            indexes: indexes.build(),
            has_indexes: AtomicBool::new(false),
            rules: rules.build(),
            warning: Throttle::new(),
        }
    }
}

/// Bytes that a key adds to an entry: its fields, and its buffer.
fn key_bytes(key: &CacheKey) -> usize {
    const FIELDS: usize = size_of::<CacheKey>() + 64;
    FIELDS + key.as_bytes().len()
}

impl Known {
    /// The variant index of a target.
    pub(in crate::engine) fn index(&self, base: &CacheKey) -> Option<Arc<VariantIndex>> {
        self.has_indexes.load(Ordering::Acquire).then(|| self.indexes.get(base)).flatten()
    }

    pub(in crate::engine) fn learn_index(&self, base: &CacheKey, index: &Arc<VariantIndex>) {
        self.indexes.insert(base.clone(), Arc::clone(index));
        self.has_indexes.store(true, Ordering::Release);
    }

    /// The rule of a path: `Some(None)` if it has none, `None` if the process does not know.
    pub(super) fn rule(&self, search: &Search) -> Option<Rule> {
        self.rules.get(&search.index)
    }

    pub(in crate::engine) fn learn_rule(&self, search: &CacheKey, rule: Rule) {
        self.rules.insert(search.clone(), rule);
    }
}
