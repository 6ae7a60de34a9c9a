//! Which writes wait, and in which order? In the order of calls, limited by bytes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Notify, oneshot};

use super::super::codec::{Hash, Row};
use super::super::sql::MAX_ROWS;
use crate::key::KeyRange;
use crate::store::{Lease, StoreError};
use crate::sync::lock;
use crate::tag::LogRecord;

/// Where the result of a job goes.
pub(in super::super) type Ack<T> = oneshot::Sender<Result<T, StoreError>>;

/// A row to write, with its part of the queue's bytes.
#[derive(Debug)]
pub(in super::super) struct Put {
    pub(in super::super) row: Row,
    /// The hash and the number of its lease, if it has one.
    pub(in super::super) fence: Option<(Hash, u64)>,
    pub(in super::super) share: Share,
    pub(in super::super) ack: Ack<bool>,
}

/// A row that is being encoded outside the async threads. It keeps its place in the queue.
#[derive(Debug)]
pub(in super::super) struct Encoding {
    pub(in super::super) row: oneshot::Receiver<Result<Row, StoreError>>,
    pub(in super::super) fence: Option<(Hash, u64)>,
    pub(in super::super) share: Share,
    pub(in super::super) ack: Ack<bool>,
}

/// A new head for a row.
#[derive(Debug)]
pub(in super::super) struct Freshen {
    pub(in super::super) hash: Hash,
    pub(in super::super) key: Bytes,
    pub(in super::super) head: Vec<u8>,
    pub(in super::super) expires_ms: u64,
    pub(in super::super) born_ms: u64,
    pub(in super::super) fresh_until_ms: u64,
    pub(in super::super) gen_ms: u32,
    pub(in super::super) status: u16,
    /// The content of the head to replace, to check that the row has the same response.
    pub(in super::super) old: Bytes,
    /// Held until the job is done.
    pub(in super::super) _share: Share,
    pub(in super::super) ack: Ack<bool>,
}

/// A job, done in its turn.
#[derive(Debug)]
pub(in super::super) enum Job {
    Put(Put),
    Freshen(Freshen),
    Remove(KeyRange, Ack<u64>),
    /// Log rows, and where their ids go.
    Append(Vec<LogRecord>, Ack<Vec<u64>>),
    Lease(LeaseJob),
    Flush(Ack<()>),
}

/// Takes or releases a lease.
#[derive(Debug)]
pub(in super::super) enum LeaseJob {
    Take {
        hash: Hash,
        time: Duration,
        ack: Ack<Lease>,
    },
    /// With the time for which the key is unshareable.
    Release {
        hash: Hash,
        number: u64,
        unshareable: Option<Duration>,
        ack: Ack<()>,
    },
}

impl LeaseJob {
    pub(in super::super) fn fail(self, error: StoreError) {
        match self {
            Self::Take { ack, .. } => drop(ack.send(Err(error))),
            Self::Release { ack, .. } => drop(ack.send(Err(error))),
        }
    }
}

impl Job {
    pub(in super::super) fn fail(self, error: &StoreError) {
        let error = error.clone();
        match self {
            Self::Put(put) => drop(put.ack.send(Err(error))),
            Self::Freshen(freshen) => drop(freshen.ack.send(Err(error))),
            Self::Remove(_, ack) => drop(ack.send(Err(error))),
            Self::Append(_, ack) => drop(ack.send(Err(error))),
            Self::Lease(lease) => lease.fail(error),
            // earlier jobs have failed, so none waits
            Self::Flush(ack) => drop(ack.send(Ok(()))),
        }
    }
}

/// A job or a row in the queue.
#[derive(Debug)]
pub(in super::super) enum Queued {
    Job(Job),
    Encoding(Encoding),
}

impl Queued {
    fn fail(self, error: &StoreError) {
        match self {
            Self::Job(job) => job.fail(error),
            Self::Encoding(encoding) => drop(encoding.ack.send(Err(error.clone()))),
        }
    }
}

/// What the task takes at once.
#[derive(Debug)]
pub(in super::super) enum Work {
    /// Up to [`MAX_ROWS`] consecutive rows.
    Rows(Vec<Put>),
    /// Any other job.
    One(Job),
}

/// The most deletions, invalidations and freshenings that wait. They are rare and small.
const MAX_JOBS: usize = 65_536;

