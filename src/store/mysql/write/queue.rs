//! The queue between callers and the task that writes: in the order of calls, bounded in bytes.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use super::super::codec::{Hash, Row};
use super::super::sql::MAX_ROWS;
use crate::key::KeyRange;
use crate::store::{Lease, StoreError};
use crate::sync::lock;
use crate::tag::LogRecord;

/// Where the outcome of a job goes.
pub(in super::super) type Ack<T> = oneshot::Sender<Result<T, StoreError>>;

/// A row to be written, with its share of the queue.
#[derive(Debug)]
pub(in super::super) struct Put {
    pub(in super::super) row: Row,
    /// The hash and the number of the lease that it takes, if any.
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
    /// What the head that is replaced says: whether the row still holds the same response.
    pub(in super::super) old: Bytes,
    /// Held until the job is done.
    pub(in super::super) _share: Share,
    pub(in super::super) ack: Ack<bool>,
}

/// Something to be done, in its turn.
#[derive(Debug)]
pub(in super::super) enum Job {
    Put(Put),
    Freshen(Freshen),
    Remove(KeyRange, Ack<u64>),
    /// Rows of the invalidation log, and where their ids go.
    Append(Vec<LogRecord>, Ack<Vec<u64>>),
    Lease(LeaseJob),
    Flush(Ack<()>),
}

/// Asks for a lease, or gives one back.
#[derive(Debug)]
pub(in super::super) enum LeaseJob {
    Take {
        hash: Hash,
        time: Duration,
        ack: Ack<Lease>,
    },
    /// With the time for which there is nothing to wait for.
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
            // what was queued before has failed: nothing is outstanding
            Self::Flush(ack) => drop(ack.send(Ok(()))),
        }
    }
}

/// What the task takes at once.
#[derive(Debug)]
pub(in super::super) enum Work {
    /// Up to [`MAX_ROWS`] rows put one after the other.
    Rows(Vec<Put>),
    /// Any other job.
    One(Job),
}

/// Removals, invalidations and freshenings that may wait; they are rare and small.
const MAX_JOBS: usize = 65_536;

/// Jobs that are done first in a row, while others wait.
const MAX_FIRST: usize = 16;

/// The queue.
#[derive(Debug)]
pub(in super::super) struct Writes {
    state: Mutex<State>,
    /// Something waits.
    pub(in super::super) work: Notify,
    max_bytes: usize,
    max_statement_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Somebody waits for these, and no order of them with the others matters.
    first: VecDeque<Job>,
    /// How many of these have been given out in a row.
    in_a_row: usize,
    bytes: usize,
    down: bool,
    closed: bool,
    tickets: Tickets,
}

impl Writes {
    /// A queue of rows of at most `max_bytes`, given out in pieces of at most `max_statement_bytes`.
    pub(in super::super) fn new(max_bytes: usize, max_statement_bytes: usize) -> Arc<Self> {
        let (state, work) = (Mutex::default(), Notify::new());
        Arc::new(Self { state, work, max_bytes, max_statement_bytes })
    }

    /// Reserves room for an entry; it is given back when the share is dropped.
    ///
    /// # Errors
    /// At once: [`StoreError::Unavailable`] without a connection, [`StoreError::Overloaded`] without
    /// room, [`StoreError::Closed`].
    pub(in super::super) fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Share, StoreError> {
        let mut state = lock(&self.state);
        state.check()?;
        if state.bytes > 0 && state.bytes.saturating_add(bytes) > self.max_bytes {
            return Err(StoreError::Overloaded);
        }
        state.bytes = state.bytes.saturating_add(bytes);
        Ok(Share { bytes, queue: Arc::clone(self) })
    }

    /// Takes the place in the order of calls for a put whose rows are not ready yet.
    pub(in super::super) fn ticket(self: &Arc<Self>) -> Ticket {
        let number = lock(&self.state).tickets.issue();
        Ticket { number, queue: Arc::clone(self) }
    }

