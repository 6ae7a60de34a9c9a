//! When does a lookup need no read of the log? If its own statement shows that nothing has been committed since the last
//! read.

use std::sync::atomic::Ordering;

use super::super::sql::NewestLogRow;
use super::Log;

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
    /// that was committed then is in the view.
    pub(in super::super) fn has_read_up_to(&self, newest: Option<NewestLogRow>) -> bool {
        self.used.store(true, Ordering::Relaxed);
        let view = self.view();
        let known = (view.largest(), self.newest_at_ms.load(Ordering::Relaxed));
        let is_known = match newest {
            Some(row) => (row.id, row.at_ms) == known,
            None => known.0 == 0,
        };
        let nothing_new = is_known && view.gap_count() == 0 && self.is_quiet();
        drop(view);
        if !nothing_new {
            self.quiet.store(false, Ordering::Release);
        }
        nothing_new
    }
}
