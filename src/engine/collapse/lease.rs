//! One call of the handler for several processes: the process that has the lease calls it, the others look again.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::super::Engine;
use super::super::decide::random_fraction;
use super::super::find::bounded;
use super::super::request::Cx;
use super::flight::FlightKey;
use crate::key::CacheKey;
use crate::policy::Collapse;
use crate::reason::Reason;
use crate::store::{Fence, Lease, Store};
use crate::sync::whole;
use crate::telemetry::count;

/// Waits of a process that has been denied the lease: doubling, so that a slow handler is not asked about
/// hundreds of times, and each shortened by up to a half, so that many processes do not ask at once.
const FIRST_WAIT: Duration = Duration::from_millis(25);
pub(in crate::engine) const LONGEST_WAIT: Duration = Duration::from_millis(400);

/// How long a response that is not to be shared keeps other processes from waiting for the next one, where
/// nothing is remembered of it: those that wait go inside together.
pub(in crate::engine) const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The wait after so many denials.
pub(in crate::engine) fn next_wait(denials: u32) -> Duration {
    let whole = FIRST_WAIT.saturating_mul(1 << denials.min(8)).min(LONGEST_WAIT);
    whole.mul_f64(1.0 - random_fraction() / 2.0)
}

/// What asking for the lease comes to.
pub(in crate::engine) enum LeaseOutcome {
    /// It is this process's, or none is needed.
    Granted(Option<HeldLease>),
    /// Another process is inside.
    Denied,
    /// Another process has found that for so long there is nothing to share.
    Unshareable(Duration),
    /// The store could not be asked.
    Failed,
}

type Release = Box<dyn FnOnce(Fence, Option<Duration>) + Send + Sync>;

/// A lease of this process. Dropped, it is given back.
pub(in crate::engine) struct HeldLease {
    fence: Fence,
    /// When its time is over.
    until: Instant,
    release: Option<Release>,
}

impl HeldLease {
    /// What a write has to hold.
    pub(in crate::engine) fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Whether another process may have got it.
    pub(in crate::engine) fn is_expired(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Gives it back, and tells who asks for so long that there is nothing to wait for.
    pub(in crate::engine) fn release_unshareable(mut self, time: Duration) {
        self.end(Some(time));
    }

    fn end(&mut self, unshareable: Option<Duration>) {
        if let Some(release) = self.release.take() {
            release(self.fence.clone(), unshareable);
        }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// Asks for the lease on what a flight is about, where the route's processes collapse together.
pub(super) async fn acquire<St: Store>(cx: &Cx<St>, about: &FlightKey) -> LeaseOutcome {
    let Cx { engine, route, .. } = cx;
    if route.policy.collapse != Collapse::Cluster {
        return LeaseOutcome::Granted(None);
    }
    let (engine, key) = (Arc::clone(engine), lease_key(about));
    let (limit, time) = (route.store_timeout, route.policy.lease);
    // to its end: a lease that is granted after the request has gone is given back
    let acquired = async move { acquire_from_store(&engine, key, limit, time).await };
    whole(acquired).await.unwrap_or(LeaseOutcome::Failed)
}

async fn acquire_from_store<St: Store>(
    engine: &Engine<St>,
    key: CacheKey,
    limit: Duration,
    time: Duration,
) -> LeaseOutcome {
    let until = Instant::now() + time;
    match bounded(limit, engine.store.lease(&key, time)).await {
        Ok(Lease::Granted(number)) => {
            count(&engine.counters.leases);
            let (fence, release) = (Fence { key, number }, release(&engine.store, limit));
            LeaseOutcome::Granted(Some(HeldLease { fence, until, release: Some(release) }))
        }
        Ok(Lease::Held) => {
            count(&engine.counters.lease_waits);
            LeaseOutcome::Denied
        }
        Ok(Lease::Unshareable(left)) => LeaseOutcome::Unshareable(left),
        Err(error) => {
            count(&engine.counters.lease_errors);
            engine.reasons.count(Reason::LeaseError.as_str());
            tracing::debug!(%error, "no lease: the handler is called without");
            LeaseOutcome::Failed
        }
    }
}

/// What gives a lease back, in a task.
fn release<St: Store>(store: &St, limit: Duration) -> Release {
    let store = store.clone();
    Box::new(move |fence, unshareable| {
        let release = async move {
            let released = store.release(&fence, unshareable);
            // a lease that is not given back ends by itself
            let _ = bounded(limit, released).await;
        };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(release);
        }
    })
}

/// Requests with credentials have leases of their own, as they have flights.
fn lease_key(about: &FlightKey) -> CacheKey {
    if !about.credentialed {
        return about.key.clone();
    }
    // no key has a line feed in it
    CacheKey::new([about.key.as_bytes(), b"\ncredentials"].concat())
}

/// How long a process waits before it asks again, at the most until then.
pub(in crate::engine) async fn wait(denials: u32, until: Instant) {
    tokio::time::sleep_until(until.min(Instant::now() + next_wait(denials))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit() {
        for (denials, whole) in
            [(0, 25), (1, 50), (2, 100), (3, 200), (4, 400), (9, 400), (1000, 400)]
        {
            let wait = next_wait(denials);
            assert!(wait >= Duration::from_millis(whole) / 2, "{denials}: {wait:?}");
            assert!(wait <= Duration::from_millis(whole), "{denials}: {wait:?}");
        }
    }

    #[test]
    fn requests_with_credentials_have_their_own_lease() {
        let key = CacheKey::new("p:1:/");
        let about = |credentialed| FlightKey { key: key.clone(), base: key.clone(), credentialed };
        assert_eq!(lease_key(&about(false)), key);
        assert_ne!(lease_key(&about(true)).hash(), key.hash());
    }
}
