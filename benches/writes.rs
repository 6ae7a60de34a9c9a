//! How many responses a second are written, compared with an upsert for each response through a sqlx pool of ten?
//!
//! ```sh
//! cargo bench --bench writes                # or: -- ROUNDS SECONDS
//! ```
//!
//! 64 writers put one response after the other, each under a new key. Bodies are random bytes, and nothing is compressed.
//! In each round, both run once. The database is that of `TEST_DATABASE_URL` or `DATABASE_URL`, else a private MariaDB. All
//! rows that the benchmark writes are removed.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{PREFIX, median, ok};
use http::{HeaderMap, HeaderValue, StatusCode};
use sqlx::{AssertSqlSafe, MySqlPool};
use tokio::task::JoinSet;
use tower_mysql_cache::key::{CacheKey, KeyRange};
use tower_mysql_cache::store::{Compression, Entries, Entry, Stored, StoredHead, StoredResponse};
use tower_mysql_cache::{MySqlStore, StoreError};

const WRITERS: u64 = 64;
const SIZES: [(&str, usize); 2] = [("1 KiB", 1 << 10), ("16 KiB", 16 << 10)];
/// Has the same columns and indexes as the table of the store.
const TABLE: &str = "bench_upserts";

fn main() {
    // `cargo bench` adds the argument `--bench`
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u64>().ok());
    let rounds = numbers.next().unwrap_or(5);
    let seconds = numbers.next().unwrap_or(2);
    let runtime = common::runtime();
    let Some(url) = common::database() else { return };
    runtime.block_on(async {
        let store = ok(connect(url).await);
        let pool = sqlx::mysql::MySqlPoolOptions::new().min_connections(10).max_connections(10);
        let pool = ok(pool.connect(url).await);
        let ddl = ok(MySqlStore::ddl_for(TABLE));
        ok(sqlx::raw_sql(AssertSqlSafe(ddl)).execute(&pool).await);
        println!("{}: puts a second, {WRITERS} writers", store.server_version());
        for (name, bytes) in SIZES {
            compare(name, &common::body(bytes), &store, &pool, (rounds, seconds)).await;
        }
        let drop_table = AssertSqlSafe(format!("DROP TABLE {TABLE}"));
        ok(sqlx::raw_sql(drop_table).execute(&pool).await);
        ok(store.remove(KeyRange::starting_with(format!("{PREFIX}:"))).await);
    });
}

async fn connect(url: &str) -> Result<MySqlStore, StoreError> {
    let builder = MySqlStore::builder(url)?.compression(Compression::Off).background_cull(false);
    common::open(builder).await
}

/// Prints the median of each, and of the ratios.
async fn compare(
    name: &str,
    body: &Bytes,
    store: &MySqlStore,
    pool: &MySqlPool,
    (rounds, seconds): (u64, u64),
) {
    let (mut puts, mut upserts, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (to_store, to_table) = (store.clone(), pool.clone());
        let (put, clock) = (body.clone(), store.clone());
        let by_hand = body.clone();
        let put = written(seconds, move |n| put_one(to_store.clone(), n, put.clone())).await;
        let upsert = written(seconds, move |n| {
            upsert_one(to_table.clone(), clock.now_ms(), n, by_hand.clone())
        })
        .await;
        let clear = AssertSqlSafe(format!("TRUNCATE TABLE {TABLE}"));
        ok(sqlx::raw_sql(clear).execute(pool).await);
        puts.push(put);
        upserts.push(upsert);
        ratios.push(put / upsert);
    }
    let (low, high) = (minimum(&ratios), -minimum(&ratios.iter().map(|r| -r).collect::<Vec<_>>()));
    println!(
        "{name:>7}: store {:.0}, upserts {:.0}, ratio {:.2} ({low:.2} to {high:.2})",
        median(puts),
        median(upserts),
        median(ratios)
    );
}

/// How often a second the writers write.
async fn written<F>(seconds: u64, write: impl Fn(u64) -> F + Clone + Send + 'static) -> f64
where
    F: Future<Output = ()> + Send + 'static,
{
    /// Each key is new, also in the next round and the next run.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let done = Arc::new(AtomicU64::new(0));
    let (began, limit) = (Instant::now(), Duration::from_secs(seconds));
    let mut tasks = JoinSet::new();
    for _ in 0..WRITERS {
        let (write, done) = (write.clone(), Arc::clone(&done));
        tasks.spawn(async move {
            while began.elapsed() < limit {
                write(NEXT.fetch_add(1, Ordering::Relaxed)).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

fn key(n: u64) -> CacheKey {
    CacheKey::new(format!("{PREFIX}:1:/writes/{}/{n} http://shop.example", std::process::id()))
}

async fn put_one(store: MySqlStore, n: u64, body: Bytes) {
    let now_ms = store.now_ms();
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/octet-stream"));
    let mut head = StoredHead::new(StatusCode::OK, headers, now_ms);
    head.fresh_until_ms = now_ms + 3_600_000;
    let response = Stored::Response(StoredResponse::new(head, body));
    ok(store.put(Entry::new(key(n), response, now_ms + 3_600_000)).await);
}

async fn upsert_one(pool: MySqlPool, now_ms: u64, n: u64, body: Bytes) {
    let key = key(n);
    let upsert = format!(
        "INSERT INTO {TABLE} (key_hash, cache_key, value, value_type, expires, head, size, status, born_ms, fresh_until_ms, \
         gen_ms) VALUES (?, ?, ?, 'r', ?, ?, ?, 200, ?, ?, 0) ON DUPLICATE KEY UPDATE cache_key = VALUES(cache_key), \
         value = VALUES(value), expires = VALUES(expires), head = VALUES(head), size = VALUES(size), \
         born_ms = VALUES(born_ms), fresh_until_ms = VALUES(fresh_until_ms)"
    );
    let query = sqlx::query(AssertSqlSafe(upsert))
        .bind(key.hash().to_vec())
        .bind(key.as_bytes().to_vec())
        .bind(&body[..])
        .bind(now_ms + 3_600_000)
        .bind(&[7_u8; 120][..])
        .bind(body.len() as u64)
        .bind(now_ms)
        .bind(now_ms + 3_600_000);
    ok(query.execute(&pool).await);
}

fn minimum(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}
