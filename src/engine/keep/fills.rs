//! What has a process stored lately, and what was not storable?

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::sync::Cache;

use super::super::find::{TABLE_BYTES, bounded_table, no_extra_bytes};
use super::super::request::StorabilityKey;
use crate::body::{Budget, Recorder, Sink};
use crate::key::CacheKey;
use crate::telemetry::Throttle;

/// How long a fill is remembered, or that a response was not storable.
const REMEMBERED_FOR: Duration = Duration::from_secs(120);

/// The number of the last fill of a key, and when the head of its response arrived.
type LastFill = (u64, Instant);

/// The fills of a process. A fill is a response that has been stored.
pub(in crate::engine) struct Fills {
    /// The last fill of each key. If a validation began before it, the validation is about an older response.
    last: Cache<[u8; 16], LastFill>,
    count: AtomicU64,
    /// Targets whose last response was not storable. The handler sees the conditions of their requests.
    unstorable: Cache<StorabilityKey, ()>,
    /// The memory of all bodies that are being recorded.
    recordings: Budget,
    pub(super) warning: Throttle,
}

impl Default for Fills {
    fn default() -> Self {
        Self {
            last: bounded_table(TABLE_BYTES, no_extra_bytes).time_to_live(REMEMBERED_FOR).build(),
            count: AtomicU64::new(0),
            unstorable: bounded_table(TABLE_BYTES, no_extra_bytes)
                .time_to_live(REMEMBERED_FOR)
                .build(),
            recordings: Budget::default(),
            warning: Throttle::new(),
        }
    }
}

impl Fills {
    /// The number of fills so far.
    pub(in crate::engine) fn so_far(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Notes a fill by a response whose head arrived at `answered`.
    pub(super) fn note(&self, key: &CacheKey, answered: Instant) {
        let number = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        self.last.insert(key.hash(), (number, answered));
    }

    /// Whether the head of the last fill arrived after `answered`.
    pub(super) fn is_later(&self, key: &CacheKey, answered: Instant) -> bool {
        self.last.get(&key.hash()).is_some_and(|(_, last)| last > answered)
    }

    /// Whether `key` has not been filled since `fills`.
    pub(super) fn is_unfilled_since(&self, key: &CacheKey, fills: u64) -> bool {
        self.last.get(&key.hash()).is_none_or(|(last, _)| last <= fills)
    }

    /// Whether the last response for this key was not storable.
    pub(in crate::engine) fn is_unstorable(&self, storability_key: &StorabilityKey) -> bool {
        self.unstorable.contains_key(storability_key)
    }

    pub(in crate::engine) fn remember_unstorable(&self, storability_key: StorabilityKey) {
        self.unstorable.insert(storability_key, ());
    }

    pub(super) fn forget_unstorable(&self, storability_key: &StorabilityKey) {
        self.unstorable.invalidate(storability_key);
    }

    /// Records a body of at most `limit` bytes. All recordings together take at most `recording_bytes`.
    pub(in crate::engine) fn recorder(
        &self,
        recording_bytes: usize,
        sink: impl Sink + 'static,
        limit: usize,
        declared: Option<u64>,
    ) -> Recorder {
        let share = self.recordings.share(recording_bytes);
        Recorder::new(Box::new(sink), limit, declared, share)
    }
}
