//! Counting, and warning without flooding the log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tracing::Span;

use crate::sync;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a cache has done since it was made, in this process.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The live counters behind [`Counts`].
        #[derive(Debug)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Counts {
                Counts { $($name: self.$name.value.load(Ordering::Relaxed),)* }
            }

            /// The names by which the metrics facade knows them.
            #[cfg(test)]
            const NAMES: &[&str] = &[$(concat!("tower_mysql_cache_", stringify!($name), "_total"),)*];
        }

        impl Default for Counters {
            fn default() -> Self {
                Self {
                    $($name: Counter {
                        value: AtomicU64::new(0),
                        #[cfg(feature = "metrics")]
                        name: concat!("tower_mysql_cache_", stringify!($name), "_total"),
                    },)*
                }
            }
        }
    };
}

counters! {
    /// Requests answered out of the store.
    hits,
    /// Stale responses served while they were being validated (RFC 5861 3); among the hits.
    stale_while_revalidate,
    /// Stale responses served in place of an error or of a handler that took too long (RFC 5861 4).
    stale_if_error,
    /// Validations begun behind a response that was served: of stale ones, and early ones.
    refreshes,
    /// Those among them that were begun before the response was stale.
    early_refreshes,
    /// Validations not begun, or handlers not left to go on, because too many were under way.
    refreshes_shed,
    /// Validations in the background that came to nothing: an error, a 500, 502, 503 or 504, or no answer in time.
    refresh_failures,
    /// Requests answered by the response to another one that was inside at the same time.
    collapsed,
    /// Requests that went inside for those who might ask the same meanwhile.
    flights,
    /// Requests that waited for another one's response, and went inside because it was not to be shared.
    flights_released,
    /// Requests that waited for another one's response for too long, and went inside alone.
    collapse_timeouts,
    /// Leases that this process got: its flights that no other process made.
    leases,
    /// Times that another process held the lease: looks again, after a while.
    lease_waits,
    /// Leases that could not be asked for; the requests went inside without.
    lease_errors,
    /// Responses that were not written because another process had been granted the lease meanwhile.
    leases_lost,
    /// Requests that went inside because nothing usable was stored.
    misses,
    /// Requests that the cache was told to leave alone.
    bypassed,
    /// Requests with other methods than GET and HEAD.
    other_methods,
    /// Responses handed to the store.
    stored,
    /// Responses that were not to be stored, for any named reason.
    not_stored,
    /// Bodies that ended early, failed or grew over the limit while being recorded.
    abandoned,
    /// Responses not stored because too many were waiting to be written.
    shed,
    /// Variants removed because their target had too many.
    variants_evicted,
    /// Lookups that failed or took too long.
    lookup_errors,
    /// Lookups that were not made because those before them had failed: the breaker was open.
    lookups_skipped,
    /// Times that the breaker opened: requests went inside without asking the store. While this is more
    /// than `breaker_closed`, they still do, on one of the routes at least.
    breaker_opened,
    /// Times that the breaker closed: the store was asked again.
    breaker_closed,
    /// Writes that failed or took too long.
    write_errors,
    /// Invalidations by unsafe methods and by the handle.
    invalidations,
    /// Invalidations that failed.
    invalidation_errors,
}

/// How often each named reason counted, by its label `reason`.
#[cfg(feature = "metrics")]
const REASONS: &str = "tower_mysql_cache_reasons_total";
/// Seconds that requests waited for their lookup.
#[cfg(feature = "metrics")]
const LOOKUP_SECONDS: &str = "tower_mysql_cache_lookup_seconds";

/// A counter of this process, and of the metrics facade where the feature is on.
#[derive(Debug)]
pub(crate) struct Counter {
    value: AtomicU64,
    #[cfg(feature = "metrics")]
    name: &'static str,
}

pub(crate) fn count(counter: &Counter) {
    count_many(counter, 1);
}

pub(crate) fn count_many(counter: &Counter, by: u64) {
    counter.value.fetch_add(by, Ordering::Relaxed);
    #[cfg(feature = "metrics")]
    metrics::counter!(counter.name).increment(by);
}

/// How long a lookup takes, for the metrics facade; without the feature nothing at all.
pub(crate) struct LookupTimer {
    #[cfg(feature = "metrics")]
    started: Instant,
}

