//! Names and paths that look alike, and invalidations that come too often.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get as on_get;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use sqlx::mysql::MySqlConnectOptions;
use tower::{ServiceBuilder, ServiceExt};
use tower_mysql_cache::invalidation::Invalidation;
use tower_mysql_cache::{CacheLayer, CachePolicy, Cookies, MemoryStore, MySqlStore, StoreError};

use crate::kit::{Kit, cached, get, request, response, send};
use crate::support::{self, eventually};

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));

async fn page(app: &Router, path: &str) -> String {
    let request = Request::get(path).header("host", "h").body(Body::empty()).unwrap();
    let answer = app.clone().oneshot(request).await.unwrap();
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// A path that middleware inside `nest` changes, by this function.
fn tenants(change: fn(&str) -> String) -> Router {
    let cache = CacheLayer::new(MemoryStore::new()).with_policy(MINUTE);
    let tenant = |name: &'static str| {
        let cached =
            ServiceBuilder::new().layer(cache.clone()).service_fn(
                move |_: Request<Body>| async move {
                    Ok::<_, Infallible>(Response::new(Body::from(name)))
                },
            );
        ServiceBuilder::new()
            .map_request(move |mut request: Request<Body>| {
                *request.uri_mut() = change(&request.uri().to_string()).parse().unwrap();
                request
            })
            .service(cached)
    };
    Router::new().nest_service("/one", tenant("one")).nest_service("/two", tenant("two"))
}

#[tokio::test]
async fn a_query_changed_inside_nest_shares_no_page_of_two_nests() {
    let app = tenants(|uri| uri.parse::<http::Uri>().unwrap().path().to_owned());
    for origin in ["", "http://h"] {
        for path in ["/one/x?utm_source=a", "/two/x?utm_source=a"] {
            assert_eq!(page(&app, &format!("{origin}{path}")).await, path[1..4], "{origin}{path}");
        }
    }
}

#[tokio::test]
async fn a_trailing_slash_removed_inside_nest_shares_no_page_of_two_nests() {
    let app = tenants(|uri| uri.trim_end_matches('/').to_owned());
    for path in ["/one/x/", "/two/x/"] {
        assert_eq!(page(&app, path).await, path[1..4], "{path}");
    }
}

#[tokio::test]
async fn a_path_changed_inside_a_nested_router_shares_no_page_of_two_nests() {
    let cache = CacheLayer::new(MemoryStore::new()).with_policy(MINUTE);
    let lower = axum::middleware::map_request(|mut request: Request<Body>| async move {
        *request.uri_mut() = request.uri().to_string().to_lowercase().parse().unwrap();
        request
    });
    let tenant = |name: &'static str| {
        let route = on_get(move || async move { name });
        Router::new().fallback(route).layer(cache.clone()).layer(lower.clone())
    };
    let app = Router::new().nest("/one", tenant("one")).nest("/two", tenant("two"));
    for path in ["/one/About", "/two/About"] {
        assert_eq!(page(&app, path).await, path[1..4], "{path}");
    }
}

/// The user whom a handler finds in one of the cookies `sid_*`.
fn user(headers: &HeaderMap) -> String {
    headers.get("cookie").map_or("nobody".into(), |line| line.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_keyed_name_with_an_asterisk_is_refused_or_matches_as_in_the_other_lists() {
    let policy = MINUTE.cookies(Cookies::Key(&["sid_*"]));
    if policy.validate().is_err() {
        return;
    }
    let layer = Kit::memory().layer().with_policy(policy);
    let (app, _) = cached(&layer, |request| response(200, &[], &user(request.headers())));
    for own in ["sid_7=alice", "sid_7=bob"] {
        assert_eq!(send(&app, get("/", &[("cookie", own)])).await.text(), own);
    }
}

#[tokio::test]
async fn a_transaction_with_many_tags_does_not_empty_the_cache() {
    let layer = Kit::memory().layer().with_policy(MINUTE.invalidates_on_write(false));
    let handle = layer.handle();
    let (app, _) = cached(&layer, |_| response(200, &[], "x"));
    send(&app, get("/other", &[])).await;
    assert!(send(&app, get("/other", &[])).await.is_hit());
    // a job, in its own transaction
    handle.to_sql(&Invalidation::tags((0..250).map(|id| format!("product:{id}")))).unwrap();
    // requests that have nothing to do with it
    for _ in 0..300 {
        send(&app, request("POST", "/beacon", &[])).await;
    }
    assert!(send(&app, get("/other", &[])).await.is_hit());
}

struct Live(Arc<AtomicUsize>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn calls_of_a_provider_that_hangs_do_not_pile_up() {
    let database = support::database().await;
    let live = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&live);
    let builder = MySqlStore::builder(database.url()).unwrap();
    let builder = builder.connect_timeout(Duration::from_millis(50)).credentials(move |options| {
        counted.fetch_add(1, Ordering::SeqCst);
        let live = Live(Arc::clone(&counted));
        async move {
            std::future::pending::<()>().await;
            drop(live);
            Ok::<MySqlConnectOptions, StoreError>(options)
        }
    });
    for _ in 0..5 {
        assert!(builder.clone().connect().await.is_err());
    }
    eventually("no call is left that nobody waits for", async || live.load(Ordering::SeqCst) == 0)
        .await;
}
