//! Which process calls the handler, if several receive requests for the same key? The process that holds the lease.
//! The others wait and look up again.

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

/// How long a process waits after the lease was denied, before it asks again. The wait doubles, so that a slow
/// handler does not cause hundreds of queries. Up to half of it is cut at random, so that many processes do not ask
/// at once.
const FIRST_WAIT: Duration = Duration::from_millis(25);
pub(in crate::engine) const LONGEST_WAIT: Duration = Duration::from_millis(400);

/// How long other processes do not wait for the lease after a response that could not be shared. This applies if the
/// key is not marked as unshareable for longer.
pub(in crate::engine) const AFTER_RELEASE: Duration = Duration::from_secs(1);

/// The wait after this number of denials.
pub(in crate::engine) fn next_wait(denials: u32) -> Duration {
    let whole = FIRST_WAIT.saturating_mul(1 << denials.min(8)).min(LONGEST_WAIT);
    whole.mul_f64(1.0 - random_fraction() / 2.0)
}

pub(in crate::engine) enum LeaseOutcome {
    /// This process holds the lease, or the route needs none.
    Granted(Option<HeldLease>),
    /// Another process holds the lease.
    Denied,
    /// Another process has marked the key as unshareable, for this time.
    Unshareable(Duration),
    /// The store did not answer, or failed.
    Failed,
}

type Release = Box<dyn FnOnce(Fence, Option<Duration>) + Send + Sync>;

/// A lease that this process holds. Dropping it releases it.
pub(in crate::engine) struct HeldLease {
    fence: Fence,
    /// When the lease ends.
    until: Instant,
    release: Option<Release>,
}

impl HeldLease {
    /// What a write carries. The store refuses the write if another process has got the lease.
    pub(in crate::engine) fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Whether another process may have got the lease.
    pub(in crate::engine) fn is_expired(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Releases the lease. For this time, processes that ask for it do not wait.
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

/// Asks for the lease for a flight. Routes that do not collapse across processes need none.
pub(super) async fn acquire<St: Store>(cx: &Cx<St>, about: &FlightKey) -> LeaseOutcome {
    let Cx { engine, route, .. } = cx;
    if route.policy.collapse != Collapse::Cluster {
        return LeaseOutcome::Granted(None);
    }
    let (engine, key) = (Arc::clone(engine), lease_key(about));
    let (limit, time) = (route.store_timeout, route.policy.lease);
    // runs to its end even if the request is dropped: a lease that is granted after that is released
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
    match bounded(limit, engine.store.leases().lease(&key, time)).await {
        Ok(Lease::Granted(number)) => {
            count(&engine.counters.leases);
            let (fence, release) = (Fence::new(key, number), release(&engine.store, limit));
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
            tracing::debug!(error = error.cause(), "no lease; the handler is called without one");
            LeaseOutcome::Failed
        }
    }
}

/// Makes the function that releases a lease, in a task.
fn release<St: Store>(store: &St, limit: Duration) -> Release {
    let store = store.clone();
    Box::new(move |fence, unshareable| {
        let release = async move {
            let released = store.leases().release(&fence, unshareable);
            // a lease that is not released ends after its time
            let _ = bounded(limit, released).await;
        };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(release);
        }
    })
}

/// Requests with credentials have separate leases, as they have separate flights.
fn lease_key(about: &FlightKey) -> CacheKey {
    if !about.credentialed {
        return about.key.clone();
    }
    // no key contains a line feed
    CacheKey::new([about.key.as_bytes(), b"\ncredentials"].concat())
}

/// Waits before the next request for the lease, until `until` at most.
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
