//! How is a connection opened, configured, and used within deadlines?
//!
//! Only the store's own tasks use connections. If a query of sqlx is dropped half way, its answer stays on the wire.
//! So no request ever cancels a query, and a connection is dropped if one of its queries times out.

use std::future::Future;
use std::time::{Duration, Instant};

use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlRow};
use sqlx::query::Query;
use sqlx::{Connection as _, Executor as _, MySql, Row as _};
use tokio::time::timeout;

use super::super::options::{LoginError, Settings};
use super::super::shared::{DbClock, Server, Shared};
use super::super::sql::{TableName, Text, safe};
use super::failure::Failure;
use crate::store::StoreError;

/// What a connection is for. This decides how long its statements may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Role {
    /// Lookups: `query_timeout`.
    Lookups,
    /// Writes and maintenance: `write_timeout`.
    Writes,
    /// The invalidation log: `query_timeout`.
    Log,
    /// Creating and describing tables: ten times `write_timeout`.
    Schema,
}

impl Role {
    pub(in super::super) fn deadline(self, settings: &Settings) -> Duration {
        match self {
            Self::Lookups | Self::Log => settings.query_timeout,
            Self::Writes => settings.write_timeout,
            Self::Schema => settings.write_timeout.saturating_mul(10),
        }
    }
}

/// A statement with its bound values.
pub(in super::super) type Statement = Query<'static, MySql, MySqlArguments>;

pub(in super::super) fn statement(text: &Text) -> Statement {
    sqlx::query(safe(text))
}

#[derive(Debug)]
pub(in super::super) struct Connection {
    inner: MySqlConnection,
    role: Role,
    deadline: Duration,
    pub(in super::super) used: Instant,
    /// Whether it is confirmed that this server has the log that this process has read.
    pub(in super::super) has_the_log: bool,
}

/// How many times the clock is read at the start. The best answer is used.
const CLOCK_SAMPLES: usize = 3;

impl Connection {
    /// Opens a connection within `connect_timeout`.
    ///
    /// # Errors
    /// [`StoreError::Connect`].
    pub(in super::super) async fn open(
        settings: &Settings,
        role: Role,
    ) -> Result<Self, StoreError> {
        let attempt = || async {
            let mut inner = connect(settings).await?;
            set_up(&mut inner, role.deadline(settings)).await?;
            let deadline = role.deadline(settings);
            Ok(Self { inner, role, deadline, used: Instant::now(), has_the_log: false })
        };
        within(settings.connect_timeout, first_of(&attempt)).await
    }

    /// Opens the first connection within `connect_timeout`, and asks the server what the store needs to know.
    ///
    /// # Errors
    /// [`StoreError::Connect`].
    pub(in super::super) async fn first(
        settings: &Settings,
        clock: &DbClock,
    ) -> Result<(Self, Server), StoreError> {
        within(settings.connect_timeout, async {
            let mut inner = connect(settings).await?;
            let deadline = Role::Lookups.deadline(settings);
            set_up(&mut inner, deadline).await?;
            let row = sqlx::query(
                "SELECT CAST(VERSION() AS CHAR) AS version, \
                 CAST(@@max_allowed_packet AS UNSIGNED) AS max_packet, \
                 CAST(@@auto_increment_increment AS UNSIGNED) AS id_step",
            )
            .fetch_one(&mut inner)
            .await?;
            let max_packet: u64 = row.try_get("max_packet")?;
            let server = Server {
                version: row.try_get("version")?,
                max_packet: usize::try_from(max_packet).unwrap_or(usize::MAX),
                id_step: row.try_get("id_step")?,
                logs_text: logs_text(&mut inner).await?,
            };
            for _ in 0..CLOCK_SAMPLES {
                read_clock(&mut inner, clock).await?;
            }
            let (role, used) = (Role::Lookups, Instant::now());
            Ok((Self { inner, role, deadline, used, has_the_log: false }, server))
        })
        .await
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }

    /// Runs a statement that returns rows.
    ///
    /// # Errors
    /// [`Failure`]. The caller drops the connection if the failure says so.
    pub(in super::super) async fn rows(
        &mut self,
        statement: Statement,
        shared: &Shared,
    ) -> Result<Vec<MySqlRow>, Failure> {
        let answer = timeout(self.deadline, statement.fetch_all(&mut self.inner)).await;
        self.judge(answer, shared)
    }

