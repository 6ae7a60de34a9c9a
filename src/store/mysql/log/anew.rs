//! The beginning: of a log that a process has not seen before, and of one that has lost rows.

use sqlx::Row as _;

use super::super::conn::{Failure, statement};
use super::super::sql::{MAX_ID, READ_LIMIT};
use super::marks;
use super::reader::{LogReader, Row, Session};
use crate::store::log::LogView;
use crate::sync::lock;
use crate::tag::Scope;

/// Rows below the largest id that a process reads when it starts, so that most of what is stored can
/// be judged without asking.
const START_ROWS: u64 = 4_096;

/// Times that a row is put behind all others while others append.
const RESTARTS: u32 = 10;

/// How far behind all ids that have been seen that row is: no process, however long it was away, has seen
/// more than half of this more than another.
const EPOCH: u64 = 1 << 32;

/// Ids below the largest in a log that has lost rows in which a transaction may hold one still: those
/// further below were there before anybody began to write to it.
const UNSETTLED: u64 = 65_536;

impl LogReader {
    /// A view of a log that this process has not seen before, or not on this connection. It begins
    /// where everything is known to be settled: some process has written that down.
    pub(super) async fn begin(&self, session: &mut Session) -> Result<(), Failure> {
        let (settled, largest) = self.ends(session).await?;
        session.settled = settled;
        if settled > largest {
            return self.restart(session, settled).await;
        }
        if self.log.view().largest() > 0 {
            return Ok(()); // after a connection was lost: what was seen before still holds
        }
        self.anew_of(session, settled, largest).await
    }

    /// Begins again, where what had been seen has been pruned since.
    pub(super) async fn begin_anew(&self, session: &mut Session) -> Result<(), Failure> {
        let (settled, largest) = self.ends(session).await?;
        self.anew_of(session, settled, largest).await
    }

    /// A new view that remembers the last [`START_ROWS`] ids. What lies between them and where the log is
    /// settled is a gap, however much that is: what had not seen it is asked about.
    async fn anew_of(
        &self,
        session: &mut Session,
        settled: u64,
        largest: u64,
    ) -> Result<(), Failure> {
        let first = largest.saturating_sub(START_ROWS);
        self.anew(session, settled.min(first), first, settled).await
    }

    /// How far the log is known to be settled, and its largest id.
    async fn ends(&self, session: &mut Session) -> Result<(u64, u64), Failure> {
        let sql = &self.shared.sql.log;
        let settled = session.connection.number(&sql.settled, &self.shared).await?;
        let largest = session.connection.number(&sql.largest, &self.shared).await?;
        let largest = self.log.sane(largest)?;
        if settled <= MAX_ID {
            return Ok((settled, largest));
        }
        // up to a row that cannot be
        let base = largest.saturating_sub(UNSETTLED);
        session.connection.run(statement(&sql.unsettle).bind(base), &self.shared).await?;
        Ok((base, largest))
    }

    /// The first id that has not been pruned.
    pub(super) async fn floor(&self, session: &mut Session) -> Result<u64, Failure> {
        session.connection.number(&self.shared.sql.log.floor, &self.shared).await
    }

    /// A new view in the place of the one there is, of everything after `start`, which remembers what comes
    /// after `first`. Up to `settled` no row is still to come.
    async fn anew(
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
        // asked for last: what was pruned before or between is missing from the rows, and shows here
        view.unknown_below(self.floor(session).await?);
        let owed = lock(&self.log.owed);
        {
            let mut known = self.log.view_mut();
            let before = std::mem::replace(&mut *known, view);
            known.take_over(before);
            known.set_owed(marks(&owed));
        }
        drop(owed);
        Ok(())
    }

    /// The log is not the one it was: rows that had been seen are gone, because the table was emptied,
    /// made anew or restored. What was invalidated in between is not known, its next ids would be taken for
    /// old ones, and a transaction may hold one of those still. So a row that names everything is put far
    /// behind all that any process has ever seen, one for all processes that notice; and this one
    /// begins anew, with a gap before that row which ends when no transaction holds an id in it.
    pub(super) async fn restart(&self, session: &mut Session, seen: u64) -> Result<(), Failure> {
        let sql = &self.shared.sql.log;
        let mut attempts = 1;
        let base = loop {
            let largest = session.connection.number(&sql.largest, &self.shared).await?;
            let largest = self.log.sane(largest)?;
            let query = statement(&sql.restarted).bind(seen.saturating_add(EPOCH / 2));
            let rows = session.connection.rows(query, &self.shared).await?;
            let restarted: Result<u64, _> = rows.first().map_or(Ok(0), |row| row.try_get(0));
            let restarted =
                restarted.map_err(|error| Failure::of(error, &self.shared.settings.log_table))?;
            if restarted > 0 {
                // another process has done this already, which is enough, and said how far it is settled
                let settled = session.connection.number(&sql.settled, &self.shared).await?;
                break settled.min(restarted.saturating_sub(EPOCH));
            }
            let id = self.log.sane(seen.max(largest).saturating_add(EPOCH))?;
            tracing::error!(
                log = %self.shared.settings.log_table.plain(),
                id,
                "the invalidation log has lost rows: everything stored so far is invalidated"
            );
            let base = largest.saturating_sub(UNSETTLED);
            // before the row: who starts from then on begins here
            let unsettle = statement(&sql.unsettle).bind(base);
            session.connection.run(unsettle, &self.shared).await?;
            let insert = statement(&sql.restart).bind(id);
            match session.connection.insert(insert, &self.shared).await {
                Ok(_) => break base,
                // ER_DUP_ENTRY: somebody was quicker
                Err(failure) if failure.number() == Some(1062) && attempts < RESTARTS => {
                    attempts += 1;
                }
                Err(failure) => return Err(failure),
            }
        };
        session.settled = base;
        self.anew(session, base, base, base).await
    }
}

impl Row {
    /// Whether another process has put it there because the log had lost rows; this one has seen up to
    /// `largest`.
    pub(super) fn restarts(&self, largest: u64) -> bool {
        self.is_far_from(largest) && self.mark.scope == Scope::Everything
    }

    /// Whether no row comes so far behind the largest but where the log has lost rows.
    pub(super) fn is_far_from(&self, largest: u64) -> bool {
        self.id >= largest.saturating_add(EPOCH / 2)
    }
}
