//! Are the settings valid?

use std::time::Duration;

use super::super::codec::Compressing;
use super::super::sql::TableName;
use super::MySqlStoreBuilder;
use super::login::Login;
use crate::error::{About, ConfigError, Value};

impl MySqlStoreBuilder {
    /// Checks every setting.
    pub(in super::super) fn settings(self) -> Result<Settings, ConfigError> {
        let table = TableName::parse("table", &self.table)?;
        let log_table = TableName::parse("log_table", &self.log_table)?;
        let lease_table = TableName::parse("lease_table", &self.lease_table)?;
        let homeless = self.login.base.get_database().is_none() && table.schema().is_none();
        check(
            "table",
            self.table.as_str(),
            !homeless,
            "the connection has no database, so it must be of the form database.table",
        )?;
        check(
            "log_table",
            self.log_table.as_str(),
            log_table.table().len() <= 58,
            "it must be 58 characters at most, because another table has its name with `_state`",
        )?;
        // the application's connections may use another database, so statements for them always name the log's
        // database
        let database = table.schema().or(self.login.base.get_database());
        let log_table = log_table.in_schema(database);
        let lease_table = lease_table.in_schema(database);
        self.check_times()?;
        self.check_sizes()?;
        Ok(Settings {
            login: self.login,
            table,
            log_state: log_table.with_suffix("_state"),
            log_table,
            lease_table,
            encrypted: self.encrypted,
            check_server: self.check_server,
            log_retention: self.log_retention,
            poll_interval: self.poll_interval,
            gap_grace: self.gap_grace,
            connect_timeout: self.connect_timeout,
            query_timeout: self.query_timeout,
            write_timeout: self.write_timeout,
            read_connections: self.read_connections,
            max_entry_bytes: self.max_entry_bytes,
            queue_bytes: self.queue_bytes,
            compressing: self.compressing,
            background_cull: self.background_cull,
            cull_probability: self.cull_probability,
            idle_cull_interval: self.idle_cull_interval,
            max_entries: self.max_entries,
            max_bytes: self.max_bytes,
        })
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        check(
            "log_retention",
            self.log_retention,
            self.log_retention >= MIN_RETENTION,
            "it must be at least 1 min",
        )?;
        check(
            "poll_interval",
            self.poll_interval,
            self.poll_interval >= MIN_TIMEOUT && self.poll_interval <= MAX_POLL,
            "it must be between 1 ms and 1 min",
        )?;
        check(
            "gap_grace",
            self.gap_grace,
            self.gap_grace >= MIN_GRACE && self.gap_grace <= MAX_INTERVAL,
            "it must be between 100 ms and 24 h",
        )?;
        for (setting, value) in [
            ("connect_timeout", self.connect_timeout),
            ("query_timeout", self.query_timeout),
            ("write_timeout", self.write_timeout),
        ] {
            check(setting, value, value >= MIN_TIMEOUT && value <= MAX_TIMEOUT, TIMEOUT_RULE)?;
        }
        check(
            "idle_cull_interval",
            self.idle_cull_interval,
            self.idle_cull_interval >= MIN_TIMEOUT && self.idle_cull_interval <= MAX_INTERVAL,
            "it must be between 1 ms and 24 h; \
             `background_cull(false)` switches culling off",
        )?;
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        check(
            "read_connections",
            self.read_connections,
            (1..=16).contains(&self.read_connections),
            "it must be from 1 to 16",
        )?;
        check(
            "max_entry_bytes",
            self.max_entry_bytes,
            (1024..=1 << 30).contains(&self.max_entry_bytes),
            "it must be from 1 KiB to 1 GiB, the most that a MySQL packet holds",
        )?;
        check(
            "queue_bytes",
            self.queue_bytes,
            self.queue_bytes >= self.max_entry_bytes,
            "it must be at least `max_entry_bytes`, so that each entry fits into the queue",
        )?;
        check(
            "compression",
            About(format!("{:?}", self.compressing.compression)),
            self.compressing.compression.is_valid(),
            "its level must be from 1 (fast) to 9 (small)",
        )?;
        check(
            "cull_probability",
            self.cull_probability,
            self.cull_probability >= MIN_PROBABILITY && self.cull_probability <= 1.0,
            "it must be from 0.000001 to 1; `background_cull(false)` switches culling off",
        )?;
        check(
            "max_entries",
            self.max_entries,
            self.max_entries >= 1,
            "it must be at least 1; to cache nothing, leave out the layer",
        )?;
        check(
            "max_bytes",
            self.max_bytes,
            self.max_bytes >= 1024,
            "it must be at least 1 KiB, or no entry fits",
        )?;
        Ok(())
    }
}

/// A shorter timeout than any round trip is a mistake. The server counts in milliseconds.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// A shorter retention than any response is stored is a mistake.
const MIN_RETENTION: Duration = Duration::from_secs(60);
const MAX_POLL: Duration = Duration::from_secs(60);
/// Longer than the time between giving an id and inserting the row.
const MIN_GRACE: Duration = Duration::from_millis(100);
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
const TIMEOUT_RULE: &str = "it must be between 1 ms and 10 min";
/// With this probability, a cull examines ten million rows.
const MIN_PROBABILITY: f64 = 1e-6;

fn check(
    setting: &'static str,
    value: impl Value,
    ok: bool,
    rule: &'static str,
) -> Result<(), ConfigError> {
    if ok { Ok(()) } else { Err(ConfigError::new(setting, value, rule)) }
}

/// Checked settings.
#[derive(Clone)]
pub(in super::super) struct Settings {
    pub(in super::super) login: Login,
    pub(in super::super) table: TableName,
    /// Includes the database.
    pub(in super::super) log_table: TableName,
    pub(in super::super) log_state: TableName,
    pub(in super::super) lease_table: TableName,
    pub(in super::super) encrypted: bool,
    pub(in super::super) check_server: bool,
    pub(in super::super) log_retention: Duration,
    pub(in super::super) poll_interval: Duration,
    pub(in super::super) gap_grace: Duration,
    pub(in super::super) connect_timeout: Duration,
    pub(in super::super) query_timeout: Duration,
    pub(in super::super) write_timeout: Duration,
    pub(in super::super) read_connections: usize,
    pub(in super::super) max_entry_bytes: usize,
    pub(in super::super) queue_bytes: usize,
    pub(in super::super) compressing: Compressing,
    pub(in super::super) background_cull: bool,
    pub(in super::super) cull_probability: f64,
    pub(in super::super) idle_cull_interval: Duration,
    pub(in super::super) max_entries: u64,
    pub(in super::super) max_bytes: u64,
}
