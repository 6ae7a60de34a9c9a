//! When is the store not asked?
//!
//! After [`FAILURES`] lookups in a row that failed or timed out, the breaker opens: handlers are called at once.
//! Lookups that ran at the same time count once, because they may have waited for the same statement. From time to
//! time, a request starts a probe: a lookup that no request waits for. The first probe with an answer closes the
//! breaker.
//!
//! A store that knows that it cannot answer says so at once ([`StoreError::Unavailable`],
//! [`StoreError::Overloaded`]). This costs no wait, so it does not open the breaker. But it does not close it either.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::super::{Engine, Route};
use super::bounded::bounded;
use crate::key::CacheKey;
use crate::store::{Store, StoreError};
use crate::sync;
use crate::telemetry::count;

/// Failures in a row that open the breaker. Each began after the one before had ended. One or two may be a lock or a
/// slow disk. With the default `store_timeout` of 250 ms, a visitor with one request at a time has waited for less
/// than a second.
const FAILURES: u32 = 3;
/// The wait before the first probe. Lookups that run when the breaker opens may take as long.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The wait doubles with each failed probe, up to this limit. So after the database returns, the cache is unused for
/// this time at most.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// If the breaker opens again this soon after it closed, the wait keeps growing. So an unstable database does not
/// switch the cache, and write log lines, four times a second.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// The breakers of a layer's clones: one for each `store_timeout`. What is too slow for one route may be fast enough
/// for another.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Breakers(Arc<Mutex<ByWait>>);

/// A list, because there are only a few different timeouts.
type ByWait = Vec<(Duration, Arc<Breaker>)>;

impl Breakers {
    /// The breaker of routes with this timeout.
    pub(in crate::engine) fn of(&self, store_timeout: Duration) -> Arc<Breaker> {
        let mut breakers = sync::lock(&self.0);
        if let Some((_, breaker)) = breakers.iter().find(|(wait, _)| *wait == store_timeout) {
            return Arc::clone(breaker);
        }
        let breaker = Arc::<Breaker>::default();
        breakers.push((store_timeout, Arc::clone(&breaker)));
        breaker
    }
}

/// The breaker of all routes with the same `store_timeout`.
#[derive(Debug)]
pub(in crate::engine) struct Breaker {
    /// Whether it is open, readable without the lock.
    open: AtomicBool,
    /// Whether `failures` is above 0, readable without the lock. Most of the time it is not.
    failing: AtomicBool,
    state: Mutex<State>,
}

/// What a request must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Ask,
    /// Call the handler.
    Skip,
    /// Call the handler, and start a probe.
    Probe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Opened,
    Closed,
}

/// The rules, without clock and lock.
#[derive(Debug)]
struct State {
    failures: u32,
    /// When the last failure was counted.
    failed_at: Option<Instant>,
    /// When the next probe is due. `None` while the breaker is closed.
    probe_at: Option<Instant>,
    probing: bool,
    /// The wait before the next probe.
    wait: Duration,
    closed_at: Option<Instant>,
}

impl State {
    const fn new() -> Self {
        let (failed_at, probe_at, closed_at) = (None, None, None);
        Self { failures: 0, failed_at, probe_at, probing: false, wait: FIRST_WAIT, closed_at }
    }

    fn pass(&mut self, now: Instant) -> Pass {
        match self.probe_at {
            None => Pass::Ask,
            Some(due) if now >= due && !self.probing => {
                self.probing = true;
                Pass::Probe
            }
            Some(_) => Pass::Skip,
        }
    }

    fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Counts a failed lookup that began at `began`.
    fn failed(&mut self, began: Instant, now: Instant) -> Option<Change> {
        // not counted if the breaker is open, or if a lookup that ran at the same time has been counted
        if self.probe_at.is_some() || self.failed_at.is_some_and(|at| began < at) {
            return None;
        }
        self.failed_at = Some(now);
        self.failures += 1;
        if self.failures < FAILURES {
            return None;
        }
        let was_stable =
            self.closed_at.is_none_or(|at| now.saturating_duration_since(at) > STABLE_AFTER);
        if was_stable {
            self.wait = FIRST_WAIT;
        }
        self.schedule_probe(now);
        Some(Change::Opened)
    }

    fn probed(&mut self, answered: bool, now: Instant) -> Option<Change> {
        self.probing = false;
        if !answered {
            self.schedule_probe(now);
            return None;
        }
        self.failures = 0;
        self.closed_at = Some(now);
        self.probe_at.take().map(|_| Change::Closed)
    }

    fn schedule_probe(&mut self, now: Instant) {
        self.probe_at = Some(now + self.wait);
        self.wait = self.wait.saturating_mul(2).min(LONGEST_WAIT);
    }
}

