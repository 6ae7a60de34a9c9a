//! Tables with many entries. The server makes them from one that the store has written: keys, hashes and checksums are
//! real, so each of them is a hit.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sqlx::Row;
use tower_mysql_cache::store::Store;
use tower_mysql_cache::{CacheLayer, CachePolicy, MySqlStore};

use super::Run;
use super::common::{Boxed, assert_hit, body, cached, get, ok, send};
use super::load::page;

/// Bytes of the bodies.
const BODY: usize = 64;
pub(crate) const TTL: Duration = Duration::from_secs(7 * 24 * 3600);
pub(crate) const PAGE: CachePolicy = CachePolicy::new().ttl(TTL);

/// A service whose pages have small bodies.
pub(crate) fn service(store: &MySqlStore) -> (CacheLayer<MySqlStore>, Boxed) {
    let layer = CacheLayer::new(store.clone()).prefix("growth").with_policy(PAGE);
    let service = cached(&layer, small());
    (layer, service)
}

fn small() -> Bytes {
    body(BODY)
}

/// Writes a page, as the layer does.
pub(crate) fn store_page<S: Store>(run: &Run, layer: &CacheLayer<S>, service: &Boxed, uri: &str) {
    run.runtime.block_on(async {
        send(service, get(uri)).await;
        ok(layer.handle().flush().await);
        assert_hit(service, uri).await;
    });
}

/// A store whose table has ten to this power of pages, [`page`] 0 and up, and the service in front.
pub(crate) fn filled(run: &Run, table: &str, power: u32) -> (CacheLayer<MySqlStore>, Boxed) {
    let began = Instant::now();
    let store = run.store(table, "growth_log");
    let (layer, service) = service(&store);
    store_page(run, &layer, &service, &page(0));
    let is_large = power > 4;
    if is_large {
        run.sql(&format!("ALTER TABLE {table} DROP INDEX cache_key"));
    }
    copies(run, table, power, "/page/", "expires");
    if is_large {
        run.sql(&format!("ALTER TABLE {table} ADD INDEX cache_key (cache_key(255))"));
    }
    run.sql(&format!("ANALYZE TABLE {table}"));
    run.runtime.block_on(assert_hit(&service, &page(10_u64.pow(power) - 1)));
    eprintln!("growth: 10^{power} rows in {:.0} s", began.elapsed().as_secs_f64());
    (layer, service)
}

/// Copies the row of page 0 to ten to this power of pages, in the order of the hashes, with `expires` as given.
pub(crate) fn copies(run: &Run, table: &str, power: u32, path: &str, expires: &str) {
    let columns = "cache_key, LEFT(head, LENGTH(head) - 4), LEFT(value, LENGTH(value) - 4)";
    let rows = ok(run.rows(&format!("SELECT {columns} FROM {table} LIMIT 1")));
    let Some(row) = rows.first() else { return };
    let bytes = |at| ok(row.try_get::<Vec<u8>, _>(at));
    let (key, head, value) = (bytes(0), hex(&bytes(1)), hex(&bytes(2)));
    let key = String::from_utf8_lossy(&key).into_owned();
    let Some((before, after)) = key.split_once("/page/00000000") else { return };
    let (number, digits) = numbers(run, power);
    let crc = |of: &str| format!("REVERSE(UNHEX(LPAD(HEX(CRC32(CONCAT(k, {of}))), 8, '0')))");
    run.sql(&format!(
        "DROP TABLE IF EXISTS growth_keys;
         CREATE TABLE growth_keys (h BINARY(16) NOT NULL, k VARBINARY(255) NOT NULL);
         INSERT INTO growth_keys SELECT UNHEX(LEFT(SHA2(k, 256), 32)), k FROM
           (SELECT CAST(CONCAT('{before}{path}', LPAD({number}, 8, '0'), '{after}') AS BINARY) AS k FROM {digits}) AS k;
         INSERT IGNORE INTO {table}
           (key_hash, cache_key, value, value_type, expires, head, size, status, born_ms, fresh_until_ms, gen_ms)
           SELECT h, k, CONCAT(x'{value}', {value_crc}), t.value_type, {expires}, CONCAT(x'{head}', {head_crc}),
             t.size, t.status, t.born_ms, t.fresh_until_ms, t.gen_ms
           FROM growth_keys, (SELECT * FROM {table} WHERE cache_key = '{key}') AS t ORDER BY h;
         DROP TABLE growth_digits, growth_keys",
        value_crc = crc(&format!("x'{value}'")),
        head_crc = crc(&format!("x'{head}'")),
    ));
}

/// Makes a table of digits, to be dropped afterwards. Returns an expression and the list of tables that it needs: together, all
/// numbers below ten to this power.
pub(crate) fn numbers(run: &Run, power: u32) -> (String, String) {
    run.sql(
        "DROP TABLE IF EXISTS growth_digits;
         CREATE TABLE growth_digits (d INT);
         INSERT INTO growth_digits VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)",
    );
    let list = |of: fn(u32) -> String, by: &str| (0..power).map(of).collect::<Vec<_>>().join(by);
    let number = list(|n| format!("d{n}.d * {}", 10_u64.pow(n)), " + ");
    (number, list(|n| format!("growth_digits d{n}"), ", "))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
