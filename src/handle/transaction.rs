//! Invalidations that commit together with the data.

use std::sync::Arc;

use sqlx::{MySqlConnection, Row as _};

use super::CacheHandle;
use crate::store::StoreError;
use crate::tag::{Invalidation, Tag};

/// Invalidations that commit together with the data.
impl CacheHandle {
    /// Invalidates in the application's transaction, on its connection. The responses that `wanted` names are invalid
    /// if, and as soon as, the transaction commits. Without a transaction, they are invalid at once.
    ///
    /// ```no_run
    /// # async fn update(
    /// #     pool: sqlx::MySqlPool,
    /// #     cache: tower_mysql_cache::CacheHandle,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_mysql_cache::invalidation::Invalidation;
    ///
    /// let mut tx = pool.begin().await?;
    /// sqlx::query("UPDATE products SET price = 9 WHERE id = 7").execute(&mut *tx).await?;
    /// cache.invalidate_on(&mut tx, Invalidation::tags(["product:7"])).await?;
    /// tx.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// With a [`MemoryStore`](crate::MemoryStore), the same code works. This store does not use the connection, and
    /// invalidates more than the transaction does ([`MemoryLog`](crate::store::MemoryLog#in-a-transaction)). A store of
    /// another crate that cannot do this returns [`StoreError::Unsupported`]. The rest of this page is about stores
    /// in MySQL.
    ///
    /// After the commit, no process serves such a response if it was made from the data before the commit. Other
    /// processes with a front tier follow within their `poll_interval`.
    ///
    /// The connection must lead to the server that holds the cache's tables, and its user must be allowed to insert
    /// into the log. A connection to another server is an error. The layer checks this at most once a second. So if
    /// several pools are used in the same second, it may notice a wrong connection later
    /// ([`MySqlStoreBuilder::check_server`](crate::store::MySqlStoreBuilder::check_server)).
    ///
    /// The insert changes the session's `LAST_INSERT_ID()`. If later SQL needs the earlier value, save it in a
    /// variable first. Ids that the driver has already returned do not change.
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`], and [`StoreError::Config`] for a connection to another server.
    /// [`StoreError::Database`] is an error of the application's connection; the application decides whether its
    /// transaction goes on.
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
    /// ```no_run
    /// # async fn update(
    /// #     mut tx: sqlx::Transaction<'static, sqlx::MySql>,
    /// #     cache: tower_mysql_cache::CacheHandle,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// cache.invalidate_tags_on(&mut tx, ["product:7"]).await?;
    /// tx.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
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
    /// ```no_run
    /// # async fn update(
    /// #     mut tx: sqlx::Transaction<'static, sqlx::MySql>,
    /// #     cache: tower_mysql_cache::CacheHandle,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// cache.invalidate_uri_on(&mut tx, "/products/7").await?;
    /// tx.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
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

    /// [`CacheHandle::invalidate_all`] in the application's transaction.
    ///
    /// ```no_run
    /// # async fn update(
    /// #     mut tx: sqlx::Transaction<'static, sqlx::MySql>,
    /// #     cache: tower_mysql_cache::CacheHandle,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// cache.invalidate_all_on(&mut tx).await?;
    /// tx.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate_on`].
    pub async fn invalidate_all_on(
        &self,
        connection: &mut MySqlConnection,
    ) -> Result<(), StoreError> {
        self.invalidate_on(connection, Invalidation::all()).await
    }

    /// Selects tags with a query on the application's tables, and invalidates them in the application's transaction.
    /// The tags are the first column of the query. Returns the number of tags.
    ///
    /// This reads all rows of the query first, and then writes the log in short inserts, as the log requires. Never
    /// write into the log with `INSERT ... SELECT`.
    ///
    /// ```no_run
    /// # async fn update(
    /// #     mut tx: sqlx::Transaction<'static, sqlx::MySql>,
    /// #     cache: tower_mysql_cache::CacheHandle,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// let of_brand = sqlx::query("SELECT CONCAT('product:', id) FROM products WHERE brand = ?");
    /// cache.invalidate_selected_on(&mut tx, of_brand.bind(3)).await?;
    /// tx.commit().await?;
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
