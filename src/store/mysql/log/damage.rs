//! What if the log has a row whose id is too large? No row can follow it, and a position that includes it would
//! include all later rows. So while it exists, nothing is served, and nothing is written to the log.

use std::sync::atomic::Ordering;

use super::super::conn::Failure;
use super::super::sql::MAX_ID;
use super::reader::{LogReader, Session};
use super::{Log, write_rows};
use crate::store::StoreError;
use crate::tag::{LogRecord, Scope};

impl Log {
    /// An error while the log is known to be damaged.
    pub(in super::super) fn check_damage(&self) -> Result<(), StoreError> {
        match self.damaged.load(Ordering::Acquire) {
            true => Err(self.damage()),
            false => Ok(()),
        }
    }

    pub(in super::super) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// The id if it is valid. Otherwise, marks the log as damaged.
    pub(super) fn checked_id(&self, id: u64) -> Result<u64, Failure> {
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
    /// The row was removed. Rows that others added after it are lost with it, so everything is invalidated. Each
    /// process that has noticed the row inserts one row for this.
    pub(super) async fn recover(&self, session: &mut Session) -> Result<(), Failure> {
        let reason = Some("the log had a row with too large an id".to_owned());
        let record = LogRecord { scope: Scope::Everything, soft: false, reason };
        let (connection, sql) = (&mut session.connection, &self.shared.sql.log);
        // in a transaction: until `AUTO_INCREMENT` is repaired, no row may stay
        connection.run_text(&sql.begin, &self.shared).await?;
        let written = write_rows(connection, &self.shared, &[record]).await;
        if written.as_ref().is_err_and(|failure| failure.recovery.drops_connection()) {
            return written.map(drop); // the transaction ends with its connection
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
