//! Which rows of the log are pruned, shown, or counted in a dry run?

use std::sync::Arc;

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::mysql::MySqlRow;
use tokio::sync::oneshot;

use super::super::codec;
use super::super::codec::{Hash, hash_of};
use super::super::conn::{Failure, statement};
use super::estimate::STEP;
use super::task::Maintenance;
use crate::key::KeyRange;
use crate::store::{Named, StoreError};
use crate::tag::{LogRecord, LogRow, Scope, Tag};

/// The most log rows that are pruned at once.
const PRUNED: u64 = 1_000;

/// The most log rows that are shown.
const SHOWN: usize = 10_000;

/// A row as a count reads it.
struct Seen {
    hash: u128,
    key: Bytes,
    expires_ms: u64,
    head: Option<Bytes>,
    bytes: u64,
}

impl Maintenance {
    /// Deletes log rows that are older than the retention time. The newest row always stays, because it identifies
    /// the log. `true` if there may be more to delete.
    pub(in super::super) async fn prune(&mut self) -> bool {
        let pruned = self.prune_log().await;
        // next time from the beginning: for rows that could not be deleted, or after the log was emptied
        self.pruned = *pruned.as_ref().unwrap_or(&0);
        if let Err(failure) = pruned {
            self.link.failed(&self.shared, "pruning the log", failure);
        }
        self.pruned > 0
    }

