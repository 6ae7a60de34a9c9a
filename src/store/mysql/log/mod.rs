//! The invalidation log in its table, as this process sees it.
//!
//! A task (`reader`) reads the log, once for all callers that wait. Each caller judges what has been seen.

mod anew;
mod append;
mod damage;
mod history;
mod reader;
mod tidy;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use sqlx::Row as _;
use tokio::sync::{Notify, mpsc, oneshot};

pub(super) use self::append::{append_on, append_sql, write as write_rows};
use self::history::Question;
pub(super) use self::reader::LogReader;
use super::conn::{Connection, Failure, statement};
use super::shared::Shared;
use super::sql::TableName;
use crate::key::CacheKey;
use crate::store::StoreError;
use crate::store::log::{Judgement, LogView, Mark};
use crate::stored::StoredHead;
use crate::sync::{self, lock};
use crate::tag::{LogPosition, LogRecord, Scope, Validity};

/// Questions about responses older than what is remembered that may wait.
const MAX_QUESTIONS: usize = 1_024;

/// What the answers to such questions that are remembered may take: 4 MiB, which is some 10,000.
const CHECKED_BYTES: u64 = 4 << 20;

/// Rows that could not be written and are kept to be tried again; more, and they become one row that
/// names everything.
const MAX_OWED: usize = 10_000;

/// Who waits for a look at the log.
type Waiter = oneshot::Sender<Result<(), StoreError>>;

/// What this process knows of the log.
pub(super) struct Log {
    view: RwLock<LogView>,
    waiting: Mutex<Waiting>,
    /// Somebody waits.
    work: Notify,
    questions: Mutex<mpsc::Sender<Question>>,
    /// What was found about responses older than the view remembers, by the hash of their key.
    checked: Cache<[u8; 16], Checked>,
    /// Rows that could not be written yet.
    owed: Mutex<Vec<LogRecord>>,
    started: Instant,
    /// The time that the row with the largest id seen says of itself: a row with the same id and another time
    /// is one of another log.
    newest_at_ms: AtomicU64,
    /// When the last look that succeeded began, in microseconds after `started`; 0 for never.
    seen_at: AtomicU64,
    /// A look that began no later than this, on the same scale, says nothing.
    doubted_at: AtomicU64,
    /// Somebody has asked for a look since the task last looked at this.
    used: AtomicBool,
    /// There is a row with too large an id.
    damaged: AtomicBool,
    table: TableName,
    /// Reads of the log that succeeded.
    pub(super) reads: AtomicU64,
    /// Responses in memory that waited for a read.
    pub(super) waits: AtomicU64,
}

/// Waiters before those are looked for who do not wait any more.
const SWEEP: usize = 1_024;

#[derive(Default)]
struct Waiting {
    waiters: Vec<Waiter>,
    sweep_at: usize,
    down: bool,
    closed: bool,
}

/// A response that the log itself was asked about and found nothing against.
#[derive(Clone)]
struct Checked {
    /// Which response.
    received_ms: u64,
    at: LogPosition,
    /// Up to here.
    position: Arc<LogPosition>,
}

impl Log {
    pub(super) fn new(table: TableName) -> Arc<Self> {
        let log = Self {
            view: RwLock::new(LogView::new(0)),
            waiting: Mutex::default(),
            work: Notify::new(),
            // the task brings its own along
            questions: Mutex::new(mpsc::channel(1).0),
            checked: Cache::builder()
                .max_capacity(CHECKED_BYTES)
                .weigher(|_, checked: &Checked| checked.held_bytes())
                .build(),
            owed: Mutex::default(),
            started: Instant::now(),
            newest_at_ms: AtomicU64::new(0),
            seen_at: AtomicU64::new(0),
            doubted_at: AtomicU64::new(0),
            used: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            table,
            reads: AtomicU64::new(0),
            waits: AtomicU64::new(0),
        };
        Arc::new(log)
    }

    /// Where a task that starts finds its questions.
    pub(super) fn questions(&self) -> mpsc::Receiver<Question> {
        let (questions, receiver) = mpsc::channel(MAX_QUESTIONS);
        *lock(&self.questions) = questions;
        receiver
    }

    fn view(&self) -> RwLockReadGuard<'_, LogView> {
        sync::read(&self.view)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, LogView> {
        sync::write(&self.view)
    }

    pub(super) fn position(&self) -> Arc<LogPosition> {
        self.view().position()
    }

