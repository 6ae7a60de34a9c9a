//! Ids that are too large: no other can follow them, and what has been seen up to them could never be told apart
//! from what comes later. While there is such a row nothing is served, and nothing is written to the log.

use std::sync::atomic::Ordering;

use super::super::conn::Failure;
use super::super::sql::MAX_ID;
use super::reader::{LogReader, Session};
use super::{Log, write_rows};
use crate::store::StoreError;
use crate::tag::{LogRecord, Scope};

impl Log {
    /// Fails while a row with too large an id is known to be there.
    pub(in super::super) fn check_damage(&self) -> Result<(), StoreError> {
        match self.damaged.load(Ordering::Acquire) {
            true => Err(self.damage()),
            false => Ok(()),
        }
    }

    /// Whether that is so.
    pub(in super::super) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// An id of the log, or the reason why nothing is served.
    pub(super) fn sane(&self, id: u64) -> Result<u64, Failure> {
        if id <= MAX_ID {
            return Ok(id);
        }
        self.damaged.store(true, Ordering::Release);
        Err(Failure::sound(self.damage()))
    }

    fn damage(&self) -> StoreError {
        Failure::no_ids_left(&self.table)
    }
}

impl LogReader {
    /// The row has been removed. What others have added behind it went with it, so everything that is stored
    /// is invalidated, by one row of each process that has noticed.
    pub(super) async fn recover(&self, session: &mut Session) -> Result<(), Failure> {
        let reason = Some("the log had a row with too large an id".to_owned());
        let record = LogRecord { scope: Scope::Everything, soft: false, reason };
        let (connection, sql) = (&mut session.connection, &self.shared.sql.log);
        // in a transaction: as long as `AUTO_INCREMENT` is not repaired, no row may stay
        connection.run_text(&sql.begin, &self.shared).await?;
        let written = write_rows(connection, &self.shared, &[record]).await;
        if written.as_ref().is_err_and(|failure| failure.then.drops()) {
            return written.map(drop); // with its connection
        }
        let end = if written.is_ok() { &sql.commit } else { &sql.roll_back };
        connection.run_text(end, &self.shared).await?;
        written?;
        self.log.damaged.store(false, Ordering::Release);
        tracing::warn!(
            log = %self.shared.settings.log_table.plain(),
            "the invalidation log is in order again: everything stored so far is invalidated"
        );
        Ok(())
    }
}