    /// Runs a statement, and returns the number of affected rows (for updates, of matched rows).
    ///
    /// # Errors
    /// As [`Connection::rows`].
    pub(in super::super) async fn run(
        &mut self,
        statement: Statement,
        shared: &Shared,
    ) -> Result<u64, Failure> {
        let answer = timeout(self.deadline, statement.execute(&mut self.inner)).await;
        self.judge(answer, shared).map(|done| done.rows_affected())
    }

    /// Runs an insert, and returns the id of its first row.
    ///
    /// # Errors
    /// As [`Connection::rows`].
    pub(in super::super) async fn insert(
        &mut self,
        statement: Statement,
        shared: &Shared,
    ) -> Result<u64, Failure> {
        let answer = timeout(self.deadline, statement.execute(&mut self.inner)).await;
        self.judge(answer, shared).map(|done| done.last_insert_id())
    }

    /// Runs a statement without bound values that returns one number.
    ///
    /// # Errors
    /// As [`Connection::rows`].
    pub(in super::super) async fn number(
        &mut self,
        text: &Text,
        shared: &Shared,
    ) -> Result<u64, Failure> {
        let rows = self.rows(statement(text), shared).await?;
        let Some(row) = rows.first() else { return Ok(0) };
        row.try_get(0).map_err(|error| Failure::of(error, self.table(shared)))
    }

    /// The table for error messages: the one that this connection mostly uses.
    fn table<'a>(&self, shared: &'a Shared) -> &'a TableName {
        match self.role {
            Role::Log => &shared.settings.log_table,
            _ => &shared.settings.table,
        }
    }

    /// Runs a statement without bound values, and without preparing it.
    ///
    /// # Errors
    /// As [`Connection::rows`].
    pub(in super::super) async fn run_text(
        &mut self,
        text: &Text,
        shared: &Shared,
    ) -> Result<(), Failure> {
        let raw = sqlx::raw_sql(safe(text));
        let answer = timeout(self.deadline, raw.execute(&mut self.inner)).await;
        self.judge(answer, shared).map(|_| ())
    }

    /// Which server this connection leads to.
    ///
    /// # Errors
    /// [`StoreError`] if the server does not answer in time.
    pub(in super::super) async fn identity(&mut self) -> Result<String, StoreError> {
        match timeout(self.deadline, identity(&mut self.inner)).await {
            Ok(Ok(identity)) => Ok(identity),
            _ => Err(StoreError::Timeout),
        }
    }

    /// Reads the database's clock.
    ///
    /// # Errors
    /// As [`Connection::rows`].
    pub(in super::super) async fn read_clock(&mut self, shared: &Shared) -> Result<(), Failure> {
        let answer = timeout(self.deadline, read_clock(&mut self.inner, &shared.clock)).await;
        self.judge(answer, shared)
    }

    /// Checks whether the server still answers.
    ///
    /// # Errors
    /// As [`Connection::rows`].
    pub(in super::super) async fn ping(&mut self, shared: &Shared) -> Result<(), Failure> {
        let answer = timeout(self.deadline, self.inner.ping()).await;
        self.judge(answer, shared)
    }

    /// Releases the memory that a large statement has taken.
    pub(in super::super) fn shrink(&mut self) {
        self.inner.shrink_buffers();
    }

    /// Closes the connection, and tells the server.
    pub(in super::super) async fn close(self) {
        const PATIENCE: Duration = Duration::from_millis(200);
        let _ = timeout(PATIENCE, self.inner.close()).await;
    }

    fn judge<T>(
        &mut self,
        answer: Result<Result<T, sqlx::Error>, tokio::time::error::Elapsed>,
        shared: &Shared,
    ) -> Result<T, Failure> {
        self.used = Instant::now();
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Failure::of(error, self.table(shared))),
            Err(_) => Err(Failure::timeout()),
        }
    }
}

async fn connect(settings: &Settings) -> Result<MySqlConnection, LoginError> {
    Ok(MySqlConnection::connect_with(&settings.login.options().await?).await?)
}

async fn within<T>(
    limit: Duration,
    connecting: impl Future<Output = Result<T, LoginError>>,
) -> Result<T, StoreError> {
    let outcome = timeout(limit, connecting).await.unwrap_or_else(|_| {
        let message = format!("no answer within {limit:?}");
        Err(std::io::Error::new(std::io::ErrorKind::TimedOut, message).into())
    });
    outcome.map_err(|error| StoreError::Connect(error.into()))
}

