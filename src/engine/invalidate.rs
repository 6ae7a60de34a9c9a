//! Removing what is no longer true.

use std::future::Future;
use std::sync::Arc;

use super::{Engine, Route};
use crate::key::{KeyRange, TargetKey};
use crate::store::{Store, StoreError};
use crate::telemetry::count;

impl<St: Store> Engine<St> {
    /// Removes every entry in the ranges, those on their way to the store included, and keeps
    /// responses out that are being made at this moment. Until it ends, lookups of this process find
    /// nothing in the ranges. Returns how many entries there were.
    pub(crate) async fn invalidate(&self, ranges: &[KeyRange]) -> Result<u64, StoreError> {
        // from here on, nothing that began earlier is stored in the ranges
        let removing: Vec<_> = ranges.iter().map(|range| self.fence.raise(range.clone())).collect();
        ranges.iter().for_each(|range| self.pending.withdraw(range));
        let mut outcome = Ok(0);
        for range in ranges {
            // what was on its way is in the store or has failed when the removal begins
            self.pending.settled_in(range).await;
            let removed = self.store.remove(range.clone()).await;
            let counters = &self.counters;
            count(if removed.is_ok() {
                &counters.invalidations
            } else {
                &counters.invalidation_errors
            });
            outcome = match (outcome, removed) {
                (Ok(sum), Ok(rows)) => Ok(sum + rows),
                (Err(first), _) | (Ok(_), Err(first)) => Err(first),
            };
        }
        drop(removing);
        outcome
    }

    /// The same for targets, in all their spellings, in a task of its own: dropping this future does
    /// not stop it half way.
    pub(crate) async fn invalidate_targets(
        self: &Arc<Self>,
        route: &Arc<Route>,
        targets: Vec<TargetKey>,
        with_origin: bool,
    ) -> Result<u64, StoreError> {
        let (engine, route) = (Arc::clone(self), Arc::clone(route));
        whole(async move {
            let ranges = engine.ranges(&route, &targets, with_origin).await;
            engine.invalidate(&ranges).await
        })
        .await
    }

    /// The same for everything under the layer's prefix.
    pub(crate) async fn purge(self: &Arc<Self>, route: &Route) -> Result<u64, StoreError> {
        let (engine, range) = (Arc::clone(self), route.keys.range_of_prefix());
        whole(async move { engine.invalidate(&[range]).await }).await
    }
}

/// Runs to its end, whatever becomes of who waits, where there is a runtime.
pub(super) async fn whole<T: Send + 'static>(
    task: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn(task).await.unwrap_or(Err(StoreError::Closed)),
        Err(_) => task.await,
    }
}
