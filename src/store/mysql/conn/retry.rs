//! Sending a statement again after a failure that may pass.

use std::time::Duration;

use rand::RngExt;
use tokio::time::timeout;

use super::super::shared::Shared;
use super::connection::Connection;
use super::failure::{Failure, Then};

/// How often one statement may be sent again: so many times over deadlocks and lock waits, and once over a connection
/// that was gone before the statement. Servers and proxies close idle connections.
#[derive(Debug)]
pub(in super::super) struct Retry {
    deadlocks: u32,
    longest_wait_ms: u64,
    reconnected: bool,
}

impl Retry {
    /// Again over this many deadlocks, each after a random wait of up to 20 ms.
    pub(in super::super) fn over_deadlocks(deadlocks: u32) -> Self {
        Self { deadlocks, longest_wait_ms: 20, reconnected: false }
    }

    /// Again only on a new connection.
    pub(in super::super) fn over_a_lost_connection() -> Self {
        Self::over_deadlocks(0)
    }

    /// With random waits of up to this many milliseconds.
    pub(in super::super) fn longest_wait_ms(mut self, longest_wait_ms: u64) -> Self {
        self.longest_wait_ms = longest_wait_ms;
        self
    }

    /// Gets ready to send the statement again: waits, or replaces the connection.
    ///
    /// # Errors
    /// The failure, if it is final.
    pub(in super::super) async fn after(
        &mut self,
        failure: Failure,
        connection: &mut Connection,
        shared: &Shared,
    ) -> Result<(), Failure> {
        match failure.then {
            Then::TryAgain if self.deadlocks > 0 => {
                self.deadlocks -= 1;
                let wait = rand::rng().random_range(1..=self.longest_wait_ms);
                tokio::time::sleep(Duration::from_millis(wait)).await;
                Ok(())
            }
            Then::ReconnectAndTryAgain if !self.reconnected => {
                self.reconnected = true;
                let role = connection.role();
                let opening = Connection::open(&shared.settings, role);
                match timeout(role.deadline(&shared.settings), opening).await {
                    Ok(Ok(new)) => {
                        *connection = new;
                        Ok(())
                    }
                    _ => Err(failure),
                }
            }
            _ => Err(failure),
        }
    }
}
