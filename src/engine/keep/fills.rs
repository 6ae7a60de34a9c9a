//! What a process has stored lately, and what was not to be stored.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::sync::Cache;

use super::super::find::{TABLE_BYTES, bounded_table, no_extra_bytes};
use super::super::request::StorabilityKey;
use crate::body::{Budget, Recorder, Sink};
use crate::key::CacheKey;
use crate::telemetry::Throttle;

/// How long a fill, and a target whose responses are not stored, are remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(120);

/// The number of the last fill of a key, and when the head of its response was there.
type LastFill = (u64, Instant);

/// The fills of a process.
pub(in crate::engine) struct Fills {
    /// The last fill of each key: a validation that began before that is about an older response.
    last: Cache<[u8; 16], LastFill>,
    count: AtomicU64,
    /// Targets whose last response was not to be stored. The handler sees the conditions of their requests.
    unstorable: Cache<StorabilityKey, ()>,
    /// What bodies hold that are being recorded.
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
    /// The number of the last fill so far.
    pub(in crate::engine) fn so_far(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Notes a fill of `key` by a response whose head was there at this moment.
    pub(super) fn note(&self, key: &CacheKey, answered: Instant) {
        let number = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        self.last.insert(key.hash(), (number, answered));
    }

    /// Whether the last fill of `key` is of a response whose head was there after this moment.
    pub(super) fn is_later(&self, key: &CacheKey, answered: Instant) -> bool {
        self.last.get(&key.hash()).is_some_and(|(_, last)| last > answered)
    }

    /// Whether `key` has not been filled since there were `fills` fills.
    pub(super) fn is_unfilled_since(&self, key: &CacheKey, fills: u64) -> bool {
        self.last.get(&key.hash()).is_none_or(|(last, _)| last <= fills)
    }

    /// Whether the last response to this target was not to be stored.
    pub(in crate::engine) fn is_unstorable(&self, storability_key: &StorabilityKey) -> bool {
        self.unstorable.contains_key(storability_key)
    }

    pub(in crate::engine) fn remember_unstorable(&self, storability_key: StorabilityKey) {
        self.unstorable.insert(storability_key, ());
    }

    pub(super) fn forget_unstorable(&self, storability_key: &StorabilityKey) {
        self.unstorable.invalidate(storability_key);
    }

    /// Records a body of at most `limit` bytes, while all recordings together take at most `recording_bytes`.
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
