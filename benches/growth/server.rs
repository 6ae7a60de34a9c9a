//! The private server: statements by hand, its counters, and what its process has used.

use std::fs;
use std::time::{Duration, Instant};

use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, Row};
use tower_mysql_cache::{MySqlStore, StoreError};

use super::Run;
use super::common::{self, ok};

pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) pid: u32,
}

impl Run {
    /// Runs statements without values, on their own connection.
    pub(crate) fn sql(&self, text: &str) {
        let text = AssertSqlSafe(text.to_owned());
        ok(self.runtime.block_on(async {
            let mut connection = MySqlConnection::connect(&self.server.url).await?;
            sqlx::raw_sql(text).execute(&mut connection).await?;
            connection.close().await
        }));
    }

    /// The rows of a statement without values.
    pub(crate) fn rows(&self, text: &str) -> Result<Vec<MySqlRow>, sqlx::Error> {
        let text = AssertSqlSafe(text.to_owned());
        self.runtime.block_on(async {
            let mut connection = MySqlConnection::connect(&self.server.url).await?;
            let rows = sqlx::raw_sql(text).fetch_all(&mut connection).await;
            connection.close().await?;
            rows
        })
    }

    /// The number in this column of the first row.
    pub(crate) fn number(&self, text: &str, column: usize) -> u64 {
        let rows = ok(self.rows(text));
        let Some(row) = rows.first() else { return 0 };
        let signed = || row.try_get::<i64, _>(column).ok().and_then(|n| u64::try_from(n).ok());
        let text = || row.try_get::<String, _>(column).ok().and_then(|text| text.parse().ok());
        row.try_get::<u64, _>(column).ok().or_else(signed).or_else(text).unwrap_or_default()
    }

    pub(crate) fn is_mariadb(&self) -> bool {
        self.version().contains("MariaDB")
    }

    pub(crate) fn version(&self) -> String {
        let rows = ok(self.rows("SELECT CAST(VERSION() AS CHAR)"));
        rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or_default()
    }

    /// A store with its own tables, which culls only if it is asked to.
    pub(crate) fn store(&self, table: &str, log: &str) -> MySqlStore {
        ok(self.runtime.block_on(connect(&self.server.url, table, log)))
    }

    /// Waits until the server has finished what earlier statements have left to do, for a minute at most.
    pub(crate) fn rest(&self) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            let before = cpu(self.server.pid);
            std::thread::sleep(Duration::from_secs(1));
            if cpu(self.server.pid).saturating_sub(before) < Duration::from_millis(50) {
                return;
            }
        }
    }
}

pub(crate) async fn connect(url: &str, table: &str, log: &str) -> Result<MySqlStore, StoreError> {
    let builder = MySqlStore::builder(url)?.table(table).log_table(log).background_cull(false);
    common::open(builder.max_entries(u64::MAX / 2).max_bytes(u64::MAX / 2)).await
}

/// What a process has used so far: user and system time, by the kernel's account.
pub(crate) fn cpu(pid: u32) -> Duration {
    const TICKS_A_SECOND: u32 = 100;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u32 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok()).sum();
    Duration::from_secs(1) * ticks / TICKS_A_SECOND
}
