//! How are counts, culls and statistics done? By the maintenance task.

use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::oneshot;

use super::super::MySqlStore;
use super::super::maintain::Command;
use super::super::write::Job;
use crate::store::{Admin, CullReport, Named, StoreFuture, StoreStats};
use crate::tag::Scope;

impl Admin for MySqlStore {
    fn count_named(&self, scopes: Vec<Scope>) -> StoreFuture<'_, Named> {
        Box::pin(self.command(|answer| Command::Count(scopes, answer)))
    }

    fn cull(&self) -> StoreFuture<'_, CullReport> {
        Box::pin(self.command(Command::Cull))
    }

    fn stats(&self) -> StoreFuture<'_, StoreStats> {
        Box::pin(async move {
            let figures = self.command(Command::Stats).await?;
            let counters = &self.inner.shared.counters;
            Ok(StoreStats {
                entries: figures.entries,
                bytes: figures.bytes,
                estimated: !figures.exact,
                unreadable: counters.unreadable.load(Relaxed),
                shed: counters.shed.load(Relaxed),
                too_large: counters.too_large.load(Relaxed),
                failures: counters.failures.load(Relaxed),
                culls: counters.culls.load(Relaxed),
                owed_invalidations: self.inner.log.unwritten_count() as u64,
                log_is_damaged: self.inner.log.is_damaged(),
                log_gaps: self.inner.log.gap_count() as u64,
                log_reads: self.inner.log.reads.load(Relaxed),
                log_waits: self.inner.log.waits.load(Relaxed),
            })
        })
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        let (ack, outcome) = oneshot::channel();
        Box::pin(self.submit(Job::Flush(ack), outcome))
    }
}