/// The first result of attempts that begin one after the other. An attempt whose packets were lost hangs even when
/// the server can be reached again, so the next one does not wait for it.
async fn first_of<T, E, F>(attempt: &impl Fn() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let next = async {
        tokio::time::sleep(NEXT_ATTEMPT).await;
        Box::pin(first_of(attempt)).await
    };
    tokio::select! {
        outcome = attempt() => outcome,
        outcome = next => outcome,
    }
}

/// Configures a session: autocommit; READ COMMITTED, so that range deletes lock no gaps; strict mode, so that no
/// value is truncated silently; UTC; and the server's own deadline.
async fn set_up(connection: &mut MySqlConnection, deadline: Duration) -> Result<(), sqlx::Error> {
    for text in [
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET SESSION autocommit = 1, time_zone = '+00:00', innodb_lock_wait_timeout = 1, \
         sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
    ] {
        sqlx::raw_sql(text).execute(&mut *connection).await?;
    }
    // MySQL and TiDB have the first (in ms, for SELECT), MariaDB has the second (in s, for all statements). Others
    // have only the client's deadline. The server's deadline is a little shorter, so that a slow statement fails
    // without costing the connection.
    let deadline = deadline.mul_f64(0.9);
    let ms = deadline.as_millis().max(1);
    let seconds = deadline.as_secs_f64();
    for text in [
        format!("SET SESSION max_execution_time = {ms}"),
        format!("SET SESSION max_statement_time = {seconds:.3}"),
    ] {
        match sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut *connection).await {
            Ok(_) => return Ok(()),
            Err(sqlx::Error::Database(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// MariaDB has the first of the last two variables, MySQL the second.
const LOGS_TEXT: &str = "SHOW GLOBAL VARIABLES WHERE Value = 'ON' AND Variable_name IN \
     ('log_bin', 'binlog_annotate_row_events', 'binlog_rows_query_log_events')";

/// Whether the server writes the text of statements into its binary log. `false` for servers that do not say.
async fn logs_text(connection: &mut MySqlConnection) -> Result<bool, sqlx::Error> {
    match connection.fetch_all(LOGS_TEXT).await {
        Ok(on) => Ok(on.len() > 1
            && on.iter().any(|row| row.try_get(0).is_ok_and(|name: &str| name == "log_bin"))),
        Err(sqlx::Error::Database(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn read_clock(connection: &mut MySqlConnection, clock: &DbClock) -> Result<(), sqlx::Error> {
    let asked = Instant::now();
    let row = sqlx::query("SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS UNSIGNED) AS now_ms")
        .fetch_one(connection)
        .await?;
    let answered = Instant::now();
    clock.observe(row.try_get("now_ms")?, asked, answered);
    Ok(())
}

/// Variables that distinguish servers: MySQL has a UUID, newer releases of MariaDB have a UID.
const IDENTITY: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
     ('hostname', 'port', 'datadir', 'server_uuid', 'server_uid')";

/// The server's variables, as text. The statement reads no table, so it does not start a snapshot in the
/// application's transaction.
pub(super) async fn identity(connection: &mut MySqlConnection) -> Result<String, sqlx::Error> {
    let rows = connection.fetch_all(IDENTITY).await?;
    let mut variables = Vec::with_capacity(rows.len());
    for row in &rows {
        let (name, value): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        variables.push(format!("{name}={value}"));
    }
    variables.sort_unstable();
    Ok(variables.join(" "))
}

/// How long an attempt to connect may hang before another one begins. Together with [`Backoff`], a server is reached
/// again about as soon as the layer's breaker asks for it (every 2 s).
const NEXT_ATTEMPT: Duration = Duration::from_millis(1_500);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hanging_attempt_does_not_delay_the_next() {
        let began = AtomicU32::new(0);
        // the packets of the first two are lost
        let attempt = || {
            let lost = began.fetch_add(1, Relaxed) < 2;
            async move { if lost { std::future::pending().await } else { Ok::<_, ()>(7) } }
        };
        let start = tokio::time::Instant::now();
        assert_eq!(first_of(&attempt).await, Ok(7));
        assert_eq!((began.into_inner(), start.elapsed()), (3, NEXT_ATTEMPT * 2));
        assert_eq!(first_of(&|| async { Err::<(), _>("refused") }).await, Err("refused"));
    }
}
