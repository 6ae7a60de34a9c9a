//! How does a task connect again after a failure, and how long may a connection be idle?

use std::time::Duration;

use rand::RngExt;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::super::shared::Shared;
use super::connection::{Connection, Role};
use crate::store::StoreError;

/// How long a connection may be idle before a ping. It is shorter than the usual limits of servers, proxies and
/// firewalls.
pub(in super::super) const IDLE: Duration = Duration::from_secs(60);

/// Waits between attempts to connect: from 50 ms to a second, doubling. Up to half of each is cut at random, so that
/// many processes do not connect at once.
#[derive(Debug, Default)]
pub(in super::super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(1);

    pub(in super::super) fn next(&mut self) -> Duration {
        let whole = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(Self::LONGEST);
        self.failures += 1;
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// Opens a connection, with as many attempts as necessary, and reports each failure. `None` if the store is closed
/// before.
///
/// The tasks of a store take turns. Otherwise a server that hangs would get many connections from one host, and might
/// block it (`max_connect_errors`).
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

/// Resolves when the store is closed, or when its last handle is dropped.
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
