//! The database fails under the layer: the handler answers, and the cache recovers later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tower_mysql_cache::status::Forward;
use tower_mysql_cache::store::BoxStore;
use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore, MySqlStore, Tiered};

use crate::kit::{cached, get, over, request, response, send};
use crate::support::{self, eventually};

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));

async fn layer(url: &str) -> CacheLayer<BoxStore> {
    let store = MySqlStore::connect(url).await.expect("connects");
    store.migrate().await.expect("migrates");
    over(store).with_policy(MINUTE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_fails_no_request_and_is_used_again() {
    let mut server = support::own_server(None).await;
    let layer = layer(server.url()).await;
    let handle = layer.handle();
    let (app, calls) = cached(&layer, |request| response(200, &[], request.uri().path()));
    send(&app, get("/before", &[])).await;
    handle.flush().await.unwrap();
    assert!(send(&app, get("/before", &[])).await.is_hit());

    server.kill_9();
    let down = Instant::now();
    for n in 0..200 {
        let uri = format!("/{}", n % 10);
        let answer = send(&app, get(&uri, &[])).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, uri.as_str()));
        let posted = send(&app, request("POST", &uri, &[])).await;
        assert_eq!(posted.status.as_u16(), 200);
    }
    assert!(send(&app, get("/before", &[])).await.cache().forward() == Some(Forward::Miss));
    assert!(calls.count() >= 202, "the handler answered");
    // no request waited for the missing server: 400 waits of 250 ms would be 100 s
    assert!(down.elapsed() < Duration::from_secs(30), "{:?}", down.elapsed());
    assert!(handle.counts().invalidation_errors > 0, "a lost invalidation is counted");

    tokio::task::block_in_place(|| server.restart());
    eventually("the cache comes back", async || {
        send(&app, get("/after", &[])).await;
        handle.flush().await.unwrap_or_default();
        send(&app, get("/after", &[])).await.is_hit()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_server_costs_only_one_timeout() {
    let server = support::own_server(None).await;
    let layer = layer(server.url()).await;
    let handle = layer.handle();
    let (app, _) = cached(&layer, |request| response(200, &[], request.uri().path()));
    send(&app, get("/", &[])).await;
    handle.flush().await.unwrap();

    server.stop();
    let mut slowest = Duration::ZERO;
    for n in 0..40 {
        let uri = format!("/{n}");
        let start = Instant::now();
        assert_eq!(send(&app, get(&uri, &[])).await.text(), uri);
        slowest = slowest.max(start.elapsed());
    }
    // one wait is 250 ms; the limit leaves room for a busy machine, but not for a second wait
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let counts = handle.counts();
    assert!(counts.lookup_errors + counts.lookups_skipped >= 40, "{counts:?}");

    server.cont();
    eventually("the cache comes back", async || {
        send(&app, get("/again", &[])).await;
        send(&app, get("/again", &[])).await.is_hit()
    })
    .await;
}

/// RFC 9111 4.2.4, when the store fails too: a stale response in the front's memory is not served either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_database_no_stale_response_replaces_an_error() {
    const FORBIDDING: [&str; 4] = ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=1"];
    let server = support::own_server(None).await;
    let store = MySqlStore::connect(server.url()).await.expect("connects");
    store.migrate().await.expect("migrates");
    let front = Tiered::new(MemoryStore::new(), store.clone());
    let stores = [BoxStore::new(store), BoxStore::new(front)];
    let down = Arc::new(AtomicBool::new(false));
    let mut apps = Vec::new();
    for (n, store) in stores.into_iter().enumerate() {
        for policy in [CachePolicy::new(), CachePolicy::rfc9111()] {
            let windows = Duration::from_secs(600);
            let policy = policy.stale_while_revalidate(windows).stale_if_error(windows);
            let prefix = format!("test{n}{}", apps.len());
            let layer = CacheLayer::new(store.clone()).prefix(&prefix).with_policy(policy);
            let down = Arc::clone(&down);
            let (app, _) = cached(&layer, move |request| {
                if down.load(Ordering::SeqCst) {
                    return response(503, &[], "down");
                }
                let said = request.headers()["x-say"].to_str().unwrap();
                response(200, &[("cache-control", said), ("age", "10"), ("etag", "\"1\"")], "old")
            });
            for forbidding in FORBIDDING {
                let said = format!("max-age=10, {forbidding}, stale-if-error=600");
                let uri = format!("/{forbidding}");
                send(&app, get(&uri, &[("x-say", &said)])).await;
            }
            layer.handle().flush().await.unwrap();
            assert_eq!(layer.handle().counts().stored, 4, "there is something to be served");
            apps.push(app);
        }
    }
    down.store(true, Ordering::SeqCst);
    for gone in [false, true] {
        if gone {
            server.kill_9();
        }
        for app in &apps {
            for forbidding in FORBIDDING {
                let wanted = [("cache-control", "max-stale, stale-if-error=600")];
                let answer = send(app, get(&format!("/{forbidding}"), &wanted)).await;
                let got = (answer.status.as_u16(), answer.text());
                assert_eq!(got, (503, "down"), "{forbidding}, without a database: {gone}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_table_fails_no_request_and_a_new_one_is_used() {
    let database = support::database().await;
    let layer = layer(database.url()).await;
    let (app, _) = cached(&layer, |request| response(200, &[], request.uri().path()));
    send(&app, get("/", &[])).await;
    layer.handle().flush().await.unwrap();
    let mut connection = database.connection().await;
    sqlx::query("DROP TABLE cache_entries").execute(&mut connection).await.unwrap();
    for n in 0..5 {
        let uri = format!("/{n}");
        assert_eq!(send(&app, get(&uri, &[])).await.text(), uri);
    }
    let store = MySqlStore::connect(database.url()).await.unwrap();
    assert_eq!(store.check().await.unwrap_err().as_str(), "schema");
    assert!(store.check().await.unwrap_err().to_string().contains("migrate()"));
    store.migrate().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        send(&app, get("/again", &[])).await;
        layer.handle().flush().await.unwrap();
        if send(&app, get("/again", &[])).await.is_hit() {
            break;
        }
        assert!(Instant::now() < deadline, "the cache did not come back");
    }
}

/// A `static` application that is used by one `#[tokio::test]` after another.
#[test]
fn a_cache_works_on_after_its_runtime_has_ended() {
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap()
    };
    let first = runtime();
    let (_database, layer) = first.block_on(async {
        let database = support::database().await;
        let layer = layer(database.url()).await.store_timeout(Duration::from_secs(5));
        (database, layer)
    });
    let handle = layer.handle();
    let (app, _) = cached(&layer, |request| response(200, &[], request.uri().path()));
    for (n, runtime) in [first, runtime(), runtime()].into_iter().enumerate() {
        let uses = async {
            assert!(!send(&app, get("/", &[])).await.is_hit(), "{n}: erased before");
            handle.flush().await.unwrap();
            assert!(send(&app, get("/", &[])).await.is_hit(), "{n}");
            send(&app, request("PUT", "/", &[])).await;
            assert_eq!(handle.counts().invalidation_errors, 0, "{n}");
            assert!(!send(&app, get("/", &[])).await.is_hit(), "{n}");
            handle.invalidate_uri("/").await.unwrap();
            handle.flush().await.unwrap();
            handle.erase_uri("/").await.unwrap();
            handle.stats().await.unwrap();
            // running when the runtime ends
            send(&app, get(&format!("/{n}"), &[])).await;
        };
        let limited = async { tokio::time::timeout(Duration::from_secs(20), uses).await };
        runtime.block_on(limited).expect("nothing hangs");
    }
}
