//! Does a connection of the application lead to the server with the cache's tables? Another server may have a
//! database with the same name, and rows that are written there invalidate nothing.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use sqlx::mysql::MySqlConnection;
use tokio::time::timeout;

use super::super::options::Settings;
use super::connection::{Connection, Role, identity};
use super::failure::Failure;
use crate::error::ConfigError;
use crate::store::StoreError;
use crate::sync::lock;

/// How long a check counts, because each costs a round trip.
const EVERY: Duration = Duration::from_secs(1);

/// The results of the checks so far.
#[derive(Debug, Default)]
pub(in super::super) struct SameServer(Mutex<Found>);

#[derive(Debug, Default)]
struct Found {
    /// The server of the store's own connections.
    own: Option<String>,
    /// When an application's connection was last found to be right.
    checked: Option<Instant>,
}

impl SameServer {
    /// Checks a connection, unless one was found to be right a moment ago.
    ///
    /// # Errors
    /// [`StoreError::Config`] for a connection to another server; the connection's own error.
    pub(in super::super) async fn check(
        &self,
        settings: &Settings,
        connection: &mut MySqlConnection,
    ) -> Result<(), StoreError> {
        if !settings.check_server || self.is_checked() {
            return Ok(());
        }
        let theirs = identity(connection).await;
        let theirs = theirs.map_err(|error| Failure::of(error, &settings.log_table).error)?;
        if lock(&self.0).own.as_ref() != Some(&theirs) {
            // the store's own server may have changed since then
            let asking = Connection::open(settings, Role::Log);
            let Ok(Ok(mut own)) = timeout(settings.query_timeout, asking).await else {
                return Ok(());
            };
            let Ok(identity) = own.identity().await else { return Ok(()) };
            own.close().await;
            lock(&self.0).own = Some(identity.clone());
            if identity != theirs {
                let rule = "it must lead to the server that holds the cache's tables; where a proxy \
                     shows one server as several, switch this check off by `check_server(false)`";
                return Err(ConfigError::new("connection", theirs, rule).into());
            }
        }
        lock(&self.0).checked = Some(Instant::now());
        Ok(())
    }

    fn is_checked(&self) -> bool {
        lock(&self.0).checked.is_some_and(|checked| checked.elapsed() < EVERY)
    }
}
