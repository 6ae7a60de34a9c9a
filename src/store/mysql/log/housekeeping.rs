//! Which gaps can be closed? This also records up to which id the log is settled, and writes rows that failed before.

use std::time::{Duration, Instant};

use sqlx::Row as _;
use sqlx::mysql::MySqlRow;

use super::super::conn::{Failure, statement};
use super::super::sql::{MAX_APPEND, MAX_ID, READ_LIMIT};
use super::reader::{LogReader, READING, Session};
use super::write_rows;
use crate::sync::lock;
use crate::tag::{LogRecord, Scope, Tag};

/// The most statements of one round that check gaps.
const MAX_CHECKS: usize = 64;

/// The longest time of one round for checking gaps.
const MAX_TIME: Duration = Duration::from_millis(100);

/// The most ids that one statement reads, in gaps that reads leave out.
const ID_LIMIT: u64 = 16_384;

/// The most ids that one statement may skip because their rows are uncommitted: about 5 ms.
const MAX_SKIPPED: u64 = 65_536;

/// Gaps with at most this many rows between them are checked in one statement.
const MAX_BETWEEN: u64 = 64;

/// The most lists of failed rows that one round writes.
const MAX_RETRIED: usize = 16;

/// The server's errors for a locking read with NOWAIT, if a transaction holds a row: ER_LOCK_WAIT_TIMEOUT on MariaDB,
/// ER_LOCK_NOWAIT on MySQL.
const LOCKED: [u16; 2] = [1205, 3572];

fn is_locked(failure: &Failure) -> bool {
    failure.number().is_some_and(|number| LOCKED.contains(&number))
}

/// What a check does with a range of ids.
#[derive(Clone, Copy)]
pub(super) enum GapCheck {
    /// Removes the ids that have a row from their gaps.
    RemoveFound,
    /// No transaction holds an id, so all of them are settled.
    Close,
}

impl GapCheck {
    fn progress(self, session: &mut Session) -> &mut u64 {
        match self {
            Self::RemoveFound => &mut session.taken,
            Self::Close => &mut session.closed,
        }
    }
}

/// What one round may spend.
struct Budget {
    checks: usize,
    began: Instant,
}

impl Budget {
    /// Takes one statement from the budget. `false` if it is spent.
    fn take(&mut self) -> bool {
        let is_left = self.checks > 0 && self.began.elapsed() < MAX_TIME;
        self.checks -= usize::from(is_left);
        is_left
    }
}

impl LogReader {
    /// Writes rows that failed before, checks gaps that are overdue, and records up to which id the log is settled.
    pub(super) async fn housekeeping(&mut self, session: &mut Session) -> Result<(), Failure> {
        session.housekept_at = Instant::now();
        if !session.is_begun && self.log.unwritten_count() == 0 {
            return Ok(());
        }
        let outcome = async {
            if !session.is_begun {
                // first on each connection: is this the same log?
                self.read(session).await?;
            }
            let retried = self.retry_unwritten(session).await;
            if retried.as_ref().is_err_and(|failure| failure.recovery.drops_connection()) {
                return retried;
            }
            self.close_gaps(session).await?;
            self.end_uncommitted_tail(session).await?;
            let (settled, newest) = {
                let view = self.log.view();
                (view.settled(), self.log.newest_in(&view))
            };
            if settled > session.settled {
                let query = statement(&self.shared.sql.log.settle);
                let query = query.bind(settled).bind(newest.id).bind(newest.at_ms).bind(settled);
                session.connection.run(query, &self.shared).await?;
                session.settled = settled;
            }
            retried
        };
        outcome.await.inspect_err(|failure| self.shared.failed("keeping the log", &failure.error))
    }

    /// There may be many uncommitted rows above the largest id, and each read would skip them one by one. A new row
    /// above them makes them a gap, which reads leave out.
    async fn end_uncommitted_tail(&self, session: &mut Session) -> Result<(), Failure> {
        if !std::mem::take(&mut session.is_slow) {
            return Ok(());
        }
        let sql = &self.shared.sql.log;
        session.connection.run_text(&sql.uncommitted, &self.shared).await?;
        let last = session.connection.number(&sql.largest, &self.shared).await?;
        // those that were committed since the last read are no tail
        self.read(session).await?;
        let largest = self.log.view().largest();
        if largest == 0 || last <= largest.saturating_add(READING.ids) || last > MAX_ID {
            return Ok(());
        }
        let scope = Scope::Tag(Tag::from("rows that are not committed"));
        let record = LogRecord { scope, soft: true, reason: None };
        write_rows(&mut session.connection, &self.shared, &[record]).await.map(drop)
    }

