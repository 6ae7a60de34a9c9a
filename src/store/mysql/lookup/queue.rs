//! Which lookups wait for the lanes?

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OnceCell, oneshot};

use super::super::codec::{Decoded, Hash, RawRow};
use super::super::sql::{MAX_KEYS, NewestLogRow};
use crate::store::StoreError;
use crate::sync::lock;

/// The most keys that wait: 64 batches. More are refused.
const MAX_WAITING: usize = 4096;

/// A row, for all callers of a batch that wait for it.
#[derive(Debug)]
pub(in super::super) struct Found {
    /// The value is empty if the body was left out.
    pub(in super::super) row: RawRow,
    /// The `size` column: bytes of key, head and value.
    pub(in super::super) size: u32,
    /// Whether the row is too large for a batch. Its body needs another query.
    pub(in super::super) is_left_out: bool,
    /// The first caller that needs the row decodes it.
    pub(in super::super) decoded: OnceCell<Decoded>,
}

impl Found {
    pub(in super::super) fn new(row: RawRow, size: u32, is_left_out: bool) -> Self {
        Self { row, size, is_left_out, decoded: OnceCell::new() }
    }
}

/// What a lookup has found.
#[derive(Debug)]
pub(in super::super) struct Rows {
    /// One row or none for each hash, in their order.
    pub(in super::super) found: Vec<Option<Arc<Found>>>,
    /// The newest row of the log, if the statement has read it too.
    pub(in super::super) newest: Option<NewestLogRow>,
    /// When the statement was sent, and how long it took.
    pub(in super::super) asked: (Instant, Duration),
}

pub(in super::super) type Answer = Result<Rows, StoreError>;

/// Keys that a caller waits for.
#[derive(Debug)]
pub(in super::super) struct Lookup {
    /// At most [`MAX_KEYS`].
    pub(in super::super) hashes: Vec<Hash>,
    /// Whether the same statement reads the newest row of the log.
    pub(in super::super) with_newest: bool,
    since: Instant,
    pub(in super::super) answer: oneshot::Sender<Answer>,
}

/// A queue: one for lookups, and one for large bodies. Lookups do not wait while no lane is connected. The lane for
/// large bodies connects when it is needed. No caller waits longer than `patience`.
#[derive(Debug)]
pub(in super::super) struct Lookups {
    state: Mutex<State>,
    /// Wakes connected lanes.
    pub(in super::super) work: Notify,
    /// Wakes lanes that have not connected yet: more keys wait than the connected lanes take at once.
    pub(in super::super) more: Notify,
    max_keys: usize,
    /// The most keys in one query.
    batch: usize,
    patience: Duration,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Lookup>,
    keys: usize,
    lanes: usize,
    closed: bool,
}

impl Lookups {
    pub(in super::super) fn new(patience: Duration) -> Arc<Self> {
        Self::of(MAX_WAITING, MAX_KEYS, patience)
    }

    /// A queue of large bodies. They are read one after the other, each with its own timeout.
    pub(in super::super) fn of_large(patience: Duration) -> Arc<Self> {
        Self::of(MAX_WAITING, 1, patience)
    }

