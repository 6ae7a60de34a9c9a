//! How is a range of keys deleted?

use std::sync::Arc;

use sqlx::Row as _;

use super::super::codec::{Hash, hash_of};
use super::super::conn::{Connection, Failure, Retry, statement};
use super::super::sql::{MAX_KEYS, repeated};
use super::queue::Ack;
use super::task::Writer;
use crate::key::KeyRange;
use crate::store::StoreError;

/// Keys that one step reads.
const STEP: usize = 512;

/// The most steps of one deletion: 50 million rows. Other processes may continue to write into the range.
const MAX_STEPS: usize = 100_000;

impl Writer {
    /// Deletes a range. `false` if the connection is lost.
    pub(in super::super) async fn remove(
        &mut self,
        connection: &mut Connection,
        range: &KeyRange,
        ack: Ack<u64>,
    ) -> bool {
        let outcome = self.remove_range(connection, range).await;
        self.finish("a removal", outcome, ack)
    }

    /// Deletes a range in steps, until a step finds fewer keys than it asked for. Each step queries the whole range
    /// again, because the server may use either index. So the keys of one step do not show where the others are.
    async fn remove_range(
        &mut self,
        connection: &mut Connection,
        range: &KeyRange,
    ) -> Result<u64, Failure> {
        let mut removed = 0;
        for _ in 0..MAX_STEPS {
            let mut hashes = self.step(connection, range).await?;
            let short = hashes.len() < STEP;
            hashes.sort_unstable();
            for chunk in hashes.chunks(MAX_KEYS) {
                removed += self.delete(connection, chunk, range).await?;
            }
            if short {
                break;
            }
            // a large range takes long, and invalidations must not wait for its end
            while let Some(job) = self.queue.take_first() {
                if !self.perform_first(connection, job).await {
                    return Err(Failure::connect(StoreError::Unavailable));
                }
            }
        }
        Ok(removed)
    }

    /// Some keys of a range, or all if they are few.
    async fn step(
        &mut self,
        connection: &mut Connection,
        range: &KeyRange,
    ) -> Result<Vec<Hash>, Failure> {
        let shared = Arc::clone(&self.shared);
        let query = || {
            statement(&shared.sql.select_range)
                .bind(&range.from[..])
                .bind(&range.to[..])
                .bind(STEP as u64)
        };
        let mut retry = Retry::over_a_lost_connection();
        let rows = loop {
            match connection.rows(query(), &shared).await {
                Err(failure) => retry.after(failure, connection, &shared).await?,
                Ok(rows) => break rows,
            }
        };
        let hashes = rows.iter().map(|row| row.try_get::<&[u8], _>(0).and_then(hash_of));
        let hashes: Result<Vec<_>, _> = hashes.collect();
        hashes.map_err(|error| Failure::of(error, &self.shared.settings.table))
    }

    async fn delete(
        &mut self,
        connection: &mut Connection,
        hashes: &[Hash],
        range: &KeyRange,
    ) -> Result<u64, Failure> {
        let shared = Arc::clone(&self.shared);
        let query = || {
            let (text, binds) = shared.sql.delete_in_range(hashes.len());
            repeated(hashes, binds)
                .fold(statement(text), |query, hash| query.bind(&hash[..]))
                .bind(&range.from[..])
                .bind(&range.to[..])
        };
        self.persist(connection, query).await
    }
}
