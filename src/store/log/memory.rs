//! How does an invalidation log in memory work, for stores of one process?

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, ready};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::view::{Judgement, LogView, Mark};
use crate::clock::{Clock, SystemClock};
use crate::key::CacheKey;
use crate::store::{InvalidationLog, SqlStatement, StoreError};
use crate::stored::StoredHead;
use crate::sync;
use crate::tag::{LogPosition, LogRecord, LogRow, Scope, Validity, reason_of};

/// An invalidation log in the process's own memory, for a [`Store`](crate::store::Store) of one process. Clones share one log.
///
/// It remembers the last 65,536 rows, or as many as 24 MiB hold. A response that is older than these rows counts as
/// invalid.
///
/// ```
/// use tower_mysql_cache::store::MemoryLog;
///
/// /// A store of another crate keeps a log, and returns it from `Store::log`.
/// #[derive(Clone)]
/// struct MyStore {
///     log: MemoryLog,
/// }
/// ```
///
/// # In a transaction
///
/// This log has no table that could commit together with the data, and it cannot see a commit. So
/// `CacheHandle::invalidate_on` does not use the connection. It invalidates more than a log in a
/// table does:
///
/// - From the call on, no response that the rows name is served, not even one that was made after the call. So no
///   response that was made from data before the commit can stay.
/// - This ends when the handler of an unsafe request has ended, when [`CacheHandle::sync`](crate::CacheHandle::sync) is
///   called, or after 10 seconds, whichever is first. A response that is made after that is served again.
/// - For the rest of the 10 seconds, the end of every unsafe request and every `sync` appends the rows once more, because
///   it may have been the end of another transaction. So does the end of the 10 seconds.
/// - A rollback changes nothing of this: the responses are made again.
///
/// After a transaction that takes longer than 10 seconds, invalidate once more after the commit.
#[derive(Clone)]
pub struct MemoryLog {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
}

struct State {
    view: LogView,
    /// The last rows, for people.
    tail: VecDeque<LogRow>,
    /// Rows of transactions that may not have ended, the oldest first.
    open: VecDeque<Open>,
}

/// A row of a transaction whose end is not known.
struct Open {
    record: LogRecord,
    /// The id of its last row.
    id: u64,
    since: Instant,
    /// Whether what it names is not served at all.
    hides: bool,
}

/// Rows kept for people.
const TAIL: usize = 1024;

/// How long a transaction may take after it has invalidated.
const TRANSACTION: Duration = Duration::from_secs(10);

/// The most rows of transactions that are repeated. More than these, and all responses are invalidated in their place.
const MAX_OPEN: usize = 256;

impl MemoryLog {
    /// An empty log, on the machine's clock.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// use tower_mysql_cache::store::{InvalidationLog, MemoryLog};
    /// assert!(MemoryLog::new().tail(10).await?.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty log whose rows have their times from this clock.
    pub(crate) fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let (tail, open) = (VecDeque::new(), VecDeque::new());
        let state = State { view: LogView::new(0), tail, open };
        Self { state: Arc::new(Mutex::new(state)), clock }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = sync::lock(&self.state);
        if !state.open.is_empty() {
            state.end_late(Instant::now());
        }
        state
    }

    /// Appends rows for a transaction that may commit at any time from now on.
    fn open(&self, records: &[LogRecord]) {
        let now = Instant::now();
        self.state().open(records, now, self.clock.now_ms());
    }

    /// A transaction may have ended.
    fn repeat(&self) {
        let mut state = self.state();
        if !state.open.is_empty() {
            state.repeat();
        }
    }
}

impl State {
    fn append(&mut self, mut record: LogRecord, now_ms: u64) -> u64 {
        let id = self.view.largest() + 1;
        self.view.absorb([(id, mark(&record))], Instant::now());
        record.reason = reason_of(&record);
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(LogRow::new(id, record, now_ms));
        id
    }

    fn open(&mut self, records: &[LogRecord], now: Instant, now_ms: u64) {
        for record in records {
            let is_same =
                |open: &Open| open.record.scope == record.scope && open.record.soft == record.soft;
            if let Some(before) =
                self.open.iter().position(is_same).and_then(|at| self.open.remove(at))
            {
                self.show(&before);
                self.view.forget(before.id);
            }
            if self.open.len() == MAX_OPEN {
                self.end_while(|_| true);
                return self.open(&[LogRecord::hard(Scope::Everything)], now, now_ms);
            }
            let id = self.append(record.clone(), now_ms);
            self.view.begin_write(&[mark(record)]);
            self.open.push_back(Open { record: record.clone(), id, since: now, hides: true });
        }
    }

