//! How does a process begin to read a log: one that is new to it, or one that has lost rows?

use sqlx::Row as _;

use super::super::conn::{Failure, statement};
use super::super::sql::{MAX_ID, READ_LIMIT};
use super::marks;
use super::reader::{LogReader, Row, Session};
use crate::store::log::LogView;
use crate::sync::lock;
use crate::tag::Scope;

/// How many of the newest ids a process reads when it starts. So most stored responses get their log verdict without
/// a query.
const START_ROWS: u64 = 4_096;

/// How many times the restart row is inserted while others append rows.
const RESTARTS: u32 = 10;

/// The distance of the restart row's id from all ids that were seen. No process, however long it was away, has seen
/// half as many rows more than another.
const EPOCH: u64 = 1 << 32;

/// How far below the largest id a transaction may still hold an id, in a log that has lost rows. Rows further below
/// existed before new rows were written.
const UNSETTLED: u64 = 65_536;

impl LogReader {
    /// Begins to read a log that is new to this process, or to this connection. The view begins where the log is
    /// settled, as some process has recorded.
    pub(super) async fn begin(&self, session: &mut Session) -> Result<(), Failure> {
        let (settled, largest) = self.settled_and_largest(session).await?;
        session.settled = settled;
        if settled > largest {
            return self.restart(session, settled).await;
        }
        if self.log.view().largest() > 0 {
            return Ok(()); // after a lost connection, what was read before is still true
        }
        self.rebuild_view_of(session, settled, largest).await
    }

    /// Begins again, because the rows that were read have been pruned.
    pub(super) async fn begin_again(&self, session: &mut Session) -> Result<(), Failure> {
        let (settled, largest) = self.settled_and_largest(session).await?;
        self.rebuild_view_of(session, settled, largest).await
    }

    /// Builds a new view that remembers the last [`START_ROWS`] ids. The ids between the settled part and these are a
    /// gap of any size. For a response that has not seen them, the log table is queried.
    async fn rebuild_view_of(
        &self,
        session: &mut Session,
        settled: u64,
        largest: u64,
    ) -> Result<(), Failure> {
        let first = largest.saturating_sub(START_ROWS);
        self.rebuild_view(session, settled.min(first), first, settled).await
    }

    /// Up to which id the log is settled, and its largest id.
    async fn settled_and_largest(&self, session: &mut Session) -> Result<(u64, u64), Failure> {
        let sql = &self.shared.sql.log;
        let settled = session.connection.number(&sql.settled, &self.shared).await?;
        let largest = session.connection.number(&sql.largest, &self.shared).await?;
        let largest = self.log.checked_id(largest)?;
        if settled <= MAX_ID {
            return Ok((settled, largest));
        }
        // the recorded id is impossible
        let base = largest.saturating_sub(UNSETTLED);
        session.connection.run(statement(&sql.unsettle).bind(base), &self.shared).await?;
        Ok((base, largest))
    }

    /// The first id that has not been pruned.
    pub(super) async fn floor(&self, session: &mut Session) -> Result<u64, Failure> {
        session.connection.number(&self.shared.sql.log.floor, &self.shared).await
    }

    /// Replaces the view by a new one that covers the ids after `start`, and remembers the rows after `first`. Up to
    /// `settled`, no row will come.
    async fn rebuild_view(
        &self,
        session: &mut Session,
        start: u64,
        first: u64,
        settled: u64,
    ) -> Result<(), Failure> {
        let mut view = LogView::new(start);
        let mut from = first.max(start).saturating_add(1);
        view.unknown_below(from);
        loop {
            let rows = self.rows(session, from, &[]).await?;
            let full = rows.len() as u64 >= READ_LIMIT;
            from = rows.last().map_or(from, |row| row.id.saturating_add(1));
            self.absorb_into(&mut view, rows);
            if !full {
                break;
            }
        }
        view.settle(settled);
        // asked last: rows that were pruned before or in between are missing, and this shows it
        view.unknown_below(self.floor(session).await?);
        let unwritten = lock(&self.log.unwritten);
        {
            let mut known = self.log.view_mut();
            let before = std::mem::replace(&mut *known, view);
            known.take_over(before);
            known.set_unwritten(marks(&unwritten));
        }
        drop(unwritten);
        Ok(())
    }

    /// The log has lost rows, because the table was emptied, created again, or restored. Invalidations may be lost,
    /// new rows may get ids that were already seen, and transactions may still hold such ids. So a row that
    /// invalidates everything is inserted, with an id far above all others; one row is enough for all processes. This
    /// process then builds a new view. It has a gap before that row, which ends when no transaction holds an id in
    /// it.
    pub(super) async fn restart(&self, session: &mut Session, seen: u64) -> Result<(), Failure> {
        let sql = &self.shared.sql.log;
        let mut attempts = 1;
        let base = loop {
            let largest = session.connection.number(&sql.largest, &self.shared).await?;
            let largest = self.log.checked_id(largest)?;
            let query = statement(&sql.restarted).bind(seen.saturating_add(EPOCH / 2));
            let rows = session.connection.rows(query, &self.shared).await?;
            let restarted: Result<u64, _> = rows.first().map_or(Ok(0), |row| row.try_get(0));
            let restarted =
                restarted.map_err(|error| Failure::of(error, &self.shared.settings.log_table))?;
            if restarted > 0 {
                // another process has already inserted the row, and recorded up to which id the log is settled
                let settled = session.connection.number(&sql.settled, &self.shared).await?;
                break settled.min(restarted.saturating_sub(EPOCH));
            }
            let id = self.log.checked_id(seen.max(largest).saturating_add(EPOCH))?;
            tracing::error!(
                log = %self.shared.settings.log_table.plain(),
                id,
                "the invalidation log has lost rows: everything stored so far is invalidated"
            );
            let base = largest.saturating_sub(UNSETTLED);
            // before the row: a process that starts after this begins here
            let unsettle = statement(&sql.unsettle).bind(base);
            session.connection.run(unsettle, &self.shared).await?;
            let insert = statement(&sql.restart).bind(id);
            match session.connection.insert(insert, &self.shared).await {
                Ok(_) => break base,
                // ER_DUP_ENTRY: another process was faster
                Err(failure) if failure.number() == Some(1062) && attempts < RESTARTS => {
                    attempts += 1;
                }
                Err(failure) => return Err(failure),
            }
        };
        session.settled = base;
        self.rebuild_view(session, base, base, base).await
    }
}

impl Row {
    /// Whether another process has inserted this row because the log had lost rows. This process has seen up to
    /// `largest`.
    pub(super) fn restarts(&self, largest: u64) -> bool {
        self.is_far_from(largest) && self.mark.scope == Scope::Everything
    }

    /// Whether an id is so far above `largest` that only a restart explains it.
    pub(super) fn is_far_from(&self, largest: u64) -> bool {
        self.id >= largest.saturating_add(EPOCH / 2)
    }
}
