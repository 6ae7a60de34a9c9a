//! What does the database write for the cache? Bytes of the binary log, of the redo log, and of the table.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use tower_mysql_cache::key::CacheKey;
use tower_mysql_cache::store::{Entries, Entry, Stored, StoredHead, StoredResponse};
use tower_mysql_cache::{CacheLayer, MySqlStore};

use super::Run;
use super::common::{self, assert_hit, cached, ok, random};
use super::fill;
use super::variables;

/// Sizes of bodies in KiB, and how many are written.
const SIZES: [(usize, u64); 3] = [(1, 1024), (16, 256), (256, 64)];
const KINDS: [&str; 2] = ["text", "random"];
const TABLE: &str = "growth_put";
const LOG: &str = "growth_put_log";

pub(crate) fn measure(run: &Run) {
    let server = if run.is_mariadb() { "MariaDB" } else { "MySQL" };
    println!("\n## What the database writes, {server}\n");
    println!(
        "Bytes for one put, with one put in each statement and transaction. *New*: there was no such entry; *replaced*: there \
         was one. Text bodies are compressed by the store (to about a third); random bodies cannot be. The redo log is \
         `Innodb_os_log_written`, so it counts a block of 512 bytes again whenever the server writes it again."
    );
    binlog(run);
    redo_and_table(run);
    others(run);
    if run.is_mariadb() {
        variables::measure(run);
    }
}

/// Names of settings, and the statements that make them.
fn settings(run: &Run) -> Vec<(&'static str, &'static str)> {
    if run.is_mariadb() {
        vec![
            (
                "default",
                "SET GLOBAL binlog_annotate_row_events = ON, GLOBAL binlog_row_image = FULL",
            ),
            (
                "image minimal",
                "SET GLOBAL binlog_annotate_row_events = ON, GLOBAL binlog_row_image = MINIMAL",
            ),
            (
                "annotate off",
                "SET GLOBAL binlog_annotate_row_events = OFF, GLOBAL binlog_row_image = FULL",
            ),
            (
                "annotate off, image minimal",
                "SET GLOBAL binlog_annotate_row_events = OFF, GLOBAL binlog_row_image = MINIMAL",
            ),
        ]
    } else {
        vec![
            ("default", "SET GLOBAL binlog_row_image = FULL"),
            ("image minimal", "SET GLOBAL binlog_row_image = MINIMAL"),
        ]
    }
}

/// The binary log that is written now: its name, and its length.
pub(super) fn position(run: &Run) -> u64 {
    let ask = if run.is_mariadb() { "SHOW MASTER STATUS" } else { "SHOW BINARY LOG STATUS" };
    run.number(ask, 1)
}

fn redo(run: &Run) -> u64 {
    run.number("SHOW GLOBAL STATUS LIKE 'Innodb_os_log_written'", 1)
}

/// How much `read` grows with each of `count` calls.
pub(super) fn growth(run: &Run, read: fn(&Run) -> u64, count: u64, calls: impl FnOnce()) -> f64 {
    let before = read(run);
    calls();
    read(run).saturating_sub(before) as f64 / count as f64
}

/// Words of which some are frequent and most are rare: deflate makes about a third of them, as of HTML.
static WORDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let (mut next, letters) = (random(1), b"etaoinshrdlucmfwypvbgk");
    let mut letter = move || next() as usize;
    let mut word = || {
        let length = 2 + letter() % 9;
        (0..length).filter_map(|_| letters.get(letter() % letters.len()).copied()).collect()
    };
    (0..4096).map(|_| word()).collect()
});

/// The body with this number. No two are equal.
pub(super) fn make(kind: &str, kib: usize, number: u64) -> Bytes {
    let mut next = random(number + 1);
    if kind == "random" {
        return std::iter::repeat_with(|| next() as u8).take(kib << 10).collect();
    }
    let mut text = Vec::with_capacity((kib << 10) + 32);
    while text.len() < kib << 10 {
        let at = (next() % 64) * (next() % 64);
        text.extend_from_slice(WORDS.get(at as usize).map_or(b"", |word| word));
        text.extend_from_slice(if next().is_multiple_of(12) { b"</p>\n<p>" } else { b" " });
    }
    text.truncate(kib << 10);
    text.into()
}

fn entry(store: &MySqlStore, kind: &str, kib: usize, number: u64, body: Bytes) -> Entry {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert("cache-control", HeaderValue::from_static("max-age=3600"));
    let now_ms = store.now_ms();
    let mut head = StoredHead::new(StatusCode::OK, headers, now_ms);
    head.fresh_until_ms = now_ms + 3_600_000;
    let key = CacheKey::new(format!("growth:1:/{kind}/{kib}/{number:08} http://growth.example"));
    Entry::new(key, Stored::Response(StoredResponse::new(head, body)), now_ms + 3_600_000)
}

