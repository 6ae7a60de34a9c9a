//! What has this process read of the invalidation log, and what does the log say about an entry?
//!
//! The `reader` task reads the log, once for all callers that wait. Each caller then takes the log verdict from the
//! view.

mod append;
mod damage;
mod history;
mod housekeeping;
mod quiet;
mod reader;
mod restart;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use sqlx::Row as _;
use tokio::sync::{Notify, mpsc, oneshot};

pub(super) use self::append::{append_on, append_sql, write as write_rows};
use self::history::HistoryQuery;
pub(super) use self::reader::LogReader;
use super::conn::{Connection, Failure, statement};
use super::shared::Shared;
use super::sql::{NewestLogRow, TableName};
use crate::key::CacheKey;
use crate::store::StoreError;
use crate::store::log::{Judgement, LogView, Mark};
use crate::stored::StoredHead;
use crate::sync::{self, lock};
use crate::tag::{LogPosition, LogRecord, Scope, Validity};

/// The most waiting questions about responses that are older than the remembered rows.
const MAX_HISTORY_QUERIES: usize = 1_024;

/// The memory for remembered answers to such questions: 4 MiB, which is about 10,000.
const CHECKED_BYTES: u64 = 4 << 20;

/// The most rows that are kept because they could not be written. With more, one row that invalidates everything
/// replaces them.
const MAX_UNWRITTEN: usize = 10_000;

/// A caller that waits for a read of the log.
type Waiter = oneshot::Sender<Result<(), StoreError>>;

pub(super) struct Log {
    view: RwLock<LogView>,
    waiting: Mutex<Waiting>,
    /// Wakes the reader task.
    work: Notify,
    history_queries: Mutex<mpsc::Sender<HistoryQuery>>,
    /// Answers about responses that are older than the remembered rows, by the hash of their key.
    checked: Cache<[u8; 16], Checked>,
    /// Rows that could not be written yet.
    unwritten: Mutex<Vec<LogRecord>>,
    started: Instant,
    /// The time in the row with the largest id seen.
    newest_at_ms: AtomicU64,
    /// When the last successful read began, in microseconds after `started`. 0 before the first.
    last_read_at: AtomicU64,
    /// Reads that began no later than this do not count, on the same scale.
    distrusted_at: AtomicU64,
    /// Whether a caller has asked for a read since the task last checked.
    used: AtomicBool,
    /// Whether the last read found nothing new, and there are no gaps. Then the next one will probably find nothing
    /// either.
    quiet: AtomicBool,
    /// Whether the log has a row whose id is too large.
    damaged: AtomicBool,
    table: TableName,
    /// Successful reads of the log.
    pub(super) reads: AtomicU64,
    /// Responses in memory that waited for a read.
    pub(super) waits: AtomicU64,
}

/// How many waiters there are before those that have been dropped are removed.
const MIN_WAITERS_TO_CLEAN: usize = 1_024;

#[derive(Default)]
struct Waiting {
    waiters: Vec<Waiter>,
    clean_at: usize,
    down: bool,
    closed: bool,
}

/// The log table was queried about this response, and no row invalidates it.
#[derive(Clone)]
struct Checked {
    /// Identifies the response.
    received_ms: u64,
    at: LogPosition,
    /// The log position of the answer.
    position: Arc<LogPosition>,
}

impl Log {
    pub(super) fn new(table: TableName) -> Arc<Self> {
        let log = Self {
            view: RwLock::new(LogView::new(0)),
            waiting: Mutex::default(),
            work: Notify::new(),
            // replaced when the task starts
            history_queries: Mutex::new(mpsc::channel(1).0),
            checked: Cache::builder()
                .max_capacity(CHECKED_BYTES)
                .weigher(|_, checked: &Checked| checked.held_bytes())
                .build(),
            unwritten: Mutex::default(),
            started: Instant::now(),
            newest_at_ms: AtomicU64::new(0),
            last_read_at: AtomicU64::new(0),
            distrusted_at: AtomicU64::new(0),
            used: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            table,
            reads: AtomicU64::new(0),
            waits: AtomicU64::new(0),
        };
        Arc::new(log)
    }

    /// The queue of questions for a task that starts.
    pub(super) fn history_queries(&self) -> mpsc::Receiver<HistoryQuery> {
        let (history_queries, receiver) = mpsc::channel(MAX_HISTORY_QUERIES);
        *lock(&self.history_queries) = history_queries;
        receiver
    }

    fn view(&self) -> RwLockReadGuard<'_, LogView> {
        sync::read(&self.view)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, LogView> {
        sync::write(&self.view)
    }

    /// The newest row that has been read. Its id is 0 before the first.
    fn newest_in(&self, view: &LogView) -> NewestLogRow {
        let at_ms = self.newest_at_ms.load(Ordering::Relaxed);
        NewestLogRow { id: view.largest(), at_ms }
    }

