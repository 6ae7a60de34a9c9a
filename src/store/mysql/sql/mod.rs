//! Which statements are there, and with which limits? Values are always bound.
//!
//! Lists have few lengths (powers of two, filled up with the last key). So a connection prepares about thirty
//! statements at most: sqlx 0.9.0 stalls for 44 ms on each that it closes.

mod lease;
mod log;

use std::sync::{Arc, LazyLock};

use sqlx::AssertSqlSafe;

pub(super) use self::lease::{HELD, LAST_UNSHAREABLE, LeaseSql, UNSHAREABLE};
pub(super) use self::log::{
    LogSql, MAX_APPEND, MAX_ID, MAX_RANGES, MAX_TAGS, NewestLogRow, READ_LIMIT,
};
use super::codec::Hash;
use crate::error::ConfigError;

/// The most keys in one statement.
pub(super) const MAX_KEYS: usize = 64;

/// The most rows in one upsert. Measured: with 16 rows, the CPU time of each row falls to a quarter; more rows save
/// hardly more.
pub(super) const MAX_ROWS: usize = 16;

/// The largest row, by its `size`, that a lookup of many keys returns with its body. So the answer has at most 4 MiB.
const MAX_INLINE: usize = 64 << 10;

/// The columns of the table, in the order in which upserts bind them.
pub(super) const COLUMNS: [&str; 11] = [
    "key_hash",
    "cache_key",
    "value",
    "value_type",
    "expires",
    "head",
    "size",
    "status",
    "born_ms",
    "fresh_until_ms",
    "gen_ms",
];

/// The text of a statement, shared.
pub(super) type Text = Arc<str>;

/// Tells sqlx that a text from this file is safe.
pub(super) fn safe(text: &Text) -> AssertSqlSafe<Text> {
    AssertSqlSafe(Arc::clone(text))
}

/// A validated table name, `table` or `schema.table`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableName {
    schema: Option<String>,
    table: String,
}

impl TableName {
    /// # Errors
    /// [`ConfigError`] unless the name is one or two identifiers of 1 to 64 of `A-Z a-z 0-9 _ $`.
    pub(super) fn parse(setting: &'static str, name: &str) -> Result<Self, ConfigError> {
        const RULE: &str = "it must be 1 to 64 letters, digits, `_` or `$`, \
                            or two of those with a dot between";
        let valid = |part: &str| {
            (1..=64).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$')
        };
        let (schema, table) = match name.split_once('.') {
            Some((schema, table)) => (Some(schema), table),
            None => (None, name),
        };
        if !valid(table) || !schema.is_none_or(valid) {
            return Err(ConfigError::new(setting, name, RULE));
        }
        Ok(Self { schema: schema.map(str::to_owned), table: table.to_owned() })
    }

    /// The same table in this database, unless it names a database.
    pub(super) fn in_schema(mut self, schema: Option<&str>) -> Self {
        self.schema = self.schema.or_else(|| schema.map(str::to_owned));
        self
    }

    /// The table whose name has this suffix.
    pub(super) fn with_suffix(&self, suffix: &str) -> Self {
        Self { schema: self.schema.clone(), table: format!("{}{suffix}", self.table) }
    }

    pub(super) fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// The name for messages.
    pub(super) fn plain(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{schema}.{}", self.table),
            None => self.table.clone(),
        }
    }

    /// The quoted name for statements.
    pub(super) fn quoted(&self) -> String {
        match &self.schema {
            // the database may be the connection's, whose name has not been checked
            Some(schema) => format!("`{}`.`{}`", schema.replace('`', "``"), self.table),
            None => format!("`{}`", self.table),
        }
    }
}

/// How an upsert refers to the row to insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `VALUES(column)`: MariaDB, MySQL before 8.0.20, and TiDB, which accepts the other form but does not support
    /// it.
    Values,
    /// `AS new` and `new.column`: MySQL from 8.0.20, where the first form is deprecated.
    Alias,
}

impl Dialect {
    /// The dialect of a server, by its `VERSION()`.
    pub(super) fn of(version: &str) -> Self {
        let lower = version.to_ascii_lowercase();
        if lower.contains("mariadb") || lower.contains("tidb") {
            return Self::Values;
        }
        let mut numbers = lower
            .split(|c: char| !c.is_ascii_digit())
            .map(|number| number.parse().unwrap_or(0_u32));
        let mut next = || numbers.next().unwrap_or(0);
        if (next(), next(), next()) >= (8, 0, 20) { Self::Alias } else { Self::Values }
    }
}