    /// Asks for a look at the log that begins after this call.
    ///
    /// # Errors
    /// At once: [`StoreError::Unavailable`] without a connection, [`StoreError::Closed`].
    pub(super) fn look(&self) -> Result<oneshot::Receiver<Result<(), StoreError>>, StoreError> {
        let (waiter, receiver) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            return Err(StoreError::Closed);
        }
        if waiting.down {
            return Err(StoreError::Unavailable);
        }
        // those whose requests are gone, where a look takes so long that they pile up
        if waiting.waiters.len() >= waiting.sweep_at {
            waiting.waiters.retain(|waiter| !waiter.is_closed());
            waiting.sweep_at = (2 * waiting.waiters.len()).max(SWEEP);
        }
        waiting.waiters.push(waiter);
        drop(waiting);
        self.used.store(true, Ordering::Relaxed);
        self.work.notify_one();
        Ok(receiver)
    }

    /// Waits for a look at the log that begins after this call.
    ///
    /// # Errors
    /// [`StoreError`] when there can be none.
    pub(super) async fn looked(&self) -> Result<(), StoreError> {
        self.look()?.await.unwrap_or(Err(StoreError::Unavailable))
    }

    /// Whether the server behind a connection has the log that has been seen: the newest row of it, from the same
    /// time. If it has lost that, the look that finds out invalidates everything stored so far, and is
    /// waited for.
    pub(super) async fn confirm(
        &self,
        connection: &mut Connection,
        shared: &Shared,
    ) -> Result<(), Failure> {
        if connection.has_the_log {
            return Ok(());
        }
        for last in [false, true] {
            let (largest, at_ms) = {
                let view = self.view();
                (view.largest(), self.newest_at_ms.load(Ordering::Relaxed))
            };
            let query = statement(&shared.sql.log.time).bind(largest);
            let rows = connection.rows(query, shared).await?;
            let failed = |error| Failure::of(error, &shared.settings.log_table);
            let time = rows.first().map(|row| row.try_get::<u64, _>(0)).transpose();
            if largest == 0 || time.map_err(failed)? == Some(at_ms) {
                connection.has_the_log = true;
                return Ok(());
            }
            if !last {
                self.looked().await.map_err(Failure::sound)?;
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
        self.looked().await
    }

    /// As [`InvalidationLog::note_write`](crate::store::InvalidationLog::note_write).
    pub(super) fn note_write(&self) {
        self.doubt(Instant::now());
    }

    /// What has been read up to `at` does not count any more for what is in memory.
    fn doubt(&self, at: Instant) {
        self.doubted_at.fetch_max(self.micros(at), Ordering::AcqRel);
    }

    /// How long ago the last look that succeeded began.
    fn age(&self) -> Duration {
        match self.seen_at.load(Ordering::Acquire) {
            at if at <= self.doubted_at.load(Ordering::Acquire) => Duration::MAX,
            at => self.started.elapsed().saturating_sub(Duration::from_micros(at)),
        }
    }

    fn seen(&self, began: Instant) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.seen_at.store(self.micros(began).max(1), Ordering::Release);
    }

    /// Microseconds after the start.
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
        let mut judged = self.judge(key, head, &head.position);
        if judged.0 == Judgement::Ahead {
            // stored by a process that has seen more, between our look and our lookup
            self.looked().await?;
            judged = self.judge(key, head, &head.position);
        }
        let mut since = &head.position;
        let known = self.checked.get(&key.hash()).filter(|checked| checked.is_of(head));
        if let (Judgement::Older { .. }, Some(checked)) = (&judged.0, &known) {
            since = &checked.position;
            judged = self.judge(key, head, since);
        }
        match judged {
            (Judgement::Known(validity), _) => Ok(validity),
            // the log has lost rows that this response had seen: what else it has lost is not known
            (Judgement::Ahead, _) => Ok(Validity::Invalid),
            (Judgement::Older { known, below }, position) => {
                // what the remembered rows say is not found once more when it is asked about from here on
                let found = self.ask(key, head, since, below).await?.max(known);
                if found == Validity::Valid {
                    let (received_ms, at) = (head.received_ms, head.position.clone());
                    self.checked.insert(key.hash(), Checked { received_ms, at, position });
                }
                Ok(found.max(self.view().owed(key.as_bytes(), &head.tags)))
            }
        }
    }

    /// What has been seen says of a response that had seen the log up to a position, and what that is.
    fn judge(
        &self,
        key: &CacheKey,
        head: &StoredHead,
        since: &LogPosition,
    ) -> (Judgement, Arc<LogPosition>) {
        let view = self.view();
        (view.judge(key.as_bytes(), &head.tags, since), view.position())
    }

    /// Rows of this process are on their way: until they appear, or are known not to, what they name is
    /// served from memory only after another look.
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
            // committed by itself and seen at once; or the server has lost a row with that id, which the
            // next look finds out
            self.doubt(now);
        }
    }

    /// Remembers rows that could not be written: they count here at once, and are tried again.
    pub(super) fn owe(&self, records: Vec<LogRecord>) {
        let mut owed = lock(&self.owed);
        owed.extend(records);
        if owed.len() > MAX_OWED {
            let reason = Some("more invalidations failed than could be remembered".to_owned());
            *owed = vec![LogRecord { scope: Scope::Everything, soft: false, reason }];
        }
        self.note_owed(&owed);
    }

    fn note_owed(&self, owed: &[LogRecord]) {
        self.view_mut().set_owed(marks(owed));
    }

    /// Rows that wait to be written: they count here at once, for as long as this is held.
    pub(super) fn under_way(self: &Arc<Self>, records: &[LogRecord]) -> UnderWay {
        let rows: Vec<Mark> = marks(records).collect();
        self.view_mut().begin(&rows);
        UnderWay { log: Arc::clone(self), rows }
    }

    /// Rows that could not be written yet.
    pub(super) fn owes(&self) -> usize {
        lock(&self.owed).len()
    }

    /// Nobody waits while there is no connection.
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

/// Rows on their way to the log.
pub(super) struct UnderWay {
    log: Arc<Log>,
    rows: Vec<Mark>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.log.view_mut().end(&self.rows);
    }
}

/// What rows say.
fn marks(records: &[LogRecord]) -> impl Iterator<Item = Mark> {
    records.iter().map(|record| Mark { scope: record.scope.clone(), soft: record.soft })
}

impl Checked {
    /// What an answer takes with its place in the table.
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