impl Breaker {
    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.state)
    }

    /// Updates the fields that are read without the lock.
    fn publish(&self, state: &State) {
        self.open.store(state.probe_at.is_some(), Ordering::Release);
        self.failing.store(state.failures > 0, Ordering::Release);
    }

    pub(in crate::engine) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(in crate::engine) fn succeeded(&self) {
        if self.failing.load(Ordering::Acquire) && !self.is_open() {
            let mut state = self.state();
            state.succeeded();
            self.publish(&state);
        }
    }

    fn pass(&self, now: Instant) -> Pass {
        if self.is_open() { self.state().pass(now) } else { Pass::Ask }
    }

    fn failed(&self, began: Instant, now: Instant) -> Option<Change> {
        let mut state = self.state();
        let change = state.failed(began, now);
        self.publish(&state);
        change
    }

    fn probed(&self, answered: bool, now: Instant) -> Option<Change> {
        let mut state = self.state();
        let change = state.probed(answered, now);
        self.publish(&state);
        change
    }
}

impl Default for Breaker {
    fn default() -> Self {
        let (open, failing) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { open, failing, state: Mutex::new(State::new()) }
    }
}

/// Whether an error counts as a failure: not if the store has returned it at once.
fn is_failure(error: &StoreError) -> bool {
    use StoreError::{Closed, Overloaded, TooLarge, Unavailable};
    !matches!(error, Unavailable | Overloaded | Closed | TooLarge { .. })
}

/// A running probe. If it is dropped, it counts as failed.
struct Probe(Option<Arc<Breaker>>);

impl Probe {
    fn end(mut self, answered: bool) -> Option<Change> {
        self.0.take()?.probed(answered, Instant::now())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(breaker) = self.0.take() {
            let _ = breaker.probed(false, Instant::now());
        }
    }
}

/// Whether a request may ask the store. Starts a probe for `key` if one is due.
pub(super) fn may_ask_store<St: Store>(engine: &Engine<St>, route: &Route, key: &CacheKey) -> bool {
    match route.breaker.pass(Instant::now()) {
        Pass::Ask => true,
        Pass::Skip => false,
        Pass::Probe => probe(engine, route, key),
    }
}

/// Counts a failed lookup that began at `began`.
pub(super) fn lookup_failed<St>(
    engine: &Engine<St>,
    route: &Route,
    error: &StoreError,
    began: Instant,
) {
    if is_failure(error) && route.breaker.failed(began, Instant::now()) == Some(Change::Opened) {
        count(&engine.counters.breaker_opened);
        let reason = error.as_str();
        tracing::warn!(
            error = error.cause(),
            reason,
            "the store fails; handlers are called without asking it"
        );
    }
}