impl LookupTimer {
    pub(crate) fn start() -> Self {
        Self {
            #[cfg(feature = "metrics")]
            started: Instant::now(),
        }
    }

    pub(crate) fn stop(self) {
        #[cfg(feature = "metrics")]
        metrics::histogram!(LOOKUP_SECONDS).record(self.started.elapsed());
    }
}

/// The span of a lookup: everything until the store has answered, or is not waited for any longer.
pub(crate) fn lookup_span() -> Span {
    tracing::debug_span!("cache_lookup")
}

/// The span of the inner service, until its response's head is there.
pub(crate) fn inside_span() -> Span {
    tracing::debug_span!("cache_inside")
}

/// The span of a write behind a response. It begins in the request that makes it.
pub(crate) fn write_span() -> Span {
    tracing::debug_span!("cache_write")
}

/// How often each named reason kept a request from the store or a response out of it.
#[derive(Debug, Default)]
pub(crate) struct Reasons(Mutex<BTreeMap<&'static str, u64>>);

impl Reasons {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        sync::lock(&self.0)
    }

    /// The names are constants of the crate, so that there are never many.
    pub(crate) fn count(&self, reason: &'static str) {
        *self.counts().entry(reason).or_default() += 1;
        #[cfg(feature = "metrics")]
        metrics::counter!(REASONS, "reason" => reason).increment(1);
    }

    pub(crate) fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        self.counts().clone()
    }
}

/// Lets one warning through every ten seconds and counts the rest.
#[derive(Debug)]
pub(crate) struct Throttle {
    start: Instant,
    /// Milliseconds after `start` from which the next warning passes.
    next_ms: AtomicU64,
    suppressed: AtomicU64,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

impl Throttle {
    const EVERY: Duration = Duration::from_secs(10);

    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), next_ms: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// `Some(n)` when this warning may pass, after `n` that did not.
    pub(crate) fn pass(&self) -> Option<u64> {
        self.pass_at(self.start.elapsed())
    }

    fn pass_at(&self, now: Duration) -> Option<u64> {
        let elapsed = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let now_ms = elapsed(now);
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        let after_ms = now_ms.saturating_add(elapsed(Self::EVERY));
        let first = Ordering::Relaxed;
        if now_ms >= next_ms
            && self.next_ms.compare_exchange(next_ms, after_ms, first, first).is_ok()
        {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_in_the_guide() {
        let guide = include_str!("docs/observability.md");
        for name in Counters::NAMES {
            assert!(guide.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn counters_reasons_and_lookup_times_reach_the_metrics_facade() {
        use metrics_util::debugging::{DebugValue, DebuggingRecorder};
        let recorder = DebuggingRecorder::new();
        let counters = Counters::default();
        metrics::with_local_recorder(&recorder, || {
            count(&counters.hits);
            count(&counters.hits);
            Reasons::default().count("cookie");
            LookupTimer::start().stop();
        });
        assert_eq!(counters.snapshot().hits, 2);
        let seen = recorder.snapshotter().snapshot().into_vec();
        let seen = |name: &str| {
            seen.iter().find(|(key, ..)| key.key().name() == name).map(|(key, _, _, value)| {
                (
                    key.key().labels().map(|label| label.value().to_owned()).collect::<Vec<_>>(),
                    value,
                )
            })
        };
        let (_, hits) = seen("tower_mysql_cache_hits_total").unwrap();
        assert_eq!(*hits, DebugValue::Counter(2));
        assert_eq!(seen(REASONS).unwrap(), (vec!["cookie".to_owned()], &DebugValue::Counter(1)));
        assert!(
            matches!(seen(LOOKUP_SECONDS).unwrap().1, DebugValue::Histogram(times) if times.len() == 1)
        );
        let guide = include_str!("docs/observability.md");
        assert!(guide.contains(REASONS) && guide.contains(LOOKUP_SECONDS));
    }

    #[test]
    fn one_warning_in_ten_seconds_passes_and_counts_the_others() {
        let throttle = Throttle::new();
        let passed = [0, 1, 9, 10, 20].map(|s| throttle.pass_at(Duration::from_secs(s)));
        assert_eq!(passed, [Some(0), None, None, Some(2), Some(0)]);
    }
}
