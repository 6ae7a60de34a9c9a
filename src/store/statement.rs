//! How does an invalidation reach the log through another driver?

/// One `INSERT` into the invalidation log, for a driver that is not this crate's: what
/// [`CacheHandle::to_sql`](crate::CacheHandle::to_sql) returns.
///
/// ```
/// # struct Transaction;
/// # impl Transaction {
/// #     async fn exec_drop(&mut self, _: String, _: Vec<Vec<u8>>) -> std::io::Result<()> { Ok(()) }
/// # }
/// use tower_mysql_cache::store::SqlStatement;
///
/// // with mysql_async
/// async fn execute(tx: &mut Transaction, statements: Vec<SqlStatement>) -> std::io::Result<()> {
///     for statement in statements {
///         tx.exec_drop(statement.text, statement.values).await?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqlStatement {
    /// The statement, with a `?` for each value.
    pub text: String,
    /// The values, in the order of the question marks. Bind them as bytes: a tag may hold any bytes.
    pub values: Vec<Vec<u8>>,
}
