//! Which writes wait, and in which order? In the order of calls, limited by bytes. A row that is being encoded holds up
//! only the writes to its key.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Notify, oneshot};

use super::super::codec::{Hash, Row};
use super::super::sql::MAX_ROWS;
use super::held::Held;
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

/// A row that is being encoded outside the async threads. It keeps its place among the jobs for its key.
#[derive(Debug)]
pub(in super::super) struct Encoding {
    pub(in super::super) hash: Hash,
    pub(in super::super) key: Bytes,
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
#[allow(
    clippy::large_enum_variant,
    reason = "one value at a time; a box would be an allocation for each job"
)]
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

    /// Takes the next work. `None` if nothing waits, or only jobs behind rows that are still being encoded;
    /// [`Writes::work`] is notified when one is ready.
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
        let mut held = Held::default();
        let next = self.next(0, &mut held, failed);
        if (self.in_a_row < MAX_FIRST || next.is_none())
            && let Some(job) = self.first.pop_front()
        {
            self.in_a_row += 1;
            return Some(Work::One(job));
        }
        let mut at = next?;
        self.in_a_row = 0;
        let (mut puts, mut bytes) = (Vec::new(), 0_usize);
        while let Some(Queued::Job(Job::Put(next))) = self.waiting.get(at)
            && next.fence.is_none()
        {
            bytes = bytes.saturating_add(next.row.packet_bytes());
            if puts.len() == MAX_ROWS || (bytes > max_bytes && !puts.is_empty()) {
                break;
            }
            if let Some(Queued::Job(Job::Put(next))) = self.waiting.remove(at) {
                puts.push(next);
            }
            match self.next(at, &mut held, failed) {
                Some(next) => at = next,
                None => break,
            }
        }
        if !puts.is_empty() {
            return Some(Work::Rows(puts));
        }
        match self.waiting.remove(at) {
            Some(Queued::Job(job)) => Some(Work::One(job)),
            _ => None,
        }
    }

    /// The next job that can be done, from this place on. The ones before it are held.
    fn next(
        &mut self,
        mut at: usize,
        held: &mut Held,
        failed: &mut Vec<(Encoding, StoreError)>,
    ) -> Option<usize> {
        loop {
            self.arrive(at, failed);
            let job = self.waiting.get(at)?;
            if held.lets_pass(job) {
                return Some(at);
            }
            if !held.hold(job) {
                return None;
            }
            at += 1;
        }
    }

    /// If a row is at this place and has been encoded, it becomes a job. Rows that cannot be encoded are removed.
    fn arrive(&mut self, at: usize, failed: &mut Vec<(Encoding, StoreError)>) {
        while let Some(Queued::Encoding(next)) = self.waiting.get_mut(at) {
            let row = match next.row.try_recv() {
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Closed) => Err(StoreError::Closed),
                Ok(row) => row,
            };
            let Some(Queued::Encoding(next)) = self.waiting.remove(at) else { return };
            match row {
                Ok(row) => {
                    let Encoding { fence, share, ack, .. } = next;
                    let put = Put { row, fence, share, ack };
                    return self.waiting.insert(at, Queued::Job(Job::Put(put)));
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
    use super::super::super::codec::Value;
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
            value: Value::of(&[0; 100]),
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
        key: &str,
    ) -> (Queued, Sent, oneshot::Receiver<Result<bool, StoreError>>) {
        let ((sender, row), (ack, receiver)) = (oneshot::channel(), oneshot::channel());
        let (key, share) = (CacheKey::new(key.to_owned()), queue.reserve(10).unwrap());
        let (hash, key) = (key.hash(), key.to_bytes());
        (Queued::Encoding(Encoding { hash, key, row, fence: None, share, ack }), sender, receiver)
    }

    #[test]
    fn writes_to_other_keys_pass_a_row_that_is_being_encoded() {
        let queue = queue();
        let (job, sender, _ack) = encoding(&queue, "a");
        queue.put(vec![job]).unwrap();
        for key in ["b", "a", "c"] {
            queue.put(vec![Queued::Job(Job::Put(put(&queue, key).0))]).unwrap();
        }
        remove(&queue, "b");
        assert_eq!(drain(&queue), ["2 rows", "remove"]);
        assert!(queue.take().is_none() && !queue.is_empty());
        sender.send(Ok(put(&queue, "a").0.row)).unwrap();
        assert_eq!(drain(&queue), ["2 rows"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_deletion_stays_behind_the_rows_that_it_deletes_and_before_later_ones() {
        let queue = queue();
        let (job, sender, _ack) = encoding(&queue, "a1");
        queue.put(vec![job]).unwrap();
        remove(&queue, "a");
        queue.put(vec![Queued::Job(Job::Put(put(&queue, "a2").0))]).unwrap();
        remove(&queue, "b");
        assert_eq!(drain(&queue), ["remove"], "only the one of other keys");
        sender.send(Ok(put(&queue, "a1").0.row)).unwrap();
        assert_eq!(drain(&queue), ["1 rows", "remove", "1 rows"]);
    }

    #[test]
    fn nothing_passes_a_flush_and_a_flush_passes_nothing() {
        let queue = queue();
        let (job, sender, _ack) = encoding(&queue, "a");
        queue.put(vec![job]).unwrap();
        queue.push(Job::Flush(oneshot::channel().0)).unwrap();
        queue.put(vec![Queued::Job(Job::Put(put(&queue, "b").0))]).unwrap();
        assert!(drain(&queue).is_empty());
        sender.send(Ok(put(&queue, "a").0.row)).unwrap();
        assert_eq!(drain(&queue), ["1 rows", "other", "1 rows"]);
    }

    #[test]
    fn a_limited_number_of_jobs_is_passed() {
        let queue = Writes::new(1 << 20, 10_000);
        let rows: Vec<_> = (0..256).map(|n| encoding(&queue, &format!("a{n}"))).collect();
        let (jobs, senders): (Vec<_>, Vec<_>) =
            rows.into_iter().map(|(job, sender, _)| (job, sender)).unzip();
        queue.put(jobs).unwrap();
        queue.put(vec![Queued::Job(Job::Put(put(&queue, "b").0))]).unwrap();
        assert!(drain(&queue).is_empty());
        drop(senders);
        assert_eq!(drain(&queue), ["1 rows"]);
    }

    /// Jobs of random kinds for a few keys, with rows that are encoded in random order: jobs for one key are done in
    /// the order of calls.
    #[test]
    fn jobs_for_one_key_are_done_in_order() {
        use rand::rngs::StdRng;
        use rand::{RngExt, SeedableRng};
        for seed in 0..500 {
            let mut random = StdRng::seed_from_u64(seed);
            let queue = Writes::new(1 << 20, 10_000);
            let (mut senders, mut done): (Vec<(Sent, Row)>, Vec<Work>) = Default::default();
            let mut calls = 0_u64;
            let numbered = |key: &str, number: u64, queue: &Arc<Writes>| {
                let mut put = put(queue, key).0;
                put.row.born_ms = number;
                put
            };
            for _ in 0..60 {
                let key = ["a1", "a2", "b1", "b2"][random.random_range(0..4)];
                calls += 1;
                match random.random_range(0..10) {
                    0..3 => {
                        let put = numbered(key, calls, &queue);
                        queue.put(vec![Queued::Job(Job::Put(put))]).unwrap();
                    }
                    3..6 => {
                        let (job, sender, _) = encoding(&queue, key);
                        senders.push((sender, numbered(key, calls, &queue).row));
                        queue.put(vec![job]).unwrap();
                    }
                    6 => {
                        // the number of the call is in the end of the range
                        let start = key.get(..random.random_range(1..=2)).unwrap();
                        let mut range = KeyRange::starting_with(start.to_owned());
                        range.to =
                            [start.as_bytes(), &[0xff], &calls.to_be_bytes()].concat().into();
                        queue.push(Job::Remove(range, oneshot::channel().0)).unwrap();
                    }
                    7 => queue.push(Job::Flush(oneshot::channel().0)).unwrap(),
                    _ if !senders.is_empty() => {
                        let at = random.random_range(0..senders.len());
                        let (sender, row) = senders.swap_remove(at);
                        sender.send(Ok(row)).unwrap();
                    }
                    _ => {}
                }
                done.extend(queue.take());
            }
            senders.into_iter().for_each(|(sender, row)| sender.send(Ok(row)).unwrap());
            while !queue.is_empty() {
                done.extend(queue.take());
            }
            in_order(seed, &done);
        }
    }

    fn in_order(seed: u64, done: &[Work]) {
        for key in ["a1", "a2", "b1", "b2"] {
            let numbers: Vec<u64> = done.iter().flat_map(|work| of_key(work, key)).collect();
            assert!(numbers.is_sorted(), "seed {seed}, {key}: {numbers:?}");
        }
    }

    /// The numbers of the calls in this work that concern a key.
    fn of_key(work: &Work, key: &str) -> Vec<u64> {
        match work {
            Work::Rows(puts) => {
                let of_key = puts.iter().filter(|put| put.row.key == key);
                of_key.map(|put| put.row.born_ms).collect()
            }
            Work::One(Job::Remove(range, _)) if range.contains(key.as_bytes()) => {
                let number = range.to.last_chunk::<8>().unwrap();
                vec![u64::from_be_bytes(*number)]
            }
            _ => Vec::new(),
        }
    }

    #[test]
    fn an_invalidation_does_not_wait_for_encoding() {
        let queue = queue();
        let (job, _sender, _ack) = encoding(&queue, "a");
        queue.put(vec![job]).unwrap();
        for _ in 0..=MAX_FIRST {
            queue.push(Job::Append(Vec::new(), oneshot::channel().0)).unwrap();
        }
        assert_eq!(drain(&queue).len(), MAX_FIRST + 1);
    }

    #[test]
    fn a_row_that_cannot_be_encoded_fails_and_is_removed() {
        let queue = Writes::new(30, 10_000);
        let (large, sender, mut refused) = encoding(&queue, "a");
        let (lost, gone, mut closed) = encoding(&queue, "b");
        queue.put(vec![large, lost, Queued::Job(Job::Put(put(&queue, "c").0))]).unwrap();
        sender.send(Err(StoreError::TooLarge { size: 2, limit: 1 })).unwrap();
        drop(gone);
        assert_eq!(drain(&queue), ["1 rows"]);
        assert!(matches!(refused.try_recv(), Ok(Err(StoreError::TooLarge { .. }))));
        assert!(matches!(closed.try_recv(), Ok(Err(StoreError::Closed))));
        assert!(queue.reserve(30).is_ok(), "they hold no room");
    }
}
