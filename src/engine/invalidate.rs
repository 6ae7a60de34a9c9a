//! Removing what is no longer true.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};

use super::admission::Write;
use super::bounded::bounded;
use super::{Engine, Route};
use crate::key::KeyRange;
use crate::rfc9111::{Target, invalidates, same_origin_targets};
use crate::store::{Store, StoreError};
use crate::telemetry::count;

/// The longest that the response to an unsafe request waits for its invalidation. It goes on in the
/// background.
const INVALIDATION_LIMIT: Duration = Duration::from_secs(2);

impl<St: Store> Engine<St> {
    /// Removes every entry in the ranges, those on their way to the store included, and keeps
    /// responses out that are being made at this moment. Returns how many entries there were.
    pub(crate) async fn invalidate(&self, ranges: Vec<KeyRange>) -> Result<u64, StoreError> {
        let mut removed = 0;
        for range in &ranges {
            // from here on, nothing that began earlier is stored in the range
            self.fence.raise(range.clone());
            self.pending.withdraw(range);
        }
        // what was on its way is in the store or has failed when the removal begins
        self.pending.settled().await;
        for range in ranges {
            match self.store.remove(range).await {
                Ok(rows) => removed += rows,
                Err(error) => {
                    count(&self.counters.invalidation_errors);
                    return Err(error);
                }
            }
            count(&self.counters.invalidations);
        }
        Ok(removed)
    }

    /// Invalidates what a successful unsafe request made untrue (RFC 9111 4.4), before its response
    /// is returned. A failure is loud, but not the client's: what it asked for has been done.
    pub(super) async fn after_write(
        self: &Arc<Self>,
        route: &Route,
        method: &Method,
        write: Write,
        status: StatusCode,
        response: &HeaderMap,
    ) {
        if !invalidates(method, status) {
            return;
        }
        let Write { target, path } = write;
        let mut ranges = vec![route.keys.range_of(&target)];
        if let Some((scheme, authority)) = target.origin() {
            let target_uri = Target { scheme, authority, path: &path };
            let others = same_origin_targets(target_uri, response);
            ranges.extend(others.iter().filter_map(|uri| route.keys.range_beside(&target, uri)));
        }
        let engine = Arc::clone(self);
        // in a task of its own: a client that leaves now does not undo it
        let removal = async move { engine.invalidate(ranges).await };
        let removal = match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                let task = runtime.spawn(removal);
                let done = async { task.await.unwrap_or(Err(StoreError::Closed)) };
                bounded(INVALIDATION_LIMIT, done).await
            }
            Err(_) => removal.await,
        };
        if let Err(error) = removal {
            let reason = error.as_str();
            tracing::error!(%error, reason, path, "an invalidation failed: stale entries may be served");
        }
    }
}
