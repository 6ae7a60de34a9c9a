//! Connecting again after a failure, and how long a connection may be idle.

use std::time::Duration;

use rand::RngExt;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::super::shared::Shared;
use super::connection::{Connection, Role};
use crate::store::StoreError;

/// How long a connection may lie idle before it is pinged: shorter than what servers, proxies and
/// firewalls usually allow.
pub(in super::super) const IDLE: Duration = Duration::from_secs(60);

/// Waits between attempts to connect: 50 ms, doubling to a second, each shortened by up to a half so that
/// many processes do not come back at once.
#[derive(Debug, Default)]
pub(in super::super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(1);

    /// The next wait.
    pub(in super::super) fn next(&mut self) -> Duration {
        let whole = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(Self::LONGEST);
        self.failures += 1;
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// Opens a connection, however long it takes, and tells of each failure. `None` when the store is closed first.
///
/// The tasks of a store take turns, so that a server that hangs is not knocked at by all of them: servers refuse a
/// host from which too many connections were begun and not used (`max_connect_errors`).
pub(in super::super) async fn reopen(
    shared: &Shared,
    role: Role,
    stop: &mut watch::Receiver<bool>,
    mut failed: impl FnMut(&StoreError),
) -> Option<Connection> {
    let mut backoff = Backoff::default();
    let opening = async {
        loop {
            let _turn = shared.connecting.lock().await;
            match Connection::open(&shared.settings, role).await {
                Ok(connection) => return connection,
                Err(error) => {
                    shared.failed("connecting", &error);
                    failed(&error);
                }
            }
            tokio::time::sleep(backoff.next()).await;
        }
    };
    tokio::select! {
        connection = opening => Some(connection),
        () = stopped(stop) => None,
    }
}

/// Resolves when the store is closed or its last handle is gone.
pub(in super::super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

pub(in super::super) fn idle_timer() -> Interval {
    let mut idle = interval_at(Instant::now() + IDLE, IDLE);
    idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
    idle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_second() {
        let mut backoff = Backoff::default();
        for whole in [50, 100, 200, 400, 800, 1_000, 1_000] {
            let wait = backoff.next();
            assert!(wait >= Duration::from_millis(whole / 2), "{wait:?}");
            assert!(wait <= Duration::from_millis(whole), "{wait:?}");
        }
    }
}
