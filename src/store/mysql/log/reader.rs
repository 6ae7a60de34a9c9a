//! When is the log read? When a caller waits for it, and regularly.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::Row as _;
use sqlx::mysql::MySqlRow;
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::super::conn::{Connection, Failure, Recovery, Role, reopen, statement, stopped};
use super::super::shared::Shared;
use super::super::sql::{MAX_RANGES, NewestLogRow, READ_LIMIT};
use super::history::{BATCH, HistoryQuery, put};
use super::{Log, Waiter, answer};
use crate::store::StoreError;
use crate::store::log::{LogView, Mark, Reading};
use crate::sync::lock;
use crate::tag::Scope;

/// How often gaps are checked, and failed rows written again.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// How many gaps one read includes: 1,024 uncommitted rows cost about 0.1 ms. For a response that has not seen a gap
/// that is left out, the log table is queried; many such queries are sent together.
pub(super) const READING: Reading = Reading { ranges: MAX_RANGES, ids: 1_024, between: 64 };

/// The most full answers of one read. Newer rows are left to queries of the log table.
const MAX_PAGES: u32 = 16;

/// A statement that takes this long may have skipped very many uncommitted rows.
pub(super) const SLOW: Duration = Duration::from_millis(5);

/// Reads in one `poll_interval`: two, so that a hit in memory finds a read that is recent enough, and does not wait.
const READS: u32 = 2;

/// In an idle process, one read of this many is done: one in ten intervals.
const IDLE_READS: u32 = 10 * READS;

pub(in super::super) struct LogReader {
    pub(in super::super) shared: Arc<Shared>,
    pub(in super::super) log: Arc<Log>,
    pub(in super::super) history_queries: mpsc::Receiver<HistoryQuery>,
    pub(in super::super) stop: watch::Receiver<bool>,
}

/// The state of a connection.
pub(super) struct Session {
    pub(super) connection: Connection,
    /// Whether the view has been compared with the log on this connection.
    pub(super) is_begun: bool,
    /// The settled id that was last recorded.
    pub(super) settled: u64,
    /// How far this round has checked the gaps, for each [`GapCheck`](super::housekeeping::GapCheck).
    pub(super) taken: u64,
    pub(super) closed: u64,
    /// Whether a read was slow.
    pub(super) is_slow: bool,
    /// When the log was last tidied.
    pub(super) housekept_at: Instant,
}

impl Session {
    fn new(connection: Connection) -> Self {
        let housekept_at = Instant::now();
        Self {
            connection,
            is_begun: false,
            settled: 0,
            taken: 0,
            closed: 0,
            is_slow: false,
            housekept_at,
        }
    }
}

impl LogReader {
    /// Runs until the store is closed.
    pub(in super::super) async fn run(mut self) {
        let (shared, mut stop) = (Arc::clone(&self.shared), self.stop.clone());
        loop {
            let refuse = |error: &StoreError| self.refuse(error);
            let opened = reopen(&shared, Role::Log, &mut stop, refuse).await;
            let Some(connection) = opened else { break };
            self.log.up();
            let left = self.serve(Session::new(connection), &mut stop).await;
            self.refuse(&StoreError::Unavailable);
            if let Some(connection) = left {
                connection.close().await;
                break;
            }
        }
        self.log.close();
    }

    fn refuse(&mut self, error: &StoreError) {
        self.log.down(error);
        while let Ok(query) = self.history_queries.try_recv() {
            query.fail(error);
        }
    }

    /// Uses one connection until it is lost (`None`), or until the store is closed.
    async fn serve(
        &mut self,
        mut session: Session,
        stop: &mut watch::Receiver<bool>,
    ) -> Option<Connection> {
        let mut poll = ticking(self.shared.settings.poll_interval / READS);
        let mut housekeeping = ticking(HOUSEKEEPING_INTERVAL);
        let mut idle = 0_u32;
        loop {
            // under load, a caller always waits for a read
            let overdue = session.housekept_at.elapsed() >= HOUSEKEEPING_INTERVAL * 2;
            let outcome = tokio::select! {
                biased;
                () = stopped(stop) => return Some(session.connection),
                () = std::future::ready(()), if overdue => self.housekeeping(&mut session).await,
                () = self.log.work.notified() => self.serve_callers(&mut session).await,
                _ = housekeeping.tick() => self.housekeeping(&mut session).await,
                _ = poll.tick() => {
                    idle = match self.log.used.swap(false, Ordering::Relaxed) {
                        true => 0,
                        false => idle.saturating_add(1),
                    };
                    // an idle process reads less often; before its first use, the tables may not exist
                    let due = idle < IDLE_READS || idle.is_multiple_of(IDLE_READS);
                    let known = session.is_begun || self.log.view().largest() > 0;
                    if known && due {
                        self.read_for(&mut session, Vec::new()).await
                    } else {
                        Ok(())
                    }
                }
            };
            if let Err(failure) = outcome
                && failure.recovery.drops_connection()
            {
                return None;
            }
        }
    }

