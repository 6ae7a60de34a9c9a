//! When is a statement sent again after a failure?

use std::time::Duration;

use rand::RngExt;
use tokio::time::timeout;

use super::super::shared::Shared;
use super::connection::Connection;
use super::failure::{Failure, Recovery};

/// How many times a statement may be sent again: a number of times after deadlocks and lock waits, and once if the
/// connection was lost before the statement. Servers and proxies close idle connections.
#[derive(Debug)]
pub(in super::super) struct Retry {
    deadlocks: u32,
    longest_wait_ms: u64,
    reconnected: bool,
}

impl Retry {
    /// Again after this many deadlocks, each time after a random wait of up to 20 ms.
    pub(in super::super) fn over_deadlocks(deadlocks: u32) -> Self {
        Self { deadlocks, longest_wait_ms: 20, reconnected: false }
    }

    /// Again only on a new connection.
    pub(in super::super) fn over_a_lost_connection() -> Self {
        Self::over_deadlocks(0)
    }

    /// Random waits of up to this many milliseconds.
    pub(in super::super) fn longest_wait_ms(mut self, longest_wait_ms: u64) -> Self {
        self.longest_wait_ms = longest_wait_ms;
        self
    }

    /// Prepares to send the statement again: waits, or replaces the connection.
    ///
    /// # Errors
    /// The failure, if it is final.
    pub(in super::super) async fn after(
        &mut self,
        failure: Failure,
        connection: &mut Connection,
        shared: &Shared,
    ) -> Result<(), Failure> {
        match failure.recovery {
            Recovery::Retry if self.deadlocks > 0 => {
                self.deadlocks -= 1;
                let wait = rand::rng().random_range(1..=self.longest_wait_ms);
                tokio::time::sleep(Duration::from_millis(wait)).await;
                Ok(())
            }
            Recovery::ReconnectAndRetry if !self.reconnected => {
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
