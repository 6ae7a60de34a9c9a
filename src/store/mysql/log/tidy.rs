//! What the reader does when nobody waits: closes gaps, writes down how far the log is settled, and pays what
//! is owed.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::Row as _;
use sqlx::mysql::MySqlRow;

use super::super::conn::{Failure, statement};
use super::super::sql::{MAX_APPEND, MAX_ID, READ_LIMIT};
use super::reader::{LogReader, READING, Session};
use super::write_rows;
use crate::sync::lock;
use crate::tag::{LogRecord, Scope, Tag};

/// Statements of one round that ask whether gaps are held.
const MAX_PROBES: usize = 64;

/// How long one round asks whether gaps are held.
const MAX_TIME: Duration = Duration::from_millis(100);

/// Ids that one statement reads of rows that are asked about in any case.
const ID_LIMIT: u64 = 16_384;

/// Ids over which one statement passes where their rows may not be committed: some 5 ms.
const MAX_PASSED: u64 = 65_536;

/// Rows between two gaps that are asked about in one statement.
const MAX_BETWEEN: u64 = 64;

/// Lists of rows that could not be written before and are written in one round.
const MAX_PAID: usize = 16;

/// The server's answers to a locking read of a row that a transaction holds, with NOWAIT:
/// ER_LOCK_WAIT_TIMEOUT of MariaDB, ER_LOCK_NOWAIT of MySQL.
const HELD: [u16; 2] = [1205, 3572];

fn is_held(failure: &Failure) -> bool {
    failure.number().is_some_and(|number| HELD.contains(&number))
}

/// What becomes of the ids of a range.
#[derive(Clone, Copy)]
pub(super) enum Probe {
    /// Those with a row have been found.
    Take,
    /// No transaction holds one: all of them are settled.
    Close,
}

impl Probe {
    fn place(self, session: &mut Session) -> &mut u64 {
        match self {
            Self::Take => &mut session.taken,
            Self::Close => &mut session.closed,
        }
    }
}

/// What one round may spend on asking whether gaps are held.
struct Budget {
    probes: usize,
    began: Instant,
}

impl Budget {
    /// Takes one question out of the budget, if one is left.
    fn take(&mut self) -> bool {
        let is_left = self.probes > 0 && self.began.elapsed() < MAX_TIME;
        self.probes -= usize::from(is_left);
        is_left
    }
}

impl LogReader {
    /// Looks after gaps that have been open for long, writes down how far the log is settled, and tries
    /// again what could not be written.
    pub(super) async fn tidy(&mut self, session: &mut Session) -> Result<(), Failure> {
        session.tidied = Instant::now();
        if !session.begun && self.log.owes() == 0 {
            return Ok(());
        }
        let outcome = async {
            if !session.begun {
                // the first thing on a connection: whether the log is the one it was
                self.read(session).await?;
            }
            let paid = self.pay(session).await;
            if paid.as_ref().is_err_and(|failure| failure.then.drops()) {
                return paid;
            }
            self.close_gaps(session).await?;
            self.end_the_tail(session).await?;
            let (settled, largest, at_ms) = {
                let view = self.log.view();
                let at_ms = self.log.newest_at_ms.load(Ordering::Relaxed);
                (view.settled(), view.largest(), at_ms)
            };
            if settled > session.settled {
                let query = statement(&self.shared.sql.log.settle);
                let query = query.bind(settled).bind(largest).bind(at_ms).bind(settled);
                session.connection.run(query, &self.shared).await?;
                session.settled = settled;
            }
            paid
        };
        outcome.await.inspect_err(|failure| self.shared.failed("keeping the log", &failure.error))
    }

    /// Many rows that are not committed may lie behind all others, where each look passes over them one by one.
    /// A row behind them makes them a gap, which it leaves out.
    async fn end_the_tail(&self, session: &mut Session) -> Result<(), Failure> {
        if !std::mem::take(&mut session.is_slow) {
            return Ok(());
        }
        let sql = &self.shared.sql.log;
        session.connection.run_text(&sql.uncommitted, &self.shared).await?;
        let last = session.connection.number(&sql.largest, &self.shared).await?;
        let largest = self.log.view().largest();
        if largest == 0 || last <= largest.saturating_add(READING.ids) || last > MAX_ID {
            return Ok(());
        }
        let scope = Scope::Tag(Tag::from("rows that are not committed"));
        let record = LogRecord { scope, soft: true, reason: None };
        write_rows(&mut session.connection, &self.shared, &[record]).await.map(drop)
    }

    /// A gap is closed when its transaction was rolled back: when a locking read finds neither a row
    /// nor a lock. As long as a transaction holds the row, however long that takes, it stays open.
    ///
    /// In READ COMMITTED such a read locks the rows that it finds and nothing between or behind them, so it
    /// keeps nobody from inserting, and lets go at once.
    async fn close_gaps(&self, session: &mut Session) -> Result<(), Failure> {
        let began = Instant::now();
        let (overdue, left_out) = {
            let view = self.log.view();
            (view.overdue(self.shared.settings.gap_grace, began), view.left_out())
        };
        // of what no look reads, rows are taken out of the gap as soon as they are there
        self.probe_all(session, &left_out, Probe::Take, began).await?;
        self.probe_all(session, &overdue, Probe::Close, began).await
    }