    fn of(max_keys: usize, batch: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            work: Notify::new(),
            more: Notify::new(),
            max_keys,
            batch,
            patience,
        })
    }

    pub(in super::super) fn is_of_large(&self) -> bool {
        self.batch == 1
    }

    /// Queues a lookup of at most [`MAX_KEYS`] keys.
    ///
    /// # Errors
    /// At once: [`StoreError::Unavailable`] without a connected lane, [`StoreError::Overloaded`] if too many keys
    /// wait, [`StoreError::Closed`].
    pub(in super::super) fn push(
        &self,
        hashes: Vec<Hash>,
        with_newest: bool,
    ) -> Result<oneshot::Receiver<Answer>, StoreError> {
        let (answer, receiver) = oneshot::channel();
        let mut state = lock(&self.state);
        if state.closed {
            return Err(StoreError::Closed);
        }
        let connects = state.lanes == 0;
        if connects && !self.is_of_large() {
            return Err(StoreError::Unavailable);
        }
        if state.is_full(hashes.len(), self.max_keys) {
            state.remove_dropped();
            if state.is_full(hashes.len(), self.max_keys) {
                return Err(StoreError::Overloaded);
            }
        }
        state.keys += hashes.len();
        state.waiting.push_back(Lookup { hashes, with_newest, since: Instant::now(), answer });
        let behind = connects || state.waiting.len() > 1;
        drop(state);
        self.work.notify_one();
        if behind {
            self.more.notify_one();
        }
        Ok(receiver)
    }

    /// Takes waiting lookups, at most a batch. Dropped ones are left out. Those that have waited too long fail.
    pub(in super::super) fn take(&self) -> Vec<Lookup> {
        let now = Instant::now();
        let (mut batch, mut keys, mut late) = (Vec::new(), 0, Vec::new());
        let mut state = lock(&self.state);
        while let Some(next) = state.waiting.front() {
            if keys + next.hashes.len() > self.batch {
                break;
            }
            let Some(next) = state.waiting.pop_front() else { break };
            state.keys -= next.hashes.len();
            if next.answer.is_closed() {
                continue;
            }
            if now.duration_since(next.since) > self.patience {
                late.push(next);
                continue;
            }
            keys += next.hashes.len();
            batch.push(next);
        }
        // other callers that wait for the same large body get it too
        if self.is_of_large()
            && let Some(first) = batch.first().map(|first| first.hashes.clone())
        {
            let waiting = std::mem::take(&mut state.waiting);
            let (same, others): (VecDeque<_>, _) =
                waiting.into_iter().partition(|next| next.hashes == first);
            state.keys -= same.len();
            state.waiting = others;
            batch.extend(same);
        }
        let left = !state.waiting.is_empty();
        drop(state);
        if left {
            self.work.notify_one();
        }
        for lookup in late {
            let _ = lookup.answer.send(Err(StoreError::Timeout));
        }
        batch
    }

    /// Counts a lane as connected until the guard is dropped.
    pub(in super::super) fn lane_up(self: &Arc<Self>) -> LaneUp {
        lock(&self.state).lanes += 1;
        LaneUp(Arc::clone(self))
    }

    /// Fails all waiting lookups, because no lane can connect.
    pub(in super::super) fn refuse(&self, error: &StoreError) {
        let waiting = {
            let mut state = lock(&self.state);
            if state.lanes > 0 { VecDeque::new() } else { state.clear() }
        };
        fail(waiting, error);
    }

    /// Refuses everything from now on.
    pub(in super::super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        let waiting = state.clear();
        drop(state);
        fail(waiting, &StoreError::Closed);
    }
}

impl State {
    fn is_full(&self, more: usize, max_keys: usize) -> bool {
        self.keys > 0 && self.keys + more > max_keys
    }

    /// Removes lookups whose requests were dropped.
    fn remove_dropped(&mut self) {
        self.waiting.retain(|lookup| !lookup.answer.is_closed());
        self.keys = self.waiting.iter().map(|lookup| lookup.hashes.len()).sum();
    }

    fn clear(&mut self) -> VecDeque<Lookup> {
        self.keys = 0;
        std::mem::take(&mut self.waiting)
    }
}

fn fail(waiting: impl IntoIterator<Item = Lookup>, error: &StoreError) {
    for lookup in waiting {
        let _ = lookup.answer.send(Err(error.clone()));
    }
}

/// A connected lane. When the last one is dropped, all waiting lookups fail.
#[derive(Debug)]
pub(in super::super) struct LaneUp(Arc<Lookups>);

