//! The task that looks at the log: when somebody asks, and now and then by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::Row as _;
use sqlx::mysql::MySqlRow;
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::super::connection::{Backoff, Connection, Role, statement, stopped};
use super::super::failure::{Failure, Then};
use super::super::shared::{Shared, lock};
use super::super::sql::{MAX_GAP_IDS, READ_LIMIT};
use super::history::Question;
use super::{Log, Waiter, answer, write_rows};
use crate::store::StoreError;
use crate::store::log::{LogView, Mark};
use crate::tag::Scope;

/// How often gaps are looked after and owed rows tried again.
const TIDY: Duration = Duration::from_secs(1);

/// Looks by itself that are left out while nobody uses the store.
const IDLE_TICKS: u32 = 10;

/// Statements of one round that ask whether gaps are held.
const MAX_PROBES: usize = 64;

/// The server's answers to a locking read of a row that a transaction holds, with NOWAIT:
/// ER_LOCK_WAIT_TIMEOUT of MariaDB, ER_LOCK_NOWAIT of MySQL.
const HELD: [u16; 2] = [1205, 3572];

/// The task and what it owns.
pub(in super::super) struct LogReader {
    pub(in super::super) shared: Arc<Shared>,
    pub(in super::super) log: Arc<Log>,
    pub(in super::super) questions: mpsc::Receiver<Question>,
    pub(in super::super) stop: watch::Receiver<bool>,
}

/// How far a connection has come.
pub(super) struct Session {
    pub(super) connection: Connection,
    /// The view has been checked against the log on this connection.
    begun: bool,
    /// How far the log was settled when that was last written down.
    pub(super) settled: u64,
}

