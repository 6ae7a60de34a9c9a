//! A complete body on its way into the store.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::bounded::bounded;
use super::fence::Moment;
use super::{Engine, pending::Ticket};
use crate::body::{Abandoned, Sink};
use crate::key::CacheKey;
use crate::store::{Store, StoreError};
use crate::stored::{Entry, Stored, StoredHead, StoredResponse, VariantIndex};
use crate::telemetry::count;

/// How long a write may take before its memory is given up. No request waits for it.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How much longer than its youngest variant an index is kept, so that storing a short-lived variant
/// does not hide a long-lived one: a day.
const INDEX_SLACK_MS: u64 = 24 * 3600 * 1000;

/// Stores a response once its body is complete.
pub(super) struct Fill<St> {
    pub(super) engine: Arc<Engine<St>>,
    pub(super) key: CacheKey,
    pub(super) head: StoredHead,
    /// The target's key and its index, where the response is one of several variants.
    pub(super) index: Option<(CacheKey, Arc<VariantIndex>)>,
    /// When the entry may be removed.
    pub(super) expires_ms: u64,
    /// Taken before the handler ran.
    pub(super) moment: Moment,
    pub(super) queue_bytes: usize,
}

impl<St: Store> Sink for Fill<St> {
    fn complete(self: Box<Self>, body: Bytes) -> bool {
        let Self { engine, key, head, index, expires_ms, moment, queue_bytes } = *self;
        let mut entries = Vec::with_capacity(2);
        if let Some((base, index)) = index {
            engine.learn(&base, &index);
            let expires_ms = expires_ms.saturating_add(INDEX_SLACK_MS);
            entries.push(Entry { key: base, stored: Stored::Variants(index), expires_ms });
        }
        let stored = Stored::Response(StoredResponse { head: Arc::new(head), body });
        entries.push(Entry { key: key.clone(), stored, expires_ms });
        let Some(ticket) = engine.pending.begin(&entries, queue_bytes) else {
            count(&engine.counters.shed);
            return false;
        };
        // asked once the entry can be withdrawn: an invalidation comes before or after, never between
        if !engine.fence.is_clear(key.as_bytes(), moment) {
            count(&engine.counters.not_stored);
            return false;
        }
        let mut write = Box::pin(write(engine, entries, ticket));
        // a store in memory is done at once; only others are worth a task
        let mut cx = Context::from_waker(Waker::noop());
        if Pin::as_mut(&mut write).poll(&mut cx).is_ready() {
            return true;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(write);
                true
            }
            Err(_) => false,
        }
    }

    fn abandon(self: Box<Self>, why: Abandoned) {
        count(&self.engine.counters.abandoned);
        tracing::debug!(?why, key = ?self.key, "response not stored");
    }
}

/// Writes entries; the ticket keeps them visible until this ends, however it ends.
async fn write<St: Store>(engine: Arc<Engine<St>>, entries: Vec<Entry>, ticket: Ticket) {
    match bounded(WRITE_LIMIT, engine.store.put_many(entries)).await {
        Ok(()) => count(&engine.counters.stored),
        Err(StoreError::Overloaded) => count(&engine.counters.shed),
        Err(error) => {
            count(&engine.counters.write_errors);
            if let Some(suppressed) = engine.write_warning.pass() {
                let reason = error.as_str();
                tracing::warn!(%error, reason, suppressed, "a response could not be stored");
            }
        }
    }
    drop(ticket);
}
