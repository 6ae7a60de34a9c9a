//! Invalidations as plain SQL, for other drivers.

use super::CacheHandle;
use crate::store::{SqlStatement, StoreError};
use crate::tag::Invalidation;

impl CacheHandle {
    /// The statements that invalidate what `wanted` names, for SeaORM, diesel-async, `mysql_async` and
    /// any other driver. Run all of them in the transaction that changes the data, on a connection whose
    /// default database is the store's. The guide has a
    /// [recipe for each driver](crate::guide::invalidation#other-drivers).
    ///
    /// The rows count when the transaction commits: in the table at once, in memory behind a
    /// [`Tiered`](crate::Tiered) store as [`Consistency`](crate::Consistency) says. This process does not
    /// know of the commit either. After an unsafe request through the layer, it reads the log. After any other commit, call
    /// [`CacheHandle::sync`].
    ///
    /// A [`MemoryStore`](crate::MemoryStore) has nothing to write: the list is empty, and the invalidation counts from
    /// this call on ([`MemoryLog`](crate::MemoryLog#in-a-transaction)). So call this only for a transaction that follows.
    ///
    /// This is a method of the handle, not of [`Invalidation`]: the rows for a URI, a path and
    /// everything need the layer's prefix, version and query rules, and the store knows the table's name.
    ///
    /// # Errors
    /// [`StoreError::Config`] as [`CacheHandle::invalidate`]; [`StoreError::Unsupported`] from a store of another crate
    /// whose log is in no database.
    pub fn to_sql(&self, wanted: &Invalidation) -> Result<Vec<SqlStatement>, StoreError> {
        let records = self.engine.records(&self.route, wanted)?;
        self.engine.log().append_sql(&records)
    }
}
