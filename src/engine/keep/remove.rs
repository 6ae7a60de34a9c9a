//! Removing stored responses, also those that are on their way to the store.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::super::Engine;
use crate::key::KeyRange;
use crate::store::{Store, StoreError};

/// Removes a range of keys from the store, and from what is on its way to it. Returns how many entries there were.
pub(in crate::engine) async fn remove<St: Store>(
    engine: &Engine<St>,
    range: &KeyRange,
) -> Result<u64, StoreError> {
    withdraw(engine, range).await;
    engine.store.remove(range.clone()).await
}

/// Hides what is on its way to the store, and waits until it is there or has failed: before a removal begins.
pub(in crate::engine) async fn withdraw<St>(engine: &Engine<St>, range: &KeyRange) {
    engine.pending.withdraw(range);
    engine.pending.settled_in(range).await;
}

/// Removes a stored response in the background.
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
