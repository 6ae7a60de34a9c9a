//! The store in a table of MySQL or MariaDB.
//!
//! A handle puts work into queues; tasks own the connections and do it (`reader`, `writer`,
//! `maintenance`). So no request ever owns a query, and a request that is dropped harms nothing.

mod codec;
mod connection;
mod cull;
mod failure;
mod lookups;
mod maintenance;
mod migrate;
mod options;
mod owned;
mod reader;
mod shared;
mod sql;
mod writer;
mod writes;

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use rand::SeedableRng;
use rand::rngs::StdRng;
use sqlx::mysql::MySqlConnectOptions;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};

pub use self::options::MySqlStoreBuilder;

use self::codec::{RawRow, Reading, Row};
use self::connection::Connection;
use self::lookups::{Answer, Hash, Lookups};
use self::maintenance::{Command, Link, Maintenance};
use self::options::Settings;
use self::owned::Owned;
use self::shared::{DbClock, Shared, lock};
use self::sql::{Dialect, MAX_KEYS, Sql, TableName};
use self::writer::Writer;
use self::writes::{Freshen, Job, Put, Ticket, Writes};
use super::{CullReport, Store, StoreError, StoreStats};
use crate::error::ConfigError;
use crate::key::{CacheKey, KeyRange};
use crate::stored::{Entry, Stored, StoredHead};

/// A store in one table of a MySQL or MariaDB database.
///
/// A handle: clones share connections and queues. It opens `read_connections` (2) connections for
/// lookups, one for writes and one for maintenance, all its own. When the last handle goes, what was
/// queued is written, the connections are closed and the tasks end; [`close`](MySqlStore::close) waits
/// for that.
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
    writes: Arc<Writes>,
    commands: mpsc::Sender<Command>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    stop: watch::Sender<bool>,
}

impl fmt::Debug for MySqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.inner.shared.settings;
        f.debug_struct("MySqlStore")
            .field("host", &settings.options.get_host())
            .field("port", &settings.options.get_port())
            .field("database", &settings.options.get_database())
            .field("table", &settings.table.plain())
            .field("server_version", &self.server_version())
            .finish_non_exhaustive()
    }
}

/// Culls and statistics that may wait.
const MAX_COMMANDS: usize = 64;

/// Bytes of `max_allowed_packet` that are left for the rest of a statement.
const PACKET_RESERVE: usize = 64 * 1024;

/// Most bytes of a statement with several rows.
const MAX_STATEMENT_BYTES: usize = 1 << 20;

