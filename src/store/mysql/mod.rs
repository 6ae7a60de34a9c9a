//! How are responses stored in a table of MySQL or MariaDB?
//!
//! A handle puts work into queues. Tasks own the connections and do the work. So no request ever owns a query, and a
//! dropped request does no harm.

mod codec;
mod conn;
mod log;
mod lookup;
mod maintain;
mod options;
mod schema;
mod shared;
mod sql;
mod store;
mod tasks;
mod write;

use std::fmt;
use std::sync::{Arc, Mutex};

use sqlx::mysql::MySqlConnectOptions;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub use self::codec::Compression;
#[cfg(any(test, fuzzing))]
pub use self::codec::rows;
pub use self::options::MySqlStoreBuilder;

use self::conn::{Connection, SameServer};
use self::log::Log;
use self::lookup::Lookups;
use self::maintain::Command;
use self::options::Settings;
use self::shared::{DbClock, Shared};
use self::sql::{Dialect, Sql, TableName};
use self::tasks::Running;
use self::write::{Owned, Writes};
use super::StoreError;
use crate::error::{About, ConfigError};
use crate::sync::lock;

/// A store in tables of a MySQL or MariaDB database: for entries, for the invalidation log, for leases.
///
/// A handle: clones share connections and queues. The store opens its own connections: `read_connections` (2) for
/// lookups, and one each for writes, the log and maintenance. One more opens when a body of more than 64 KiB is first
/// needed. When the last handle is dropped, the queued work is done, the connections are closed and the tasks end.
/// [`close`](MySqlStore::close) waits for that.
///
/// The tasks run on the runtime in which the store connected. When that runtime has ended, waiting calls fail at once,
/// and the next call starts the tasks again on its own runtime. So a `static` store works in one `#[tokio::test]` after
/// the other.
///
/// ```no_run
/// # async fn run() -> Result<(), tower_mysql_cache::StoreError> {
/// use tower_mysql_cache::MySqlStore;
///
/// let store = MySqlStore::connect("mysql://cache:secret@db.internal/shop").await?;
/// store.migrate().await?;
/// # Ok(())
/// # }
/// ```
///
/// Its clock is the database's, so that processes whose machines disagree about the time agree about
/// what has expired. A server with `binlog_format = STATEMENT` refuses writes in READ COMMITTED, which
/// the store uses; `ROW` and `MIXED`, the defaults, are fine.
#[derive(Clone)]
pub struct MySqlStore {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    lookups: Arc<Lookups>,
    /// Bodies that are too large for a batch.
    large: Arc<Lookups>,
    writes: Arc<Writes>,
    log: Arc<Log>,
    owned: Arc<Owned>,
    /// Whether the application's connections lead to the store's server.
    server: SameServer,
    running: Running,
    commands: Mutex<mpsc::Sender<Command>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    stop: watch::Sender<bool>,
}

impl fmt::Debug for MySqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.inner.shared.settings;
        f.debug_struct("MySqlStore")
            .field("host", &settings.login.base.get_host())
            .field("port", &settings.login.base.get_port())
            .field("database", &settings.login.base.get_database())
            .field("table", &settings.table.plain())
            .field("server_version", &self.server_version())
            .finish_non_exhaustive()
    }
}

/// The most waiting culls and statistics.
const MAX_COMMANDS: usize = 64;

/// The smallest `max_allowed_packet` that the store accepts. The largest statements that write no entry fit into it,
/// and so do small entries.
const MIN_PACKET: usize = 131_072;

/// The most bytes of a statement with several rows.
const MAX_STATEMENT_BYTES: usize = 1 << 20;

