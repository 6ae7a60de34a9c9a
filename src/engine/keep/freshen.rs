//! How does a stored response get another head?

use std::sync::Arc;

use super::super::find::{FoundEntry, Refused};
use super::super::request::Cx;
use super::write::in_background;
use crate::key::CacheKey;
use crate::store::Store;
use crate::stored::{Entry, HeadUpdate, Stored, StoredHead};
use crate::telemetry::count;

/// Replaces the head of a stored response, unless the process has filled the key since `fills`. Lookups see the new
/// head at once. It is written in the background, without the body, and only if the stored response still has the old
/// head.
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
    let stored = Stored::Response(entry.response.clone().with_head(Arc::clone(&new)));
    let visible = Entry { key: key.clone(), stored, expires_ms };
    let update = HeadUpdate { key, old, new, expires_ms };
    // a pending entry is newer than the validated response, unless it is the same
    let may_replace = |pending_entry: &dyn Fn(&CacheKey) -> Option<Stored>| {
        pending_entry(&update.key).is_none_or(
            |stored| matches!(stored, Stored::Response(response) if response.head == update.old),
        )
    };
    match engine.pending.insert(&[visible], engine.limits.queue_bytes, may_replace) {
        Ok(ticket) => {
            let store = engine.store.clone();
            in_background(engine, ticket, async move { store.freshen(update).await });
        }
        Err(Refused::Full) => count(&engine.counters.shed),
        Err(Refused::Overtaken) => {}
    }
}
