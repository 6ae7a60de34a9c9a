//! A log in memory, for stores of one process.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::view::{Judgement, LogView, Mark};
use crate::key::CacheKey;
use crate::stored::StoredHead;
use crate::sync;
use crate::tag::{LogPosition, LogRecord, LogRow, Validity, reason_of};

/// An invalidation log in the process's own memory: what a [`Store`](crate::Store) of one process needs
/// for its part of the contract. Clones share one log.
///
/// It remembers the last 65,536 rows, or as many as 24 MiB hold; a response that is older than those counts as invalid.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    view: LogView,
    /// The last rows, for people.
    tail: std::collections::VecDeque<LogRow>,
}

impl Default for State {
    fn default() -> Self {
        Self { view: LogView::new(0), tail: std::collections::VecDeque::new() }
    }
}

/// Rows kept for people.
const TAIL: usize = 1024;

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.0)
    }

    /// [`Store::position`](crate::Store::position)
    #[must_use]
    pub fn position(&self) -> Arc<LogPosition> {
        self.state().view.position()
    }

    /// [`Store::append`](crate::Store::append), at this time (milliseconds since the Unix epoch).
    pub fn append(&self, records: Vec<LogRecord>, now_ms: u64) -> Vec<u64> {
        let mut state = self.state();
        let mut ids = Vec::with_capacity(records.len());
        for mut record in records {
            let id = state.view.largest() + 1;
            let mark = Mark { scope: record.scope.clone(), soft: record.soft };
            state.view.absorb([(id, mark)], Instant::now());
            record.reason = reason_of(&record);
            if state.tail.len() == TAIL {
                state.tail.pop_front();
            }
            state.tail.push_back(LogRow::new(id, record, now_ms));
            ids.push(id);
        }
        ids
    }

    /// [`Store::validity`](crate::Store::validity)
    #[must_use]
    pub fn validity(&self, key: &CacheKey, head: &StoredHead) -> Validity {
        match self.state().view.judge(key.as_bytes(), &head.tags, &head.position) {
            Judgement::Known(validity) => validity,
            Judgement::Older { .. } | Judgement::Ahead => Validity::Invalid,
        }
    }

    /// [`Store::log_tail`](crate::Store::log_tail): the last 1,024 rows at most, the newest first.
    #[must_use]
    pub fn tail(&self, limit: usize) -> Vec<LogRow> {
        self.state().tail.iter().rev().take(limit).cloned().collect()
    }
}
