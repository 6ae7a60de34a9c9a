//! What tags cost: on a lookup, and in the transaction that invalidates them.
//!
//! ```sh
//! cargo bench --bench invalidation
//! ```
//!
//! With `TEST_DATABASE_URL` or `DATABASE_URL` the database is that one (rows with the prefix `bench` are
//! written and removed, and rows of the log stay), else a private MariaDB is started. In the groups of
//! lookups the first line is the response without tags, and the log has a thousand rows that are newer than
//! each response and name other tags. In the group of transactions the last line is the ceiling: the
//! same transaction with one bare insert.
//!
//! `cargo bench --bench invalidation -- pruning` writes 5,000 rows a second that are past their time, and shows how
//! many of them are in the log, a table for that alone.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::watch::Watch;
use common::{Boxed, PREFIX, assert_hit, cached, get, ok, send, together};
use criterion::{Criterion, Throughput};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tower_mysql_cache::{CacheHandle, CacheLayer, CachePolicy, MySqlStore, StoreError};

const PAGE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(3600));
const MANY: u64 = 64;
/// Rows of the log that have come since what is looked up was stored.
const NEWER: usize = 1_000;

fn main() {
    let runtime = common::runtime();
    common::run(|criterion| {
        let Some(store) = common::mysql(&runtime) else { return };
        let handle = CacheLayer::new(store.clone()).prefix(PREFIX).handle();
        lookups(criterion, &runtime, &store);
        transactions(criterion, &runtime, &handle);
        if std::env::args().any(|argument| argument.contains("pruning")) {
            ok(runtime.block_on(pruning()));
        }
        ok(runtime.block_on(handle.erase()));
    });
}

/// `tag:0`, `tag:1`, ...: they live as long as the program, as those of a policy do.
fn tags(count: usize) -> &'static [&'static str] {
    let tags = (0..count).map(|n| &*String::leak(format!("tag:{n}")));
    Vec::leak(tags.collect())
}

fn uri(tags: usize) -> String {
    format!("http://shop.example/tagged/{tags}")
}

fn lookups(criterion: &mut Criterion, runtime: &Runtime, store: &MySqlStore) {
    let body = common::body(1 << 10);
    let layer = CacheLayer::new(store.clone()).prefix(PREFIX);
    let services: Vec<(usize, Boxed)> = [0, 1, 10, 100, 1_000]
        .into_iter()
        .map(|count| {
            let layer = layer.clone().with_policy(PAGE.tags(tags(count)));
            let service = cached(&layer, body.clone());
            runtime.block_on(send(&service, get(&uri(count))));
            (count, service)
        })
        .collect();
    runtime.block_on(async {
        ok(layer.handle().flush().await);
        let others = (0..NEWER).map(|n| format!("other:{n}"));
        ok(layer.handle().invalidate_tags(others).await);
        for (count, service) in &services {
            assert_hit(service, &uri(*count)).await;
        }
    });
    for callers in [1, MANY] {
        let mut group = criterion.benchmark_group(match callers {
            1 => "hit with tags, 1 KiB".to_owned(),
            _ => format!("hit with tags, 1 KiB, {callers} callers"),
        });
        group.throughput(Throughput::Elements(1));
        for (count, service) in &services {
            let uri = uri(*count);
            group.bench_function(format!("{count} tags"), |b| {
                b.iter_custom(|iterations| {
                    let (service, uri) = (service.clone(), uri.clone());
                    together(runtime, iterations, callers, move || {
                        let (service, request) = (service.clone(), get(&uri));
                        async move {
                            send(&service, request).await;
                        }
                    })
                });
            });
        }
    }
}

/// What one transaction does beside beginning and ending.
#[derive(Clone, Copy)]
enum Work {
    Tags(&'static [&'static str]),
    Insert,
}

fn transactions(criterion: &mut Criterion, runtime: &Runtime, handle: &CacheHandle) {
    let Some(url) = common::database() else { return };
    let connection = ok(runtime.block_on(MySqlConnection::connect(url)));
    let connection = Arc::new(Mutex::new(connection));
    let mut group = criterion.benchmark_group("invalidation in a transaction");
    let cases = [
        ("1 tag", Work::Tags(tags(1))),
        ("10 tags", Work::Tags(tags(10))),
        ("100 tags", Work::Tags(tags(100))),
        ("bare INSERT", Work::Insert),
    ];
    for (name, work) in cases {
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                let (connection, handle) = (Arc::clone(&connection), handle.clone());
                let all = runtime.spawn(async move {
                    let mut connection = connection.lock().await;
                    let began = Watch::start();
                    for _ in 0..iterations {
                        transaction(&mut connection, &handle, work).await;
                    }
                    began.elapsed()
                });
                ok(runtime.block_on(all))
            });
        });
    }
}

async fn transaction(connection: &mut MySqlConnection, handle: &CacheHandle, work: Work) {
    let mut tx = ok(connection.begin().await);
    match work {
        Work::Tags(tags) => ok(handle.invalidate_tags_on(&mut tx, tags.iter().copied()).await),
        Work::Insert => {
            let insert = "INSERT INTO cache_invalidations (tag) VALUES ('tag:0')";
            ok(sqlx::query(insert).execute(&mut *tx).await);
        }
    }
    ok(tx.commit().await);
}

/// How many rows stay in a log that gets 5,000 a second which are past their time, of a store that culls nothing.
async fn pruning() -> Result<(), StoreError> {
    const A_SECOND: usize = 5_000;
    const LIST: usize = 50;
    let Some(url) = common::database() else { return Ok(()) };
    let store = MySqlStore::builder(url)?.background_cull(false).log_table("bench_log");
    let store = store.idle_cull_interval(Duration::from_secs(1)).connect().await?;
    store.migrate().await?;
    let mut connection = ok(MySqlConnection::connect(url).await);
    let list = vec!["('other', 1)"; LIST].join(", ");
    let insert = format!("INSERT INTO bench_log (tag, at_ms) VALUES {list}");
    ok(sqlx::raw_sql(AssertSqlSafe(insert.clone())).execute(&mut connection).await);
    // one look, so that it knows the log
    CacheLayer::new(store.clone()).prefix(PREFIX).handle().inspect("http://shop.example/").await?;
    let began = std::time::Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) * LIST as u32 / A_SECOND as u32);
    println!("\npruning, {A_SECOND} rows a second");
    for lists in 1..=30 * A_SECOND / LIST {
        ticks.tick().await;
        ok(sqlx::raw_sql(AssertSqlSafe(insert.clone())).execute(&mut connection).await);
        if lists % (5 * A_SECOND / LIST) == 0 {
            let count = "SELECT COUNT(*) FROM bench_log WHERE at_ms = 1";
            let left: i64 = ok(sqlx::query_scalar(count).fetch_one(&mut connection).await);
            let seconds = began.elapsed().as_secs_f64();
            println!("  after {seconds:.1} s: {} rows written, {left} in the log", lists * LIST);
        }
    }
    store.close().await;
    ok(sqlx::raw_sql("DROP TABLE bench_log, bench_log_state").execute(&mut connection).await);
    Ok(())
}
