//! Writes behind responses.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tracing::Instrument;

use super::super::Engine;
use super::super::collapse::HeldLease;
use super::super::find::{Ticket, bounded};
use crate::key::CacheKey;
use crate::reason::Reason;
use crate::store::{Store, StoreError};
use crate::stored::{Entry, Stored};
use crate::telemetry::{count, write_span};

/// How long a write may take before its memory is given up. No request waits for it.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// Writes behind the response. The ticket keeps what is written visible to lookups until the write ends, in whatever
/// way. `false` when it has failed already, or there is no runtime for it.
pub(super) fn in_background<St: Store>(
    engine: &Arc<Engine<St>>,
    ticket: Ticket,
    write: impl Future<Output = Result<bool, StoreError>> + Send + 'static,
) -> bool {
    let (engine, span) = (Arc::clone(engine), write_span());
    // by itself: a future that awaits another one by value has room for it twice
    let write = Box::pin(write);
    let mut write = Box::pin(async move {
        let written = bounded(WRITE_LIMIT, write).instrument(span).await;
        match &written {
            Ok(true) => count(&engine.counters.stored),
            Ok(false) => {}
            Err(StoreError::Overloaded) => count(&engine.counters.shed),
            Err(error) => {
                count(&engine.counters.write_errors);
                if let Some(suppressed) = engine.fills.warning.pass() {
                    let reason = error.as_str();
                    tracing::warn!(%error, reason, suppressed, "a response could not be stored");
                }
            }
        }
        drop(ticket);
        written.is_ok()
    });
    // a store in memory is done at once; only others are worth a task
    let mut cx = Context::from_waker(Waker::noop());
    if let Poll::Ready(written) = write.as_mut().poll(&mut cx) {
        return written;
    }
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => {
            runtime.spawn(write);
            true
        }
        Err(_) => false,
    }
}

/// Writes the response of a request that may hold a lease. `false` where another process has got the lease since:
/// then nothing is written.
pub(super) async fn put<St: Store>(
    engine: &Engine<St>,
    entries: Vec<Entry>,
    held: Option<HeldLease>,
) -> Result<bool, StoreError> {
    // given back when this ends, in whatever way: a process that asks then finds what has been written
    let Some(held) = held else { return engine.store.put_many(entries).await.map(|()| true) };
    let written = engine.store.put_fenced(entries, held.fence()).await?;
    if !written {
        count(&engine.counters.leases_lost);
        engine.reasons.count(Reason::LeaseLost.as_str());
    }
    Ok(written)
}

/// Whether the store has a response to the same key that was received later.
pub(super) async fn holds_newer<St: Store>(store: &St, key: &CacheKey, received_ms: u64) -> bool {
    let found = store.get(key.clone()).await;
    matches!(found, Ok(Some(Stored::Response(found))) if found.head.received_ms > received_ms)
}

/// Gives a lease back when what is on its way to the store by now has been written.
pub(in crate::engine) fn release_after_writes<St: Store>(
    engine: &Engine<St>,
    held: Option<HeldLease>,
) {
    let Some(held) = held else { return };
    let store = engine.store.clone();
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(async move {
            let _ = bounded(WRITE_LIMIT, store.flush()).await;
            drop(held);
        });
    }
}