/// Writes entries one by one. `turn` makes bodies that differ from those of other turns.
pub(super) fn put(
    run: &Run,
    store: &MySqlStore,
    (kind, kib, count, turn): (&str, usize, u64, u64),
) {
    for number in 0..count {
        let body = make(kind, kib, turn * 1_000_000 + number);
        ok(run.runtime.block_on(store.put(entry(store, kind, kib, number, body))));
    }
}

fn binlog(run: &Run) {
    let settings = settings(run);
    let mut lines: Vec<Vec<String>> = Vec::new();
    for (name, statement) in &settings {
        run.sql(statement);
        run.sql(&format!("DROP TABLE IF EXISTS {TABLE}"));
        let store = run.store(TABLE, LOG);
        let mut cells = vec![(*name).to_owned()];
        for kind in KINDS {
            for (kib, count) in SIZES {
                run.sql("FLUSH BINARY LOGS");
                let new = growth(run, position, count, || put(run, &store, (kind, kib, count, 0)));
                let replaced =
                    growth(run, position, count, || put(run, &store, (kind, kib, count, 1)));
                let (new, replaced) = (new.round(), replaced.round());
                let times = |bytes: f64| bytes / (kib << 10) as f64;
                cells.push(format!(
                    "{new} ({:.2}) / {replaced} ({:.2})",
                    times(new),
                    times(replaced)
                ));
            }
        }
        run.runtime.block_on(store.close());
        lines.push(cells);
    }
    run.sql(settings.first().map_or("DO 0", |(_, statement)| statement));
    println!(
        "\nBinary log, bytes of a put, new / replaced (in brackets: as multiples of the body):\n"
    );
    println!(
        "| setting | text, 1 KiB | 16 KiB | 256 KiB | random, 1 KiB | 16 KiB | 256 KiB |\n|---|--:|--:|--:|--:|--:|--:|"
    );
    for cells in lines {
        println!("| {} |", cells.join(" | "));
    }
}

fn redo_and_table(run: &Run) {
    println!("\nRedo log and table, bytes of a put (in brackets: as multiples of the body):\n");
    println!("| body | redo, new | redo, replaced | table, new |\n|---|--:|--:|--:|");
    for kind in KINDS {
        for (kib, count) in SIZES {
            run.sql(&format!("DROP TABLE IF EXISTS {TABLE}"));
            let store = run.store(TABLE, LOG);
            run.rest();
            let new = growth(run, redo, count, || put(run, &store, (kind, kib, count, 2)));
            let table = rows_bytes(run) as f64 / count as f64;
            run.rest();
            let replaced = growth(run, redo, count, || put(run, &store, (kind, kib, count, 3)));
            run.runtime.block_on(store.close());
            let cell = |bytes: f64| format!("{bytes:.0} ({:.2})", bytes / (kib << 10) as f64);
            println!(
                "| {kind}, {kib} KiB | {} | {} | {} |",
                cell(new),
                cell(replaced),
                cell(table)
            );
        }
    }
}

/// `data_length` of the table.
fn rows_bytes(run: &Run) -> u64 {
    run.sql(&format!("ANALYZE TABLE {TABLE}"));
    let expiry = if run.is_mariadb() { "" } else { "SET information_schema_stats_expiry = 0;" };
    let sql = "SELECT CAST(data_length AS UNSIGNED) FROM information_schema.tables";
    run.number(
        &format!("{expiry} {sql} WHERE table_schema = DATABASE() AND table_name = '{TABLE}'"),
        0,
    )
}

fn others(run: &Run) {
    const HITS: u64 = 5_000;
    const INVALIDATIONS: u64 = 200;
    let store = run.store("growth_others", "growth_others_log");
    let layer = CacheLayer::new(store).prefix("growth").with_policy(fill::PAGE);
    let (service, uri) = (cached(&layer, common::body(1 << 10)), "http://growth.example/others");
    fill::store_page(run, &layer, &service, uri);
    let handle = layer.handle();
    let hits = || {
        run.runtime.block_on(async {
            for _ in 0..HITS {
                assert_hit(&service, uri).await;
            }
        });
    };
    let invalidations = || {
        run.runtime.block_on(async {
            for number in 0..INVALIDATIONS {
                ok(handle.invalidate_tags([format!("product:{number}")]).await);
            }
        });
    };
    println!("\n| | binary log, bytes | redo log, bytes |\n|---|--:|--:|");
    run.rest();
    let (log, disk) = (growth(run, position, HITS, hits), growth(run, redo, HITS, hits));
    println!("| a hit | {log:.1} | {disk:.1} |");
    run.rest();
    let log = growth(run, position, INVALIDATIONS, invalidations);
    let disk = growth(run, redo, INVALIDATIONS, invalidations);
    println!("| an invalidation of a tag | {log:.0} | {disk:.0} |");
}
