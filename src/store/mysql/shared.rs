//! What do the handle and the tasks of a store share? Settings, statements, clock and counters.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::options::Settings;
use super::sql::Sql;
use crate::store::StoreError;
use crate::sync::lock;
use crate::telemetry::Throttle;

pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) sql: Sql,
    pub(super) version: String,
    /// Bytes of the largest statement that the server accepts.
    pub(super) max_packet: usize,
    /// The distance between the server's ids: above 1 if several servers share the numbers.
    pub(super) id_step: u64,
    /// As [`Server::logs_text`].
    pub(super) logs_text: bool,
    pub(super) clock: DbClock,
    pub(super) counters: Counters,
    /// Whether leases are used. If not, their table is never read.
    pub(super) leases: AtomicBool,
    /// Held by the task that is connecting again.
    pub(super) connecting: tokio::sync::Mutex<()>,
    warnings: Warnings,
}

impl Shared {
    pub(super) fn new(settings: Settings, sql: Sql, server: Server, clock: DbClock) -> Self {
        let Server { version, max_packet, id_step, logs_text } = server;
        let (counters, warnings) = (Counters::default(), Warnings::default());
        let (leases, connecting) = (AtomicBool::new(false), tokio::sync::Mutex::default());
        Self {
            settings,
            sql,
            version,
            max_packet,
            id_step,
            logs_text,
            clock,
            counters,
            leases,
            connecting,
            warnings,
        }
    }

    /// Counts and logs a statement or connection that failed.
    pub(super) fn failed(&self, doing: &'static str, error: &StoreError) {
        self.counters.failures.fetch_add(1, Relaxed);
        if let Some(suppressed) = self.warnings.due(error.as_str()) {
            tracing::warn!(
                table = %self.settings.table.plain(),
                suppressed,
                error = error.cause(),
                "cache store: {doing} failed"
            );
        }
    }

    /// Counts and logs that the invalidation log cannot be read. Then nothing is served.
    pub(super) fn log_failed(&self, error: &StoreError) {
        self.counters.failures.fetch_add(1, Relaxed);
        if let Some(suppressed) = self.warnings.due("invalidation log") {
            tracing::error!(
                log = %self.settings.log_table.plain(),
                suppressed,
                error = error.cause(),
                "cache store: the invalidation log cannot be read, nothing is served"
            );
        }
    }

    /// Counts and logs entries that could not be read.
    pub(super) fn unreadable(&self, key: &[u8]) {
        self.counters.unreadable.fetch_add(1, Relaxed);
        if let Some(suppressed) = self.warnings.due("unreadable") {
            tracing::warn!(
                table = %self.settings.table.plain(),
                suppressed,
                key = %key.escape_ascii(),
                "cache store: an entry is damaged or of an unknown version; it counts as a miss"
            );
        }
    }

    /// Counts and logs an entry that was not stored because the queue was full.
    pub(super) fn shed(&self) {
        self.counters.shed.fetch_add(1, Relaxed);
        if let Some(suppressed) = self.warnings.due("shed") {
            tracing::warn!(
                table = %self.settings.table.plain(),
                suppressed,
                "cache store: too much waits to be written; an entry was not stored"
            );
        }
    }
}

/// What the store has learnt about the server when connecting.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) version: String,
    pub(super) max_packet: usize,
    /// The distance between the ids of a list of rows.
    pub(super) id_step: u64,
    /// Whether the server writes the text of statements, with their values, into its binary log.
    pub(super) logs_text: bool,
}

/// Failures and work since the store was created.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) unreadable: AtomicU64,
    pub(super) shed: AtomicU64,
    pub(super) too_large: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) culls: AtomicU64,
}

/// A throttle for each kind of warning, so that a failing database does not fill the error log.
#[derive(Debug, Default)]
struct Warnings(Mutex<HashMap<&'static str, Throttle>>);

impl Warnings {
    /// As [`Throttle::pass`].
    fn due(&self, kind: &'static str) -> Option<u64> {
        lock(&self.0).entry(kind).or_default().pass()
    }
}

/// The database's clock, continued by this machine's monotonic clock. So this machine's wall clock does not matter.
pub(super) struct DbClock {
    epoch: Instant,
    /// The database's time at `epoch`, in milliseconds since the Unix epoch.
    at_epoch_ms: AtomicI64,
}

impl DbClock {
    /// A clock that has not been set.
    pub(super) fn new() -> Self {
        Self { epoch: Instant::now(), at_epoch_ms: AtomicI64::new(0) }
    }

    /// The time now, in milliseconds since the Unix epoch.
    pub(super) fn now_ms(&self) -> u64 {
        self.time_at(Instant::now())
    }

    fn time_at(&self, at: Instant) -> u64 {
        let time = self.at_epoch_ms.load(Relaxed).saturating_add(self.since_epoch(at));
        u64::try_from(time).unwrap_or(0)
    }

    /// Notes that the database's clock showed `server_ms` (truncated to milliseconds) at some moment between `asked`
    /// and `answered`. This gives an interval for the true time. If the clock is within it, it is not changed, so
    /// slow answers do not move it. Otherwise it is set to the middle.
    pub(super) fn observe(&self, server_ms: u64, asked: Instant, answered: Instant) {
        let server = i64::try_from(server_ms).unwrap_or(i64::MAX);
        let earliest = server.saturating_sub(self.since_epoch(answered));
        let latest = server.saturating_add(1).saturating_sub(self.since_epoch(asked));
        let held = self.at_epoch_ms.load(Relaxed);
        if held < earliest || held > latest {
            self.at_epoch_ms.store(earliest + (latest - earliest) / 2, Relaxed);
        }
    }

    fn since_epoch(&self, at: Instant) -> i64 {
        let since = at.saturating_duration_since(self.epoch);
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

impl fmt::Debug for DbClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DbClock").field(&self.now_ms()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_clock_is_set_to_the_middle_of_a_round_trip_and_runs_on() {
        let clock = DbClock::new();
        let at = |ms| clock.epoch + Duration::from_millis(ms);
        clock.observe(1_000_000, at(10), at(30));
        assert_eq!(clock.time_at(at(20)), 1_000_000);
        assert_eq!(clock.time_at(at(120)), 1_000_100);
    }

    #[test]
    fn a_slow_answer_does_not_move_the_clock() {
        let clock = DbClock::new();
        let at = |ms| clock.epoch + Duration::from_millis(ms);
        clock.observe(1_000_000, at(10), at(12));
        let before = clock.time_at(at(100));
        clock.observe(1_000_500, at(100), at(900));
        assert_eq!(clock.time_at(at(100)), before);
        clock.observe(9_000_000, at(1_000), at(1_002));
        assert_eq!(clock.time_at(at(1_001)), 9_000_000);
        clock.observe(5_000, at(2_000), at(2_002));
        assert_eq!(clock.time_at(at(2_001)), 5_000, "it may be set back");
    }

    #[test]
    fn each_kind_of_warning_has_its_own_limit() {
        let warnings = Warnings::default();
        let passed = ["timeout", "timeout", "database"].map(|kind| warnings.due(kind));
        assert_eq!(passed, [Some(0), None, Some(0)]);
    }
}