    /// Queues rows; with a ticket as if at the time when it was taken: rows that a later call has
    /// replaced or removed since are left out.
    ///
    /// # Errors
    /// As [`Writes::reserve`]; then none of the rows is queued.
    pub(in super::super) fn put(
        &self,
        puts: Vec<Put>,
        ticket: Option<&Ticket>,
    ) -> Result<(), StoreError> {
        let mut left_out = Vec::new(); // dropped after the lock, which their shares take too
        let mut state = lock(&self.state);
        state.check()?;
        for put in puts {
            match state.tickets.judge(&put.row, ticket.map(|ticket| ticket.number)) {
                Judgement::InTime => state.waiting.push_back(Job::Put(put)),
                Judgement::Overtaken => left_out.push((put, Ok(true))),
                Judgement::Unknown => left_out.push((put, Err(StoreError::Overloaded))),
            }
        }
        drop(state);
        self.work.notify_one();
        for (put, outcome) in left_out {
            let _ = put.ack.send(outcome);
        }
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
        if let Job::Remove(range, _) = &job {
            state.tickets.removed(range);
        }
        match job {
            Job::Append(..) | Job::Lease(_) => state.first.push_back(job),
            _ => state.waiting.push_back(job),
        }
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Takes the next piece of work.
    pub(in super::super) fn take(&self) -> Option<Work> {
        let mut state = lock(&self.state);
        if (state.in_a_row < MAX_FIRST || state.waiting.is_empty())
            && let Some(job) = state.first.pop_front()
        {
            state.in_a_row += 1;
            return Some(Work::One(job));
        }
        state.in_a_row = 0;
        let (mut puts, mut bytes) = (Vec::new(), 0_usize);
        while let Some(Job::Put(next)) = state.waiting.front()
            && next.fence.is_none()
        {
            bytes = bytes.saturating_add(next.row.packet_bytes());
            if puts.len() == MAX_ROWS || (bytes > self.max_statement_bytes && !puts.is_empty()) {
                break;
            }
            if let Some(Job::Put(next)) = state.waiting.pop_front() {
                puts.push(next);
            }
        }
        if !puts.is_empty() {
            return Some(Work::Rows(puts));
        }
        state.waiting.pop_front().map(Work::One)
    }

    /// Takes something that somebody waits for, in the middle of something else.
    pub(in super::super) fn take_first(&self) -> Option<Job> {
        lock(&self.state).first.pop_front()
    }

    /// Fails what waits and what comes, until [`Writes::up`].
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

    /// Refuses everything from now on; what waits is still given out.
    pub(in super::super) fn close(&self) {
        lock(&self.state).closed = true;
        self.work.notify_one();
    }

    /// Fails what waits.
    pub(in super::super) fn abandon(&self) {
        let waiting = lock(&self.state).all();
        waiting.into_iter().for_each(|job| job.fail(&StoreError::Closed));
    }
}

impl State {
    /// Takes all that waits.
    fn all(&mut self) -> Vec<Job> {
        self.first.drain(..).chain(self.waiting.drain(..)).collect()
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

/// Room in the queue.
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

/// A place in the order of calls.
#[derive(Debug)]
pub(in super::super) struct Ticket {
    number: u64,
    queue: Arc<Writes>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.queue.state).tickets.done(self.number);
    }
}

/// Large bodies are compressed off the async threads and so arrive late. While any of them is under
/// way, what is queued is remembered, so that a late row does not undo a later call.
#[derive(Debug, Default)]
struct Tickets {
    last: u64,
    under_way: BTreeSet<u64>,
    keys: HashMap<Hash, u64>,
    ranges: Vec<(u64, KeyRange)>,
    /// Rows of tickets up to this one cannot be judged any more.
    forgotten: u64,
}

enum Judgement {
    InTime,
    Overtaken,
    Unknown,
}

impl Tickets {
    /// Calls remembered at most.
    const MEMORY: usize = 4096;

