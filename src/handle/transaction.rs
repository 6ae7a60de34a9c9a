//! Invalidation that commits with the data.

use std::sync::Arc;

use sqlx::{MySqlConnection, Row as _};

use super::CacheHandle;
use crate::store::StoreError;
use crate::tag::{Invalidation, Tag};

/// Invalidation that commits with the data.
impl CacheHandle {
    /// Invalidates in the application's transaction, on its connection. The responses that `wanted` names become invalid
    /// when, and only if, the transaction commits. Without a transaction, they become invalid at once.
    ///
    /// ```no_run
    /// # async fn update(
    /// #     pool: sqlx::MySqlPool,
    /// #     cache: tower_mysql_cache::CacheHandle,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_mysql_cache::Invalidation;
    ///
    /// let mut tx = pool.begin().await?;
    /// sqlx::query("UPDATE products SET price = 9 WHERE id = 7").execute(&mut *tx).await?;
    /// cache.invalidate_on(&mut tx, Invalidation::tags(["product:7"])).await?;
    /// tx.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// With a [`MemoryStore`](crate::MemoryStore) the same code works: it does not use the connection, and invalidates
    /// more than the transaction does ([`MemoryLog`](crate::MemoryLog#in-a-transaction)). A store of another crate that
    /// cannot do this returns [`StoreError::Unsupported`]. The rest of this page is about stores in MySQL.
    ///
    /// When the commit has returned, no process serves a response that was made from the data before it. Other processes
    /// with memory in front follow within their `poll_interval`. The
    /// connection must lead to the server that holds the cache's tables, and its user must be
    /// allowed to insert into the log. A connection to another server is an error. The store checks this at most once a
    /// second ([`MySqlStoreBuilder::check_server`](crate::MySqlStoreBuilder::check_server)). So a second pool that is used
    /// in the same second may be checked later.
    ///
    /// The insert changes the session's `LAST_INSERT_ID()`: SQL that needs its value later has to keep it before,
    /// in a variable. Ids that the driver has returned do not change.
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`]; [`StoreError::Config`] for a connection to another server;
    /// [`StoreError::Database`] with the connection's own error. The caller then commits or rolls back its transaction.
    pub async fn invalidate_on(
        &self,
        connection: &mut MySqlConnection,
        wanted: Invalidation,
    ) -> Result<(), StoreError> {
        let records = self.engine.records(&self.route, &wanted)?;
        self.engine.append_on(connection, records).await
    }

    /// [`CacheHandle::invalidate_tags`] in the application's transaction.
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate_on`].
    pub async fn invalidate_tags_on(
        &self,
        connection: &mut MySqlConnection,
        tags: impl IntoIterator<Item: Into<Tag>> + Send,
    ) -> Result<(), StoreError> {
        let wanted = Invalidation::tags(tags);
        self.invalidate_on(connection, wanted).await
    }

    /// [`CacheHandle::invalidate_uri`] in the application's transaction.
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate_on`].
    pub async fn invalidate_uri_on(
        &self,
        connection: &mut MySqlConnection,
        uri: &str,
    ) -> Result<(), StoreError> {
        self.invalidate_on(connection, Invalidation::uri(uri)).await
    }

    /// [`CacheHandle::purge`] in the application's transaction.
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate_on`].
    pub async fn purge_all_on(&self, connection: &mut MySqlConnection) -> Result<(), StoreError> {
        self.invalidate_on(connection, Invalidation::all()).await
    }

    /// Invalidates the tags that a query on the application's tables finds in its first column, in the
    /// application's transaction. Returns how many tags there were. The query's rows are read first; then the
    /// log's rows are written in short lists, as the log requires. Never write into the log by
    /// `INSERT ... SELECT`.
    ///
    /// ```no_run
    /// # async fn update(
    /// #     mut tx: sqlx::Transaction<'static, sqlx::MySql>,
    /// #     cache: tower_mysql_cache::CacheHandle,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// let of_brand = sqlx::query("SELECT CONCAT('product:', id) FROM products WHERE brand = ?");
    /// cache.invalidate_selected_on(&mut tx, of_brand.bind(3)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate_on`].
    pub async fn invalidate_selected_on<'q, A>(
        &self,
        connection: &mut MySqlConnection,
        query: sqlx::query::Query<'q, sqlx::MySql, A>,
    ) -> Result<u64, StoreError>
    where
        A: sqlx::IntoArguments<sqlx::MySql> + Send + 'q,
    {
        let failed = |error: sqlx::Error| StoreError::Database(Arc::new(error));
        let rows = query.fetch_all(&mut *connection).await.map_err(failed)?;
        let tag = |row: &sqlx::mysql::MySqlRow| row.try_get_unchecked::<Vec<u8>, _>(0);
        let tags: Vec<Vec<u8>> = rows.iter().map(tag).collect::<Result<_, _>>().map_err(failed)?;
        let count = tags.len() as u64;
        if count > 0 {
            self.invalidate_tags_on(connection, tags).await?;
        }
        Ok(count)
    }
}
