//! Invalidations as SQL statements, for other drivers.

use super::CacheHandle;
use crate::store::{SqlStatement, StoreError};
use crate::tag::Invalidation;

impl CacheHandle {
    /// The SQL statements that invalidate the responses that `wanted` names. They are for SeaORM, diesel-async,
    /// `mysql_async` and any other driver. Run all of them in the transaction that changes the data, on a connection
    /// whose default database is the store's. The guide has a [recipe for each
    /// driver](crate::guide::invalidation#other-drivers).
    ///
    /// The rows take effect when the transaction commits. In memory behind a [`Tiered`](crate::Tiered) store, they
    /// take effect as [`Consistency`](crate::store::Consistency) says. This process does not know of the commit. After an
    /// unsafe request through the layer, it reads the log without being asked; in other code, call
    /// [`CacheHandle::sync`] after the commit.
    ///
    /// A [`MemoryStore`](crate::MemoryStore) has nothing to write: the list is empty, and the invalidation takes
    /// effect with this call ([`MemoryLog`](crate::store::MemoryLog#in-a-transaction)). So call this only if a transaction
    /// follows.
    ///
    /// This is a method of the handle because a row contains the layer's prefix and version, and the statement
    /// contains the table's name.
    ///
    /// ```no_run
    /// # fn update(
    /// #     cache: tower_mysql_cache::CacheHandle,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_mysql_cache::invalidation::Invalidation;
    ///
    /// for statement in cache.to_sql(&Invalidation::tags(["product:7"]))? {
    ///     // execute `statement.text` with `statement.values`
    /// #   let _ = statement;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Config`] as [`CacheHandle::invalidate`]. [`StoreError::Unsupported`] if a store of another crate
    /// has no log in a database.
    pub fn to_sql(&self, wanted: &Invalidation) -> Result<Vec<SqlStatement>, StoreError> {
        let records = self.engine.records(&self.route, wanted)?;
        self.engine.log().append_sql(&records)
    }
}