    fn issue(&mut self) -> u64 {
        self.last += 1;
        self.under_way.insert(self.last);
        self.last
    }

    fn done(&mut self, number: u64) {
        self.under_way.remove(&number);
        if self.under_way.is_empty() {
            self.keys.clear();
            self.ranges.clear();
        }
    }

    /// Whether a row may still be queued; if so, takes note of it.
    fn judge(&mut self, row: &Row, ticket: Option<u64>) -> Judgement {
        if let Some(ticket) = ticket {
            if ticket <= self.forgotten {
                return Judgement::Unknown;
            }
            let replaced = self.keys.get(&row.hash).is_some_and(|later| *later > ticket);
            let removed =
                |(later, range): &(u64, KeyRange)| *later > ticket && range.contains(&row.key);
            if replaced || self.ranges.iter().any(removed) {
                return Judgement::Overtaken;
            }
        }
        if !self.under_way.is_empty() {
            let number = ticket.unwrap_or_else(|| self.next());
            self.keys.insert(row.hash, number);
            self.bound();
        }
        Judgement::InTime
    }

    fn removed(&mut self, range: &KeyRange) {
        if !self.under_way.is_empty() {
            let number = self.next();
            self.ranges.push((number, range.clone()));
            self.bound();
        }
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn bound(&mut self) {
        if self.keys.len() + self.ranges.len() > Self::MEMORY {
            self.keys.clear();
            self.ranges.clear();
            self.forgotten = self.last;
        }
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
            queue.put(vec![put(&queue, key).0], None).unwrap();
        }
        remove(&queue, "a");
        queue.put((0..20).map(|i| put(&queue, &format!("{i}")).0).collect(), None).unwrap();
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
    fn a_statement_is_bounded_in_bytes_but_takes_one_row_always() {
        let queue = Writes::new(1_000, 500);
        queue.put((0..5).map(|i| put(&queue, &format!("{i}")).0).collect(), None).unwrap();
        assert_eq!(drain(&queue), ["2 rows", "2 rows", "1 rows"]);
        let queue = Writes::new(1_000, 5);
        queue.put((0..2).map(|i| put(&queue, &format!("{i}")).0).collect(), None).unwrap();
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
        queue.put(vec![waiting], None).unwrap();
        let late = put(&queue, "b");
        queue.down();
        assert!(matches!(ack.try_recv(), Ok(Err(StoreError::Unavailable))));
        assert!(matches!(queue.put(vec![late.0], None), Err(StoreError::Unavailable)));
        assert!(matches!(queue.reserve(1), Err(StoreError::Unavailable)));
        queue.up();
        assert!(queue.reserve(1).is_ok());
    }

    #[test]
    fn a_late_row_does_not_undo_a_later_call() {
        let queue = queue();
        let ticket = queue.ticket();
        queue.put(vec![put(&queue, "a").0], None).unwrap();
        remove(&queue, "b");
        for (key, written) in [("a", false), ("b1", false), ("c", true)] {
            let (late, mut ack) = put(&queue, key);
            queue.put(vec![late], Some(&ticket)).unwrap();
            assert_eq!(ack.try_recv().is_err(), written, "{key}");
        }
        let later = queue.ticket();
        let (row, mut ack) = put(&queue, "a");
        queue.put(vec![row], Some(&later)).unwrap();
        assert!(ack.try_recv().is_err(), "the last call wins");
        drop((ticket, later));
        assert!(lock(&queue.state).tickets.keys.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let queue = queue();
        let ticket = queue.ticket();
        for _ in 0..=Tickets::MEMORY {
            remove(&queue, "b");
        }
        assert!(lock(&queue.state).tickets.ranges.is_empty());
        let (late, mut ack) = put(&queue, "c");
        queue.put(vec![late], Some(&ticket)).unwrap();
        assert!(matches!(ack.try_recv(), Ok(Err(StoreError::Overloaded))));
    }
}