    /// Closes gaps whose transactions were rolled back: a locking read finds neither a row nor a lock. While a
    /// transaction holds a row, the gap stays open.
    ///
    /// In READ COMMITTED, this read locks only the rows that it finds, and releases them at once. So it blocks no
    /// inserts.
    async fn close_gaps(&self, session: &mut Session) -> Result<(), Failure> {
        let began = Instant::now();
        let (overdue, left_out) = {
            let view = self.log.view();
            (view.overdue(self.shared.settings.gap_grace, began), view.left_out())
        };
        // gaps that reads leave out: committed rows are removed from them
        self.check_gaps(session, &left_out, GapCheck::RemoveFound, began).await?;
        self.check_gaps(session, &overdue, GapCheck::Close, began).await
    }

    /// Continues where the last round ended.
    async fn check_gaps(
        &self,
        session: &mut Session,
        gaps: &[(u64, u64)],
        check: GapCheck,
        began: Instant,
    ) -> Result<(), Failure> {
        let mut ranges = check_order(gaps, *check.progress(session));
        let mut budget = Budget { checks: MAX_CHECKS, began };
        while budget.take()
            && let Some((from, to)) = ranges.pop()
        {
            *check.progress(session) = if ranges.is_empty() { 0 } else { to };
            let rest = match self.check(session, from, to, check).await {
                Err(failure) if is_locked(&failure) => {
                    let (empty, rest) = self.without_rows(session, gaps, (from, to)).await?;
                    for (from, to) in empty {
                        if !budget.take() {
                            break;
                        }
                        match self.check(session, from, to, check).await {
                            // a transaction has inserted a row in the meantime
                            Err(failure) if is_locked(&failure) => {}
                            checked => drop(checked?),
                        }
                    }
                    rest
                }
                checked => checked?,
            };
            if let Some(rest) = rest {
                *check.progress(session) = rest - 1;
                ranges.push((rest, to));
            }
        }
        Ok(())
    }

    /// The parts of gaps without any row, committed or not, and where the rest of the range begins. Between the rows
    /// of open transactions, there may be ids of transactions that were rolled back. A locking read must confirm
    /// this.
    async fn without_rows(
        &self,
        session: &mut Session,
        gaps: &[(u64, u64)],
        (from, to): (u64, u64),
    ) -> Result<(Vec<(u64, u64)>, Option<u64>), Failure> {
        session.connection.run_text(&self.shared.sql.log.uncommitted, &self.shared).await?;
        let rows = self.ids(session, from, to).await?;
        let end = rows.last().copied().filter(|_| rows.len() as u64 >= ID_LIMIT).unwrap_or(to);
        let mut empty = Vec::new();
        for &(first, last) in gaps.iter().filter(|&&(first, last)| last >= from && first <= end) {
            let (mut at, last) = (first.max(from), last.min(end));
            let start = rows.partition_point(|id| *id < at);
            for &id in rows.iter().skip(start).take_while(|id| **id <= last) {
                if at < id {
                    empty.push((at, id - 1));
                }
                at = id.saturating_add(1);
            }
            if at <= last {
                empty.push((at, last));
            }
        }
        Ok((empty, (end < to).then(|| end + 1)))
    }

    /// The ids of the rows in a range, or in its first part.
    async fn ids(&self, session: &mut Session, from: u64, to: u64) -> Result<Vec<u64>, Failure> {
        let query = statement(&self.shared.sql.log.ids).bind(from).bind(to).bind(ID_LIMIT);
        let rows = session.connection.rows(query, &self.shared).await?;
        self.ids_of(&rows)
    }

    fn ids_of(&self, rows: &[MySqlRow]) -> Result<Vec<u64>, Failure> {
        let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<_>, _>>();
        ids.map_err(|error| Failure::of(error, &self.shared.settings.log_table))
    }