impl Drop for LaneUp {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.lanes = state.lanes.saturating_sub(1);
        let waiting = if state.lanes == 0 { state.clear() } else { VecDeque::new() };
        drop(state);
        fail(waiting, &StoreError::Unavailable);
        self.0.work.notify_one(); // this lane may have been woken for work that it did not take
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn hashes(n: u8) -> Vec<Hash> {
        (0..n).map(|i| [i; 16]).collect()
    }

    #[test]
    fn no_lookup_waits_without_a_lane() {
        let queue = Lookups::new(PATIENCE);
        assert!(matches!(queue.push(hashes(1), false), Err(StoreError::Unavailable)));
        let (one, two) = (queue.lane_up(), queue.lane_up());
        let mut waiting = queue.push(hashes(1), false).unwrap();
        drop(one);
        assert!(waiting.try_recv().is_err());
        drop(two);
        assert!(matches!(waiting.try_recv(), Ok(Err(StoreError::Unavailable))));
    }

    #[test]
    fn a_batch_takes_what_waits_up_to_64_keys() {
        let queue = Lookups::new(PATIENCE);
        let _lane = queue.lane_up();
        let _waiting = [40, 20, 10].map(|n| queue.push(hashes(n), false).unwrap());
        let sizes = |batch: Vec<Lookup>| batch.iter().map(|l| l.hashes.len()).collect::<Vec<_>>();
        assert_eq!(sizes(queue.take()), [40, 20]);
        assert_eq!(sizes(queue.take()), [10]);
        assert!(queue.take().is_empty());
    }

    #[test]
    fn large_bodies_are_read_one_at_a_time_and_once() {
        let queue = Lookups::of_large(PATIENCE);
        let mut early = queue.push(vec![[9; 16]], false).unwrap();
        queue.refuse(&StoreError::Unavailable);
        assert!(matches!(early.try_recv(), Ok(Err(StoreError::Unavailable))));
        let _waiting = [1, 2, 1, 3, 2].map(|n| queue.push(vec![[n; 16]], false).unwrap());
        let _lane = queue.lane_up();
        queue.refuse(&StoreError::Unavailable);
        let firsts = |batch: Vec<Lookup>| batch.iter().map(|l| l.hashes[0][0]).collect::<Vec<_>>();
        for expected in [vec![1, 1], vec![2, 2], vec![3], vec![]] {
            assert_eq!(firsts(queue.take()), expected);
        }
        assert_eq!(lock(&queue.state).keys, 0);
    }

    #[test]
    fn the_queue_is_bounded_in_keys() {
        let queue = Lookups::of(64, MAX_KEYS, PATIENCE);
        let _lane = queue.lane_up();
        let waiting = queue.push(hashes(60), false).unwrap();
        assert!(matches!(queue.push(hashes(5), false), Err(StoreError::Overloaded)));
        let _more = queue.push(hashes(4), false).unwrap();
        drop(waiting);
        assert!(queue.push(hashes(60), false).is_ok(), "who has gone holds no room");
    }

    #[test]
    fn dropped_lookups_are_skipped_and_late_ones_fail() {
        let queue = Lookups::of(64, MAX_KEYS, Duration::ZERO);
        let _lane = queue.lane_up();
        drop(queue.push(hashes(1), false).unwrap());
        let mut late = queue.push(hashes(1), false).unwrap();
        let pushed = Instant::now();
        while pushed.elapsed().is_zero() {}
        assert!(queue.take().is_empty());
        assert!(matches!(late.try_recv(), Ok(Err(StoreError::Timeout))));
    }

    #[test]
    fn a_closed_queue_says_so() {
        let queue = Lookups::of(64, MAX_KEYS, PATIENCE);
        let _lane = queue.lane_up();
        let mut waiting = queue.push(hashes(1), false).unwrap();
        queue.close();
        assert!(matches!(waiting.try_recv(), Ok(Err(StoreError::Closed))));
        assert!(matches!(queue.push(hashes(1), false), Err(StoreError::Closed)));
    }
}
