//! When does a lookup need no read of the log? If its own statement shows that nothing has been committed since the last
//! read.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::sql::NewestLogRow;
use super::Log;
use super::reader::SLOW;

impl Log {
    /// A read has ended. Before it, the largest id was `before`.
    pub(super) fn note_quiet(&self, before: u64) {
        let view = self.view();
        let quiet = view.largest() == before && view.gap_count() == 0;
        self.quiet.store(quiet, Ordering::Release);
    }

    /// Whether a read would probably find nothing new. Then a lookup reads the newest row of the log together with
    /// its entries, and needs a read only if that row is unknown.
    pub(in super::super) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Acquire)
    }

    /// Whether a statement that found this newest row would have found nothing new in a read of the log: everything
    /// that was committed when it was sent is in the view. Then it counts as a read. If the statement took long, it may
    /// have skipped very many uncommitted rows; then the next lookup waits for the log's task, which deals with them.
    pub(in super::super) fn has_read_up_to(
        &self,
        newest: Option<NewestLogRow>,
        (sent, took): (Instant, Duration),
    ) -> bool {
        self.used.store(true, Ordering::Relaxed);
        let view = self.view();
        let known = self.newest_in(&view);
        let is_known = match newest {
            Some(row) => row == known,
            None => known.id == 0,
        };
        let nothing_new = is_known && view.gap_count() == 0 && self.is_quiet();
        drop(view);
        if nothing_new {
            self.note_read_at(sent);
        }
        if !nothing_new || took >= SLOW {
            self.quiet.store(false, Ordering::Release);
        }
        nothing_new
    }
}
