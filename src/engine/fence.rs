//! Invalidations of this process against responses that were being made meanwhile.
//!
//! A handler that read its data before an invalidation may finish after it: its response is old, and
//! must not be stored behind the invalidation's back. The fence remembers the last invalidations of
//! this process; a response asks it before it is stored. Other processes are not seen.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::key::KeyRange;

/// How many invalidations are remembered. A response that has missed more is not stored.
const REMEMBERED: usize = 1024;

#[derive(Default)]
pub(crate) struct Fence {
    state: Mutex<State>,
    /// Removals under way, readable without the lock: most of the time there are none.
    removing: AtomicUsize,
}

#[derive(Default)]
struct State {
    raised: u64,
    last: VecDeque<KeyRange>,
    /// Ranges whose removal has begun and not ended.
    removing: Vec<(u64, KeyRange)>,
}

/// A moment between two invalidations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(u64);

impl Fence {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now: to be taken before the handler runs.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.state().raised)
    }

    /// An invalidation begins: until the guard goes, what is stored in the range counts as gone.
    pub(crate) fn raise(&self, range: KeyRange) -> Removing<'_> {
        let mut state = self.state();
        state.raised += 1;
        let number = state.raised;
        state.last.push_back(range.clone());
        if state.last.len() > REMEMBERED {
            state.last.pop_front();
        }
        state.removing.push((number, range));
        self.removing.store(state.removing.len(), Ordering::Release);
        Removing { fence: self, number }
    }

    /// Whether `key` is being removed at this moment.
    pub(crate) fn is_removing(&self, key: &[u8]) -> bool {
        self.removing.load(Ordering::Acquire) > 0
            && self.state().removing.iter().any(|(_, range)| range.contains(key))
    }

    /// Whether no invalidation since `moment` concerns `key`.
    pub(crate) fn is_clear(&self, key: &[u8], moment: Moment) -> bool {
        let state = self.state();
        let since = usize::try_from(state.raised.saturating_sub(moment.0)).unwrap_or(usize::MAX);
        since <= state.last.len()
            && state.last.iter().rev().take(since).all(|range| !range.contains(key))
    }
}

impl Moment {
    /// The moment after `own` more invalidations, those of the caller.
    pub(crate) fn after(self, own: usize) -> Self {
        Self(self.0 + own as u64)
    }
}

/// A removal under way.
pub(crate) struct Removing<'a> {
    fence: &'a Fence,
    number: u64,
}

impl Drop for Removing<'_> {
    fn drop(&mut self) {
        let mut state = self.fence.state();
        state.removing.retain(|(number, _)| *number != self.number);
        self.fence.removing.store(state.removing.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_later_invalidations_of_the_key_count() {
        let fence = Fence::default();
        drop(fence.raise(KeyRange::starting_with("a")));
        let moment = fence.moment();
        assert!(fence.is_clear(b"a1", moment));
        let removing = fence.raise(KeyRange::starting_with("b"));
        assert!(fence.is_removing(b"b1") && !fence.is_removing(b"a1"));
        drop(removing);
        assert!(!fence.is_removing(b"b1"));
        assert!(fence.is_clear(b"a1", moment) && !fence.is_clear(b"b1", moment));
    }

    #[test]
    fn what_is_forgotten_counts_as_invalidated() {
        let fence = Fence::default();
        let moment = fence.moment();
        for _ in 0..=REMEMBERED {
            drop(fence.raise(KeyRange::starting_with("b")));
        }
        assert!(!fence.is_clear(b"a1", moment));
        assert!(fence.is_clear(b"a1", fence.moment()));
    }
}