/// The most consecutive first jobs while others wait.
const MAX_FIRST: usize = 16;

#[derive(Debug)]
pub(in super::super) struct Writes {
    state: Mutex<State>,
    /// Wakes the task.
    pub(in super::super) work: Notify,
    max_bytes: usize,
    max_statement_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Queued>,
    /// Callers wait for these jobs, and their order relative to the others does not matter.
    first: VecDeque<Job>,
    /// How many first jobs were taken consecutively.
    in_a_row: usize,
    bytes: usize,
    down: bool,
    closed: bool,
}

impl Writes {
    /// A queue of at most `max_bytes`. Rows are taken in groups of at most `max_statement_bytes`.
    pub(in super::super) fn new(max_bytes: usize, max_statement_bytes: usize) -> Arc<Self> {
        let (state, work) = (Mutex::default(), Notify::new());
        Arc::new(Self { state, work, max_bytes, max_statement_bytes })
    }

    /// Reserves room for an entry. Dropping the share releases it.
    ///
    /// # Errors
    /// At once: [`StoreError::Unavailable`] without a connection, [`StoreError::Overloaded`] without room,
    /// [`StoreError::Closed`].
    pub(in super::super) fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Share, StoreError> {
        let mut state = lock(&self.state);
        state.check()?;
        if state.bytes > 0 && state.bytes.saturating_add(bytes) > self.max_bytes {
            return Err(StoreError::Overloaded);
        }
        state.bytes = state.bytes.saturating_add(bytes);
        Ok(Share { bytes, queue: Arc::clone(self) })
    }

    /// Queues rows together.
    ///
    /// # Errors
    /// As [`Writes::reserve`]; then none of them is queued.
    pub(in super::super) fn put(&self, puts: Vec<Queued>) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        if let Err(error) = state.check() {
            drop(state); // the shares of the puts take the lock too
            return Err(error);
        }
        state.waiting.extend(puts);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Queues another job.
    ///
    /// # Errors
    /// As [`Writes::reserve`].
    pub(in super::super) fn push(&self, job: Job) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        state.check()?;
        if state.waiting.len().max(state.first.len()) >= MAX_JOBS {
            return Err(StoreError::Overloaded);
        }
        match job {
            Job::Append(..) | Job::Lease(_) => state.first.push_back(job),
            _ => state.waiting.push_back(Queued::Job(job)),
        }
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Takes the next work. `None` if nothing waits, or while the next row is still being encoded; [`Writes::work`]
    /// is notified when it is ready.
    pub(in super::super) fn take(&self) -> Option<Work> {
        let mut failed = Vec::new();
        let work = lock(&self.state).take(self.max_statement_bytes, &mut failed);
        // after the lock is released, because shares take the lock too
        failed.into_iter().for_each(|(put, error)| Queued::Encoding(put).fail(&error));
        work
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        let state = lock(&self.state);
        state.first.is_empty() && state.waiting.is_empty()
    }

    /// Takes a first job, in the middle of another job.
    pub(in super::super) fn take_first(&self) -> Option<Job> {
        lock(&self.state).first.pop_front()
    }

    /// Fails waiting and new jobs, until [`Writes::up`].
    pub(in super::super) fn down(&self) {
        let mut state = lock(&self.state);
        state.down = true;
        let waiting = state.all();
        drop(state);
        waiting.into_iter().for_each(|job| job.fail(&StoreError::Unavailable));
    }

    /// There is a connection again.
    pub(in super::super) fn up(&self) {
        lock(&self.state).down = false;
    }

    /// Refuses new jobs. Waiting ones are still done.
    pub(in super::super) fn close(&self) {
        lock(&self.state).closed = true;
        self.work.notify_one();
    }

    /// Fails all waiting jobs.
    pub(in super::super) fn abandon(&self) {
        let waiting = lock(&self.state).all();
        waiting.into_iter().for_each(|job| job.fail(&StoreError::Closed));
    }
}

