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

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Boxed, NoStore, PREFIX, assert_hit, bare, cached, get, ok, send};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use sqlx::{Connection, MySqlConnection, MySqlPool};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tower_mysql_cache::{
    CacheHandle, CacheKey, CacheLayer, CachePolicy, MemoryStore, MySqlStore, Store,
};

const PAGE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(3600));
const CALLERS: u64 = 64;
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
            hits(criterion, &runtime, size, &body, mysql.as_ref());
            many_hits(criterion, &runtime, size, &body, mysql.as_ref());
            misses(criterion, &runtime, size, &body, mysql.as_ref());
        }
        bypasses(criterion, &runtime);
        if let Some(store) = mysql {
            ok(runtime.block_on(layer(store).handle().purge()));
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

/// One caller, one request after the other.
fn hits(
    criterion: &mut Criterion,
    runtime: &Runtime,
    size: &str,
    body: &Bytes,
    mysql: Option<&MySqlStore>,
) {
    let mut group = criterion.benchmark_group(format!("hit, {size}"));
    let mut hit = |name: &str, service: Boxed| {
        group.bench_function(name, |b| b.to_async(runtime).iter(|| send(&service, get(URI))));
    };
    hit("bare handler", bare(body.clone()));
    hit("memory", warm(runtime, MemoryStore::new(), body));
    let Some((store, url)) = mysql.zip(common::database()) else { return };
    hit("mysql", warm(runtime, store.clone(), body));

    let hash = stored_hash();
    let mut connection = ok(runtime.block_on(MySqlConnection::connect(url)));
    group.bench_function("raw SELECT", |b| {
        b.iter_custom(|iterations| {
            runtime.block_on(async {
                let began = Instant::now();
                for _ in 0..iterations {
                    ok(sqlx::query(SELECT).bind(&hash[..]).fetch_one(&mut connection).await);
                }
                began.elapsed()
            })
        });
    });
}

/// The primary key of [`URI`]'s row.
fn stored_hash() -> [u8; 16] {
    CacheKey::new(format!("{PREFIX}:1:/products?page=2 http://shop.example")).hash()
}

/// 64 callers at once: the time is that of the whole, divided by the requests.
fn many_hits(
    criterion: &mut Criterion,
    runtime: &Runtime,
    size: &str,
    body: &Bytes,
    mysql: Option<&MySqlStore>,
) {
    let mut group = criterion.benchmark_group(format!("hit, {size}, {CALLERS} callers"));
    group.throughput(Throughput::Elements(1));
    let hit = |group: &mut BenchmarkGroup<'_, WallTime>, name: &str, service: Boxed| {
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                let service = service.clone();
                together(runtime, iterations, move || {
                    let service = service.clone();
                    async move {
                        send(&service, get(URI)).await;
                    }
                })
            });
        });
    };
    hit(&mut group, "bare handler", bare(body.clone()));
    hit(&mut group, "memory", warm(runtime, MemoryStore::new(), body));
    let Some((store, url)) = mysql.zip(common::database()) else { return };
    hit(&mut group, "mysql", warm(runtime, store.clone(), body));

    let hash = stored_hash();
    let options = sqlx::mysql::MySqlPoolOptions::new().max_connections(10);
    let pool: MySqlPool = ok(runtime.block_on(options.connect(url)));
    group.bench_function("raw SELECT, pool of 10", |b| {
        b.iter_custom(|iterations| {
            let pool = pool.clone();
            together(runtime, iterations, move || {
                let pool = pool.clone();
                async move {
                    ok(sqlx::query(SELECT).bind(&hash[..]).fetch_one(&pool).await);
                }
            })
        });
    });
    runtime.block_on(pool.close());
}

/// At least `iterations` calls by [`CALLERS`] tasks; the time for `iterations` of them.
fn together<F>(
    runtime: &Runtime,
    iterations: u64,
    call: impl Fn() -> F + Clone + Send + 'static,
) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    let each = iterations.div_ceil(CALLERS);
    let total = runtime.block_on(async {
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..CALLERS {
            let call = call.clone();
            tasks.spawn(async move {
                for _ in 0..each {
                    call().await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        began.elapsed()
    });
    total.mul_f64(iterations as f64 / (each * CALLERS) as f64)
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
        b.iter_custom(|iterations| runtime.block_on(miss(&service, iterations)))
    });
    let service = cached(&layer(NoStore), body.clone());
    group.bench_function("no store", |b| {
        b.iter_custom(|iterations| runtime.block_on(miss(&service, iterations)))
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
                total += runtime.block_on(batch_of(&service, &handle, batch, written));
                left -= batch;
            }
            total
        });
    });
}

async fn batch_of<St: Store>(
    service: &Boxed,
    handle: &CacheHandle<St>,
    batch: u64,
    written: bool,
) -> Duration {
    let mut time = miss(service, batch).await;
    let began = Instant::now();
    ok(handle.flush().await);
    if written {
        time += began.elapsed();
    }
    ok(handle.purge().await);
    time
}

async fn miss(service: &Boxed, requests: u64) -> Duration {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let began = Instant::now();
    for _ in 0..requests {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        send(service, get(&format!("http://shop.example/products/{number}"))).await;
    }
    began.elapsed()
}

/// Requests that the cache leaves alone.
fn bypasses(criterion: &mut Criterion, runtime: &Runtime) {
    let mut group = criterion.benchmark_group("bypass, 1 KiB");
    let body = common::body(1 << 10);
    let mut bypass = |name: &str, service: Boxed, field: Option<(&str, &str)>| {
        group.bench_function(name, |b| {
            b.to_async(runtime).iter(|| {
                let mut request = http::Request::get(URI);
                if let Some((name, value)) = field {
                    request = request.header(name, value);
                }
                send(&service, ok(request.body(common::Body::default())))
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
