//! How are leases taken and released in their table?

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::super::codec::Hash;
use super::super::conn::{Connection, Failure, Recovery, Retry, statement};
use super::super::sql::{HELD, LAST_UNSHAREABLE, UNSHAREABLE};
use super::queue::LeaseJob;
use super::task::Writer;
use crate::store::Lease;

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Writer {
    /// Does a job. `false` if the connection is lost.
    pub(in super::super) async fn lease(
        &mut self,
        connection: &mut Connection,
        job: LeaseJob,
    ) -> bool {
        let shared = Arc::clone(&self.shared);
        match job {
            LeaseJob::Take { hash, time, ack } => {
                // the request may have been dropped
                if ack.is_closed() {
                    return true;
                }
                shared.leases.store(true, Relaxed);
                let outcome = match self.take(connection, &hash, time).await {
                    // another process is doing the same: on this server, or on another node of a cluster
                    Err(failure) if failure.recovery == Recovery::Retry => Ok(Lease::Held),
                    outcome => {
                        outcome.map_err(|failure| failure.about(&shared.settings.lease_table))
                    }
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
                let outcome =
                    outcome.map_err(|failure| failure.about(&shared.settings.lease_table));
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
        let mut retry = Retry::over_a_lost_connection();
        let answer = loop {
            match connection.insert(query(), &shared).await {
                Err(failure) => retry.after(failure, connection, &shared).await?,
                Ok(answer) => break answer,
            }
        };
        Ok(match answer {
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