impl MySqlStore {
    /// Connects with default settings: `builder(url)?.connect()`.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), tower_mysql_cache::StoreError> {
    /// use tower_mysql_cache::{CacheLayer, MySqlStore};
    ///
    /// let store = MySqlStore::connect("mysql://app:secret@db.internal/shop").await?;
    /// let cache = CacheLayer::new(store);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`MySqlStore::builder`] and [`MySqlStoreBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::builder(url)?.connect().await
    }

    /// Starts from a URL, `mysql://user:password@host:port/database` or `mariadb://...`, with the
    /// parameters that sqlx knows (`?ssl-mode=REQUIRED`, `?socket=/run/mysqld.sock`, ...).
    ///
    /// ```
    /// use tower_mysql_cache::MySqlStore;
    ///
    /// let store = MySqlStore::builder("mysql://app@localhost/shop?ssl-mode=REQUIRED")?.table("page_cache");
    /// assert!(MySqlStore::builder("postgres://app@localhost/shop").is_err());
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Config`] for a URL of another scheme or form, or without a database. The message
    /// never repeats the URL, which may hold a password.
    pub fn builder(url: &str) -> Result<MySqlStoreBuilder, StoreError> {
        Ok(MySqlStoreBuilder::from_url(url)?)
    }

    /// Starts from anything that sqlx can connect with: certificates, sockets, plugins; or from the options of the
    /// application's pool. The store opens its own connections and does not use the pool.
    ///
    /// ```no_run
    /// # async fn connect(pool: sqlx::MySqlPool) -> Result<(), tower_mysql_cache::StoreError> {
    /// use tower_mysql_cache::MySqlStore;
    ///
    /// let store = MySqlStore::builder_with(pool.connect_options()).connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder_with(options: impl Into<Arc<MySqlConnectOptions>>) -> MySqlStoreBuilder {
        MySqlStoreBuilder::new(Arc::unwrap_or_clone(options.into()))
    }

    /// The statement that creates a table of entries of this name, for people with migration tools of
    /// their own; [`MySqlStore::log_ddl_for`] has those of the invalidation log.
    ///
    /// ```
    /// let ddl = tower_mysql_cache::MySqlStore::ddl_for("page_cache")?;
    /// assert!(ddl.starts_with("CREATE TABLE IF NOT EXISTS `page_cache` ("));
    /// # Ok::<(), tower_mysql_cache::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] for what cannot be a table name.
    pub fn ddl_for(table: &str) -> Result<String, ConfigError> {
        Ok(schema::entries_ddl(&TableName::parse("table", table)?))
    }

    /// The statements that create an invalidation log of this name and the table of its state.
    ///
    /// ```
    /// let [log, state] = tower_mysql_cache::MySqlStore::log_ddl_for("page_log")?;
    /// assert!(log.starts_with("CREATE TABLE IF NOT EXISTS `page_log` ("));
    /// assert!(state.starts_with("CREATE TABLE IF NOT EXISTS `page_log_state` ("));
    /// # Ok::<(), tower_mysql_cache::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] for what cannot be a table name.
    pub fn log_ddl_for(log_table: &str) -> Result<[String; 2], ConfigError> {
        let log = TableName::parse("log_table", log_table)?;
        Ok([schema::log_ddl(&log), schema::log_state_ddl(&log.with_suffix("_state"))])
    }

    /// The statement that creates a table of leases of this name.
    ///
    /// ```
    /// let ddl = tower_mysql_cache::MySqlStore::lease_ddl_for("page_leases")?;
    /// assert!(ddl.starts_with("CREATE TABLE IF NOT EXISTS `page_leases` ("));
    /// # Ok::<(), tower_mysql_cache::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] for what cannot be a table name.
    pub fn lease_ddl_for(lease_table: &str) -> Result<String, ConfigError> {
        Ok(schema::lease_ddl(&TableName::parse("lease_table", lease_table)?))
    }

    /// The statements that create this store's tables, with semicolons.
    ///
    /// ```no_run
    /// # fn run(store: tower_mysql_cache::MySqlStore) -> std::io::Result<()> {
    /// std::fs::write("migrations/20260101_cache.sql", store.ddl())?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn ddl(&self) -> String {
        let tables = schema::tables(&self.inner.shared);
        tables.iter().map(|table| format!("{};\n", table.ddl)).collect()
    }

    /// Creates the tables that are missing, then checks them all. Any number of processes may call this
    /// at once, and an account that may not create tables may call it when there are all. It touches no
    /// other table, and never alters one.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), tower_mysql_cache::StoreError> {
    /// use tower_mysql_cache::MySqlStore;
    ///
    /// let store = MySqlStore::connect("mysql://app:secret@db.internal/shop").await?;
    /// store.migrate().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Schema`] when there is a table of another shape, [`StoreError::Database`] when it
    /// cannot be created, [`StoreError::Connect`].
    pub async fn migrate(&self) -> Result<(), StoreError> {
        schema::migrate(&self.inner.shared).await
    }

    /// Compares the tables with what the store needs: columns, types, primary key, index.
    ///
    /// ```no_run
    /// # async fn run(store: tower_mysql_cache::MySqlStore) {
    /// if let Err(error) = store.check().await {
    ///     eprintln!("{error}"); // the first difference, and what to do
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Schema`] with the first difference and what to do, [`StoreError::Database`],
    /// [`StoreError::Connect`].
    pub async fn check(&self) -> Result<(), StoreError> {
        schema::check(&self.inner.shared).await
    }

    /// What the server said to `VERSION()` when the store connected.
    ///
    /// ```no_run
    /// # fn run(store: tower_mysql_cache::MySqlStore) {
    /// println!("the cache is stored in {}", store.server_version()); // such as 11.8.3-MariaDB
    /// # }
    /// ```
    #[must_use]
    pub fn server_version(&self) -> &str {
        &self.inner.shared.version
    }

    /// Writes what is queued, closes the connections and ends the tasks. Every use of any handle after
    /// that fails with [`StoreError::Closed`]. Closing twice is fine.
    ///
    /// ```no_run
    /// # async fn run(
    /// #     listener: tokio::net::TcpListener,
    /// #     app: axum::Router,
    /// #     store: tower_mysql_cache::MySqlStore,
    /// #     signal: impl Future<Output = ()> + Send + 'static,
    /// # ) -> Result<(), std::io::Error> {
    /// axum::serve(listener, app).with_graceful_shutdown(signal).await?;
    /// store.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(&self) {
        self.inner.writes.close();
        self.inner.lookups.close();
        self.inner.large.close();
        self.inner.log.close();
        self.inner.stop.send_replace(true);
        let tasks = std::mem::take(&mut *lock(&self.inner.tasks));
        for task in tasks {
            let _ = task.await;
        }
    }

    /// Opens the first connection and starts the tasks.
    async fn start(settings: Settings) -> Result<Self, StoreError> {
        if Handle::try_current().is_err() {
            return Err(no_runtime());
        }
        let clock = DbClock::new();
        let (connection, server) = Connection::first(&settings, &clock).await?;
        if server.max_packet < MIN_PACKET {
            return Err(packet_too_small(server.max_packet));
        }
        let dialect = Dialect::of(&server.version);
        let Settings { table, log_table, log_state, lease_table, .. } = &settings;
        let sql = Sql::new(table, log_table, log_state, lease_table, dialect);
        let shared = Shared::new(settings, sql, server, clock);
        let inner = Arc::new(Inner::new(Arc::new(shared)));
        inner.start_tasks(Some(connection));
        Ok(Self { inner })
    }
}

fn packet_too_small(bytes: usize) -> StoreError {
    let rule = "the server must take statements of at least 131072 bytes: raise it in the server's configuration, or by \
                SET GLOBAL max_allowed_packet = 131072";
    ConfigError::new("max_allowed_packet", bytes, rule).into()
}

fn no_runtime() -> StoreError {
    let rule = "the store's tasks need one: call `connect` inside a tokio runtime";
    ConfigError::new("tokio runtime", About("missing"), rule).into()
}

impl Inner {
    fn new(shared: Arc<Shared>) -> Self {
        let settings = &shared.settings;
        let statement_bytes = MAX_STATEMENT_BYTES.min(shared.max_packet / 2);
        Self {
            lookups: Lookups::new(settings.query_timeout),
            large: Lookups::of_large(settings.query_timeout),
            writes: Writes::new(settings.queue_bytes, statement_bytes),
            log: Log::new(settings.log_table.clone()),
            owned: Arc::default(),
            server: SameServer::default(),
            running: Running::default(),
            // replaced when the tasks start
            commands: Mutex::new(mpsc::channel(1).0),
            tasks: Mutex::default(),
            stop: watch::channel(false).0,
            shared,
        }
    }
}