impl MySqlStore {
    /// Connects with default settings: `builder(url)?.connect()`.
    ///
    /// # Errors
    /// As [`MySqlStore::builder`] and [`MySqlStoreBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::builder(url)?.connect().await
    }

    /// Starts from a URL, `mysql://user:password@host:port/database` or `mariadb://...`, with the
    /// parameters that sqlx knows (`?ssl-mode=REQUIRED`, `?socket=/run/mysqld.sock`, ...).
    ///
    /// # Errors
    /// [`StoreError::Config`] for a URL of another scheme or form, or without a database. The message
    /// never repeats the URL, which may hold a password.
    pub fn builder(url: &str) -> Result<MySqlStoreBuilder, StoreError> {
        Ok(MySqlStoreBuilder::from_url(url)?)
    }

    /// Starts from anything that sqlx can connect with: certificates, sockets, plugins.
    pub fn builder_with(options: MySqlConnectOptions) -> MySqlStoreBuilder {
        MySqlStoreBuilder::new(options)
    }

    /// The statement that creates a table of this name, for people with migration tools of their own.
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
        Ok(migrate::ddl(&TableName::parse(table)?))
    }

    /// The statement that creates this store's table.
    #[must_use]
    pub fn ddl(&self) -> String {
        migrate::ddl(&self.inner.shared.settings.table)
    }

    /// Creates the table if it is missing, then checks it. Any number of processes may call this at
    /// once, and an account that may not create tables may call it when there is one. It touches no
    /// other table, and never alters one.
    ///
    /// # Errors
    /// [`StoreError::Schema`] when there is a table of another shape, [`StoreError::Database`] when it
    /// cannot be created, [`StoreError::Connect`].
    pub async fn migrate(&self) -> Result<(), StoreError> {
        migrate::migrate(&self.inner.shared).await
    }

    /// Compares the table with what the store needs: columns, types, primary key, index.
    ///
    /// # Errors
    /// [`StoreError::Schema`] with the first difference and what to do, [`StoreError::Database`],
    /// [`StoreError::Connect`].
    pub async fn check(&self) -> Result<(), StoreError> {
        migrate::check(&self.inner.shared).await
    }

    /// What the server said to `VERSION()` when the store connected.
    #[must_use]
    pub fn server_version(&self) -> &str {
        &self.inner.shared.version
    }

    /// Writes what is queued, closes the connections and ends the tasks. Every use of any handle after
    /// that fails with [`StoreError::Closed`]. Closing twice is fine.
    pub async fn close(&self) {
        self.inner.writes.close();
        self.inner.lookups.close();
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
        let sql = Sql::new(&settings.table, Dialect::of(&server.version));
        let shared = Shared::new(settings, sql, server.version, server.max_packet, clock);
        Ok(Self { inner: Arc::new(Inner::spawn(Arc::new(shared), connection)) })
    }

    /// Asks for at most [`MAX_KEYS`] keys.
    fn ask(&self, keys: &[CacheKey]) -> Result<oneshot::Receiver<Answer>, StoreError> {
        self.inner.lookups.push(keys.iter().map(CacheKey::hash).collect::<Vec<Hash>>())
    }

    /// Understands a row, off the async threads when it is a large compressed one.
    async fn read(&self, key: &CacheKey, row: RawRow) -> Option<Stored> {
        let now_ms = self.now_ms();
        let reading = if codec::is_slow_to_decode(&row) {
            let key = key.clone();
            spawn_blocking(move || codec::decode(&key, row, now_ms))
                .await
                .unwrap_or(Reading::Absent)
        } else {
            codec::decode(key, row, now_ms)
        };
        match reading {
            Reading::Found(stored) => Some(stored),
            Reading::Absent => None,
            Reading::Unreadable => {
                self.inner.shared.unreadable(key.as_bytes());
                None
            }
        }
    }

    /// Makes the row of an entry, off the async threads when there is much to compress.
    async fn row(&self, entry: Entry) -> Result<Row, StoreError> {
        let compressing = self.inner.shared.settings.compressing;
        let now_ms = self.now_ms();
        let row = if codec::is_slow_to_encode(&entry, compressing) {
            spawn_blocking(move || codec::encode(&entry, compressing, now_ms))
                .await
                .map_err(|_| StoreError::Closed)?
        } else {
            codec::encode(&entry, compressing, now_ms)
        }?;
        self.fits(row.packet_bytes(), self.inner.shared.max_packet.saturating_sub(PACKET_RESERVE))?;
        Ok(row)
    }

    fn fits(&self, size: usize, limit: usize) -> Result<(), StoreError> {
        if size > limit {
            return Err(StoreError::TooLarge { size, limit });
        }
        Ok(())
    }

    /// Counts an entry that is not stored without having got as far as the database.
    fn refused(&self, error: StoreError) -> StoreError {
        let counters = &self.inner.shared.counters;
        match &error {
            StoreError::TooLarge { .. } => {
                counters.too_large.fetch_add(1, Relaxed);
            }
            StoreError::Overloaded => self.inner.shared.shed(),
            _ => {}
        }
        error
    }

    /// Reserves room for an entry, makes its row and gives both to be queued.
    async fn prepare(&self, entry: Entry) -> Result<(Put, oneshot::Receiver<Done>), StoreError> {
        let size = entry.stored.size_bytes().saturating_add(entry.key.as_bytes().len());
        self.fits(size, self.inner.shared.settings.max_entry_bytes)?;
        let share = self.inner.writes.reserve(size)?;
        let row = self.row(entry).await?;
        let (ack, done) = oneshot::channel();
        Ok((Put { row, share, ack }, done))
    }

    /// Queues a job and waits for its outcome.
    async fn submit<T>(
        &self,
        job: Job,
        outcome: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.inner.writes.push(job)?;
        outcome.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Asks the maintaining task and waits for its answer.
    async fn command<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (answer, receiver) = oneshot::channel();
        self.inner.commands.try_send(command(answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        receiver.await.unwrap_or(Err(StoreError::Closed))
    }
}

type Done = Result<(), StoreError>;

fn no_runtime() -> StoreError {
    let rule = "the store's tasks need one: call `connect` inside of it";
    ConfigError::new("tokio runtime", "missing", rule).into()
}

impl Inner {
    fn spawn(shared: Arc<Shared>, connection: Connection) -> Self {
        let settings = &shared.settings;
        let lookups = Lookups::new(settings.queue_lookups, settings.query_timeout);
        let statement_bytes = MAX_STATEMENT_BYTES.min(shared.max_packet / 2);
        let writes = Writes::new(settings.queue_bytes, statement_bytes);
        let owned = Arc::new(Owned::default());
        let (stop, stopping) = watch::channel(false);
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
        let mut first = Some((connection, lookups.lane_up()));
        let mut tasks: Vec<JoinHandle<()>> = (0..settings.read_connections)
            .map(|_| {
                let (shared, lookups) = (Arc::clone(&shared), Arc::clone(&lookups));
                tokio::spawn(reader::lane(shared, lookups, first.take(), stopping.clone()))
            })
            .collect();
        let random = |salt: u64| match settings.seed {
            Some(seed) => StdRng::seed_from_u64(seed.wrapping_add(salt)),
            None => rand::make_rng(),
        };
        let writer = Writer {
            shared: Arc::clone(&shared),
            queue: Arc::clone(&writes),
            owned: Arc::clone(&owned),
            random: random(0),
            stop: stopping.clone(),
        };
        tasks.push(tokio::spawn(writer.run()));
        let maintenance = Maintenance {
            shared: Arc::clone(&shared),
            owned,
            commands: receiver,
            random: random(1),
            stop: stopping,
            estimates: cull::Estimates::default(),
            link: Link::default(),
        };
        tasks.push(tokio::spawn(maintenance.run()));
        Self { shared, lookups, writes, commands, tasks: Mutex::new(tasks), stop }
    }
}

impl Store for MySqlStore {
    fn now_ms(&self) -> u64 {
        self.inner.shared.clock.now_ms()
    }

    async fn get_many(&self, keys: Vec<CacheKey>) -> Result<Vec<Option<Stored>>, StoreError> {
        let mut found = Vec::with_capacity(keys.len());
        // a very long list does not take the whole queue at once
        for group in keys.chunks(MAX_KEYS * 4) {
            let asked = group
                .chunks(MAX_KEYS)
                .map(|chunk| self.ask(chunk).map(|answer| (chunk, answer)))
                .collect::<Result<Vec<_>, _>>()?;
            for (chunk, answer) in asked {
                let rows = answer.await.unwrap_or(Err(StoreError::Unavailable))?;
                for (key, row) in chunk.iter().zip(rows) {
                    found.push(match row {
                        Some(row) => self.read(key, row).await,
                        None => None,
                    });
                }
            }
        }
        Ok(found)
    }

    async fn put_many(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        let compressing = self.inner.shared.settings.compressing;
        let slow = entries.iter().any(|entry| codec::is_slow_to_encode(entry, compressing));
        let ticket: Option<Ticket> = slow.then(|| self.inner.writes.ticket());
        let (mut puts, mut waiting, mut outcome) = (Vec::new(), Vec::new(), Ok(()));
        for entry in entries {
            match self.prepare(entry).await {
                Ok((put, done)) => {
                    puts.push(put);
                    waiting.push(done);
                }
                Err(error) => outcome = outcome.and(Err(self.refused(error))),
            }
        }
        self.inner.writes.put(puts, ticket.as_ref())?;
        drop(ticket);
        for done in waiting {
            outcome = outcome.and(done.await.unwrap_or(Err(StoreError::Closed)));
        }
        outcome
    }

    async fn freshen(
        &self,
        key: CacheKey,
        head: Arc<StoredHead>,
        expires_ms: u64,
    ) -> Result<bool, StoreError> {
        let column = codec::encode_head(&key, &head, expires_ms)?;
        let share = self.inner.writes.reserve(column.len())?;
        let (ack, outcome) = oneshot::channel();
        let freshen = Freshen {
            hash: key.hash(),
            key: key.to_bytes(),
            head: column,
            expires_ms,
            born_ms: head.received_ms,
            fresh_until_ms: head.fresh_until_ms,
            gen_ms: head.gen_ms,
            status: head.status.as_u16(),
            _share: share,
            ack,
        };
        self.submit(Job::Freshen(freshen), outcome).await
    }

    async fn remove(&self, range: KeyRange) -> Result<u64, StoreError> {
        let (ack, outcome) = oneshot::channel();
        self.submit(Job::Remove(range, ack), outcome).await
    }

    async fn cull(&self) -> Result<CullReport, StoreError> {
        self.command(Command::Cull).await
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        let figures = self.command(Command::Stats).await?;
        let counters = &self.inner.shared.counters;
        Ok(StoreStats {
            entries: figures.entries,
            bytes: figures.bytes,
            estimated: !figures.exact,
            unreadable: counters.unreadable.load(Relaxed),
            shed: counters.shed.load(Relaxed),
            too_large: counters.too_large.load(Relaxed),
            failures: counters.failures.load(Relaxed),
            culls: counters.culls.load(Relaxed),
        })
    }

    async fn flush(&self) -> Result<(), StoreError> {
        let (ack, outcome) = oneshot::channel();
        self.submit(Job::Flush(ack), outcome).await
    }
}
