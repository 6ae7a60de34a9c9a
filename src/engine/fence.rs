//! Invalidations of this process against responses that were being made meanwhile.
//!
//! A handler that read its data before an invalidation may finish after it: its response is old, and
//! must not be stored behind the invalidation's back. The fence remembers the last invalidations of
//! this process; a response asks it before it is stored. Other processes are not seen.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::key::KeyRange;

/// How many invalidations are remembered. A response that has missed more is not stored.
const REMEMBERED: usize = 1024;

#[derive(Default)]
pub(crate) struct Fence(Mutex<State>);

#[derive(Default)]
struct State {
    raised: u64,
    last: VecDeque<KeyRange>,
}

/// A moment between two invalidations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(u64);

impl Fence {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now: to be taken before the handler runs.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.state().raised)
    }

    /// An invalidation begins.
    pub(crate) fn raise(&self, range: KeyRange) {
        let mut state = self.state();
        state.raised += 1;
        state.last.push_back(range);
        if state.last.len() > REMEMBERED {
            state.last.pop_front();
        }
    }

    /// Whether no invalidation since `moment` concerns `key`.
    pub(crate) fn is_clear(&self, key: &[u8], moment: Moment) -> bool {
        let state = self.state();
        let since = usize::try_from(state.raised - moment.0).unwrap_or(usize::MAX);
        since <= state.last.len()
            && state.last.iter().rev().take(since).all(|range| !range.contains(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_later_invalidations_of_the_key_count() {
        let fence = Fence::default();
        fence.raise(KeyRange::starting_with("a"));
        let moment = fence.moment();
        assert!(fence.is_clear(b"a1", moment));
        fence.raise(KeyRange::starting_with("b"));
        assert!(fence.is_clear(b"a1", moment) && !fence.is_clear(b"b1", moment));
    }

    #[test]
    fn what_is_forgotten_counts_as_invalidated() {
        let fence = Fence::default();
        let moment = fence.moment();
        for _ in 0..=REMEMBERED {
            fence.raise(KeyRange::starting_with("b"));
        }
        assert!(!fence.is_clear(b"a1", moment));
        assert!(fence.is_clear(b"a1", fence.moment()));
    }
}
