//! Removing what is no longer true.

use super::Engine;
use crate::key::KeyRange;
use crate::store::{Store, StoreError};
use crate::telemetry::count;

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
}