    /// Returns up to which id it pruned if there may be more, or else 0.
    async fn prune_log(&mut self) -> Result<u64, Failure> {
        let retention = self.shared.settings.log_retention.as_millis();
        let retention_ms = u64::try_from(retention).unwrap_or(u64::MAX);
        let before_ms = self.shared.clock.now_ms().saturating_sub(retention_ms);
        let after = self.pruned;
        let Self { shared, link, .. } = self;
        // not from the first row on: the server would skip those that were deleted a moment ago
        let query = || statement(&shared.sql.log.oldest).bind(after).bind(PRUNED + 1);
        let rows = link.rows(shared, query).await?;
        let aged = |row: &MySqlRow| -> Result<(u64, u64), sqlx::Error> {
            Ok((row.try_get(0)?, row.try_get(1)?))
        };
        let rows: Vec<(u64, u64)> = rows
            .iter()
            .map(aged)
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::of(error, &self.shared.settings.log_table))?;
        // nothing above a row that may still come: its gap is only known from the rows above it
        let settled = self.shared.sql.log.settled.clone();
        let settled = self.link.get(&self.shared).await?.number(&settled, &self.shared).await?;
        let is_old = |(id, at_ms): &&(u64, u64)| *at_ms < before_ms && *id <= settled;
        // the newest of the old rows stays too: it may be the newest row that some process has read
        let old = rows.iter().take_while(is_old).count();
        let more = old as u64 > PRUNED;
        let last = old.min(rows.len().saturating_sub(1)).checked_sub(2).and_then(|at| rows.get(at));
        let Some((last, _)) = last.copied() else { return Ok(0) };
        // recorded before they are deleted: a process that misses one of them finds this
        let text = self.shared.sql.log.raise_floor.clone();
        self.delete(|| statement(&text).bind(last).bind(last)).await?;
        let text = self.shared.sql.log.prune.clone();
        self.delete(|| statement(&text).bind(after).bind(last)).await?;
        Ok(if more { last } else { 0 })
    }

    /// The newest rows of the log.
    pub(in super::super) async fn tail(
        &mut self,
        limit: usize,
        answer: oneshot::Sender<Result<Vec<LogRow>, StoreError>>,
    ) {
        let outcome = self.newest(limit.min(SHOWN) as u64).await;
        let outcome =
            outcome.map_err(|failure| self.link.failed(&self.shared, "reading the log", failure));
        let _ = answer.send(outcome);
    }

    async fn newest(&mut self, limit: u64) -> Result<Vec<LogRow>, Failure> {
        let Self { shared, link, .. } = self;
        let query = || statement(&shared.sql.log.tail).bind(limit);
        let rows = link.rows(shared, query).await?;
        rows.iter()
            .map(log_row)
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::of(error, &self.shared.settings.log_table))
    }

    /// Counts the responses that these scopes name, while the caller waits.
    pub(in super::super) async fn count(
        &mut self,
        scopes: &[Scope],
        answer: oneshot::Sender<Result<Named, StoreError>>,
    ) {
        let outcome = self.count_named(scopes, &answer).await;
        let outcome =
            outcome.map_err(|failure| self.link.failed(&self.shared, "a dry run", failure));
        let _ = answer.send(outcome);
    }

    async fn count_named(
        &mut self,
        scopes: &[Scope],
        answer: &oneshot::Sender<Result<Named, StoreError>>,
    ) -> Result<Named, Failure> {
        let mut count = Named::default();
        let shared = Arc::clone(&self.shared);
        let waits = || !answer.is_closed();
        self.walk(None, waits, |row, tags| {
            if row.expires_ms > shared.clock.now_ms()
                && let Some(tags) = tags
            {
                count.add(scopes.iter().any(|scope| scope.names(&row.key, &tags)), row.bytes);
            }
        })
        .await?;
        Ok(count)
    }

    /// Finds the keys in a range that these scopes name, while the caller waits. An unreadable row counts as named.
    pub(in super::super) async fn named(
        &mut self,
        range: &KeyRange,
        scopes: &[Scope],
        answer: oneshot::Sender<Result<Vec<KeyRange>, StoreError>>,
    ) {
        let mut keys = Vec::new();
        let waits = || !answer.is_closed();
        let walked = self.walk(Some(range), waits, |row, tags| {
            let tags = tags.as_deref();
            if tags.is_none_or(|tags| scopes.iter().any(|scope| scope.names(&row.key, tags))) {
                keys.push(KeyRange::only_bytes(row.key.clone()));
            }
        });
        let outcome = walked.await.map(|()| keys);
        let outcome =
            outcome.map_err(|failure| self.link.failed(&self.shared, "a removal", failure));
        let _ = answer.send(outcome);
    }

    /// Reads the heads of all responses, in the whole table or in a range of keys, in steps. `None` for the tags of
    /// unreadable rows.
    async fn walk(
        &mut self,
        range: Option<&KeyRange>,
        waits: impl Fn() -> bool,
        mut each: impl FnMut(&Seen, Option<Vec<Tag>>),
    ) -> Result<(), Failure> {
        let mut from = Some(0_u128);
        while let Some(at) = from
            && waits()
        {
            let Self { shared, link, .. } = self;
            let hash = at.to_be_bytes();
            let query = || {
                let query = match range {
                    None => statement(&shared.sql.heads).bind(hash.to_vec()),
                    Some(range) => statement(&shared.sql.heads_in_range)
                        .bind(hash.to_vec())
                        .bind(range.from.to_vec())
                        .bind(range.to.to_vec()),
                };
                query.bind(STEP as u64)
            };
            let rows = link.rows(shared, query).await?;
            let rows: Vec<Seen> = rows
                .iter()
                .map(seen)
                .collect::<Result<_, _>>()
                .map_err(|error| Failure::of(error, &self.shared.settings.table))?;
            for row in &rows {
                if let Some(head) = row.head.clone() {
                    each(row, codec::tags_of(&row.key, head));
                }
            }
            let last = rows.last().filter(|_| rows.len() == STEP);
            from = last.and_then(|row| row.hash.checked_add(1));
        }
        Ok(())
    }
}

fn seen(row: &MySqlRow) -> Result<Seen, sqlx::Error> {
    let hash: Hash = hash_of(row.try_get(0)?)?;
    let size: Option<u32> = row.try_get(4)?;
    let head: Option<&[u8]> = row.try_get(3)?;
    Ok(Seen {
        hash: u128::from_be_bytes(hash),
        key: Bytes::copy_from_slice(row.try_get(1)?),
        expires_ms: row.try_get(2)?,
        head: head.map(Bytes::copy_from_slice),
        bytes: size.unwrap_or(0).into(),
    })
}

fn log_row(row: &MySqlRow) -> Result<LogRow, sqlx::Error> {
    let column = Bytes::copy_from_slice(row.try_get::<&[u8], _>(1)?);
    let record = LogRecord {
        scope: Scope::from_column(&column),
        soft: row.try_get::<&str, _>(2)? == "s",
        reason: row.try_get(3)?,
    };
    Ok(LogRow::new(row.try_get(0)?, record, row.try_get(4)?))
}
