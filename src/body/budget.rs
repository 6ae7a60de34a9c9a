//! The memory that all recordings of a cache take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a recording costs beside its body: its head, its key, and what waits for it.
pub(super) const OVERHEAD: usize = 2 << 10;

/// How many bytes all recordings hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budget(Arc<AtomicUsize>);

/// What one recording holds of it, until it is dropped.
pub(crate) struct Share {
    budget: Budget,
    limit: usize,
    held: usize,
}

impl Budget {
    /// A share that holds nothing yet, and grows as long as all recordings together stay within `limit` bytes.
    pub(crate) fn share(&self, limit: usize) -> Share {
        Share { budget: self.clone(), limit, held: 0 }
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Share {
    /// Holds so many bytes from now on, or, where that is too much, as many as before.
    pub(super) fn hold(&mut self, bytes: usize) -> bool {
        let used = &self.budget.0;
        if bytes <= self.held {
            used.fetch_sub(self.held - bytes, Ordering::Relaxed);
        } else {
            let more = bytes - self.held;
            let within = |used: usize| used.checked_add(more).filter(|used| *used <= self.limit);
            if used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_err() {
                return false;
            }
        }
        self.held = bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
    }
}