/// The statements of one store.
#[derive(Debug, Default)]
pub(super) struct Sql {
    /// Binds 1, 2, 4, ..., 64 hashes. Bodies of large rows are left out.
    select: Vec<Text>,
    /// The same, with one more row, without a hash, for the newest row of the log: its id in place of `expires`, its
    /// time in place of `size`. No row if the log is empty.
    select_with_newest: Vec<Text>,
    /// Binds a hash. Includes the body, however large it is.
    pub(super) select_whole: Text,
    /// Binds 1, 2, 4, 8, 16 rows of [`COLUMNS`].
    upsert: Vec<Upsert>,
    /// Binds as the `fenced_hash` of [`LeaseSql`] in place of the hash, then the rest of one row.
    pub(super) fenced_upsert: Upsert,
    /// Binds 1, 2, 4, ..., 64 hashes.
    delete: Vec<Text>,
    /// Binds 1, 2, 4, ..., 64 hashes, then the two ends of a range of keys.
    delete_in_range: Vec<Text>,
    /// Replaces a head. Binds head, expires, size without the body, born, fresh until, generation, status, hash, key,
    /// now, and the content of the old head (without what precedes and follows it in its column).
    pub(super) freshen: Text,
    /// Binds the two ends of a range of keys, limit.
    pub(super) select_range: Text,
    /// Binds first hash, limit.
    pub(super) window: Text,
    /// Binds first and last hash, now.
    pub(super) delete_expired: Text,
    /// Binds first hash, limit.
    pub(super) heads: Text,
    /// Heads of responses in a range. Binds first hash, the two ends of the range of keys, limit.
    pub(super) heads_in_range: Text,
    pub(super) log: LogSql,
    pub(super) lease: LeaseSql,
}

/// Bytes of `cache_key` that a window reads to find the prefix.
pub(super) const PREFIX_BYTES: usize = 80;

impl Sql {
    pub(super) fn new(
        table: &TableName,
        log: &TableName,
        log_state: &TableName,
        leases: &TableName,
        dialect: Dialect,
    ) -> Self {
        let t = table.quoted();
        let lease = LeaseSql::new(leases);
        let keys = || (0..=MAX_KEYS.ilog2()).map(|power| list("?", 1 << power));
        Self {
            select: keys().map(|keys| select(&t, &keys).into()).collect(),
            select_with_newest: keys()
                .map(|keys| {
                    format!(
                        "{} UNION ALL (SELECT NULL, NULL, NULL, id, NULL, at_ms, NULL \
                         FROM {} ORDER BY id DESC LIMIT 1)",
                        select(&t, &keys),
                        log.quoted()
                    )
                    .into()
                })
                .collect(),
            select_whole: format!(
                "SELECT key_hash, cache_key, value_type, expires, head, size, value FROM {t} \
                 WHERE key_hash = ?"
            )
            .into(),
            upsert: (0..=MAX_ROWS.ilog2())
                .map(|power| Upsert::new(&t, "?", dialect, 1 << power))
                .collect(),
            fenced_upsert: Upsert::new(&t, &lease.fenced_hash, dialect, 1),
            freshen: format!(
                "UPDATE {t} SET head = ?, expires = ?, size = ? + LENGTH(value), born_ms = ?, \
                 fresh_until_ms = ?, gen_ms = ?, status = ? \
                 WHERE key_hash = ? AND cache_key = ? AND expires > ? AND value_type IN ('r', 'R', 'Z') \
                 AND SUBSTRING(head, 11, LENGTH(head) - 14) = ?"
            )
            .into(),
            log: LogSql::new(log, log_state),
            lease,
            ..Self::of_ranges(&t)
        }
    }