    /// Goes on where it ended the last time, as far as that gets in one round.
    async fn probe_all(
        &self,
        session: &mut Session,
        gaps: &[(u64, u64)],
        probe: Probe,
        began: Instant,
    ) -> Result<(), Failure> {
        let mut ranges = spans(gaps, *probe.place(session));
        let mut budget = Budget { probes: MAX_PROBES, began };
        while budget.take()
            && let Some((from, to)) = ranges.pop()
        {
            *probe.place(session) = if ranges.is_empty() { 0 } else { to };
            let rest = match self.probe(session, from, to, probe).await {
                Err(failure) if is_held(&failure) => {
                    let (empty, rest) = self.without_rows(session, gaps, (from, to)).await?;
                    for (from, to) in empty {
                        if !budget.take() {
                            break;
                        }
                        match self.probe(session, from, to, probe).await {
                            // a transaction has come to it since
                            Err(failure) if is_held(&failure) => {}
                            probed => drop(probed?),
                        }
                    }
                    rest
                }
                probed => probed?,
            };
            if let Some(rest) = rest {
                *probe.place(session) = rest - 1;
                ranges.push((rest, to));
            }
        }
        Ok(())
    }

    /// The parts of gaps in which there is no row, committed or not, and where the rest of the range begins: between
    /// rows of open transactions may be ids of others that were rolled back. A locking read has to confirm it.
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

    /// The ids of rows in a range, or in its beginning.
    async fn ids(&self, session: &mut Session, from: u64, to: u64) -> Result<Vec<u64>, Failure> {
        let query = statement(&self.shared.sql.log.ids).bind(from).bind(to).bind(ID_LIMIT);
        let rows = session.connection.rows(query, &self.shared).await?;
        self.ids_of(&rows)
    }

    fn ids_of(&self, rows: &[MySqlRow]) -> Result<Vec<u64>, Failure> {
        let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<_>, _>>();
        ids.map_err(|error| Failure::of(error, &self.shared.settings.log_table))
    }

    /// Asks which ids of a range have rows, or, with a lock, which a transaction holds, or of its beginning, and says
    /// where its rest begins. Of what is asked about in any case, only the ids are read.
    async fn probe(
        &self,
        session: &mut Session,
        from: u64,
        to: u64,
        probe: Probe,
    ) -> Result<Option<u64>, Failure> {
        let asked = Instant::now();
        let (rows, ids, end) = match probe {
            Probe::Take => {
                let last = to.min(from.saturating_add(MAX_PASSED));
                let ids = self.ids(session, from, last).await?;
                let full = ids.len() as u64 >= ID_LIMIT;
                let end = ids.last().copied().filter(|_| full).unwrap_or(last);
                (Vec::new(), ids, end)
            }
            Probe::Close => {
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
            // only a look goes on from the largest: it sees whether that is there still
            self.read(session).await?;
            return Ok(None);
        }
        // a row that is not found may have been there, and pruned since the last look
        let floor = self.floor(session).await?;
        let mut view = self.log.view_mut();
        view.unknown_below(floor);
        self.absorb_into(&mut view, rows);
        match probe {
            Probe::Take => view.found(ids),
            Probe::Close => view.close(from, end, asked),
        }
        Ok((end < to).then(|| end + 1))
    }

    /// Writes rows that could not be written before, list by list: what has been written is not owed any more.
    async fn pay(&self, session: &mut Session) -> Result<(), Failure> {
        for _ in 0..MAX_PAID {
            let owed: Vec<_> = lock(&self.log.owed).iter().take(MAX_APPEND).cloned().collect();
            if owed.is_empty() {
                return Ok(());
            }
            if self.log.is_damaged() {
                self.read(session).await?;
            }
            write_rows(&mut session.connection, &self.shared, &owed).await?;
            // seen before they stop to be owed
            self.read(session).await?;
            let mut left = lock(&self.log.owed);
            // unless it has become too much to remember meanwhile
            if left.starts_with(&owed) {
                left.drain(..owed.len());
            }
            self.log.note_owed(&left);
            tracing::info!(rows = owed.len(), "invalidations that had failed have been written");
        }
        Ok(())
    }
}

/// Ranges of ids as they are asked about: those that lie close together as one, the next after `probed` last,
/// because the last is taken first, then upwards and round.
fn spans(ranges: &[(u64, u64)], probed: u64) -> Vec<(u64, u64)> {
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for &(from, to) in ranges {
        match spans.last_mut() {
            Some((_, end)) if from.saturating_sub(*end) <= MAX_BETWEEN => *end = to.max(*end),
            _ => spans.push((from, to)),
        }
    }
    let next = spans.partition_point(|&(_, to)| to <= probed);
    spans.rotate_left(next);
    spans.reverse();
    spans
}

#[cfg(test)]
mod tests {
    use super::spans;

    #[test]
    fn gaps_are_asked_about_from_the_lowest_on_and_the_next_time_from_where_that_ended() {
        let gaps = [(3, 3), (5, 9), (100, 100), (1_000, 2_000)];
        assert_eq!(spans(&gaps, 0), [(1_000, 2_000), (100, 100), (3, 9)]);
        assert_eq!(spans(&gaps, 9), [(3, 9), (1_000, 2_000), (100, 100)]);
        assert_eq!(spans(&gaps, 1_500), [(100, 100), (3, 9), (1_000, 2_000)]);
        assert_eq!(spans(&gaps, 9_000), spans(&gaps, 0));
        assert!(spans(&[], 7).is_empty());
    }
}
