//! What a hit, a miss and a bypass cost, against the bare handler.
//!
//! ```sh
//! cargo bench --bench layer
//! cargo bench --bench layer -- 'hit'      # some of it
//! ```
//!
//! With `TEST_DATABASE_URL` or `DATABASE_URL` the database is that one (rows with the prefix `bench`
//! are written and removed), else a private MariaDB is started. In the groups of hits, `raw SELECT`
//! is the ceiling: one statement on a connection of one's own that does nothing else; with many
//! callers, a statement each through a pool of ten.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::watch::Watch;
use common::{Boxed, NoStore, PREFIX, assert_hit, bare, cached, get, ok, send, together};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use sqlx::{Connection, MySqlConnection, MySqlPool};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tower_mysql_cache::key::CacheKey;
use tower_mysql_cache::store::Store;
use tower_mysql_cache::{CacheHandle, CacheLayer, CachePolicy, MemoryStore, MySqlStore};

const PAGE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(3600));
const MANY: u64 = 64;
/// Responses that are stored before they are removed again, outside the time that is measured.
const BATCH: u64 = 256;
const URI: &str = "http://shop.example/products?page=2";
const SIZES: &[(&str, usize)] = &[("1 KiB", 1 << 10), ("64 KiB", 64 << 10)];
const SELECT: &str =
    "SELECT cache_key, value_type, expires, head, value FROM cache_entries WHERE key_hash = ?";

fn main() {
    let runtime = common::runtime();
    common::run(|criterion| {
        let mysql = common::mysql(&runtime);
        for (size, bytes) in SIZES {
            let body = common::body(*bytes);
            hits(criterion, &runtime, size, &body, mysql.as_ref(), 1);
            hits(criterion, &runtime, size, &body, mysql.as_ref(), MANY);
            misses(criterion, &runtime, size, &body, mysql.as_ref());
        }
        bypasses(criterion, &runtime);
        if let Some(store) = mysql {
            ok(runtime.block_on(layer(store).handle().erase()));
        }
    });
}

fn layer<St: Store>(store: St) -> CacheLayer<St> {
    CacheLayer::new(store).prefix(PREFIX).with_policy(PAGE)
}

/// A service that answers [`URI`] out of its store.
fn warm<St: Store>(runtime: &Runtime, store: St, body: &Bytes) -> Boxed {
    let layer = layer(store);
    let service = cached(&layer, body.clone());
    runtime.block_on(async {
        send(&service, get(URI)).await;
        ok(layer.handle().flush().await);
        assert_hit(&service, URI).await;
    });
    service
}

/// `callers` at once, each with one request after the other.
fn hits(
    criterion: &mut Criterion,
    runtime: &Runtime,
    size: &str,
    body: &Bytes,
    mysql: Option<&MySqlStore>,
    callers: u64,
) {
    let mut group = criterion.benchmark_group(match callers {
        1 => format!("hit, {size}"),
        _ => format!("hit, {size}, {callers} callers"),
    });
    group.throughput(Throughput::Elements(1));
    hit(&mut group, runtime, "bare handler", &bare(body.clone()), callers);
    hit(&mut group, runtime, "memory", &warm(runtime, MemoryStore::new(), body), callers);
    let Some((store, url)) = mysql.zip(common::database()) else { return };
    hit(&mut group, runtime, "mysql", &warm(runtime, store.clone(), body), callers);

    let hash = CacheKey::new(format!("{PREFIX}:1:/products?page=2 http://shop.example")).hash();
    if callers == 1 {
        let connection = ok(runtime.block_on(MySqlConnection::connect(url)));
        let connection = Arc::new(Mutex::new(connection));
        group.bench_function("raw SELECT", |b| {
            b.iter_custom(|iterations| {
                let connection = Arc::clone(&connection);
                together(runtime, iterations, callers, move || {
                    let connection = Arc::clone(&connection);
                    async move {
                        let query = sqlx::query(SELECT).bind(&hash[..]);
                        ok(query.fetch_one(&mut *connection.lock().await).await);
                    }
                })
            });
        });
        return;
    }
    let options = sqlx::mysql::MySqlPoolOptions::new().max_connections(10);
    let pool: MySqlPool = ok(runtime.block_on(options.connect(url)));
    group.bench_function("raw SELECT, pool of 10", |b| {
        b.iter_custom(|iterations| {
            let pool = pool.clone();
            together(runtime, iterations, callers, move || {
                let pool = pool.clone();
                async move {
                    ok(sqlx::query(SELECT).bind(&hash[..]).fetch_one(&pool).await);
                }
            })
        });
    });
    runtime.block_on(pool.close());
}

