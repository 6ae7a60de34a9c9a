//! Clocks. The cache gets the time only through [`Clock`], so that tests can drive it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A source of the time, for [`MemoryStore::builder`](crate::MemoryStore::builder).
///
/// ```
/// use tower_mysql_cache::store::{Clock, SystemClock};
///
/// /// A clock that is an hour ahead.
/// struct HourAhead;
///
/// impl Clock for HourAhead {
///     fn now_ms(&self) -> u64 {
///         SystemClock.now_ms() + 3_600_000
///     }
/// }
/// # let _ = HourAhead.now_ms();
/// ```
pub trait Clock: Send + Sync + 'static {
    /// The current time, in milliseconds since the Unix epoch (UTC).
    fn now_ms(&self) -> u64;
}

/// The clock of this machine.
///
/// ```
/// use tower_mysql_cache::store::{Clock, SystemClock};
/// assert!(SystemClock.now_ms() > 1_700_000_000_000); // November 2023
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A clock that changes only when it is told to, for tests of expiry that do not sleep.
///
/// ```
/// use tower_mysql_cache::store::{Clock, ManualClock};
/// let clock = ManualClock::at(1_000);
/// clock.advance(std::time::Duration::from_secs(2));
/// assert_eq!(clock.now_ms(), 3_000);
/// ```
#[derive(Clone, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that shows `now_ms` milliseconds since the Unix epoch.
    ///
    /// ```
    /// use tower_mysql_cache::store::{Clock, ManualClock};
    /// assert_eq!(ManualClock::at(1_000).now_ms(), 1_000);
    /// ```
    #[must_use]
    pub fn at(now_ms: u64) -> Self {
        Self(Arc::new(AtomicU64::new(now_ms)))
    }

    /// Moves the clock and all its clones forward.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_mysql_cache::store::{Clock, ManualClock};
    ///
    /// let clock = ManualClock::at(1_000);
    /// let clone = clock.clone();
    /// clock.advance(Duration::from_secs(2));
    /// assert_eq!(clone.now_ms(), 3_000);
    /// ```
    pub fn advance(&self, by: std::time::Duration) {
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ManualClock").field(&self.now_ms()).finish()
    }
}
