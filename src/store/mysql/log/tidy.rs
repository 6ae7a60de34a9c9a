//! What the reader does when nobody waits: closes gaps, writes down how far the log is settled, and pays what
//! is owed.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::super::connection::statement;
use super::super::failure::Failure;
use super::super::shared::lock;
use super::super::sql::{MAX_APPEND, READ_LIMIT};
use super::reader::{LogReader, Session};
use super::write_rows;

/// Statements of one round that ask whether gaps are held.
const MAX_PROBES: usize = 64;

/// Rows between two gaps that are asked about in one statement.
const MAX_BETWEEN: u64 = 64;

/// Lists of rows that could not be written before and are written in one round.
const MAX_PAID: usize = 16;

/// The server's answers to a locking read of a row that a transaction holds, with NOWAIT:
/// ER_LOCK_WAIT_TIMEOUT of MariaDB, ER_LOCK_NOWAIT of MySQL.
const HELD: [u16; 2] = [1205, 3572];

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

    /// A gap is closed when its transaction was rolled back: when a locking read finds neither a row
    /// nor a lock. As long as a transaction holds the row, however long that takes, it stays open.
    async fn close_gaps(&self, session: &mut Session) -> Result<(), Failure> {
        let grace = self.shared.settings.gap_grace;
        let mut ranges = spans(&self.log.view().overdue(grace, Instant::now()), session.probed);
        for _ in 0..MAX_PROBES {
            let Some((from, to)) = ranges.pop() else { break };
            session.probed = if ranges.is_empty() { 0 } else { to };
            let asked = Instant::now();
            let query = statement(&self.shared.sql.log.locked).bind(from).bind(to).bind(READ_LIMIT);
            match session.connection.rows(query, &self.shared).await {
                Ok(rows) => {
                    let full = rows.len() as u64 >= READ_LIMIT;
                    let rows = self.decoded(&rows)?;
                    let newest = rows.last().map_or(0, |row| row.id);
                    if newest > self.log.view().largest() {
                        // only a look goes on from the largest: it sees whether that is there still
                        self.read(session).await?;
                        continue;
                    }
                    // a row that is not found may have been there, and pruned since the last look
                    let floor = self.floor(session).await?;
                    let last = rows.last().map_or(to, |row| row.id);
                    let mut view = self.log.view_mut();
                    view.unknown_below(floor);
                    self.absorb_into(&mut view, rows);
                    view.close(from, if full { last } else { to }, asked);
                }
                Err(failure) if failure.number().is_some_and(|n| HELD.contains(&n)) => {
                    if from < to {
                        let middle = from + (to - from) / 2;
                        ranges.push((middle + 1, to));
                        ranges.push((from, middle));
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Writes rows that could not be written before, list by list: what has been written is not owed any more.
    async fn pay(&self, session: &mut Session) -> Result<(), Failure> {
        for _ in 0..MAX_PAID {
            let owed: Vec<_> = lock(&self.log.owed).iter().take(MAX_APPEND).cloned().collect();
            if owed.is_empty() {
                return Ok(());
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