    /// The statements that delete, and those over ranges of keys and hashes.
    fn of_ranges(t: &str) -> Self {
        let keys = || (0..=MAX_KEYS.ilog2()).map(|power| list("?", 1 << power));
        Self {
            delete: keys()
                .map(|keys| format!("DELETE FROM {t} WHERE key_hash IN ({keys})").into())
                .collect(),
            delete_in_range: keys()
                .map(|keys| {
                    format!(
                        "DELETE FROM {t} WHERE key_hash IN ({keys}) \
                         AND cache_key >= ? AND cache_key < ?"
                    )
                    .into()
                })
                .collect(),
            select_range: format!(
                "SELECT key_hash FROM {t} WHERE cache_key >= ? AND cache_key < ? LIMIT ?"
            )
            .into(),
            window: format!(
                "SELECT key_hash, expires, size, born_ms, \
                 LEFT(cache_key, {PREFIX_BYTES}) AS key_start FROM {t} \
                 WHERE key_hash >= ? ORDER BY key_hash LIMIT ?"
            )
            .into(),
            delete_expired: format!(
                "DELETE FROM {t} WHERE key_hash BETWEEN ? AND ? AND expires <= ?"
            )
            .into(),
            heads: format!(
                "SELECT key_hash, cache_key, expires, head, size, value_type FROM {t} \
                 WHERE key_hash >= ? ORDER BY key_hash LIMIT ?"
            )
            .into(),
            heads_in_range: format!(
                "SELECT key_hash, cache_key, expires, head, size FROM {t} \
                 WHERE key_hash >= ? AND cache_key >= ? AND cache_key < ? AND value_type <> 'v' \
                 ORDER BY key_hash LIMIT ?"
            )
            .into(),
            ..Self::default()
        }
    }

    /// The lookup for `count` keys, perhaps with the newest row of the log, and how many hashes it binds.
    pub(super) fn select(&self, count: usize, with_newest: bool) -> (&Text, usize) {
        padded(if with_newest { &self.select_with_newest } else { &self.select }, count)
    }

    /// The deletion of `count` keys, and how many it binds.
    pub(super) fn delete(&self, count: usize) -> (&Text, usize) {
        padded(&self.delete, count)
    }

    /// The deletion of `count` keys within a range, and how many it binds.
    pub(super) fn delete_in_range(&self, count: usize) -> (&Text, usize) {
        padded(&self.delete_in_range, count)
    }

    /// The upsert with the most rows up to `count`, and how many.
    pub(super) fn upsert(&self, count: usize) -> (&Upsert, usize) {
        static NONE: LazyLock<Upsert> = LazyLock::new(Upsert::default);
        let power = count.clamp(1, MAX_ROWS).ilog2();
        (self.upsert.get(power as usize).unwrap_or(&NONE), 1 << power)
    }
}

/// The text for the smallest power of two that is at least `count`.
fn padded(texts: &[Text], count: usize) -> (&Text, usize) {
    entry(texts, count.clamp(1, MAX_KEYS).next_power_of_two().ilog2())
}

/// The text for `2^power`. There is one for every power in use.
fn entry(texts: &[Text], power: u32) -> (&Text, usize) {
    static NONE: LazyLock<Text> = LazyLock::new(|| "".into());
    (texts.get(power as usize).unwrap_or(&NONE), 1 << power)
}

/// `item`, `count` times, with commas.
fn list(item: &str, count: usize) -> String {
    vec![item; count].join(", ")
}

/// Bodies come by a subquery, so that the server does not read those that are left out. Measured with 64 keys: 10 %
/// slower for rows of 1 KiB, ten times faster for rows of 1 MB.
fn select(quoted: &str, keys: &str) -> String {
    format!(
        "SELECT key_hash, cache_key, value_type, expires, head, size, \
         IF(size <= {MAX_INLINE}, \
         (SELECT b.value FROM {quoted} AS b WHERE b.key_hash = a.key_hash), NULL) AS value \
         FROM {quoted} AS a WHERE key_hash IN ({keys})"
    )
}

/// A statement that inserts or replaces rows, in two forms.
#[derive(Debug, Default)]
pub(super) struct Upsert {
    /// Binds all columns.
    pub(super) text: Text,
    /// Binds the values only, and sets a variable of the session to each.
    pub(super) set_values: Text,
    /// As `text`, but with the values in these variables.
    pub(super) of_variables: Text,
}

impl Upsert {
    /// `hash` is a placeholder, or an expression with placeholders.
    fn new(quoted: &str, hash: &str, dialect: Dialect, rows: usize) -> Self {
        let variables: Vec<_> = (0..rows).map(|row| format!("@value_{row}")).collect();
        let placeholders = vec!["?".to_owned(); rows];
        Self {
            text: upsert(quoted, hash, dialect, &placeholders),
            set_values: format!("SET {} = ?", variables.join(" = ?, ")).into(),
            of_variables: upsert(quoted, hash, dialect, &variables),
        }
    }
}

