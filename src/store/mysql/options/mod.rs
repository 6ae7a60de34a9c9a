//! Which settings does the store have?

mod login;
mod settings;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use sqlx::ConnectOptions;
use sqlx::mysql::MySqlConnectOptions;

use self::login::Login;
pub(super) use self::login::LoginError;
pub(super) use self::settings::Settings;
use super::MySqlStore;
use super::codec::{Compressing, Compression};
use crate::error::{About, ConfigError};
use crate::store::StoreError;

/// Prepared statements that a connection keeps. It never has so many, because sqlx 0.9.0 stalls for 44 ms on each
/// that it closes.
const STATEMENT_CACHE: usize = 256;

/// Makes a [`MySqlStore`]; see [`MySqlStore::builder`]. Settings are checked by
/// [`connect`](MySqlStoreBuilder::connect), before the network is touched.
///
/// ```no_run
/// # async fn connect() -> Result<(), tower_mysql_cache::StoreError> {
/// use std::time::Duration;
/// use tower_mysql_cache::MySqlStore;
///
/// let store = MySqlStore::builder("mysql://cache:secret@db.internal/shop")?
///     .table("page_cache")
///     .query_timeout(Duration::from_millis(500))
///     .max_entries(100_000)
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `connect`"]
pub struct MySqlStoreBuilder {
    login: Login,
    table: String,
    log_table: String,
    lease_table: String,
    encrypted: bool,
    check_server: bool,
    connect_timeout: Duration,
    query_timeout: Duration,
    write_timeout: Duration,
    read_connections: usize,
    max_entry_bytes: usize,
    queue_bytes: usize,
    compressing: Compressing,
    background_cull: bool,
    cull_probability: f64,
    idle_cull_interval: Duration,
    max_entries: u64,
    max_bytes: u64,
    log_retention: Duration,
    poll_interval: Duration,
    gap_grace: Duration,
}

impl fmt::Debug for MySqlStoreBuilder {
    /// Redacts credentials: of the connection, it shows only host, port and database.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlStoreBuilder")
            .field("host", &self.login.base.get_host())
            .field("port", &self.login.base.get_port())
            .field("database", &self.login.base.get_database())
            .field("table", &self.table)
            .field("log_table", &self.log_table)
            .field("lease_table", &self.lease_table)
            .field("encrypted", &self.encrypted)
            .field("connect_timeout", &self.connect_timeout)
            .field("query_timeout", &self.query_timeout)
            .field("write_timeout", &self.write_timeout)
            .field("read_connections", &self.read_connections)
            .field("max_entry_bytes", &self.max_entry_bytes)
            .field("queue_bytes", &self.queue_bytes)
            .field("compression", &self.compressing.compression)
            .field("background_cull", &self.background_cull)
            .field("cull_probability", &self.cull_probability)
            .field("idle_cull_interval", &self.idle_cull_interval)
            .field("max_entries", &self.max_entries)
            .field("max_bytes", &self.max_bytes)
            .field("log_retention", &self.log_retention)
            .field("poll_interval", &self.poll_interval)
            .field("gap_grace", &self.gap_grace)
            .finish()
    }
}

impl MySqlStoreBuilder {
    /// # Errors
    /// [`ConfigError`] for a URL of another scheme or form; it never repeats the URL, which may hold a
    /// password.
    pub(super) fn from_url(url: &str) -> Result<Self, ConfigError> {
        const RULE: &str = "it must be of the form mysql://user:password@host:port/database";
        let Some((scheme, _)) = url.split_once("://") else {
            return Err(ConfigError::new("url", About("no URL"), RULE));
        };
        if scheme != "mysql" && scheme != "mariadb" {
            return Err(ConfigError::new("url", format!("{scheme}://..."), RULE));
        }
        let masked = || format!("{scheme}://...");
        let options: MySqlConnectOptions =
            url.parse().map_err(|_| ConfigError::new("url", masked(), RULE))?;
        if options.get_database().is_none_or(str::is_empty) {
            return Err(ConfigError::new(
                "url",
                masked(),
                "it must name a database: mysql://user:password@host:port/database",
            ));
        }
        Ok(Self::new(options.disable_statement_logging()))
    }

