//! The handle, with which the application invalidates, inspects and measures its cache.

mod sql;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

#[cfg(feature = "mysql")]
use sqlx::Row as _;

pub use crate::engine::Inspected;
use crate::engine::{self, Engine, Route};
use crate::key::TargetKey;
use crate::store::{CullReport, Named, Store, StoreError, StoreStats, Transactional};
use crate::tag::{Invalidation, LogRow, Tag};
use crate::telemetry::Counts;

/// Invalidates, erases, inspects, counts, culls and flushes. Cheap to clone, so it fits well into an application's
/// state.
///
/// A handle uses the prefix, the version and the query rules of the layer that made it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
/// # use tower_mysql_cache::{CacheLayer, MemoryStore};
/// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
/// let counted = cache.clone();
/// cache.invalidate_tags(["product:7"]).await?;
/// assert_eq!(counted.counts().invalidations, 1);
/// # Ok(())
/// # }
/// ```
pub struct CacheHandle<St> {
    engine: Arc<Engine<St>>,
    route: Arc<Route>,
}

/// What a cache holds, and what it has done in this process.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
/// # use tower_mysql_cache::{CacheLayer, MemoryStore};
/// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
/// let stats = cache.stats().await?;
/// println!("{} entries, {} hits", stats.store.entries, stats.layer.hits);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// What the layer has done in this process.
    pub layer: Counts,
    /// What the store holds, and its failures in this process.
    pub store: StoreStats,
}

impl<St: Store> CacheHandle<St> {
    pub(crate) fn new(engine: Arc<Engine<St>>, route: Arc<Route>) -> Self {
        Self { engine, route }
    }

    /// Invalidates all responses that `wanted` names. When this returns, no process that shares the store serves such
    /// a response if it was made before the call. This includes responses whose handler is still running. Other
    /// processes with a front tier follow within their `poll_interval`.
    ///
    /// Costs one row in the invalidation log for each thing named, whatever the number of stored responses. To
    /// invalidate in the transaction that changes the data, see [`CacheHandle::invalidate_on`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// use tower_mysql_cache::Invalidation;
    ///
    /// let import = Invalidation::tags(["prices"]).soft().reason("price import");
    /// cache.invalidate(import).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Config`] for a tag that is empty or longer than [`Tag::MAX_BYTES`], and for an invalid URI or
    /// path. Any other error if the log could not be written. Then other processes may still serve the responses;
    /// this process does not serve them, and tries to write the row again.
    pub async fn invalidate(&self, wanted: Invalidation) -> Result<(), StoreError> {
        engine::invalidate(&self.engine, &self.route, &wanted).await
    }