impl State {
    fn take(&mut self, max_bytes: usize, failed: &mut Vec<(Encoding, StoreError)>) -> Option<Work> {
        self.arrive(failed);
        let is_ready = matches!(self.waiting.front(), Some(Queued::Job(_)));
        if (self.in_a_row < MAX_FIRST || !is_ready)
            && let Some(job) = self.first.pop_front()
        {
            self.in_a_row += 1;
            return Some(Work::One(job));
        }
        if !is_ready {
            return None;
        }
        self.in_a_row = 0;
        let (mut puts, mut bytes) = (Vec::new(), 0_usize);
        while let Some(Queued::Job(Job::Put(next))) = self.waiting.front()
            && next.fence.is_none()
        {
            bytes = bytes.saturating_add(next.row.packet_bytes());
            if puts.len() == MAX_ROWS || (bytes > max_bytes && !puts.is_empty()) {
                break;
            }
            if let Some(Queued::Job(Job::Put(next))) = self.waiting.pop_front() {
                puts.push(next);
            }
            self.arrive(failed);
        }
        if !puts.is_empty() {
            return Some(Work::Rows(puts));
        }
        match self.waiting.pop_front() {
            Some(Queued::Job(job)) => Some(Work::One(job)),
            _ => None,
        }
    }

    /// Inserts the next row, if it has been encoded. Rows that cannot be encoded are removed.
    fn arrive(&mut self, failed: &mut Vec<(Encoding, StoreError)>) {
        while let Some(Queued::Encoding(next)) = self.waiting.front_mut() {
            let row = match next.row.try_recv() {
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Closed) => Err(StoreError::Closed),
                Ok(row) => row,
            };
            let Some(Queued::Encoding(next)) = self.waiting.pop_front() else { return };
            match row {
                Ok(row) => {
                    let Encoding { fence, share, ack, .. } = next;
                    return self.waiting.push_front(Queued::Job(Job::Put(Put {
                        row,
                        fence,
                        share,
                        ack,
                    })));
                }
                Err(error) => failed.push((next, error)),
            }
        }
    }

    /// Takes everything that waits.
    fn all(&mut self) -> Vec<Queued> {
        self.first.drain(..).map(Queued::Job).chain(self.waiting.drain(..)).collect()
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        if self.down {
            return Err(StoreError::Unavailable);
        }
        Ok(())
    }
}

/// Reserved room in the queue.
#[derive(Debug)]
pub(in super::super) struct Share {
    bytes: usize,
    queue: Arc<Writes>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = lock(&self.queue.state);
        state.bytes = state.bytes.saturating_sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::CacheKey;

    fn queue() -> Arc<Writes> {
        Writes::new(1_000, 10_000)
    }

    fn put(queue: &Arc<Writes>, key: &str) -> (Put, oneshot::Receiver<Result<bool, StoreError>>) {
        let key = CacheKey::new(key.to_owned());
        let (ack, receiver) = oneshot::channel();
        let row = Row {
            hash: key.hash(),
            key: key.to_bytes(),
            value: vec![0; 100],
            value_type: "r",
            expires_ms: 0,
            head: Vec::new(),
            size: 0,
            status: None,
            born_ms: 0,
            fresh_until_ms: None,
            gen_ms: None,
        };
        (Put { row, fence: None, share: queue.reserve(10).unwrap(), ack }, receiver)
    }

    fn puts(queue: &Arc<Writes>, keys: std::ops::Range<u8>) -> Vec<Queued> {
        keys.map(|key| Queued::Job(Job::Put(put(queue, &key.to_string()).0))).collect()
    }

    fn remove(queue: &Writes, start: &'static str) {
        let (ack, _) = oneshot::channel();
        queue.push(Job::Remove(KeyRange::starting_with(start), ack)).unwrap();
    }