/// Asks the store for `key` in a task. `true` if the store has answered at once.
fn probe<St: Store>(engine: &Engine<St>, route: &Route, key: &CacheKey) -> bool {
    let (store, counters) = (engine.store.clone(), Arc::clone(&engine.counters));
    let (keys, limit) = (vec![key.clone()], route.store_timeout);
    let probe = Probe(Some(Arc::clone(&route.breaker)));
    let mut probing = Box::pin(async move {
        let answer = bounded(limit, store.get_many(keys)).await;
        if let Err(error) = &answer {
            tracing::debug!(
                error = error.cause(),
                reason = error.as_str(),
                "the store still fails"
            );
        }
        if probe.end(answer.is_ok()) == Some(Change::Closed) {
            count(&counters.breaker_closed);
            tracing::info!("the store answers again");
        }
        answer.is_ok()
    });
    // a store in memory answers at once; only others need a task
    let mut cx = Context::from_waker(Waker::noop());
    match probing.as_mut().poll(&mut cx) {
        Poll::Ready(answered) => answered,
        Poll::Pending => {
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(probing);
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A breaker that has just opened.
    fn open(now: Instant) -> State {
        let mut state = State::new();
        for _ in 1..FAILURES {
            assert_eq!(state.failed(now, now), None);
            assert_eq!(state.pass(now), Pass::Ask);
        }
        assert_eq!(state.failed(now, now), Some(Change::Opened));
        state
    }

    #[test]
    fn three_failures_in_a_row_open_the_breaker() {
        let now = Instant::now();
        let mut state = State::new();
        for _ in 0..3 {
            (1..FAILURES).for_each(|_| assert_eq!(state.failed(now, now), None));
            state.succeeded();
        }
        assert_eq!(state.pass(now), Pass::Ask);
        assert_eq!(open(now).pass(now), Pass::Skip);
    }

    #[test]
    fn lookups_that_waited_together_are_one_failure() {
        let start = Instant::now();
        let mut state = State::new();
        for round in 0..FAILURES {
            let (began, now) = (start + FIRST_WAIT * round, start + FIRST_WAIT * (round + 1));
            assert_eq!(state.pass(began), Pass::Ask, "{round}");
            let opens = (round == FAILURES - 1).then_some(Change::Opened);
            assert_eq!(state.failed(began, now), opens, "{round}");
            for lookup in 0..100 {
                let began = began + MS * lookup;
                assert_eq!(state.failed(began, now + MS * lookup), None, "{round}: {lookup}");
            }
        }
    }

    #[test]
    fn routes_with_the_same_timeout_share_a_breaker() {
        let breakers = Breakers::default();
        let (one, other) = (breakers.of(FIRST_WAIT), breakers.of(LONGEST_WAIT));
        assert!(Arc::ptr_eq(&one, &breakers.clone().of(FIRST_WAIT)));
        assert!(!Arc::ptr_eq(&one, &other));
        assert!(
            !Arc::ptr_eq(&one, &Breakers::default().of(FIRST_WAIT)),
            "another layer has its own"
        );
    }

    #[test]
    fn one_probe_at_a_time_starts_when_it_is_due() {
        let start = Instant::now();
        let mut state = open(start);
        assert_eq!(state.pass(start + FIRST_WAIT - MS), Pass::Skip);
        assert_eq!(state.pass(start + FIRST_WAIT), Pass::Probe);
        assert_eq!(state.pass(start + FIRST_WAIT * 100), Pass::Skip, "a probe is running");
    }

    #[test]
    fn failed_probes_double_the_wait_and_an_answer_closes() {
        let mut now = Instant::now();
        let mut state = open(now);
        for wait_ms in [250, 500, 1000, 2000, 2000] {
            let due = now + Duration::from_millis(wait_ms);
            assert_eq!(state.pass(due - MS), Pass::Skip, "{wait_ms}");
            assert_eq!(state.pass(due), Pass::Probe, "{wait_ms}");
            now = due;
            assert_eq!(state.probed(false, now), None);
        }
        assert_eq!(state.pass(now + LONGEST_WAIT), Pass::Probe);
        assert_eq!(state.probed(true, now + LONGEST_WAIT), Some(Change::Closed));
        assert_eq!(state.pass(now + LONGEST_WAIT), Pass::Ask);
        assert_eq!(
            state.failed(now + LONGEST_WAIT, now + LONGEST_WAIT),
            None,
            "the count of failures starts again"
        );
    }

    #[test]
    fn a_failure_that_began_before_the_opening_does_not_count() {
        let start = Instant::now();
        let mut state = open(start);
        assert_eq!(state.failed(start, start + FIRST_WAIT / 2), None);
        assert_eq!(state.pass(start + FIRST_WAIT), Pass::Probe);
    }

    #[test]
    fn the_wait_keeps_growing_if_the_breaker_reopens_soon() {
        let start = Instant::now();
        let reopened = |after: Duration| {
            let mut state = open(start);
            let closed_at = start + FIRST_WAIT;
            assert_eq!(state.pass(closed_at), Pass::Probe);
            assert_eq!(state.probed(true, closed_at), Some(Change::Closed));
            let now = closed_at + after;
            (0..FAILURES).for_each(|_| _ = state.failed(now, now));
            (state, now)
        };
        let (mut soon, now) = reopened(MS);
        assert_eq!(soon.pass(now + FIRST_WAIT), Pass::Skip);
        assert_eq!(soon.pass(now + FIRST_WAIT * 2), Pass::Probe);
        let (mut late, now) = reopened(STABLE_AFTER * 2);
        assert_eq!(late.pass(now + FIRST_WAIT), Pass::Probe);
    }

    #[test]
    fn a_dropped_probe_counts_as_failed() {
        let breaker = Arc::new(Breaker::default());
        let start = Instant::now();
        (0..FAILURES).for_each(|_| _ = breaker.failed(start, start));
        assert!(breaker.is_open());
        assert_eq!(breaker.pass(start + FIRST_WAIT), Pass::Probe);
        drop(Probe(Some(Arc::clone(&breaker))));
        assert!(breaker.is_open());
        assert_eq!(breaker.pass(Instant::now() + LONGEST_WAIT), Pass::Probe);
        assert_eq!(Probe(Some(Arc::clone(&breaker))).end(true), Some(Change::Closed));
        assert!(!breaker.is_open());
    }

    #[test]
    fn errors_without_a_wait_do_not_open_the_breaker() {
        assert!(is_failure(&StoreError::Timeout));
        for at_once in [StoreError::Unavailable, StoreError::Overloaded, StoreError::Closed] {
            assert!(!is_failure(&at_once), "{at_once}");
        }
    }
}