    /// What the row names is served again if it is newer than the log's last row.
    fn show(&mut self, open: &Open) {
        if open.hides {
            self.view.end_write(&[mark(&open.record)]);
        }
    }

    /// Ends the oldest rows. Each is appended once more: its transaction may have committed after the last time.
    fn end_while(&mut self, ends: impl Fn(&Open) -> bool) {
        let count = self.open.iter().take_while(|open| ends(open)).count();
        let rest = self.open.split_off(count);
        self.repeat();
        self.open = rest;
    }

    /// Ends rows whose transactions have had their time.
    fn end_late(&mut self, now: Instant) {
        self.end_while(|open| now.saturating_duration_since(open.since) >= TRANSACTION);
    }

    /// Appends the rows of open transactions once more, and serves again what they name. The new rows replace the
    /// last ones, so that many repeats do not drive other rows out of the view, nor out of the tail.
    fn repeat(&mut self) {
        let mut opened = std::mem::take(&mut self.open);
        let first = self.view.largest() + 1;
        for (id, open) in (first..).zip(&mut opened) {
            self.view.forget(open.id);
            open.id = id;
        }
        let rows = opened.iter().map(|open| (open.id, mark(&open.record)));
        self.view.absorb(rows, Instant::now());
        for open in &mut opened {
            self.show(open);
            open.hides = false;
        }
        self.open = opened;
    }
}

fn mark(record: &LogRecord) -> Mark {
    Mark { scope: record.scope.clone(), soft: record.soft }
}

impl InvalidationLog for MemoryLog {
    fn position(&self) -> Arc<LogPosition> {
        self.state().view.position()
    }

    fn append(
        &self,
        records: Vec<LogRecord>,
    ) -> impl Future<Output = Result<Vec<u64>, StoreError>> + Send {
        let (mut state, now_ms) = (self.state(), self.clock.now_ms());
        ready(Ok(records.into_iter().map(|record| state.append(record, now_ms)).collect()))
    }

    fn validity(
        &self,
        key: &CacheKey,
        head: &StoredHead,
    ) -> impl Future<Output = Result<Validity, StoreError>> + Send {
        let judgement = self.state().view.judge(key.as_bytes(), &head.tags, &head.position);
        ready(Ok(match judgement {
            Judgement::Known(validity) => validity,
            Judgement::Older { .. } | Judgement::Ahead => Validity::Invalid,
        }))
    }

    /// The last 1,024 rows at most, the newest first.
    fn tail(&self, limit: usize) -> impl Future<Output = Result<Vec<LogRow>, StoreError>> + Send {
        ready(Ok(self.state().tail.iter().rev().take(limit).cloned().collect()))
    }

    fn note_write(&self) {
        self.repeat();
    }

    fn sync(&self) -> impl Future<Output = Result<(), StoreError>> + Send {
        self.repeat();
        ready(Ok(()))
    }

    #[cfg(feature = "mysql")]
    fn append_on(
        &self,
        _: &mut sqlx::MySqlConnection,
        records: Vec<LogRecord>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        self.open(&records);
        ready(Ok(()))
    }

    /// There is nothing to write, so this returns no statements. The rows count as those of a transaction.
    fn append_sql(&self, records: &[LogRecord]) -> Result<Vec<SqlStatement>, StoreError> {
        self.open(records);
        Ok(Vec::new())
    }
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLog").field("largest", &self.state().view.largest()).finish()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::clock::ManualClock;
    use crate::tag::Tag;

    fn key() -> CacheKey {
        CacheKey::new("p:1:/x http://h")
    }

    /// A response with the tag `t` whose handler is called now.
    fn made(log: &MemoryLog) -> StoredHead {
        let mut head = StoredHead::new(StatusCode::OK, HeaderMap::new(), 0);
        head.tags = vec![Tag::from("t")];
        head.position = (*log.position()).clone();
        head
    }

    fn record(tag: &str) -> LogRecord {
        LogRecord::hard(Scope::Tag(Tag::new(Bytes::copy_from_slice(tag.as_bytes()))))
    }

    async fn of(log: &MemoryLog, head: &StoredHead) -> Validity {
        log.validity(&key(), head).await.unwrap()
    }

    /// The time that transactions have had.
    fn pass(log: &MemoryLog, time: Duration) {
        for open in &mut sync::lock(&log.state).open {
            open.since -= time;
        }
    }

