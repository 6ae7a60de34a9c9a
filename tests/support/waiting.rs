//! Waiting for a condition. No test waits for a time and hopes that it was long enough.

use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// How long a condition may take on a busy machine. Shorter than the lifetimes in the tests, so that nothing holds
/// only because an entry has expired.
pub const PATIENCE: Duration = Duration::from_secs(40);

const PAUSE: Duration = Duration::from_millis(3);

/// Waits until the condition holds.
///
/// # Panics
///
/// If it does not hold within `PATIENCE`.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + PATIENCE;
        while !holds().await {
            assert!(Instant::now() < deadline, "{caller}: not within {PATIENCE:?}: {what}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The same on a thread without a runtime.
///
/// # Panics
///
/// If it does not hold within `PATIENCE`.
#[track_caller]
pub fn eventually_on_this_thread(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(PAUSE);
    }
}