    /// Checks a range, or its first part: which ids have rows (`Take`), or which a transaction holds (`Close`).
    /// Returns where the rest begins. In gaps that reads leave out, only ids are read.
    async fn check(
        &self,
        session: &mut Session,
        from: u64,
        to: u64,
        check: GapCheck,
    ) -> Result<Option<u64>, Failure> {
        let asked = Instant::now();
        let (rows, ids, end) = match check {
            GapCheck::RemoveFound => {
                let last = to.min(from.saturating_add(MAX_SKIPPED));
                let ids = self.ids(session, from, last).await?;
                let full = ids.len() as u64 >= ID_LIMIT;
                let end = ids.last().copied().filter(|_| full).unwrap_or(last);
                (Vec::new(), ids, end)
            }
            GapCheck::Close => {
                let sql = &self.shared.sql.log;
                let is_left_out = self.log.view().leaves_out(to);
                let (text, limit) = match is_left_out {
                    true => (&sql.locked_ids, ID_LIMIT),
                    false => (&sql.locked, READ_LIMIT),
                };
                let query = statement(text).bind(from).bind(to).bind(limit);
                let found = session.connection.rows(query, &self.shared).await?;
                let ids = self.ids_of(&found)?;
                let full = ids.len() as u64 >= limit;
                let end = ids.last().copied().filter(|_| full).unwrap_or(to);
                (if is_left_out { Vec::new() } else { self.decoded(&found)? }, ids, end)
            }
        };
        if ids.last().is_some_and(|last| *last > self.log.view().largest()) {
            // only a read of the log may extend the view, because it checks that the newest row still exists
            self.read(session).await?;
            return Ok(None);
        }
        // a row that is not found may have been pruned since the last read
        let floor = self.floor(session).await?;
        let mut view = self.log.view_mut();
        view.unknown_below(floor);
        self.absorb_into(&mut view, rows);
        match check {
            GapCheck::RemoveFound => view.found(ids),
            GapCheck::Close => view.close(from, end, asked),
        }
        Ok((end < to).then(|| end + 1))
    }

    /// Writes rows that failed before, list by list.
    async fn retry_unwritten(&self, session: &mut Session) -> Result<(), Failure> {
        for _ in 0..MAX_RETRIED {
            let unwritten: Vec<_> =
                lock(&self.log.unwritten).iter().take(MAX_APPEND).cloned().collect();
            if unwritten.is_empty() {
                return Ok(());
            }
            if self.log.is_damaged() {
                self.read(session).await?;
            }
            write_rows(&mut session.connection, &self.shared, &unwritten).await?;
            // the view must contain them before they are removed from the list
            self.read(session).await?;
            let mut left = lock(&self.log.unwritten);
            // unless so many rows failed that one row has replaced them
            if left.starts_with(&unwritten) {
                left.drain(..unwritten.len());
            }
            self.log.note_unwritten(&left);
            tracing::info!(
                rows = unwritten.len(),
                "invalidations that had failed have been written"
            );
        }
        Ok(())
    }
}

/// Ranges in the order in which they are checked: close ones are joined, and the order begins after `probed`. The
/// vector is reversed, because the last element is taken first.
fn check_order(ranges: &[(u64, u64)], checked: u64) -> Vec<(u64, u64)> {
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for &(from, to) in ranges {
        match spans.last_mut() {
            Some((_, end)) if from.saturating_sub(*end) <= MAX_BETWEEN => *end = to.max(*end),
            _ => spans.push((from, to)),
        }
    }
    let next = spans.partition_point(|&(_, to)| to <= checked);
    spans.rotate_left(next);
    spans.reverse();
    spans
}

#[cfg(test)]
mod tests {
    use super::check_order;

    #[test]
    fn gaps_are_checked_from_the_lowest_and_then_onwards() {
        let gaps = [(3, 3), (5, 9), (100, 100), (1_000, 2_000)];
        assert_eq!(check_order(&gaps, 0), [(1_000, 2_000), (100, 100), (3, 9)]);
        assert_eq!(check_order(&gaps, 9), [(3, 9), (1_000, 2_000), (100, 100)]);
        assert_eq!(check_order(&gaps, 1_500), [(100, 100), (3, 9), (1_000, 2_000)]);
        assert_eq!(check_order(&gaps, 9_000), check_order(&gaps, 0));
        assert!(check_order(&[], 7).is_empty());
    }
}