/// An upsert of a row for each of `values`.
fn upsert(quoted: &str, hash: &str, dialect: Dialect, values: &[String]) -> Text {
    let columns = COLUMNS.join(", ");
    let after = list("?", COLUMNS.len() - 3); // hash, key and value come first
    let rows = values.iter().map(|value| format!("({hash}, ?, {value}, {after})"));
    let rows = rows.collect::<Vec<_>>().join(", ");
    let set = |column: &&str| match dialect {
        Dialect::Values => format!("{column} = VALUES({column})"),
        Dialect::Alias => format!("{column} = new.{column}"),
    };
    let set = COLUMNS.iter().skip(1).map(set).collect::<Vec<_>>().join(", ");
    let alias = if dialect == Dialect::Alias { " AS new" } else { "" };
    format!("INSERT INTO {quoted} ({columns}) VALUES {rows}{alias} ON DUPLICATE KEY UPDATE {set}")
        .into()
}

/// The hashes, filled up to `binds` with the last one.
pub(super) fn repeated(hashes: &[Hash], binds: usize) -> impl Iterator<Item = Hash> {
    let last = hashes.last().copied().unwrap_or_default();
    hashes.iter().copied().chain(std::iter::repeat(last)).take(binds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(dialect: Dialect) -> Sql {
        let name = |name| TableName::parse("table", name).unwrap();
        Sql::new(&name("t"), &name("l"), &name("l_state"), &name("leases"), dialect)
    }

    #[test]
    fn table_names_are_identifiers() {
        for good in ["cache_entries", "a", "A$1", "shop.cache", &"x".repeat(64)] {
            assert_eq!(TableName::parse("table", good).unwrap().plain(), good);
        }
        let long = "x".repeat(65);
        for bad in ["", "a b", "a`b", "a;b", "a-b", ".a", "a.", "a.b.c", "caf\u{e9}", "a\0", &long]
        {
            let error = TableName::parse("table", bad).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")) && error.contains("1 to 64"), "{error}");
        }
        assert_eq!(TableName::parse("table", "s.t").unwrap().quoted(), "`s`.`t`");
    }

    #[test]
    fn the_dialect_goes_by_the_version() {
        for (version, dialect) in [
            ("10.11.19-MariaDB-0+deb12u1", Dialect::Values),
            ("5.5.5-10.6.1-MariaDB-log", Dialect::Values),
            ("8.0.11-TiDB-v8.5.0", Dialect::Values),
            ("5.7.44-log", Dialect::Values),
            ("8.0.19", Dialect::Values),
            ("8.0.20", Dialect::Alias),
            ("8.4.3-azure", Dialect::Alias),
            ("9.7.4", Dialect::Alias),
            ("unknown", Dialect::Values),
        ] {
            assert_eq!(Dialect::of(version), dialect, "{version}");
        }
    }

    #[test]
    fn lists_are_padded_up_and_rows_split_down() {
        let sql = sql(Dialect::Values);
        let sizes = |count| (sql.select(count, false).1, sql.upsert(count).1);
        assert_eq!(sizes(1), (1, 1));
        assert_eq!(sizes(3), (4, 2));
        assert_eq!(sizes(13), (16, 8));
        assert_eq!(sizes(64), (64, 16));
        for count in 1..=64 {
            for (text, binds) in
                [sql.select(count, false), sql.select(count, true), sql.delete(count)]
            {
                assert_eq!(text.matches('?').count(), binds);
            }
            let (text, binds) = sql.delete_in_range(count);
            assert_eq!(text.matches('?').count(), binds + 2);
            let (upsert, rows) = sql.upsert(count);
            let binds = |text: &Text| text.matches('?').count();
            assert_eq!(binds(&upsert.text), rows * COLUMNS.len());
            assert_eq!(binds(&upsert.set_values), rows);
            assert_eq!(binds(&upsert.of_variables), rows * (COLUMNS.len() - 1));
        }
    }

    #[test]
    fn an_upsert_replaces_every_column_but_the_hash() {
        let values = sql(Dialect::Values).upsert(1).0.text.to_string();
        assert!(values.starts_with("INSERT INTO `t` (key_hash, cache_key, value,"), "{values}");
        assert!(values.contains("UPDATE cache_key = VALUES(cache_key), value = VALUES(value)"));
        let alias = sql(Dialect::Alias).upsert(1).0.text.to_string();
        assert!(alias.contains(") AS new ON DUPLICATE KEY UPDATE cache_key = new.cache_key, "));
    }
}
