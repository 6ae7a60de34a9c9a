//! A new head for a stored response.

use std::sync::Arc;

use bytes::Bytes;

use super::super::find::{FoundEntry, Refused};
use super::super::request::Cx;
use super::write::in_background;
use crate::key::CacheKey;
use crate::store::Store;
use crate::stored::{Entry, HeadUpdate, Stored, StoredHead, StoredResponse};
use crate::telemetry::count;

/// Gives a stored response another head, unless the process has filled its key since there were `fills` fills. Lookups
/// see it at once; the store has it soon, without its body. A response that has been replaced or removed stays so.
pub(in crate::engine) fn freshen<St: Store>(
    cx: &Cx<St>,
    entry: &FoundEntry,
    new: Arc<StoredHead>,
    expires_ms: u64,
    fills: u64,
) {
    let engine = &cx.engine;
    if !engine.fills.is_unfilled_since(&entry.key, fills) {
        return;
    }
    let (key, old) = (entry.key.clone(), Arc::clone(&entry.response.head));
    let body: Bytes = entry.response.body.clone();
    let stored = Stored::Response(StoredResponse { head: Arc::clone(&new), body });
    let visible = Entry { key: key.clone(), stored, expires_ms };
    let update = HeadUpdate { key, old, new, expires_ms };
    // what waits to be written is newer than what was validated, unless it is the same
    let clear = |waits: &dyn Fn(&CacheKey) -> Option<Stored>| {
        waits(&update.key).is_none_or(
            |stored| matches!(stored, Stored::Response(response) if response.head == update.old),
        )
    };
    match engine.pending.insert(&[visible], engine.limits.queue_bytes, clear) {
        Ok(ticket) => {
            let store = engine.store.clone();
            in_background(engine, ticket, async move { store.freshen(update).await });
        }
        Err(Refused::Full) => count(&engine.counters.shed),
        Err(Refused::Overtaken) => {}
    }
}