    pub(super) fn position(&self) -> Arc<LogPosition> {
        self.view().position()
    }

    /// Asks for a read of the log that begins after this call.
    ///
    /// # Errors
    /// At once: [`StoreError::Unavailable`] without a connection, [`StoreError::Closed`].
    pub(super) fn request_read(
        &self,
    ) -> Result<oneshot::Receiver<Result<(), StoreError>>, StoreError> {
        let (waiter, receiver) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            return Err(StoreError::Closed);
        }
        if waiting.down {
            return Err(StoreError::Unavailable);
        }
        // if a read takes long, waiters whose requests were dropped accumulate
        if waiting.waiters.len() >= waiting.clean_at {
            waiting.waiters.retain(|waiter| !waiter.is_closed());
            waiting.clean_at = (2 * waiting.waiters.len()).max(MIN_WAITERS_TO_CLEAN);
        }
        waiting.waiters.push(waiter);
        drop(waiting);
        self.used.store(true, Ordering::Relaxed);
        self.work.notify_one();
        Ok(receiver)
    }

    /// Waits for a read of the log that begins after this call.
    ///
    /// # Errors
    /// [`StoreError`] if the log cannot be read.
    pub(super) async fn read_now(&self) -> Result<(), StoreError> {
        self.request_read()?.await.unwrap_or(Err(StoreError::Unavailable))
    }

    /// Checks that the server of this connection has the log that was read: its newest row, with the same time. If
    /// the server has lost the row, it waits for the read that notices this and invalidates everything.
    pub(super) async fn confirm(
        &self,
        connection: &mut Connection,
        shared: &Shared,
    ) -> Result<(), Failure> {
        if connection.has_the_log {
            return Ok(());
        }
        for last in [false, true] {
            let newest = self.newest_in(&self.view());
            let query = statement(&shared.sql.log.time).bind(newest.id);
            let rows = connection.rows(query, shared).await?;
            let failed = |error| Failure::of(error, &shared.settings.log_table);
            let time = rows.first().map(|row| row.try_get::<u64, _>(0)).transpose();
            if newest.id == 0 || time.map_err(failed)? == Some(newest.at_ms) {
                connection.has_the_log = true;
                return Ok(());
            }
            if !last {
                self.read_now().await.map_err(Failure::sound)?;
            }
        }
        Err(Failure::sound(StoreError::Unavailable))
    }

    /// As [`InvalidationLog::catch_up`](crate::store::InvalidationLog::catch_up).
    pub(super) async fn catch_up(
        &self,
        key: &CacheKey,
        head: &StoredHead,
        at_most: Duration,
    ) -> Result<(), StoreError> {
        if self.age() <= at_most && !self.view().awaits(key.as_bytes(), &head.tags) {
            self.used.store(true, Ordering::Relaxed);
            return Ok(());
        }
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.read_now().await
    }

    /// As [`InvalidationLog::note_write`](crate::store::InvalidationLog::note_write).
    pub(super) fn note_write(&self) {
        self.distrust_reads_until(Instant::now());
    }

    /// Reads that began up to `at` do not count any more for responses in memory.
    fn distrust_reads_until(&self, at: Instant) {
        self.distrusted_at.fetch_max(self.micros(at), Ordering::AcqRel);
    }

    /// How long ago the last successful read began.
    fn age(&self) -> Duration {
        match self.last_read_at.load(Ordering::Acquire) {
            at if at <= self.distrusted_at.load(Ordering::Acquire) => Duration::MAX,
            at => self.started.elapsed().saturating_sub(Duration::from_micros(at)),
        }
    }

    fn note_read(&self, began: Instant) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.note_read_at(began);
    }

    fn note_read_at(&self, began: Instant) {
        self.last_read_at.fetch_max(self.micros(began).max(1), Ordering::AcqRel);
    }

    /// Microseconds after `started`.
    fn micros(&self, at: Instant) -> u64 {
        let micros = at.saturating_duration_since(self.started).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX)
    }

    /// As [`InvalidationLog::validity`](crate::store::InvalidationLog::validity).
    pub(super) async fn validity(
        &self,
        key: &CacheKey,
        head: &StoredHead,
    ) -> Result<Validity, StoreError> {
        let mut verdict = self.judge(key, head, &head.position);
        if verdict.0 == Judgement::Ahead {
            // it was stored by a process that has read more, between this process's read of the log and its lookup
            self.read_now().await?;
            verdict = self.judge(key, head, &head.position);
        }
        let mut since = &head.position;
        let known = match &verdict.0 {
            Judgement::Older { .. } => self.checked.get(&key.hash()),
            Judgement::Known(_) | Judgement::Ahead => None,
        };
        if let Some(checked) = known.as_ref().filter(|checked| checked.is_of(head)) {
            since = &checked.position;
            verdict = self.judge(key, head, since);
        }
        match verdict {
            (Judgement::Known(validity), _) => Ok(validity),
            // the log has lost rows that this response had seen, and perhaps others
            (Judgement::Ahead, _) => Ok(Validity::Invalid),
            (Judgement::Older { known, below }, position) => {
                // the next query begins at this position, so it would not find the rows that the view has found
                let found = self.query_history(key, head, since, below).await?.max(known);
                if found == Validity::Valid {
                    let (received_ms, at) = (head.received_ms, head.position.clone());
                    self.checked.insert(key.hash(), Checked { received_ms, at, position });
                }
                Ok(found.max(self.view().unwritten_verdict(key.as_bytes(), &head.tags)))
            }
        }
    }

    /// What the view says about a response that has seen the log up to `since`, and the view's position.
    fn judge(
        &self,
        key: &CacheKey,
        head: &StoredHead,
        since: &LogPosition,
    ) -> (Judgement, Arc<LogPosition>) {
        let view = self.view();
        (view.judge(key.as_bytes(), &head.tags, since), view.position())
    }

    /// Rows of this process have been inserted. Until they appear, or are known not to come, a response in memory
    /// that they name waits for a new read.
    pub(super) fn await_rows(&self, first: u64, records: &[LogRecord]) {
        let now = Instant::now();
        let mut view = self.view_mut();
        let mut all_new = true;
        for (id, record) in (first..).zip(records) {
            let mark = Mark { scope: record.scope.clone(), soft: record.soft };
            all_new &= view.await_row(id, mark, now);
        }
        drop(view);
        if !all_new {
            // the row is committed and has been seen; or the server has lost a row with that id, which the next read
            // notices
            self.distrust_reads_until(now);
        }
    }

    /// Keeps rows that could not be written. They count in this process at once, and are written later.
    pub(super) fn keep_unwritten(&self, records: Vec<LogRecord>) {
        let mut unwritten = lock(&self.unwritten);
        unwritten.extend(records);
        if unwritten.len() > MAX_UNWRITTEN {
            let reason = Some("more invalidations failed than could be remembered".to_owned());
            *unwritten = vec![LogRecord { scope: Scope::Everything, soft: false, reason }];
        }
        self.note_unwritten(&unwritten);
    }

    fn note_unwritten(&self, unwritten: &[LogRecord]) {
        self.view_mut().set_unwritten(marks(unwritten));
    }

    /// Rows that are being written count in this process while this value is held.
    pub(super) fn being_written(self: &Arc<Self>, records: &[LogRecord]) -> BeingWritten {
        let rows: Vec<Mark> = marks(records).collect();
        self.view_mut().begin_write(&rows);
        BeingWritten { log: Arc::clone(self), rows }
    }

    /// The number of gaps in the view.
    pub(super) fn gap_count(&self) -> usize {
        self.view().gap_count()
    }

    /// The number of rows that could not be written yet.
    pub(super) fn unwritten_count(&self) -> usize {
        lock(&self.unwritten).len()
    }

    /// Without a connection, no caller waits.
    pub(super) fn down(&self, error: &StoreError) {
        let waiters = {
            let mut waiting = lock(&self.waiting);
            waiting.down = true;
            std::mem::take(&mut waiting.waiters)
        };
        answer(waiters, &Err(error.clone()));
    }

    pub(super) fn up(&self) {
        lock(&self.waiting).down = false;
    }

    /// Refuses everything from now on.
    pub(super) fn close(&self) {
        let waiters = {
            let mut waiting = lock(&self.waiting);
            waiting.closed = true;
            std::mem::take(&mut waiting.waiters)
        };
        answer(waiters, &Err(StoreError::Closed));
    }
}

/// Rows that are being written.
pub(super) struct BeingWritten {
    log: Arc<Log>,
    rows: Vec<Mark>,
}

impl Drop for BeingWritten {
    fn drop(&mut self) {
        self.log.view_mut().end_write(&self.rows);
    }
}

/// What rows name.
fn marks(records: &[LogRecord]) -> impl Iterator<Item = Mark> {
    records.iter().map(|record| Mark { scope: record.scope.clone(), soft: record.soft })
}

impl Checked {
    /// Bytes in memory, for the limit of the table.
    fn held_bytes(&self) -> u32 {
        const PLACE: usize = 384;
        let gaps = |position: &LogPosition| size_of_val(position.gaps.as_slice());
        u32::try_from(PLACE + gaps(&self.at) + gaps(&self.position)).unwrap_or(u32::MAX)
    }

    fn is_of(&self, head: &StoredHead) -> bool {
        self.received_ms == head.received_ms && self.at == head.position
    }
}

fn answer(waiters: Vec<Waiter>, outcome: &Result<(), StoreError>) {
    for waiter in waiters {
        let _ = waiter.send(outcome.clone());
    }
}