    fn drain(queue: &Writes) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(work) = queue.take() {
            match work {
                Work::Rows(puts) => seen.push(format!("{} rows", puts.len())),
                Work::One(Job::Remove(..)) => seen.push("remove".to_owned()),
                Work::One(_) => seen.push("other".to_owned()),
            }
        }
        seen
    }

    #[test]
    fn work_comes_in_order_and_rows_come_together() {
        let queue = queue();
        for key in ["a", "b"] {
            queue.put(vec![Queued::Job(Job::Put(put(&queue, key).0))]).unwrap();
        }
        remove(&queue, "a");
        queue.put(puts(&queue, 0..20)).unwrap();
        assert_eq!(drain(&queue), ["2 rows", "remove", "16 rows", "4 rows"]);
    }

    #[test]
    fn of_keys_that_hash_alike_the_last_is_written() {
        let queue = queue();
        let keys = [("a", 7), ("b", 7), ("c", 1)];
        let puts = keys.map(|(key, hash)| {
            let mut put = put(&queue, key).0;
            put.row.hash = [hash; 16];
            put
        });
        let rows = super::super::batch::fold(puts.into());
        let rows: Vec<_> = rows.iter().map(|one| (&one.row.key[..], one.acks.len())).collect();
        assert_eq!(rows, [(&b"c"[..], 1), (&b"b"[..], 2)]);
    }

    #[test]
    fn a_statement_is_limited_in_bytes_but_takes_one_row() {
        let queue = Writes::new(1_000, 500);
        queue.put(puts(&queue, 0..5)).unwrap();
        assert_eq!(drain(&queue), ["2 rows", "2 rows", "1 rows"]);
        let queue = Writes::new(1_000, 5);
        queue.put(puts(&queue, 0..2)).unwrap();
        assert_eq!(drain(&queue), ["1 rows", "1 rows"]);
    }

    #[test]
    fn the_queue_is_bounded_in_bytes_until_they_are_written() {
        let queue = queue();
        let share = queue.reserve(999).unwrap();
        assert!(matches!(queue.reserve(2), Err(StoreError::Overloaded)));
        assert!(queue.reserve(1).is_ok());
        drop(share);
        assert!(queue.reserve(5_000).is_ok(), "an empty queue takes anything");
    }

    #[test]
    fn while_down_everything_fails_at_once() {
        let queue = queue();
        let (waiting, mut ack) = put(&queue, "a");
        queue.put(vec![Queued::Job(Job::Put(waiting))]).unwrap();
        let late = put(&queue, "b");
        queue.down();
        assert!(matches!(ack.try_recv(), Ok(Err(StoreError::Unavailable))));
        assert!(matches!(
            queue.put(vec![Queued::Job(Job::Put(late.0))]),
            Err(StoreError::Unavailable)
        ));
        assert!(matches!(queue.reserve(1), Err(StoreError::Unavailable)));
        queue.up();
        assert!(queue.reserve(1).is_ok());
    }

    type Sent = oneshot::Sender<Result<Row, StoreError>>;

    fn encoding(
        queue: &Arc<Writes>,
    ) -> (Queued, Sent, oneshot::Receiver<Result<bool, StoreError>>) {
        let ((sender, row), (ack, receiver)) = (oneshot::channel(), oneshot::channel());
        let share = queue.reserve(10).unwrap();
        (Queued::Encoding(Encoding { row, fence: None, share, ack }), sender, receiver)
    }

    #[test]
    fn a_row_that_is_being_encoded_keeps_its_place() {
        let queue = queue();
        let (job, sender, _ack) = encoding(&queue);
        queue.put(vec![job]).unwrap();
        queue.put(vec![Queued::Job(Job::Put(put(&queue, "b").0))]).unwrap();
        remove(&queue, "a");
        assert!(drain(&queue).is_empty() && !queue.is_empty());
        sender.send(Ok(put(&queue, "a").0.row)).unwrap();
        assert_eq!(drain(&queue), ["2 rows", "remove"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn an_invalidation_does_not_wait_for_encoding() {
        let queue = queue();
        let (job, _sender, _ack) = encoding(&queue);
        queue.put(vec![job]).unwrap();
        for _ in 0..=MAX_FIRST {
            queue.push(Job::Append(Vec::new(), oneshot::channel().0)).unwrap();
        }
        assert_eq!(drain(&queue).len(), MAX_FIRST + 1);
    }

    #[test]
    fn a_row_that_cannot_be_encoded_fails_and_is_removed() {
        let queue = Writes::new(30, 10_000);
        let (large, sender, mut refused) = encoding(&queue);
        let (lost, gone, mut closed) = encoding(&queue);
        queue.put(vec![large, lost, Queued::Job(Job::Put(put(&queue, "c").0))]).unwrap();
        sender.send(Err(StoreError::TooLarge { size: 2, limit: 1 })).unwrap();
        drop(gone);
        assert_eq!(drain(&queue), ["1 rows"]);
        assert!(matches!(refused.try_recv(), Ok(Err(StoreError::TooLarge { .. }))));
        assert!(matches!(closed.try_recv(), Ok(Err(StoreError::Closed))));
        assert!(queue.reserve(30).is_ok(), "they hold no room");
    }
}
