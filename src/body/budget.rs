//! The limit on the memory of all recordings of a cache together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that count for a recording in addition to its body: for its head, its key, and the requests that wait for
/// it.
pub(super) const OVERHEAD: usize = 2 << 10;

/// The number of bytes that all recordings hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budget(Arc<AtomicUsize>);

/// The bytes of the budget that one recording holds. They are given back when the share is dropped.
pub(crate) struct Share {
    budget: Budget,
    limit: usize,
    held: usize,
}

impl Budget {
    /// A share without bytes. It can grow as long as all recordings together hold at most `limit` bytes.
    pub(crate) fn share(&self, limit: usize) -> Share {
        Share { budget: self.clone(), limit, held: 0 }
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Share {
    /// Changes the share to `bytes`. If that exceeds the limit, returns `false` and leaves the share unchanged.
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