impl LogReader {
    /// Works until the store is closed.
    pub(in super::super) async fn run(mut self) {
        let mut stop = self.stop.clone();
        let mut backoff = Backoff::default();
        loop {
            let opening = Connection::open(&self.shared.settings, Role::Log);
            let opened = tokio::select! {
                opened = opening => opened,
                () = stopped(&mut stop) => break,
            };
            match opened {
                Ok(connection) => {
                    backoff = Backoff::default();
                    self.log.up();
                    let session = Session { connection, begun: false, settled: 0 };
                    let left = self.serve(session, &mut stop).await;
                    self.refuse(&StoreError::Unavailable);
                    if let Some(connection) = left {
                        connection.close().await;
                        break;
                    }
                }
                Err(error) => {
                    self.shared.failed("connecting", &error);
                    self.refuse(&error);
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next()) => {}
                        () = stopped(&mut stop) => break,
                    }
                }
            }
        }
        self.log.close();
    }

    fn refuse(&mut self, error: &StoreError) {
        self.log.down(error);
        while let Ok(question) = self.questions.try_recv() {
            question.fail(error);
        }
    }

    /// Serves on one connection until it is lost, or, giving it back, until the store is closed.
    async fn serve(
        &mut self,
        mut session: Session,
        stop: &mut watch::Receiver<bool>,
    ) -> Option<Connection> {
        let mut poll = ticking(self.shared.settings.poll_interval);
        let mut tidy = ticking(TIDY);
        let mut idle = 0_u32;
        loop {
            let outcome = tokio::select! {
                biased;
                () = stopped(stop) => return Some(session.connection),
                () = self.log.work.notified() => self.work(&mut session).await,
                _ = poll.tick() => {
                    idle = match self.log.used.swap(false, Ordering::Relaxed) {
                        true => 0,
                        false => idle.saturating_add(1),
                    };
                    // a process that serves nothing looks ten times less often; before its first use the
                    // tables may not be there yet
                    let due = idle < IDLE_TICKS || idle.is_multiple_of(IDLE_TICKS);
                    let known = session.begun || self.log.view().largest() > 0;
                    if known && due {
                        self.look(&mut session, Vec::new()).await
                    } else {
                        Ok(())
                    }
                }
                _ = tidy.tick() => self.tidy(&mut session).await,
            };
            if let Err(failure) = outcome
                && failure.then.drops()
            {
                return None;
            }
        }
    }

    /// Does what somebody waits for.
    async fn work(&mut self, session: &mut Session) -> Result<(), Failure> {
        let waiters = std::mem::take(&mut lock(&self.log.waiting).waiters);
        if !waiters.is_empty() {
            self.look(session, waiters).await?;
        }
        while let Ok(question) = self.questions.try_recv() {
            question.put(&mut session.connection, &self.shared).await?;
        }
        Ok(())
    }

    /// Looks at the log and answers those who wait for that.
    async fn look(&mut self, session: &mut Session, waiters: Vec<Waiter>) -> Result<(), Failure> {
        let mut began = Instant::now();
        let mut outcome = self.read(session).await;
        // servers close idle connections: it is replaced once on the spot
        if outcome.as_ref().is_err_and(|failure| failure.then == Then::ReconnectAndTryAgain)
            && let Ok(connection) = Connection::open(&self.shared.settings, Role::Log).await
        {
            (session.connection, session.begun) = (connection, false);
            began = Instant::now();
            outcome = self.read(session).await;
        }
        match outcome {
            Ok(()) => {
                self.log.seen(began);
                answer(waiters, &Ok(()));
                Ok(())
            }
            Err(failure) => {
                self.shared.log_failed(&failure.error);
                answer(waiters, &Err(failure.error.clone()));
                Err(failure)
            }
        }
    }

    async fn read(&self, session: &mut Session) -> Result<(), Failure> {
        if !session.begun {
            self.begin(session).await?;
            session.begun = true;
        }
        let (largest, gaps, settled) = {
            let view = self.log.view();
            (view.largest(), view.gap_ids(MAX_GAP_IDS), view.settled())
        };
        // with too many gaps to list, everything after the lowest is read again
        let (mut from, gaps) = match gaps {
            Some(gaps) => (largest, gaps),
            None => (settled.saturating_add(1), Vec::new()),
        };
        // the newest row is always there, and says when it was written: it is read along to see that the
        // log is the one it was
        let at_ms = self.log.newest_at_ms.load(Ordering::Relaxed);
        let is_newest = |row: &Row| row.id == largest && (at_ms == 0 || row.at_ms == at_ms);
        let mut found = largest == 0;
        let mut rows = self.rows(session, from, &gaps).await?;
        loop {
            found |= rows.iter().any(is_newest);
            let full = rows.len() as u64 >= READ_LIMIT;
            let beyond = rows.last().is_some_and(|row| row.id > largest);
            let restarted = largest > 0 && rows.iter().any(|row| row.restarts(largest));
            if restarted || !found && (beyond || !full) {
                return self.restart(session, largest).await;
            }
            from = rows.last().map_or(from, |row| row.id.saturating_add(1));
            self.absorb(rows);
            if !full {
                return Ok(());
            }
            rows = self.rows(session, from, &[]).await?;
        }
    }

    /// Takes rows into the view.
    fn absorb(&self, rows: Vec<Row>) {
        let mut view = self.log.view_mut();
        self.absorb_into(&mut view, rows);
    }

    pub(super) fn absorb_into(&self, view: &mut LogView, rows: Vec<Row>) {
        if let Some(newest) = rows.last()
            && newest.id >= view.largest()
        {
            self.log.newest_at_ms.store(newest.at_ms, Ordering::Relaxed);
        }
        view.absorb(rows.into_iter().map(|row| (row.id, row.mark)), Instant::now());
    }

    pub(super) async fn rows(
        &self,
        session: &mut Session,
        from: u64,
        gaps: &[u64],
    ) -> Result<Vec<Row>, Failure> {
        let (text, binds) = self.shared.sql.log.read(gaps.len());
        let mut query = statement(text).bind(from);
        let last = gaps.last().copied().unwrap_or_default();
        for gap in gaps.iter().copied().chain(std::iter::repeat(last)).take(binds) {
            query = query.bind(gap);
        }
        let rows = session.connection.rows(query.bind(READ_LIMIT), &self.shared).await?;
        if let Some(row) = rows.first().filter(|_| !gaps.is_empty()) {
            let floor = row.try_get(4);
            let floor =
                floor.map_err(|error| Failure::of(error, &self.shared.settings.log_table))?;
            self.log.view_mut().unknown_below(floor);
        }
        self.decoded(&rows)
    }

    fn decoded(&self, rows: &[MySqlRow]) -> Result<Vec<Row>, Failure> {
        rows.iter()
            .map(Row::of)
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::of(error, &self.shared.settings.log_table))
    }

    /// Looks after gaps that have been open for long, writes down how far the log is settled, and tries
    /// again what could not be written.
    async fn tidy(&mut self, session: &mut Session) -> Result<(), Failure> {
        if !session.begun && self.log.owes() == 0 {
            return Ok(());
        }
        let outcome = async {
            if !session.begun {
                // the first thing on a connection: whether the log is the one it was
                self.read(session).await?;
            }
            self.close_gaps(session).await?;
            let (settled, largest) = {
                let view = self.log.view();
                (view.settled(), view.largest())
            };
            if settled > session.settled {
                let query = statement(&self.shared.sql.log.settle);
                let query = query.bind(settled).bind(largest).bind(settled);
                session.connection.run(query, &self.shared).await?;
                session.settled = settled;
            }
            self.pay(session).await
        };
        outcome.await.inspect_err(|failure| self.shared.failed("keeping the log", &failure.error))
    }

    /// A gap is closed when its transaction was rolled back: when a locking read finds neither a row
    /// nor a lock. As long as a transaction holds the row, however long that takes, it stays open.
    async fn close_gaps(&self, session: &mut Session) -> Result<(), Failure> {
        let grace = self.shared.settings.gap_grace;
        let mut ranges = self.log.view().overdue(grace, Instant::now());
        for _ in 0..MAX_PROBES {
            let Some((from, to)) = ranges.pop() else { return Ok(()) };
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
                    let floor = &self.shared.sql.log.floor;
                    let floor = session.connection.number(floor, &self.shared).await?;
                    let last = rows.last().map_or(to, |row| row.id);
                    let mut view = self.log.view_mut();
                    view.unknown_below(floor);
                    self.absorb_into(&mut view, rows);
                    view.close(from, if full { last } else { to }, asked);
                }
                Err(failure) if failure.number().is_some_and(|n| HELD.contains(&n)) => {
                    if from < to {
                        let middle = from + (to - from) / 2;
                        ranges.push((from, middle));
                        ranges.push((middle + 1, to));
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Writes rows that could not be written before.
    async fn pay(&self, session: &mut Session) -> Result<(), Failure> {
        let owed = lock(&self.log.owed).clone();
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
        Ok(())
    }
}

fn ticking(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// A row of the log as it is read.
pub(super) struct Row {
    pub(super) id: u64,
    pub(super) mark: Mark,
    at_ms: u64,
}

impl Row {
    fn of(row: &MySqlRow) -> Result<Self, sqlx::Error> {
        let column = bytes::Bytes::copy_from_slice(row.try_get::<&[u8], _>(1)?);
        let soft = row.try_get::<&str, _>(2)? == "s";
        let mark = Mark { scope: Scope::from_column(&column), soft };
        Ok(Self { id: row.try_get(0)?, mark, at_ms: row.try_get(3)? })
    }
}