    pub(super) fn new(options: MySqlConnectOptions) -> Self {
        Self {
            login: Login::new(options),
            table: "cache_entries".to_owned(),
            log_table: "cache_invalidations".to_owned(),
            lease_table: "cache_leases".to_owned(),
            encrypted: false,
            check_server: true,
            connect_timeout: Duration::from_secs(5),
            query_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(5),
            read_connections: 2,
            max_entry_bytes: 16 * 1024 * 1024,
            queue_bytes: 64 * 1024 * 1024,
            compressing: Compressing::default(),
            background_cull: true,
            cull_probability: 0.01,
            idle_cull_interval: Duration::from_secs(30),
            max_entries: 1_000_000,
            max_bytes: 1 << 30,
            log_retention: Duration::from_secs(7 * 24 * 3600),
            poll_interval: Duration::from_millis(100),
            gap_grace: Duration::from_secs(10),
        }
    }

    /// Asks for credentials before each new connection, for passwords that change and for tokens with a short life. The
    /// provider gets the builder's connect options and returns those to connect with. It may change everything but the
    /// server and the database. Connections that are open stay open. Default: the builder's options, unchanged.
    ///
    /// ```no_run
    /// # async fn token() -> Result<String, std::io::Error> { Ok("secret".to_owned()) }
    /// # async fn connect() -> Result<(), tower_mysql_cache::StoreError> {
    /// use tower_mysql_cache::MySqlStore;
    /// use tower_mysql_cache::sqlx::mysql::MySqlConnectOptions;
    ///
    /// async fn login(options: MySqlConnectOptions) -> Result<MySqlConnectOptions, std::io::Error> {
    ///     Ok(options.password(&token().await?))
    /// }
    /// let builder = MySqlStore::builder("mysql://cache@db.internal/shop")?;
    /// let store = builder.credentials(login).connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The call counts towards [`connect_timeout`](Self::connect_timeout). Its error becomes the source of a
    /// [`StoreError::Connect`]; the store then asks again, after 50 ms to 1 s.
    pub fn credentials<F, Fut, E>(mut self, provider: F) -> Self
    where
        F: Fn(MySqlConnectOptions) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<MySqlConnectOptions, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.login.ask(provider);
        self
    }

    /// The table that holds the entries: a name of letters, digits, `_` and `$`, or two of them with a
    /// dot between for a table in another database. Default: `cache_entries`.
    ///
    /// ```
    /// # use tower_mysql_cache::MySqlStore;
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.table("page_cache");
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.table = name.into();
        self
    }

    /// The table of the invalidation log, named like [`table`](Self::table), at most 58 characters; a
    /// second small one beside it, with `_state` at its end, remembers how far the log is settled. All
    /// stores on one server that are to see each other's invalidations have to name the same log.
    /// Default: `cache_invalidations`, in the database of the entries.
    ///
    /// ```
    /// # use tower_mysql_cache::MySqlStore;
    /// // one log for all applications on this server
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.log_table("cache.invalidations");
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn log_table(mut self, name: impl Into<String>) -> Self {
        self.log_table = name.into();
        self
    }

    /// The table of leases, named like [`table`](Self::table). Processes with
    /// [`Collapse::Cluster`](crate::policy::Collapse::Cluster) agree there on which of them calls the handler. An unused table
    /// costs nothing. Default: `cache_leases`, in the database of the entries.
    ///
    /// ```
    /// # use tower_mysql_cache::MySqlStore;
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.lease_table("page_leases");
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn lease_table(mut self, name: impl Into<String>) -> Self {
        self.lease_table = name.into();
        self
    }

    /// How long rows of the invalidation log are stored. A response that is stored for longer than this is not served
    /// without validation if rows that it has not seen were deleted. Default: 7 days.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::MySqlStore;
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.log_retention(Duration::from_hours(24));
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn log_retention(mut self, retention: Duration) -> Self {
        self.log_retention = retention;
        self
    }

    /// How long an invalidation of another process may take to count for a [`Tiered`](crate::Tiered) front
    /// with [`Consistency::Bounded`](crate::store::Consistency::Bounded). A process in use reads the log twice in
    /// this time, so that hits in front do not wait; each lookup in the table reads it too. Default:
    /// 100 ms.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::MySqlStore;
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.poll_interval(Duration::from_millis(50));
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// How long an id of the log may be without a row before the server is asked whether a transaction still holds
    /// it. This covers the moment after the server has given the id and before it inserts the row. While a gap is
    /// open, nothing stale is served; log verdicts are only stricter. Default: 10 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::MySqlStore;
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.gap_grace(Duration::from_secs(30));
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn gap_grace(mut self, grace: Duration) -> Self {
        self.gap_grace = grace;
        self
    }

    /// How long to wait for a new connection. If an attempt hangs, another one begins beside it after 1.5 s.
    /// Default: 5 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::MySqlStore;
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.connect_timeout(Duration::from_secs(10));
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a lookup may take in the database. A lookup that takes longer costs its connection, which is
    /// replaced. Default: 1 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::MySqlStore;
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.query_timeout(Duration::from_millis(500));
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn query_timeout(mut self, timeout: Duration) -> Self {
        self.query_timeout = timeout;
        self
    }

    /// How long one statement that writes, culls or counts may take in the database. Default: 5 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::MySqlStore;
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.write_timeout(Duration::from_secs(10));
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// Connections for lookups, 1 to 16, opened when there is work for them. The store has up to four more:
    /// one for writes, one for the invalidation log, one for maintenance, and one for bodies of more than 64 KiB.
    /// Default: 2, so 6 in all (measured: 4 for lookups are better from about 256 concurrent requests on, more never).
    ///
    /// ```
    /// # use tower_mysql_cache::MySqlStore;
    /// // for more than 256 concurrent requests
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.read_connections(4);
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn read_connections(mut self, connections: usize) -> Self {
        self.read_connections = connections;
        self
    }

    /// The largest entry in bytes: key, head and body before compression. Entries that do not fit into
    /// the server's `max_allowed_packet` (less 64 KiB) are refused too. The store does not decompress a body that
    /// claims to be larger, so that no damaged row takes more memory. Default: 16 MiB.
    ///
    /// ```
    /// # use tower_mysql_cache::MySqlStore;
    /// // 1 MiB
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.max_entry_bytes(1 << 20);
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn max_entry_bytes(mut self, bytes: usize) -> Self {
        self.max_entry_bytes = bytes;
        self
    }

    /// Bytes of entries that may wait to be written. More are refused and counted. Default: 64 MiB.
    ///
    /// ```
    /// # use tower_mysql_cache::MySqlStore;
    /// // 128 MiB
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.queue_bytes(128 << 20);
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// Whether the tables are encrypted on the server's disks. What is in them is as confidential as the pages
    /// themselves (RFC 9111 7.3). [`migrate`](MySqlStore::migrate) creates them so (`ENCRYPTED=YES` on MariaDB,
    /// `ENCRYPTION='Y'` on MySQL), and both it and [`check`](MySqlStore::check) refuse tables that are not. The server
    /// has to have its keys: a key management plugin on MariaDB, a keyring component on MySQL. Default: `false`, which
    /// leaves it to the server's own defaults.
    ///
    /// ```
    /// # use tower_mysql_cache::MySqlStore;
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.encrypted(true);
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn encrypted(mut self, encrypted: bool) -> Self {
        self.encrypted = encrypted;
        self
    }

    /// Whether invalidations in the application's transactions
    /// ([`CacheHandle::invalidate_on`](crate::CacheHandle::invalidate_on)) are refused on a connection to another server
    /// than the store's: a database of the same name there would take the row, and nothing would be invalidated.
    /// Servers are told apart by host name, port, data directory and UUID, at most once a second. Switch it off where
    /// a proxy shows one server as several. Default: `true`.
    ///
    /// ```
    /// # use tower_mysql_cache::MySqlStore;
    /// // behind a proxy that shows one server as several
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.check_server(false);
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn check_server(mut self, check_server: bool) -> Self {
        self.check_server = check_server;
        self
    }

    /// How bodies are compressed in the table. Clients always get uncompressed bodies. Default: `Zlib(2)`.
    ///
    /// ```
    /// # use tower_mysql_cache::MySqlStore;
    /// use tower_mysql_cache::store::Compression;
    ///
    /// let builder = MySqlStore::builder("mysql://app@localhost/shop")?;
    /// # #[cfg(feature = "zstd")]
    /// // with the feature `zstd`
    /// let builder = builder.compression(Compression::Zstd(3));
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compressing.compression = compression;
        self
    }

    /// Which bodies are compressed: the closure gets the response's header fields, and the length of the body in bytes. It
    /// is not asked for bodies with a `Content-Encoding`, which are stored unchanged. A compressed body that is not
    /// smaller by a tenth is stored unchanged too. Default: [`Compression::is_worthwhile`].
    ///
    /// ```
    /// # use tower_mysql_cache::MySqlStore;
    /// use tower_mysql_cache::store::Compression;
    ///
    /// // larger rows, and less work for small pages
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?
    ///     .compress_when(|headers, bytes| bytes >= 16 << 10 && Compression::is_worthwhile(headers, bytes));
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn compress_when(
        mut self,
        when: impl Fn(&HeaderMap, usize) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.compressing.when = Arc::new(when);
        self
    }

    /// Whether expired entries are removed and limits kept in the background. Without it the table
    /// grows until the application calls [`Admin::cull`](crate::store::Admin::cull); old rows of the invalidation log and of
    /// leases are removed all the same. Default: `true`.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), tower_mysql_cache::StoreError> {
    /// use tower_mysql_cache::MySqlStore;
    /// use tower_mysql_cache::store::Admin;
    ///
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.background_cull(false).connect().await?;
    /// // once a night
    /// store.cull().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn background_cull(mut self, on: bool) -> Self {
        self.background_cull = on;
        self
    }

    /// The probability that a written row starts a cull in the background: above 0, at most 1. A cull examines `10 /
    /// probability` rows, so ten for each row written. A smaller value means rarer and larger culls. Default: 0.01.
    ///
    /// ```
    /// # use tower_mysql_cache::MySqlStore;
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.cull_probability(0.001);
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn cull_probability(mut self, probability: f64) -> Self {
        self.cull_probability = probability;
        self
    }

    /// How often a cull runs when nothing is written, and how often old rows of the invalidation log and of leases
    /// are deleted, with a random deviation of a tenth. Default: 30 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::MySqlStore;
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.idle_cull_interval(Duration::from_mins(5));
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn idle_cull_interval(mut self, interval: Duration) -> Self {
        self.idle_cull_interval = interval;
        self
    }

    /// The most entries in the table for each prefix that this process writes. The store keeps it within a few
    /// percent by evicting the oldest. Default: 1,000,000.
    ///
    /// ```
    /// # use tower_mysql_cache::MySqlStore;
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.max_entries(100_000);
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn max_entries(mut self, entries: u64) -> Self {
        self.max_entries = entries;
        self
    }

    /// The most bytes (keys, heads and bodies as stored) in the table for each prefix that this process writes. The
    /// store keeps it within a few percent by evicting the oldest. Default: 1 GiB.
    ///
    /// ```
    /// # use tower_mysql_cache::MySqlStore;
    /// // 4 GiB
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.max_bytes(4 << 30);
    /// # Ok::<(), tower_mysql_cache::StoreError>(())
    /// ```
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Checks the settings, opens a first connection and starts the store's tasks. The table is not
    /// looked at: see [`MySqlStore::migrate`] and [`MySqlStore::check`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_mysql_cache::StoreError> {
    /// use tower_mysql_cache::MySqlStore;
    ///
    /// // a wrong setting is an error before the network is touched
    /// let store = MySqlStore::builder("mysql://app@localhost/shop")?.read_connections(50);
    /// let error = store.connect().await.unwrap_err();
    /// assert_eq!(error.to_string(), "read_connections is 50; it must be from 1 to 16");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - [`StoreError::Config`] for a setting that cannot work, or outside of a tokio runtime.
    /// - [`StoreError::Connect`] when there is no server, it refuses the login or has no such
    ///   database, at the latest after `connect_timeout`.
    pub async fn connect(self) -> Result<MySqlStore, StoreError> {
        MySqlStore::start(self.settings()?).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "mysql://me:hunter2@127.0.0.1:3306/cache";

    fn refused(change: impl FnOnce(MySqlStoreBuilder) -> MySqlStoreBuilder) -> String {
        let builder = change(MySqlStoreBuilder::from_url(URL).unwrap());
        builder.settings().err().expect("is refused").to_string()
    }

    #[test]
    fn defaults_are_valid() {
        assert!(MySqlStoreBuilder::from_url(URL).unwrap().settings().is_ok());
    }

    #[test]
    fn bad_settings_are_named_with_value_and_rule() {
        for (message, parts) in [
            (refused(|b| b.table("a b")), ["table", "\"a b\"", "1 to 64"]),
            (refused(|b| b.read_connections(0)), ["read_connections", "is 0;", "1 to 16"]),
            (refused(|b| b.read_connections(17)), ["read_connections", "is 17;", "1 to 16"]),
            (
                refused(|b| b.connect_timeout(Duration::ZERO)),
                ["connect_timeout", "is 0 ns;", "1 ms"],
            ),
            (refused(|b| b.query_timeout(Duration::MAX)), ["query_timeout", " s;", "10 min"]),
            (refused(|b| b.write_timeout(Duration::ZERO)), ["write_timeout", "is 0 ns;", "1 ms"]),
            (refused(|b| b.max_entry_bytes(0)), ["max_entry_bytes", "is 0;", "1 KiB"]),
            (refused(|b| b.queue_bytes(5)), ["queue_bytes", "is 5;", "max_entry_bytes"]),
            (
                refused(|b| b.compression(Compression::Zlib(10))),
                ["compression", "is Zlib(10);", "1 (fast)"],
            ),
            (
                refused(|b| b.cull_probability(0.0)),
                ["cull_prob", "is 0;", "background_cull(false)"],
            ),
            (refused(|b| b.cull_probability(f64::NAN)), ["cull_prob", "is NaN;", "0.000001"]),
            (refused(|b| b.cull_probability(1.5)), ["cull_prob", "is 1.5;", "0.000001"]),
            (
                refused(|b| b.idle_cull_interval(Duration::ZERO)),
                ["idle_cull_interval", "is 0 ns;", "background_cull(false)"],
            ),
            (refused(|b| b.max_entries(0)), ["max_entries", "is 0;", "at least 1"]),
            (refused(|b| b.max_bytes(0)), ["max_bytes", "is 0;", "at least 1 KiB"]),
            (refused(|b| b.log_table("a`b")), ["log_table", "\"a`b\"", "1 to 64"]),
            (refused(|b| b.lease_table("a b")), ["lease_table", "\"a b\"", "1 to 64"]),
            (refused(|b| b.log_table("x".repeat(59))), ["log_table", "xxx", "58"]),
            (
                refused(|b| b.log_retention(Duration::from_secs(1))),
                ["log_retention", "is 1 s;", "1 min"],
            ),
            (refused(|b| b.poll_interval(Duration::ZERO)), ["poll_interval", "is 0 ns;", "1 ms"]),
            (refused(|b| b.gap_grace(Duration::ZERO)), ["gap_grace", "is 0 ns;", "100 ms"]),
        ] {
            for part in parts {
                assert!(message.contains(part), "{message:?} has no {part:?}");
            }
        }
    }

    #[test]
    fn bad_urls_are_refused_without_repeating_the_password() {
        for url in [
            "",
            "me:hunter2@host/db",
            "postgres://me:hunter2@host/db",
            "mysql://me:hunter2@host",
            "mysql://me:hunter2@host/",
            "mysql://me:hunter2@host:port/db",
            "mysql://me:hunter2@host/db?ssl-mode=hunter2",
        ] {
            let error = MySqlStoreBuilder::from_url(url).unwrap_err();
            assert_eq!(error.setting(), "url", "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        assert!(MySqlStoreBuilder::from_url("mariadb://host/db").is_ok());
    }

    #[test]
    fn debug_output_has_no_password() {
        let shown = format!("{:?}", MySqlStoreBuilder::from_url(URL).unwrap());
        assert!(shown.contains("127.0.0.1") && !shown.contains("hunter2"), "{shown}");
    }
}