fn hit(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    name: &str,
    service: &Boxed,
    callers: u64,
) {
    group.bench_function(name, |b| {
        b.iter_custom(|iterations| {
            let service = service.clone();
            together(runtime, iterations, callers, move || {
                let service = service.clone();
                async move {
                    send(&service, get(URI)).await;
                }
            })
        });
    });
}

/// Every request is for something new. `written` waits for what was stored as well.
fn misses(
    criterion: &mut Criterion,
    runtime: &Runtime,
    size: &str,
    body: &Bytes,
    mysql: Option<&MySqlStore>,
) {
    let mut group = criterion.benchmark_group(format!("miss, {size}"));
    let service = bare(body.clone());
    group.bench_function("bare handler", |b| {
        b.iter_custom(|iterations| in_task(runtime, miss(service.clone(), iterations)));
    });
    let service = cached(&layer(NoStore), body.clone());
    group.bench_function("no store", |b| {
        b.iter_custom(|iterations| in_task(runtime, miss(service.clone(), iterations)));
    });
    stored_misses(&mut group, runtime, "memory", MemoryStore::new(), body, false);
    let Some(store) = mysql else { return };
    stored_misses(&mut group, runtime, "mysql", store.clone(), body, false);
    stored_misses(&mut group, runtime, "mysql, until it is written", store.clone(), body, true);
}

fn stored_misses<St: Store>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    name: &str,
    store: St,
    body: &Bytes,
    written: bool,
) {
    let layer = layer(store);
    let (service, handle) = (cached(&layer, body.clone()), layer.handle());
    group.bench_function(name, |b| {
        b.iter_custom(|iterations| {
            let mut left = iterations;
            let mut total = Duration::ZERO;
            while left > 0 {
                let batch = left.min(BATCH);
                let batch_of = batch_of(service.clone(), handle.clone(), batch, written);
                total += in_task(runtime, batch_of);
                left -= batch;
            }
            total
        });
    });
}

fn in_task(runtime: &Runtime, work: impl Future<Output = Duration> + Send + 'static) -> Duration {
    ok(runtime.block_on(runtime.spawn(work)))
}

async fn batch_of(service: Boxed, handle: CacheHandle, batch: u64, written: bool) -> Duration {
    let mut time = miss(service, batch).await;
    let began = Watch::start();
    ok(handle.flush().await);
    if written {
        time += began.elapsed();
    }
    ok(handle.invalidate_all().await);
    time
}

async fn miss(service: Boxed, requests: u64) -> Duration {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let began = Watch::start();
    for _ in 0..requests {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        send(&service, get(&format!("http://shop.example/products/{number}"))).await;
    }
    began.elapsed()
}

/// Requests that the cache leaves alone.
fn bypasses(criterion: &mut Criterion, runtime: &Runtime) {
    let mut group = criterion.benchmark_group("bypass, 1 KiB");
    let body = common::body(1 << 10);
    let mut bypass = |name: &str, service: Boxed, field: Option<(&'static str, &'static str)>| {
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                let service = service.clone();
                together(runtime, iterations, 1, move || {
                    let service = service.clone();
                    async move {
                        let mut request = http::Request::get(URI);
                        if let Some((name, value)) = field {
                            request = request.header(name, value);
                        }
                        send(&service, ok(request.body(common::Body::default()))).await;
                    }
                })
            });
        });
    };
    let layer = layer(NoStore);
    bypass("bare handler", bare(body.clone()), None);
    let off = layer.with_policy(CachePolicy::bypass());
    bypass("policy", cached(&off, body.clone()), None);
    let no_key = layer.clone().key_builder(|_: &_, _| None);
    bypass("key builder", cached(&no_key, body.clone()), None);
    bypass("session cookie", cached(&layer, body), Some(("cookie", "sid=0191d9f4")));
}
