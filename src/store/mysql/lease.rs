//! Leases in their table: taken and given back by the task that writes, pruned by the one that maintains.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::connection::{Connection, statement};
use super::failure::{Failure, Then};
use super::lookups::Hash;
use super::maintenance::Maintenance;
use super::reader::hash_of;
use super::shared::Shared;
use super::sql::{HELD, LAST_UNSHAREABLE, UNSHAREABLE};
use super::writer::Writer;
use super::writes::Ack;
use crate::store::{Lease, StoreError};

/// Rows that are looked at in one go when pruning.
const WINDOW: u64 = 1_000;

/// Asks for a lease, or gives one back.
#[derive(Debug)]
pub(super) enum LeaseJob {
    Take {
        hash: Hash,
        time: Duration,
        ack: Ack<Lease>,
    },
    /// With the time for which there is nothing to wait for.
    Release {
        hash: Hash,
        number: u64,
        unshareable: Option<Duration>,
        ack: Ack<()>,
    },
}

impl LeaseJob {
    pub(super) fn fail(self, error: StoreError) {
        match self {
            Self::Take { ack, .. } => drop(ack.send(Err(error))),
            Self::Release { ack, .. } => drop(ack.send(Err(error))),
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The error, about the table that it is about.
fn about(shared: &Shared, mut failure: Failure) -> Failure {
    if let StoreError::Schema { table, .. } = &mut failure.error {
        *table = shared.settings.lease_table.plain();
    }
    failure
}

impl Writer {
    /// Does a job; `false` when the connection is lost.
    pub(super) async fn lease(&mut self, connection: &mut Connection, job: LeaseJob) -> bool {
        let shared = Arc::clone(&self.shared);
        match job {
            LeaseJob::Take { hash, time, ack } => {
                // whoever asked may have gone inside by now
                if ack.is_closed() {
                    return true;
                }
                shared.leases.store(true, Relaxed);
                let outcome = match self.take(connection, &hash, time).await {
                    // somebody else is at it: on one server, or on another node of a cluster
                    Err(failure) if failure.then == Then::TryAgain => Ok(Lease::Held),
                    outcome => outcome.map_err(|failure| about(&shared, failure)),
                };
                let granted = match outcome {
                    Ok(Lease::Granted(number)) => Some(number),
                    _ => None,
                };
                let Err(failure) = outcome else {
                    let unheard = ack.send(outcome.map_err(|failure| failure.error)).is_err();
                    return match granted.filter(|_| unheard) {
                        Some(number) => self.release(connection, &hash, number, None).await.is_ok(),
                        None => true,
                    };
                };
                self.finish("taking a lease", Err(failure), ack)
            }
            LeaseJob::Release { hash, number, unshareable, ack } => {
                let outcome = self.release(connection, &hash, number, unshareable).await;
                let outcome = outcome.map_err(|failure| about(&shared, failure));
                self.finish("giving a lease back", outcome, ack)
            }
        }
    }

    async fn take(
        &mut self,
        connection: &mut Connection,
        hash: &Hash,
        time: Duration,
    ) -> Result<Lease, Failure> {
        let shared = Arc::clone(&self.shared);
        let (owner, time) = (self.owner, ms(time));
        let query = || {
            statement(&shared.sql.lease.take)
                .bind(hash.to_vec())
                .bind(owner)
                .bind(time)
                .bind(time)
                .bind(time)
                .bind(owner)
                .bind(time)
                .bind(time)
        };
        let mut answer = connection.insert(query(), &shared).await;
        if let Err(failure) = &answer
            && failure.then == Then::ReconnectAndTryAgain
            && self.reconnect(connection).await
        {
            answer = connection.insert(query(), &shared).await;
        }
        Ok(match answer? {
            0 | HELD => Lease::Held,
            left @ UNSHAREABLE..=LAST_UNSHAREABLE => {
                Lease::Unshareable(Duration::from_millis(left - UNSHAREABLE))
            }
            number => Lease::Granted(number),
        })
    }

    async fn release(
        &mut self,
        connection: &mut Connection,
        hash: &Hash,
        number: u64,
        unshareable: Option<Duration>,
    ) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let query = || match unshareable {
            None => statement(&shared.sql.lease.free).bind(hash.to_vec()).bind(number),
            Some(time) => {
                statement(&shared.sql.lease.mark).bind(ms(time)).bind(hash.to_vec()).bind(number)
            }
        };
        self.persist(connection, query).await.map(drop)
    }
}

impl Maintenance {
    /// Removes rows of leases that ended long ago, a window at a time, where this process takes leases.
    /// Whether there is much more to remove: a tenth of the window was.
    pub(super) async fn prune_leases(&mut self) -> bool {
        if !self.shared.leases.load(Relaxed) {
            return false;
        }
        match self.prune_window().await {
            Ok(removed) => removed > WINDOW / 10,
            Err(failure) => {
                let failure = about(&self.shared, failure);
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