    /// Invalidates all responses with at least one of these tags, in all caches that share the log, whatever their
    /// prefix.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// cache.invalidate_tags(["product:7", "product-list"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn invalidate_tags(
        &self,
        tags: impl IntoIterator<Item: Into<Tag>> + Send,
    ) -> Result<(), StoreError> {
        let wanted = Invalidation::tags(tags);
        self.invalidate(wanted).await
    }

    /// Invalidates one target URI with all its variants and partitions. `uri` is an absolute URI, or a path with or
    /// without a query (`/products?page=2`). A path means this path on all authorities.
    ///
    /// - Another query is another URI: `/products` does not cover `/products?page=2`.
    /// - Another spelling is the same URI: `/p/7` covers `/p/%37` too, and `/café` covers `/caf%c3%a9`.
    /// - An entry under a custom key ([`TargetKey::custom`]) belongs to the URI of the request that filled it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// cache.invalidate_uri("/products?page=2").await?;
    /// cache.invalidate_uri("https://shop.example/").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn invalidate_uri(&self, uri: &str) -> Result<(), StoreError> {
        self.invalidate(Invalidation::uri(uri)).await
    }

    /// Invalidates all entries under a custom key ([`TargetKey::custom`]), as [`CacheHandle::invalidate_uri`] does
    /// for a URI.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// use tower_mysql_cache::TargetKey;
    ///
    /// cache.invalidate_key(&TargetKey::custom("start")).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] if the log could not be written.
    pub async fn invalidate_key(&self, key: &TargetKey) -> Result<(), StoreError> {
        let (key, beside) = (std::slice::from_ref(key), Vec::new());
        engine::invalidate_targets(&self.engine, &self.route, key, beside).await.map(drop)
    }

    /// Invalidates all responses at and below a path, on all authorities. `/products` covers `/products`,
    /// `/products?page=2` and `/products/7`, but not `/products-old`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// cache.invalidate_path("/products").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn invalidate_path(&self, path: &str) -> Result<(), StoreError> {
        self.invalidate(Invalidation::path(path)).await
    }

    /// Invalidates all responses under the layer's prefix, of all versions, with one row. Other prefixes are not
    /// affected. The entries are deleted when they expire or are culled; [`CacheHandle::erase`] deletes them at once.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// cache.invalidate_all().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn invalidate_all(&self) -> Result<(), StoreError> {
        self.invalidate(Invalidation::all()).await
    }

    /// [`CacheHandle::invalidate_tags`], but the responses become stale instead of invalid. They may be served where
    /// a stale response may be served.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// cache.soft_invalidate_tags(["product-list"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn soft_invalidate_tags(
        &self,
        tags: impl IntoIterator<Item: Into<Tag>> + Send,
    ) -> Result<(), StoreError> {
        let wanted = Invalidation::tags(tags).soft();
        self.invalidate(wanted).await
    }

    /// [`CacheHandle::invalidate_all`], but the responses become stale instead of invalid.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// cache.soft_invalidate_all().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn soft_invalidate_all(&self) -> Result<(), StoreError> {
        self.invalidate(Invalidation::all().soft()).await
    }

    /// Counts the responses that `wanted` would invalidate, without invalidating them. Reads all entries of the
    /// store, so it is for people, not for requests.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// use tower_mysql_cache::Invalidation;
    ///
    /// let named = cache.dry_run(&Invalidation::path("/products")).await?;
    /// println!("{} of {} responses, {} bytes", named.named, named.examined, named.bytes);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`].
    pub async fn dry_run(&self, wanted: &Invalidation) -> Result<Named, StoreError> {
        let records = engine::log_records(&self.route, wanted)?;
        self.engine
            .store
            .count_named(records.into_iter().map(|record| record.scope).collect())
            .await
    }

    /// Invalidates all responses under the layer's prefix, then deletes them from the store, row by row. Returns the
    /// number of deleted entries.
    ///
    /// As with [`CacheHandle::invalidate`], no process serves a deleted response after that. But a deleted response
    /// can be written once more, by another process that had completed it before it read of the invalidation. It is
    /// invalid, and stays in the table until it is overwritten, expires or is culled. To be sure, call this again
    /// after 15 seconds: by then, each process has read of the invalidation, and has written or dropped what it had
    /// completed before.
    ///
    /// Copies in the memory of other processes ([`Tiered`](crate::Tiered)) are not served either. They stay until
    /// they expire or are evicted.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// let deleted = cache.erase().await?;
    /// println!("{deleted} entries deleted");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::invalidate`]; entries that could not be deleted may still be stored.
    pub async fn erase(&self) -> Result<u64, StoreError> {
        let range = self.route.keys.range_of_prefix();
        engine::erase(&self.engine, &self.route, &Invalidation::all(), range).await
    }

    /// Invalidates a target as [`CacheHandle::invalidate_uri`] does, then deletes its entries: for data that must not
    /// be kept. Returns the number of deleted entries. What [`CacheHandle::erase`] says about other processes holds
    /// here too.
    ///
    /// If the application uses custom keys, this reads all entries under such keys, because the keys do not contain
    /// the URI. If requests for several URIs share a custom key, the entry is deleted with the URI of the request
    /// that filled it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// cache.erase_uri("/users/7/profile").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`CacheHandle::erase`].
    pub async fn erase_uri(&self, uri: &str) -> Result<u64, StoreError> {
        engine::erase_uri(&self.engine, &self.route, uri.to_owned()).await
    }

    /// Reads the invalidation log once, and waits for this read. After that, this process serves no response that is
    /// invalidated by a row committed before the call, on whatever connection. This is true for responses in memory
    /// too, even where [`Consistency::Bounded`](crate::Consistency::Bounded) allows them to be `poll_interval` (100
    /// ms) behind.
    ///
    /// Call it after a commit that the cache cannot know of, that is, one that neither this handle nor an unsafe
    /// request through the layer has made. Examples are a background job, a consumer of messages, and a handler that
    /// writes while its response streams. After each unsafe request, the layer reads the log without being asked.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// // after the commit of a background job
    /// cache.sync().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] if the log cannot be read. Then responses in memory are not served until a read succeeds.
    pub async fn sync(&self) -> Result<(), StoreError> {
        // if this read fails, or if the caller stops waiting, hits in memory wait for the next read
        self.engine.store.note_write();
        self.engine.store.sync().await
    }

    /// The newest rows of the invalidation log, the newest first. `limit` is the maximum number of rows.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// for row in cache.invalidations(20).await? {
    ///     println!("{} {:?} {:?}", row.at_ms, row.scope, row.reason);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] if the store did not answer.
    pub async fn invalidations(&self, limit: usize) -> Result<Vec<LogRow>, StoreError> {
        self.engine.store.log_tail(limit).await
    }

    /// The entries that are stored for an absolute URI, for people who want to know why a response is served or not.
    /// It does not show entries in partitions, or with cookies or `Authorization` in their key.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// for found in cache.inspect("https://shop.example/products").await? {
    ///     println!("{:?}: fresh for {} s, {:?}", found.key, found.ttl_secs, found.validity);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Config`] if `uri` is not an absolute URI. Any other error if the store did not answer.
    pub async fn inspect(&self, uri: &str) -> Result<Vec<Inspected>, StoreError> {
        engine::inspect(&self.engine, &self.route, uri).await
    }

    /// Deletes all expired entries now, and evicts entries until the store is within its limits. The store also culls
    /// without being asked; this is for people who want to choose the time.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// let report = cache.cull().await?;
    /// println!("{} expired, {} evicted", report.expired, report.evicted);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] if the store did not answer.
    pub async fn cull(&self) -> Result<CullReport, StoreError> {
        self.engine.store.cull().await
    }

    /// What the cache holds, and what it has done in this process.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// let stats = cache.stats().await?;
    /// println!("{} entries, {} bytes", stats.store.entries, stats.store.bytes);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] if the store did not answer. [`CacheHandle::counts`] needs no store.
    pub async fn stats(&self) -> Result<CacheStats, StoreError> {
        let store = self.engine.store.stats().await?;
        Ok(CacheStats { layer: self.counts(), store })
    }

    /// What the layer has done in this process. Does not ask the store.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// let counts = cache.counts();
    /// println!("{} hits, {} misses", counts.hits, counts.misses);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.engine.counters.snapshot()
    }

    /// How often a request was not answered from the store, or a response not stored, for each named reason, in this
    /// process. The names are:
    ///
    /// - those of [`CacheStatus::reason`](crate::CacheStatus::reason),
    /// - those of [`Forward`](crate::Forward), if there is no reason,
    /// - for bodies that were being recorded: `aborted`, `body-error`, `too-large`, `trailers`, `incomplete` and
    ///   `recording-budget`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// for (reason, count) in cache.reasons() {
    ///     println!("{reason}: {count}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn reasons(&self) -> BTreeMap<&'static str, u64> {
        self.engine.reasons.snapshot()
    }

    /// Waits until all responses that are complete now have been written or have failed: for shutdown and tests. If a
    /// handler calls this while the layer refreshes its response, it does not wait for that refresh.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
    /// // before the process ends
    /// cache.flush().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] if the store did not answer.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.engine.flush().await
    }
}

