//! Writes of the holder of a lease.

use tokio::runtime::Handle;

use super::super::Engine;
use super::super::collapse::Held;
use super::super::find::bounded;
use super::fill::WRITE_LIMIT;
use crate::store::{Store, StoreError};
use crate::telemetry::count;

impl<St: Store> Engine<St> {
    /// Gives a lease back when what is on its way to the store by now has been written.
    pub(in crate::engine) fn give_back_in_turn(&self, held: Option<Held>) {
        let Some(held) = held else { return };
        let store = self.store.clone();
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let _ = bounded(WRITE_LIMIT, store.flush()).await;
                drop(held);
            });
        }
    }

    /// Writes what the holder of a lease has got: not over what somebody else has who got the lease later.
    /// Then it is `false`.
    pub(in crate::engine) async fn put_leased(
        &self,
        entries: Vec<crate::stored::Entry>,
        held: Option<Held>,
    ) -> Result<bool, StoreError> {
        // given back when this ends, however it ends: who asks then finds what has been written
        let Some(held) = held else { return self.store.put_many(entries).await.map(|()| true) };
        let written = self.store.put_fenced(entries, held.fence()).await?;
        if !written {
            count(&self.counters.leases_lost);
            self.reasons.count("lease-lost");
        }
        Ok(written)
    }
}