    /// Serves waiting callers: one read, and then the questions about history.
    async fn serve_callers(&mut self, session: &mut Session) -> Result<(), Failure> {
        let waiters = std::mem::take(&mut lock(&self.log.waiting).waiters);
        let mut outcome = Ok(());
        if !waiters.is_empty() {
            outcome = self.read_for(session, waiters).await;
        }
        if outcome.is_ok() && !self.history_queries.is_empty() {
            let mut history_queries = Vec::new();
            while history_queries.len() < BATCH
                && let Ok(query) = self.history_queries.try_recv()
            {
                history_queries.push(query);
            }
            outcome = put(history_queries, &mut session.connection, &self.shared).await;
        }
        if !self.history_queries.is_empty() {
            self.log.work.notify_one();
        }
        outcome
    }

    /// Reads the log, and answers the callers that wait for it.
    async fn read_for(
        &mut self,
        session: &mut Session,
        waiters: Vec<Waiter>,
    ) -> Result<(), Failure> {
        let before = self.log.view().largest();
        let mut began = Instant::now();
        let mut outcome = self.read(session).await;
        // servers close idle connections: the connection is replaced once
        if outcome.as_ref().is_err_and(|failure| failure.recovery == Recovery::ReconnectAndRetry)
            && let Ok(connection) = Connection::open(&self.shared.settings, Role::Log).await
        {
            (session.connection, session.is_begun) = (connection, false);
            began = Instant::now();
            outcome = self.read(session).await;
        }
        match outcome {
            Ok(()) => {
                self.log.note_read(began);
                self.log.note_quiet(before);
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

    pub(super) async fn read(&self, session: &mut Session) -> Result<(), Failure> {
        self.read_once(session).await?;
        if !self.log.is_damaged() {
            return Ok(());
        }
        self.recover(session).await?;
        self.read_once(session).await
    }

    async fn read_once(&self, session: &mut Session) -> Result<(), Failure> {
        if !session.is_begun {
            self.begin(session).await?;
            session.is_begun = true;
        }
        // the newest row always exists, and has a time: each read includes it, to notice another log
        let (NewestLogRow { id: largest, at_ms }, mut gaps) = {
            let mut view = self.log.view_mut();
            let gaps = view.gaps_to_read(READING);
            (self.log.newest_in(&view), gaps)
        };
        let is_newest = |row: &Row| row.id == largest && (at_ms == 0 || row.at_ms == at_ms);
        let (mut found, mut from, mut pages) = (largest == 0, largest, 0);
        loop {
            let asked = Instant::now();
            let rows = self.rows(session, from, &gaps).await?;
            session.is_slow |= asked.elapsed() >= SLOW;
            pages += 1;
            found |= rows.iter().any(is_newest);
            let full = rows.len() as u64 >= READ_LIMIT;
            let last = rows.last().map_or(0, |row| row.id);
            let restarted = largest > 0 && rows.iter().any(|row| row.restarts(largest));
            if restarted || !found && (last > largest || !full) {
                // the row is not lost: it was pruned while this process was away
                if !restarted && self.floor(session).await? > largest {
                    return self.begin_again(session).await;
                }
                return self.restart(session, largest).await;
            }
            self.absorb(rows);
            if !full {
                return Ok(());
            }
            from = from.max(last.saturating_add(1));
            gaps.retain(|&(_, to)| to > last);
            if let Some((first, _)) = gaps.first_mut() {
                *first = last.saturating_add(1).max(*first);
            }
            if found && pages >= MAX_PAGES && self.skip(session, largest).await? {
                return Ok(());
            }
        }
    }

    /// Skips new rows, except the newest. They become a gap, and the log table is queried about them. `false` if the
    /// log may have been restarted.
    async fn skip(&self, session: &mut Session, largest: u64) -> Result<bool, Failure> {
        let newest = statement(&self.shared.sql.log.newest);
        let newest = session.connection.rows(newest, &self.shared).await?;
        let newest = self.decoded(&newest)?;
        let Some(id) = newest.first().map(|row| row.id).filter(|id| *id >= largest) else {
            return Ok(false);
        };
        if newest.iter().any(|row| row.is_far_from(largest)) {
            return Ok(false);
        }
        let mut view = self.log.view_mut();
        self.absorb_into(&mut view, newest);
        view.unknown_below(id);
        Ok(true)
    }

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
        gaps: &[(u64, u64)],
    ) -> Result<Vec<Row>, Failure> {
        let (text, binds) = self.shared.sql.log.read(gaps.len());
        let mut query = statement(text).bind(from);
        let last = gaps.last().copied().unwrap_or_default();
        for (first, last) in gaps.iter().copied().chain(std::iter::repeat(last)).take(binds) {
            query = query.bind(first).bind(last);
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

    pub(super) fn decoded(&self, rows: &[MySqlRow]) -> Result<Vec<Row>, Failure> {
        let rows: Result<Vec<Row>, _> = rows.iter().map(Row::of).collect();
        let rows = rows.map_err(|error| Failure::of(error, &self.shared.settings.log_table))?;
        self.log.checked_id(rows.last().map_or(0, |row| row.id))?;
        Ok(rows)
    }
}

fn ticking(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

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
