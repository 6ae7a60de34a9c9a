//! How does the maintenance task use its connection?

use sqlx::mysql::MySqlRow;
use tokio::time::Instant;

use super::super::shared::Shared;
use super::connection::{Connection, Role, Statement};
use super::failure::Failure;
use super::reopen::Backoff;
use super::retry::Retry;
use crate::store::StoreError;

/// The connection, if there is one, and when to try again.
#[derive(Debug, Default)]
pub(in super::super) struct Link {
    pub(in super::super) connection: Option<Connection>,
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Link {
    /// The connection, opened if necessary.
    pub(in super::super) async fn get(
        &mut self,
        shared: &Shared,
    ) -> Result<&mut Connection, Failure> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                if self.not_before.is_some_and(|at| Instant::now() < at) {
                    return Err(Failure::connect(StoreError::Unavailable));
                }
                match Connection::open(&shared.settings, Role::Writes).await {
                    Ok(connection) => {
                        self.backoff = Backoff::default();
                        connection
                    }
                    Err(error) => {
                        self.not_before = Some(Instant::now() + self.backoff.next());
                        return Err(Failure::connect(error));
                    }
                }
            }
        };
        Ok(self.connection.insert(connection))
    }

    /// Runs a statement that returns rows. If the connection was lost, it tries once more: servers and proxies close
    /// idle connections.
    pub(in super::super) async fn rows(
        &mut self,
        shared: &Shared,
        query: impl Fn() -> Statement,
    ) -> Result<Vec<MySqlRow>, Failure> {
        let connection = self.get(shared).await?;
        let mut retry = Retry::over_a_lost_connection();
        loop {
            match connection.rows(query(), shared).await {
                Err(failure) => retry.after(failure, connection, shared).await?,
                rows => return rows,
            }
        }
    }

    /// Counts a failure, and drops the connection if necessary.
    pub(in super::super) fn failed(
        &mut self,
        shared: &Shared,
        doing: &'static str,
        failure: Failure,
    ) -> StoreError {
        if failure.recovery.drops_connection() {
            self.connection = None;
        }
        shared.failed(doing, &failure.error);
        failure.error
    }
}
