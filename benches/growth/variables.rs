//! MariaDB writes the text of each statement into the binary log, with the values. May a normal user avoid that?
//!
//! A value in a user variable is not part of the text. So a row whose body is in a variable comes without a copy.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::{ConnectOptions, MySqlConnection};

use super::Run;
use super::common::{median, ok};
use super::database::{growth, make, position};
use super::server::cpu;

const COLUMNS: &str = "key_hash, cache_key, value, value_type, expires, head, size";
const UPDATE: &str = "ON DUPLICATE KEY UPDATE value = VALUES(value), expires = VALUES(expires), \
                      head = VALUES(head), size = VALUES(size)";
const PUTS: u64 = 256;

#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// The body is a value of the statement.
    Value,
    /// The body is in a variable, which another statement has set.
    Variable,
}

const FORMS: [(Form, &str); 2] = [
    (Form::Value, "`VALUES (..., ?, ...)`"),
    (Form::Variable, "`SET @v = ?`, then `VALUES (..., @v, ...)`"),
];

pub(crate) fn measure(run: &Run) {
    println!("\n### Without `BINLOG ADMIN`\n");
    println!(
        "A user with `SELECT, INSERT, UPDATE, DELETE, CREATE` on the schema tries to switch the text off, and then puts bodies \
         that cannot be compressed in two forms. Both use one connection, READ COMMITTED, and {PUTS} puts of new entries.\n"
    );
    run.sql(
        "DROP USER IF EXISTS plain@'127.0.0.1'; CREATE USER plain@'127.0.0.1' IDENTIFIED BY '';
         DROP TABLE IF EXISTS growth_form; CREATE TABLE growth_form LIKE growth_put",
    );
    let options: MySqlConnectOptions = ok(run.server.url.parse());
    let schema = options.get_database().unwrap_or_default().to_owned();
    run.sql(&format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON `{schema}`.* TO plain@'127.0.0.1'"
    ));
    let mut connection = ok(run.runtime.block_on(options.username("plain").connect()));
    for statement in [
        "SET SESSION binlog_annotate_row_events = OFF",
        "SET STATEMENT binlog_annotate_row_events = OFF FOR DELETE FROM growth_form",
        "SET SESSION sql_log_bin = OFF",
        "SET SESSION binlog_row_image = MINIMAL",
    ] {
        let answer = run.runtime.block_on(sqlx::raw_sql(statement).execute(&mut connection));
        let answer = answer.map_or_else(|error| error.to_string(), |_| "allowed".to_owned());
        println!(
            "- `{statement}`: {}",
            answer.trim_start_matches("error returned from database: ")
        );
    }
    ok(run.runtime.block_on(
        sqlx::raw_sql("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            .execute(&mut connection),
    ));
    println!(
        "\n| body | form | binary log, bytes | a put, p50, µs | app CPU, µs | server CPU, µs |\n|---|---|--:|--:|--:|--:|"
    );
    for kib in [1, 16, 256] {
        let mut all = [Vec::new(), Vec::new()];
        for _ in 0..run.rounds {
            for ((form, _), all) in FORMS.iter().zip(&mut all) {
                all.push(puts(run, &mut connection, *form, kib));
            }
        }
        for ((_, name), all) in FORMS.iter().zip(&all) {
            let of = |at: usize| median(all.iter().filter_map(|figures| figures.get(at).copied()));
            println!(
                "| random, {kib} KiB | {name} | {:.0} ({:.2}) | {:.0} | {:.0} | {:.0} |",
                of(0),
                of(0) / (kib << 10) as f64,
                of(1),
                of(2),
                of(3)
            );
        }
    }
}

/// Bytes of the binary log, and microseconds: median, of the application, and of the server.
fn puts(run: &Run, connection: &mut MySqlConnection, form: Form, kib: usize) -> [f64; 4] {
    run.sql("TRUNCATE growth_form; FLUSH BINARY LOGS");
    let bodies: Vec<Bytes> = (0..PUTS).map(|number| make("random", kib, number)).collect();
    let (app, server) = (cpu(std::process::id()), cpu(run.server.pid));
    let mut taken = Vec::new();
    let bytes = growth(run, position, PUTS, || {
        for (number, body) in (0_u64..).zip(&bodies) {
            let began = Instant::now();
            ok(run.runtime.block_on(put(connection, form, number, body)));
            taken.push(began.elapsed().as_secs_f64() * 1e6);
        }
    });
    let used =
        |before: Duration, pid| cpu(pid).saturating_sub(before).as_secs_f64() * 1e6 / PUTS as f64;
    [bytes, median(taken), used(app, std::process::id()), used(server, run.server.pid)]
}

async fn put(
    connection: &mut MySqlConnection,
    form: Form,
    number: u64,
    body: &Bytes,
) -> Result<(), sqlx::Error> {
    let mark = if form == Form::Variable { "@growth_value" } else { "?" };
    if form == Form::Variable {
        sqlx::query("SET @growth_value = ?").bind(&body[..]).execute(&mut *connection).await?;
    }
    let insert =
        format!("INSERT INTO growth_form ({COLUMNS}) VALUES (?, ?, {mark}, 'r', ?, ?, ?) {UPDATE}");
    let hash = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let mut query = sqlx::query(sqlx::AssertSqlSafe(insert)).bind(hash.to_be_bytes().to_vec());
    query = query.bind(format!("growth:1:/form/{number:08} http://growth.example").into_bytes());
    if form == Form::Value {
        query = query.bind(&body[..]);
    }
    let query = query.bind(u64::MAX).bind(vec![7_u8; 200]).bind(body.len() as u64 + 300);
    query.execute(&mut *connection).await.map(drop)
}