/// Invalidations that commit together with the data.
impl<St: Transactional> CacheHandle<St> {
    /// Invalidates in the application's transaction, on its connection. The responses that `wanted` names are invalid
    /// if, and as soon as, the transaction commits. Without a transaction, they are invalid at once.
    ///
    /// ```no_run
    /// # async fn update(
    /// #     pool: sqlx::MySqlPool,
    /// #     cache: tower_mysql_cache::CacheHandle<tower_mysql_cache::MySqlStore>,
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
    /// After the commit, no process serves such a response if it was made from the data before the commit. Other
    /// processes with a front tier follow within their `poll_interval`.
    ///
    /// The connection must lead to the server that holds the cache's tables, and its user must be allowed to insert
    /// into the log. A connection to another server is an error. The layer checks this at most once a second. So if
    /// several pools are used in the same second, it may notice a wrong connection later
    /// ([`MySqlStoreBuilder::check_server`](crate::MySqlStoreBuilder::check_server)).
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
        connection: &mut St::Connection,
        wanted: Invalidation,
    ) -> Result<(), StoreError> {
        let records = engine::log_records(&self.route, &wanted)?;
        engine::append_on(&self.engine, connection, records).await
    }

    /// [`CacheHandle::invalidate_tags`] in the application's transaction.
    ///
    /// ```no_run
    /// # async fn update(
    /// #     mut tx: sqlx::Transaction<'static, sqlx::MySql>,
    /// #     cache: tower_mysql_cache::CacheHandle<tower_mysql_cache::MySqlStore>,
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
        connection: &mut St::Connection,
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
    /// #     cache: tower_mysql_cache::CacheHandle<tower_mysql_cache::MySqlStore>,
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
        connection: &mut St::Connection,
        uri: &str,
    ) -> Result<(), StoreError> {
        self.invalidate_on(connection, Invalidation::uri(uri)).await
    }

    /// [`CacheHandle::invalidate_all`] in the application's transaction.
    ///
    /// ```no_run
    /// # async fn update(
    /// #     mut tx: sqlx::Transaction<'static, sqlx::MySql>,
    /// #     cache: tower_mysql_cache::CacheHandle<tower_mysql_cache::MySqlStore>,
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
        connection: &mut St::Connection,
    ) -> Result<(), StoreError> {
        self.invalidate_on(connection, Invalidation::all()).await
    }
}

#[cfg(feature = "mysql")]
impl<St: Transactional<Connection = sqlx::MySqlConnection>> CacheHandle<St> {
    /// Selects tags with a query on the application's tables, and invalidates them in the application's transaction.
    /// The tags are the first column of the query. Returns the number of tags.
    ///
    /// This reads all rows of the query first, and then writes the log in short inserts, as the log requires. Never
    /// write into the log with `INSERT ... SELECT`.
    ///
    /// ```no_run
    /// # async fn update(
    /// #     mut tx: sqlx::Transaction<'static, sqlx::MySql>,
    /// #     cache: tower_mysql_cache::CacheHandle<tower_mysql_cache::MySqlStore>,
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
        connection: &mut sqlx::MySqlConnection,
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

impl<St> Clone for CacheHandle<St> {
    fn clone(&self) -> Self {
        Self { engine: Arc::clone(&self.engine), route: Arc::clone(&self.route) }
    }
}

impl<St> fmt::Debug for CacheHandle<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheHandle").field("engine", &self.engine).finish_non_exhaustive()
    }
}
