//! Which stored responses are invalid? A store says this by its invalidation log.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::key::CacheKey;
use crate::store::{SqlStatement, StoreError};
use crate::stored::StoredHead;
use crate::tag::{LogPosition, LogRecord, LogRow, Validity};

/// Rows that say which stored responses are invalid.
///
/// A stored response is valid unless the log has a row after the response's position that names it. A row that was
/// appended, or committed, before a lookup was called counts for the log verdict on the response that the lookup
/// finds.
///
/// A store of a single process keeps a [`MemoryLog`](super::MemoryLog) and returns it from
/// [`Store::log`](super::Store::log).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
/// use http::{HeaderMap, StatusCode};
/// use tower_mysql_cache::invalidation::{LogRecord, Scope, Tag, Validity};
/// use tower_mysql_cache::key::CacheKey;
/// use tower_mysql_cache::store::{InvalidationLog, MemoryLog, StoredHead};
///
/// let (log, key) = (MemoryLog::new(), CacheKey::new("shop:1:/products/7 http://shop.example"));
/// let mut head = StoredHead::new(StatusCode::OK, HeaderMap::new(), 0);
/// head.position = (*log.position()).clone();
/// head.tags = vec![Tag::from("product:7")];
/// assert_eq!(log.validity(&key, &head).await?, Validity::Valid);
///
/// let records = vec![LogRecord::hard(Scope::Tag(Tag::from("product:7")))];
/// log.append(records.clone()).await?;
/// assert_eq!(log.validity(&key, &head).await?, Validity::Invalid);
/// assert_eq!(log.tail(10).await?.len(), 1);
///
/// // another connection may have committed rows
/// log.note_write();
/// log.catch_up(&key, &head, log.poll_interval()).await?; // before the log verdict on a response in memory
/// log.sync().await?;
///
/// // a log in memory has no table, so there is no SQL
/// assert!(log.append_sql(&records)?.is_empty());
/// # Ok(())
/// # }
/// ```
pub trait InvalidationLog: Send + Sync {
    /// The log position, as far as this process has read the log. The layer takes it before the handler is called and
    /// stores it with the response. Waits for nothing. If the position is too old, nothing wrong is served; at worst a
    /// good response is not used.
    fn position(&self) -> Arc<LogPosition>;

    /// Appends rows to the log and returns their ids. When this returns `Ok`, no process that shares the log serves
    /// what they name, except as its [`Consistency`](super::Consistency) allows; this process does not serve it at all.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be written: what the rows name may still be served.
    fn append(
        &self,
        records: Vec<LogRecord>,
    ) -> impl Future<Output = Result<Vec<u64>, StoreError>> + Send;

    /// What the log says about a stored response, as far as this process has read the log. A lookup and
    /// [`InvalidationLog::catch_up`] read the log.
    ///
    /// # Errors
    /// [`StoreError`] when the log has to be asked and cannot.
    fn validity(
        &self,
        key: &CacheKey,
        head: &StoredHead,
    ) -> impl Future<Output = Result<Validity, StoreError>> + Send;

    /// The newest rows of the log, the newest first, for people.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be read.
    fn tail(&self, limit: usize) -> impl Future<Output = Result<Vec<LogRow>, StoreError>> + Send;

    /// Makes sure that the last read of the log is at most `at_most` old. If an invalidation of this process names the
    /// response, and its transaction may be about to commit, a new read is needed. Must precede
    /// [`InvalidationLog::validity`] for a response that does not come from a lookup.
    /// Default: nothing, for logs that always know what has been committed.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be read.
    fn catch_up(
        &self,
        key: &CacheKey,
        head: &StoredHead,
        at_most: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (key, head, at_most);
        async { Ok(()) }
    }

    /// Says that another connection may just have committed rows to the log. From now on,
    /// [`InvalidationLog::catch_up`] is content only with a read of the log that begins after this call. Waits for
    /// nothing; one read serves for any number of calls before it. The layer calls this when the handler of an unsafe
    /// request has ended, before the client gets the response.
    /// Default: nothing, for logs that always know what has been committed.
    fn note_write(&self) {}

    /// Reads the log, in a read that begins after this call. Default: nothing, for logs that always
    /// know what has been committed.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be read.
    fn sync(&self) -> impl Future<Output = Result<(), StoreError>> + Send {
        async { Ok(()) }
    }

    /// How often the log is read without being asked: what
    /// [`Consistency::Bounded`](super::Consistency::Bounded) allows in front of it. Default: zero, for logs in memory.
    fn poll_interval(&self) -> Duration {
        Duration::ZERO
    }

    /// Appends rows in the transaction of the application that this connection is in. The rows count when, and only if,
    /// the transaction commits; without a transaction they count at once. [`MemoryLog`](super::MemoryLog) says what it
    /// does instead.
    ///
    /// The log waits for no connection of its own here, and neither updates nor locks a row that another transaction
    /// could wait for. Default: an error, so that no invalidation is lost unnoticed.
    ///
    /// # Errors
    /// [`StoreError::Database`] with the connection's own error, [`StoreError::Unsupported`].
    #[cfg(feature = "mysql")]
    fn append_on(
        &self,
        connection: &mut sqlx::MySqlConnection,
        records: Vec<LogRecord>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (connection, records);
        async { Err(StoreError::Unsupported(NO_TRANSACTIONS)) }
    }

    /// The statements that append rows to the log, in short `VALUES` lists, for connections of other
    /// drivers. Default: an error, as for `append_on`.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`].
    fn append_sql(&self, records: &[LogRecord]) -> Result<Vec<SqlStatement>, StoreError> {
        let _ = records;
        Err(StoreError::Unsupported(NO_TRANSACTIONS))
    }
}

const NO_TRANSACTIONS: &str = "invalidate in a transaction; invalidate after the commit";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{BoxStore, MemoryStore, Store, Tiered};
    use crate::tag::Scope;
    use crate::{CacheHandle, CacheLayer};

    /// The log of a store whose author has written what must be written.
    struct Least;

    impl InvalidationLog for Least {
        fn position(&self) -> Arc<LogPosition> {
            Arc::default()
        }
        async fn append(&self, _: Vec<LogRecord>) -> Result<Vec<u64>, StoreError> {
            Ok(Vec::new())
        }
        async fn validity(&self, _: &CacheKey, _: &StoredHead) -> Result<Validity, StoreError> {
            Ok(Validity::Valid)
        }
        async fn tail(&self, _: usize) -> Result<Vec<LogRow>, StoreError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_log_without_transactions_says_so() {
        let error = Least.append_sql(&[LogRecord::hard(Scope::Everything)]).unwrap_err();
        assert_eq!(error.as_str(), "unsupported");
        assert!(error.to_string().contains("invalidate after the commit"), "{error}");
    }

    #[test]
    fn every_store_has_the_same_handle() {
        fn handle(store: impl Store) -> CacheHandle {
            CacheLayer::new(store).handle()
        }
        fn goes_into_the_state_of_an_application<T: Clone + Send + Sync + 'static>(_: &[T]) {}
        let memory = MemoryStore::new;
        let tiered = Tiered::new(memory(), memory());
        let handles = [handle(memory()), handle(tiered), handle(BoxStore::new(memory()))];
        goes_into_the_state_of_an_application(&handles);
        for handle in handles {
            let wanted = crate::invalidation::Invalidation::tags(["t"]);
            assert!(handle.to_sql(&wanted).unwrap().is_empty(), "a log in memory has no table");
        }
    }
}
