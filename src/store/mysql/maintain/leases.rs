//! When are the rows of old leases deleted?

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::super::codec::{Hash, hash_of};
use super::super::conn::{Failure, statement};
use super::task::Maintenance;

/// Rows that one step examines.
const WINDOW: u64 = 1_000;

impl Maintenance {
    /// Deletes rows of leases that ended long ago, one window in each call, if this process uses leases. `true` if it
    /// deleted a tenth of the window, so there may be many more.
    pub(in super::super) async fn prune_leases(&mut self) -> bool {
        if !self.shared.leases.load(Relaxed) {
            return false;
        }
        match self.prune_window().await {
            Ok(removed) => removed > WINDOW / 10,
            Err(failure) => {
                let failure = failure.about(&self.shared.settings.lease_table);
                self.link.failed(&self.shared, "pruning leases", failure);
                false
            }
        }
    }

    async fn prune_window(&mut self) -> Result<u64, Failure> {
        let shared = Arc::clone(&self.shared);
        let from = self.next_lease.to_be_bytes();
        let query = || statement(&shared.sql.lease.window).bind(from.to_vec()).bind(WINDOW);
        let rows = self.link.rows(&shared, query).await?;
        let Some(last) = rows.last() else {
            self.next_lease = 0;
            return Ok(0);
        };
        let last: Hash = sqlx::Row::try_get(last, 0)
            .and_then(hash_of)
            .map_err(|error| Failure::of(error, &shared.settings.lease_table))?;
        let whole = rows.len() as u64 == WINDOW;
        let next = u128::from_be_bytes(last).checked_add(1).filter(|_| whole);
        self.next_lease = next.unwrap_or(0);
        let query = || statement(&shared.sql.lease.prune).bind(from.to_vec()).bind(last.to_vec());
        self.delete(query).await
    }
}
