//! What does a process remember for its lookups?

use std::sync::Arc;
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
    /// Variant indexes, by the hash of the target's key.
    indexes: Cache<[u8; 16], Arc<VariantIndex>>,
    /// `No-Vary-Search` rules of paths, by the hash of the index's key.
    rules: Cache<[u8; 16], Rule>,
    pub(super) warning: Throttle,
}

impl Default for Known {
    fn default() -> Self {
        let indexes = bounded_table(INDEX_BYTES, |_, index: &Arc<VariantIndex>| index.held_bytes());
        let rules = bounded_table(TABLE_BYTES, |_, rule| extra_bytes(rule)).time_to_live(RULES_FOR);
        Self { indexes: indexes.build(), rules: rules.build(), warning: Throttle::new() }
    }
}

impl Known {
    /// The variant index of a target.
    pub(in crate::engine) fn index(&self, base: &CacheKey) -> Option<Arc<VariantIndex>> {
        self.indexes.get(&base.hash())
    }

    pub(in crate::engine) fn learn_index(&self, base: &CacheKey, index: &Arc<VariantIndex>) {
        self.indexes.insert(base.hash(), Arc::clone(index));
    }

    /// The rule of a path: `Some(None)` if it has none, `None` if the process does not know.
    pub(super) fn rule(&self, search: &Search) -> Option<Rule> {
        self.rules.get(&search.index.hash())
    }

    pub(in crate::engine) fn learn_rule(&self, search: &CacheKey, rule: Rule) {
        self.rules.insert(search.hash(), rule);
    }
}
