//! Counters, named reasons, spans, and a limit on repeated warnings.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tracing::Span;

use crate::sync;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of a cache in this process, since it was made.
        ///
        /// ```
        /// use tower_mysql_cache::{CacheLayer, MemoryStore};
        ///
        /// let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
        /// let counts = cache.counts();
        /// println!("{} hits, {} misses", counts.hits, counts.misses);
        /// assert_eq!(counts.hits, 0);
        /// ```
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

            /// The names of the counters in the metrics facade.
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
    /// Requests answered with a stored response, fresh or stale.
    hits,
    /// Stale responses served while a request revalidated them (RFC 5861 3). They also count as hits.
    stale_while_revalidate,
    /// Stale responses served because the handler failed or was slow (RFC 5861 4).
    stale_if_error,
    /// Refreshes started in the background, of stale responses and early ones.
    refreshes,
    /// Refreshes started before the response was stale. They also count as `refreshes`.
    early_refreshes,
    /// Refreshes not started, or slow handlers stopped, because too many refreshes were running.
    refreshes_shed,
    /// Refreshes that failed: an error, a 500, 502, 503 or 504, or no answer in time.
    refresh_failures,
    /// Followers: requests answered with the response to another request that was running at the same time.
    collapsed,
    /// Leaders: requests that called the handler, for other requests too.
    flights,
    /// Followers that called the handler because the leader's response could not be shared.
    flights_released,
    /// Followers that called the handler because they had waited for `collapse_wait`.
    collapse_timeouts,
    /// Leases granted to this process.
    leases,
    /// Lease requests refused because another process held the lease.
    lease_waits,
    /// Lease requests that failed. The handler was called without a lease.
    lease_errors,
    /// Responses not written because another process had got the lease meanwhile.
    leases_lost,
    /// Requests for which the store had no usable response.
    misses,
    /// Requests that skipped the cache.
    bypassed,
    /// Requests with other methods than GET and HEAD.
    other_methods,
    /// Responses that the store has written.
    stored,
    /// Responses that were not storable, for any named reason.
    not_stored,
    /// Bodies that ended early, failed or grew too large while they were recorded, or for which `recording_bytes` had
    /// no room.
    abandoned,
    /// Responses not stored because too many bytes were waiting to be written.
    shed,
    /// Variants deleted because their target had too many.
    variants_evicted,
    /// Lookups that failed or took too long.
    lookup_errors,
    /// Lookups skipped because the breaker was open.
    lookups_skipped,
    /// How often the breaker opened. While it is open, requests call the handler without asking the store. If this is
    /// more than `breaker_closed`, the breaker of at least one route is open now.
    breaker_opened,
    /// How often the breaker closed, so that requests asked the store again.
    breaker_closed,
    /// Writes that failed or took too long.
    write_errors,
    /// Rows written to the invalidation log, for unsafe methods and for the handle.
    invalidations,
    /// Rows that could not be written to the invalidation log, and unsafe requests whose invalidation took too long.
    invalidation_errors,
}

/// How often each named reason occurred, by the label `reason`.
#[cfg(feature = "metrics")]
const REASONS: &str = "tower_mysql_cache_reasons_total";
/// Seconds that requests waited for their lookup.
#[cfg(feature = "metrics")]
const LOOKUP_SECONDS: &str = "tower_mysql_cache_lookup_seconds";

/// A counter in this process. With the feature `metrics`, also a counter of the metrics facade.
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

/// Measures a lookup for the metrics facade. Does nothing without the feature `metrics`.
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

/// The span of a lookup. It ends when the store has answered, or when the request stops waiting for it.
pub(crate) fn lookup_span() -> Span {
    tracing::debug_span!("cache_lookup")
}

/// The span of a call of the handler. It ends with the head of the handler's response.
pub(crate) fn handler_span() -> Span {
    tracing::debug_span!("cache_handler")
}

/// The span of a write that goes on after the response. Its parent is the request whose response is written.
pub(crate) fn write_span() -> Span {
    tracing::debug_span!("cache_write")
}

/// How often a request was not answered from the store, or a response not stored, for each named reason.
#[derive(Debug, Default)]
pub(crate) struct Reasons(Mutex<BTreeMap<&'static str, u64>>);

impl Reasons {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        sync::lock(&self.0)
    }

    /// All names are constants of the crate, so the map stays small.
    pub(crate) fn count(&self, reason: &'static str) {
        *self.counts().entry(reason).or_default() += 1;
        #[cfg(feature = "metrics")]
        metrics::counter!(REASONS, "reason" => reason).increment(1);
    }

    pub(crate) fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        self.counts().clone()
    }
}

/// Allows one warning in ten seconds, and counts the suppressed ones.
#[derive(Debug)]
pub(crate) struct Throttle {
    start: Instant,
    /// When the next warning is allowed, in milliseconds after `start`.
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

    /// `Some(n)` if this warning is allowed, where `n` is the number of suppressed warnings before it.
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
    fn counters_reasons_and_times_reach_the_metrics_facade() {
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
    fn one_warning_is_allowed_and_the_others_are_counted() {
        let throttle = Throttle::new();
        let passed = [0, 1, 9, 10, 20].map(|s| throttle.pass_at(Duration::from_secs(s)));
        assert_eq!(passed, [Some(0), None, None, Some(2), Some(0)]);
    }
}
