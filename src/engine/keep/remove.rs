//! How are stored and pending responses deleted?

use std::sync::Arc;

use tokio::runtime::Handle;

use super::super::Engine;
use crate::key::KeyRange;
use crate::store::{Store, StoreError};

/// Deletes a range of keys: entries in the store, and pending ones. Returns the number of entries.
pub(in crate::engine) async fn remove<St: Store>(
    engine: &Engine<St>,
    range: &KeyRange,
) -> Result<u64, StoreError> {
    withdraw(engine, range).await;
    engine.store.remove(range.clone()).await
}

/// Hides pending entries, and waits until their writes have ended. Must be called before a deletion.
pub(in crate::engine) async fn withdraw<St>(engine: &Engine<St>, range: &KeyRange) {
    engine.pending.withdraw(range);
    engine.pending.settled_in(range).await;
}

/// Deletes a range of keys, in a task.
pub(in crate::engine) fn remove_in_background<St: Store>(
    engine: &Arc<Engine<St>>,
    range: KeyRange,
) {
    let engine = Arc::clone(engine);
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(async move {
            let _ = remove(&engine, &range).await;
        });
    }
}
