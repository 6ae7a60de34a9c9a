//! Which tables does the store need, and do they have the right shape?
//!
//! A cache can be created again at any time, so missing tables are created, and existing ones are never altered.

use std::sync::Arc;

use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::super::conn::{
    Connection, Failure, MISSING, OTHER_SHAPE, Recovery, Retry, Role, Statement,
};
use super::super::options::Settings;
use super::super::shared::Shared;
use super::super::sql::{MAX_ID, TableName, Text};
use super::ddl::{encryption, entries_ddl, is_encrypted, lease_ddl, log_ddl, log_state_ddl};
use crate::store::StoreError;

/// How many times creating a table is tried while other processes do the same.
const RETRIES: u32 = 9;

pub(in super::super) struct Needed<'a> {
    pub(in super::super) name: &'a TableName,
    pub(in super::super) ddl: String,
    columns: &'static [Wanted],
    /// The column of the primary key.
    primary: &'static str,
    /// The first column of another index that the table needs.
    index: Option<&'static str>,
}

/// Column name, allowed types, and whether it may be null.
type Wanted = (&'static str, &'static [&'static str], bool);

pub(in super::super) fn tables(shared: &Shared) -> [Needed<'_>; 4] {
    let Settings { table, log_table, log_state, lease_table, encrypted, .. } = &shared.settings;
    let mut tables = [
        Needed {
            name: table,
            ddl: entries_ddl(table),
            columns: ENTRIES,
            primary: "key_hash",
            index: Some("cache_key"),
        },
        Needed {
            name: log_table,
            ddl: log_ddl(log_table),
            columns: LOG,
            primary: "id",
            index: Some("tag"),
        },
        Needed {
            name: log_state,
            ddl: log_state_ddl(log_state),
            columns: LOG_STATE,
            primary: "id",
            index: None,
        },
        Needed {
            name: lease_table,
            ddl: lease_ddl(lease_table),
            columns: LEASES,
            primary: "key_hash",
            index: None,
        },
    ];
    if *encrypted {
        for table in &mut tables {
            table.ddl = format!("{} {}", table.ddl, encryption(&shared.version));
        }
    }
    tables
}

/// Creates the missing tables, then checks all.
///
/// # Errors
/// As [`check`], and those of creating tables.
pub(in super::super) async fn migrate(shared: &Shared) -> Result<(), StoreError> {
    let mut connection = Connection::open(&shared.settings, Role::Schema).await?;
    let mut outcome = Ok(());
    for table in tables(shared) {
        outcome = outcome.and(create(&mut connection, shared, &table).await);
    }
    connection.close().await;
    outcome
}

async fn create(
    connection: &mut Connection,
    shared: &Shared,
    table: &Needed<'_>,
) -> Result<(), StoreError> {
    // checked first, so that an account without the right to create tables can call this
    if !columns(connection, shared, table.name).await?.is_empty() {
        return check_with(connection, shared, table).await;
    }
    let text: Text = table.ddl.as_str().into();
    let mut retry = Retry::over_deadlocks(RETRIES).longest_wait_ms(100);
    while let Err(failure) = connection.run_text(&text, shared).await {
        let failure = passing(failure);
        retry
            .after(failure, connection, shared)
            .await
            .map_err(|failure| failed(shared, failure))?;
    }
    check_with(connection, shared, table).await
}

/// Compares the tables with what the store needs.
///
/// # Errors
/// [`StoreError::Schema`] with the first difference.
pub(in super::super) async fn check(shared: &Shared) -> Result<(), StoreError> {
    let mut connection = Connection::open(&shared.settings, Role::Schema).await?;
    let mut outcome = Ok(());
    for table in tables(shared) {
        outcome = outcome.and(check_with(&mut connection, shared, &table).await);
    }
    if outcome.is_ok() {
        let largest = connection.number(&shared.sql.log.largest, shared).await;
        outcome = match largest.map_err(|failure| failed(shared, failure)) {
            Ok(largest) if largest > MAX_ID => {
                Err(Failure::no_ids_left(&shared.settings.log_table))
            }
            largest => largest.map(drop),
        };
    }
    connection.close().await;
    outcome
}

/// The failure may be temporary if another process is creating or changing the table.
fn passing(mut failure: Failure) -> Failure {
    const CONCURRENT: [u16; 3] = [
        1050, // ER_TABLE_EXISTS_ERROR
        1684, // ER_WARN_I_S_SKIPPED_TABLE: being changed
        1412, // ER_TABLE_DEF_CHANGED
    ];
    if failure.number().is_some_and(|number| CONCURRENT.contains(&number)) {
        failure.recovery = Recovery::Retry;
    }
    failure
}

fn failed(shared: &Shared, failure: Failure) -> StoreError {
    shared.failed("checking the table", &failure.error);
    failure.error
}

/// A column as the server describes it.
#[derive(Debug, PartialEq)]
struct Column {
    name: String,
    /// `bigint`
    data_type: String,
    /// `bigint(20) unsigned`
    column_type: String,
    nullable: bool,
    /// Whether the column has a default value.
    fills_itself: bool,
}

/// A column that is the `seq`-th one of an index.
#[derive(Debug, PartialEq)]
struct Indexed {
    index: String,
    seq: u64,
    column: String,
}

async fn check_with(
    connection: &mut Connection,
    shared: &Shared,
    table: &Needed<'_>,
) -> Result<(), StoreError> {
    let columns = columns(connection, shared, table.name).await?;
    let indexed = indexed(connection, shared, table.name).await?;
    let problem = match problem(table, &columns, &indexed) {
        None if shared.settings.encrypted => unencrypted(connection, shared, table.name).await?,
        problem => problem,
    };
    match problem {
        None => Ok(()),
        Some(problem) => Err(StoreError::Schema { table: table.name.plain(), problem }),
    }
}

/// What to do about a table that must be encrypted and is not.
async fn unencrypted(
    connection: &mut Connection,
    shared: &Shared,
    table: &TableName,
) -> Result<Option<String>, StoreError> {
    let option = encryption(&shared.version);
    // MySQL shows the default of a schema as an option of its tables
    let by_default = match option.contains("ENCRYPTED") {
        true => "@@innodb_encrypt_tables <> 'OFF'",
        false => "0",
    };
    let query = sqlx::query(AssertSqlSafe(format!(
        "SELECT CAST(COALESCE(create_options, '') AS CHAR) AS options, \
         CAST({by_default} AS UNSIGNED) AS by_default FROM information_schema.tables \
         WHERE table_schema = COALESCE(?, DATABASE()) AND table_name = ?"
    )));
    let read = |row: &MySqlRow| Ok((row.try_get("options")?, row.try_get("by_default")?));
    let found: Vec<(String, u64)> = describe(connection, shared, table, query, read).await?;
    if found.iter().any(|(options, by_default)| is_encrypted(options, *by_default != 0)) {
        return Ok(None);
    }
    let table = table.quoted();
    Ok(Some(format!("is not encrypted: ALTER TABLE {table} {option} does that")))
}

async fn columns(
    connection: &mut Connection,
    shared: &Shared,
    table: &TableName,
) -> Result<Vec<Column>, StoreError> {
    // aliased, because MySQL 8 answers with upper-case labels
    let query = sqlx::query(
        "SELECT CAST(column_name AS CHAR) AS name, CAST(data_type AS CHAR) AS data_type, \
         CAST(column_type AS CHAR) AS column_type, CAST(is_nullable AS CHAR) AS nullable, \
         CAST(column_default IS NOT NULL OR extra <> '' AS UNSIGNED) AS fills_itself \
         FROM information_schema.columns \
         WHERE table_schema = COALESCE(?, DATABASE()) AND table_name = ? \
         ORDER BY ordinal_position",
    );
    describe(connection, shared, table, query, |row| {
        Ok(Column {
            name: row.try_get::<String, _>("name")?.to_ascii_lowercase(),
            data_type: row.try_get::<String, _>("data_type")?.to_ascii_lowercase(),
            column_type: row.try_get::<String, _>("column_type")?.to_ascii_lowercase(),
            nullable: row.try_get::<String, _>("nullable")?.eq_ignore_ascii_case("yes"),
            fills_itself: row.try_get::<u64, _>("fills_itself")? != 0,
        })
    })
    .await
}

async fn indexed(
    connection: &mut Connection,
    shared: &Shared,
    table: &TableName,
) -> Result<Vec<Indexed>, StoreError> {
    let query = sqlx::query(
        "SELECT CAST(index_name AS CHAR) AS name, CAST(seq_in_index AS UNSIGNED) AS seq, \
         CAST(column_name AS CHAR) AS column_name \
         FROM information_schema.statistics \
         WHERE table_schema = COALESCE(?, DATABASE()) AND table_name = ?",
    );
    describe(connection, shared, table, query, |row| {
        Ok(Indexed {
            index: row.try_get::<String, _>("name")?.to_ascii_lowercase(),
            seq: row.try_get("seq")?,
            // an index over an expression has no column name
            column: row
                .try_get::<Option<String>, _>("column_name")?
                .unwrap_or_default()
                .to_ascii_lowercase(),
        })
    })
    .await
}

async fn describe<T>(
    connection: &mut Connection,
    shared: &Shared,
    table: &TableName,
    query: Statement,
    read: impl Fn(&MySqlRow) -> Result<T, sqlx::Error>,
) -> Result<Vec<T>, StoreError> {
    let query = query.bind(table.schema().map(str::to_owned)).bind(table.table().to_owned());
    let rows = connection.rows(query, shared).await.map_err(|failure| failed(shared, failure))?;
    rows.iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(|error| StoreError::Database(Arc::new(error)))
}

const ENTRIES: &[Wanted] = &[
    ("key_hash", &["binary(16)"], false),
    ("cache_key", &["varbinary(1024)"], false),
    ("value", &["longblob"], false),
    ("value_type", &["char(1)"], false),
    ("expires", &["bigint unsigned"], false),
    ("head", &["mediumblob", "longblob"], true),
    ("size", &["int unsigned"], true),
    ("status", &["smallint unsigned"], true),
    ("born_ms", &["bigint unsigned"], true),
    ("fresh_until_ms", &["bigint unsigned"], true),
    ("gen_ms", &["int unsigned"], true),
];

const LOG: &[Wanted] = &[
    ("id", &["bigint unsigned"], false),
    ("tag", &["varbinary(1024)"], false),
    ("kind", &["char(1)"], false),
    ("reason", &["varchar(255)"], true),
    ("at_ms", &["bigint unsigned"], false),
];

const LOG_STATE: &[Wanted] =
    &[("id", &["tinyint unsigned"], false), ("settled", &["bigint unsigned"], false)];

const LEASES: &[Wanted] = &[
    ("key_hash", &["binary(16)"], false),
    ("owner", &["bigint unsigned"], false),
    ("fence", &["bigint unsigned"], false),
    ("until_ms", &["bigint unsigned"], false),
];

/// The first difference from what the store needs.
fn problem(table: &Needed<'_>, columns: &[Column], indexed: &[Indexed]) -> Option<String> {
    if columns.is_empty() {
        return Some(MISSING.to_owned());
    }
    let difference = table
        .columns
        .iter()
        .find_map(|(name, types, nullable)| {
            let column = columns.iter().find(|column| column.name == *name);
            column_difference(column, name, types, *nullable)
        })
        .or_else(|| fills_itself_difference(table, columns))
        .or_else(|| extra_difference(table, columns))
        .or_else(|| index_difference(table, indexed))?;
    Some(format!("{difference}; {OTHER_SHAPE}"))
}

fn column_difference(
    column: Option<&Column>,
    name: &str,
    types: &[&str],
    nullable: bool,
) -> Option<String> {
    let Some(column) = column else {
        return Some(format!("has no column `{name}`"));
    };
    if !types.contains(&&*column.kind()) {
        let (is, wanted) = (&column.column_type, types.first().copied().unwrap_or_default());
        return Some(format!("has a column `{name}` of type {is} instead of {wanted}"));
    }
    match (column.nullable, nullable) {
        (true, false) => Some(format!("has a column `{name}` that may be null")),
        (false, true) => Some(format!("has a column `{name}` that may not be null")),
        _ => None,
    }
}

/// Log rows are inserted without id and time.
fn fills_itself_difference(table: &Needed<'_>, columns: &[Column]) -> Option<String> {
    let needs = |name: &str| table.index == Some("tag") && matches!(name, "id" | "at_ms");
    let empty = columns.iter().find(|column| needs(&column.name) && !column.fills_itself)?;
    Some(format!("has a column `{}` that does not fill itself", empty.name))
}

fn extra_difference(table: &Needed<'_>, columns: &[Column]) -> Option<String> {
    let known = |column: &Column| table.columns.iter().any(|(name, _, _)| column.name == *name);
    let extra =
        columns.iter().find(|column| !known(column) && !column.nullable && !column.fills_itself)?;
    Some(format!("has a column `{}` more, which has no default", extra.name))
}

fn index_difference(table: &Needed<'_>, indexed: &[Indexed]) -> Option<String> {
    let primary: Vec<&str> = indexed
        .iter()
        .filter(|indexed| indexed.index == "primary")
        .map(|indexed| &*indexed.column)
        .collect();
    if primary != [table.primary] {
        return Some(format!("has another primary key than `{}`", table.primary));
    }
    let first = table.index?;
    let by_it = indexed.iter().any(|indexed| indexed.seq == 1 && indexed.column == first);
    (!by_it).then(|| format!("has no index on `{first}`"))
}

impl Column {
    /// The type without the display width that older servers show: `bigint(20) unsigned` is `bigint
    /// unsigned`, `binary(16)` stays.
    fn kind(&self) -> String {
        if !self.data_type.ends_with("int") {
            return self.column_type.clone();
        }
        let unsigned = if self.column_type.contains("unsigned") { " unsigned" } else { "" };
        format!("{}{unsigned}", self.data_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Needed<'static> {
        static NAME: std::sync::LazyLock<TableName> =
            std::sync::LazyLock::new(|| TableName::parse("table", "t").unwrap());
        let (name, columns) = (&*NAME, ENTRIES);
        let index = Some("cache_key");
        Needed { name, ddl: String::new(), columns, primary: "key_hash", index }
    }

    fn column(name: &str, column_type: &str, nullable: bool) -> Column {
        Column {
            name: name.to_owned(),
            data_type: column_type.split(['(', ' ']).next().unwrap().to_owned(),
            column_type: column_type.to_owned(),
            nullable,
            fills_itself: false,
        }
    }

    fn table() -> (Vec<Column>, Vec<Indexed>) {
        let columns = ENTRIES
            .iter()
            .map(|(name, types, nullable)| {
                // as MariaDB shows it
                let shown = types[0].replace("int unsigned", "int(11) unsigned");
                column(name, &shown, *nullable)
            })
            .collect();
        let index = |index: &str, column: &str| Indexed {
            index: index.to_owned(),
            seq: 1,
            column: column.to_owned(),
        };
        (columns, vec![index("primary", "key_hash"), index("by_key", "cache_key")])
    }

    #[test]
    fn a_correct_table_has_no_difference() {
        let (mut columns, indexed) = table();
        assert_eq!(problem(&entries(), &columns, &indexed), None);
        columns.push(column("note", "text", true));
        assert_eq!(
            problem(&entries(), &columns, &indexed),
            None,
            "one more column that may be null"
        );
    }

    #[test]
    fn differences_are_named() {
        let with = |change: &dyn Fn(&mut Vec<Column>, &mut Vec<Indexed>)| {
            let (mut columns, mut indexed) = table();
            change(&mut columns, &mut indexed);
            problem(&entries(), &columns, &indexed).unwrap()
        };
        let missing = with(&|columns, _| columns.clear());
        assert!(missing.contains("does not exist") && missing.contains("`migrate()`"));
        for (problem, part) in [
            (with(&|columns, _| drop(columns.remove(5))), "has no column `head`;"),
            (
                with(&|columns, _| columns[4] = column("expires", "bigint(20)", false)),
                "`expires` of type bigint(20) instead of bigint unsigned",
            ),
            (
                with(&|columns, _| columns[1] = column("cache_key", "varbinary(255)", false)),
                "`cache_key` of type varbinary(255) instead of varbinary(1024)",
            ),
            (with(&|columns, _| columns[2].nullable = true), "`value` that may be null"),
            (with(&|columns, _| columns[5].nullable = false), "`head` that may not be null"),
            (
                with(&|columns, _| columns.push(column("owner", "int", false))),
                "a column `owner` more",
            ),
            (with(&|_, indexed| drop(indexed.remove(0))), "another primary key"),
            (with(&|_, indexed| drop(indexed.remove(1))), "no index on `cache_key`"),
        ] {
            assert!(problem.contains(part), "{problem}");
            assert!(problem.contains("drop it and call `migrate()`"), "{problem}");
        }
    }
}
