//! How is a response written while its client already has it?

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

/// The longest time for a write. After it, the write's memory is released. No request waits for it.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// Writes in the background. The ticket keeps the entries visible to lookups until the write ends. `false` if the
/// write has already failed, or if there is no runtime.
pub(super) fn in_background<St: Store>(
    engine: &Arc<Engine<St>>,
    ticket: Ticket,
    write: impl Future<Output = Result<bool, StoreError>> + Send + 'static,
) -> bool {
    let (engine, span) = (Arc::clone(engine), write_span());
    // boxed, because a future that awaits another one by value takes its size twice
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
                    tracing::warn!(
                        error = error.cause(),
                        reason,
                        suppressed,
                        "a response could not be stored"
                    );
                }
            }
        }
        drop(ticket);
        written.is_ok()
    });
    // a store in memory finishes at once; only others need a task
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

/// Writes entries, with the lease if there is one. `false` if another process has got the lease; then nothing is
/// written.
pub(super) async fn put<St: Store>(
    engine: &Engine<St>,
    entries: Vec<Entry>,
    held: Option<HeldLease>,
) -> Result<bool, StoreError> {
    // the lease is released when this ends, so a process that gets it then finds the response
    let Some(held) = held else { return engine.store.put_many(entries).await.map(|()| true) };
    let written = engine.store.put_fenced(entries, held.fence()).await?;
    if !written {
        count(&engine.counters.leases_lost);
        engine.reasons.count(Reason::LeaseLost.as_str());
    }
    Ok(written)
}

/// Whether the store has a response under the same key that was received later.
pub(super) async fn holds_newer<St: Store>(store: &St, key: &CacheKey, received_ms: u64) -> bool {
    let found = store.get(key.clone()).await;
    matches!(found, Ok(Some(Stored::Response(found))) if found.head.received_ms > received_ms)
}

/// Releases a lease after the writes that wait now.
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