    #[tokio::test]
    async fn rows_keep_time_and_reason() {
        let log = MemoryLog::with_clock(Arc::new(ManualClock::at(7)));
        let reason = Some("price import".to_owned());
        let record = LogRecord { scope: Scope::Everything, soft: true, reason };
        assert_eq!(log.append(vec![record.clone(), record]).await.unwrap(), [1, 2]);
        let tail = log.tail(1).await.unwrap();
        assert_eq!((tail[0].id, tail[0].at_ms, tail[0].soft), (2, 7, true));
        assert_eq!(tail[0].reason.as_deref(), Some("price import"));
    }

    #[tokio::test]
    async fn an_open_transaction_hides_what_it_names() {
        let log = MemoryLog::new();
        let before = made(&log);
        log.open(&[record("t")]);
        let during = made(&log);
        assert_eq!(of(&log, &before).await, Validity::Invalid);
        assert_eq!(of(&log, &during).await, Validity::Invalid);
        log.note_write();
        assert_eq!(of(&log, &before).await, Validity::Invalid);
        assert_eq!(of(&log, &during).await, Validity::Invalid, "the data was not committed");
        let after = made(&log);
        assert_eq!(of(&log, &after).await, Validity::Valid);
    }

    #[tokio::test]
    async fn the_end_of_another_transaction_hides_nothing_permanently() {
        let log = MemoryLog::new();
        log.open(&[record("t")]);
        log.note_write(); // of another request
        let between = made(&log);
        assert_eq!(of(&log, &between).await, Validity::Valid);
        log.sync().await.unwrap();
        assert_eq!(of(&log, &between).await, Validity::Invalid, "this may be the end");
        pass(&log, TRANSACTION);
        let after = made(&log);
        log.note_write();
        assert_eq!(of(&log, &after).await, Validity::Valid, "its time is over");
    }

    #[tokio::test]
    async fn a_transaction_without_an_end_ends_with_its_time() {
        let log = MemoryLog::new();
        log.append_sql(&[record("t")]).unwrap();
        let during = made(&log);
        pass(&log, TRANSACTION);
        assert_eq!(of(&log, &during).await, Validity::Invalid);
        assert_eq!(of(&log, &made(&log)).await, Validity::Valid);
    }

    #[tokio::test]
    async fn a_transaction_without_an_end_counts_after_the_end_of_another_request() {
        let log = MemoryLog::new();
        log.open(&[record("t")]); // of a job
        log.note_write(); // of a request
        let old = made(&log); // from data before the commit of the job
        assert_eq!(of(&log, &old).await, Validity::Valid);
        // the job commits, and no unsafe request ends after that
        pass(&log, TRANSACTION);
        assert_eq!(of(&log, &old).await, Validity::Invalid);
        assert_eq!(of(&log, &made(&log)).await, Validity::Valid);
    }

    #[tokio::test]
    async fn a_soft_row_does_not_soften_a_hard_one() {
        let log = MemoryLog::new();
        let soft = LogRecord { soft: true, ..record("t") };
        for records in [[record("t"), soft.clone()], [soft, record("t")]] {
            log.open(&records[..1]);
            let during = made(&log);
            log.open(&records[1..]);
            let later = made(&log);
            for _ in 0..2 {
                assert_eq!(of(&log, &during).await, Validity::Invalid);
                assert_eq!(of(&log, &later).await, Validity::Invalid);
                log.note_write();
            }
            pass(&log, TRANSACTION);
            assert_eq!(of(&log, &later).await, Validity::Invalid);
            assert_eq!(of(&log, &made(&log)).await, Validity::Valid);
        }
    }

    #[tokio::test]
    async fn a_second_call_begins_the_time_again() {
        let log = MemoryLog::new();
        log.open(&[record("t")]);
        pass(&log, TRANSACTION - Duration::from_millis(1));
        log.open(&[record("t"), record("u")]);
        pass(&log, Duration::from_millis(1));
        assert_eq!(of(&log, &made(&log)).await, Validity::Invalid);
        assert_eq!(log.state().open.len(), 2);
    }

    #[tokio::test]
    async fn too_many_rows_hide_everything() {
        let log = MemoryLog::new();
        for n in 0..=MAX_OPEN {
            log.open(&[record(&n.to_string())]);
        }
        assert_eq!(of(&log, &made(&log)).await, Validity::Invalid);
        assert_eq!(log.state().open.len(), 1);
        log.note_write();
        assert_eq!(of(&log, &made(&log)).await, Validity::Valid);
    }
}
