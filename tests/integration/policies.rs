//! Policies as sites use them: presets, cookies, and caches that are switched off.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get as on_get;
use http::{Request, StatusCode};
use tower::util::option_layer;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_mysql_cache::service::CacheBody;
use tower_mysql_cache::store::{BoxStore, ManualClock};
use tower_mysql_cache::{CacheLayer, CachePolicy, CacheStatus, Cookies, MemoryStore};

use crate::kit::{Answer, Kit, cached, get, on_every_store, request, response, send};

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
const SECOND: Duration = Duration::from_secs(1);
const DAY: u32 = 24 * 3600;

/// A cache in memory, whose time the test sets.
fn with_clock(policy: CachePolicy) -> (CacheLayer<BoxStore>, ManualClock) {
    let clock = ManualClock::at(1_768_435_200_000);
    let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
    (CacheLayer::new(BoxStore::new(store)).prefix("test").with_policy(policy), clock)
}

/// What the cache did: `hit`, the reason of a stale hit, `stored`, or the reason why nothing was stored.
fn outcome(answer: &Answer) -> &'static str {
    match (answer.is_hit(), answer.reason()) {
        (true, None) => "hit",
        (true, Some(detail)) => detail,
        (false, _) if answer.cache().is_stored() => "stored",
        (false, Some(detail)) => detail,
        (false, None) => "miss",
    }
}

/// Sends a `GET` at each of these times, in seconds. The handler answers 200 up to the second `works`, and 500 later.
async fn outcomes(policy: CachePolicy, works: u32, times: &[u32]) -> Vec<&'static str> {
    let (layer, clock) = with_clock(policy);
    let now = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let time = now.clone();
    let (app, _) = cached(&layer, move |_| {
        let works = time.load(std::sync::atomic::Ordering::SeqCst) <= works;
        response(if works { 200 } else { 500 }, &[], "x")
    });
    let mut seen = Vec::new();
    for at in times {
        let before = now.swap(*at, std::sync::atomic::Ordering::SeqCst);
        clock.advance((at - before) * SECOND);
        seen.push(outcome(&send(&app, get("/", &[])).await));
        layer.handle().flush().await.unwrap();
    }
    seen
}

/// What a request with these fields gets after an anonymous one has filled the cache.
async fn after_anonymous(policy: CachePolicy, fields: &[(&str, &str)]) -> &'static str {
    let (layer, _) = with_clock(policy);
    let (app, _) = cached(&layer, |_| response(200, &[], "x"));
    send(&app, get("/", &[])).await;
    outcome(&send(&app, get("/", fields)).await)
}

async fn stores_status(policy: CachePolicy, status: u16) -> bool {
    let (layer, _) = with_clock(policy);
    let (app, _) = cached(&layer, move |_| response(status, &[], "x"));
    send(&app, get("/", &[])).await.cache().is_stored()
}

const SWR: &str = "stale-while-revalidate";
const SIE: &str = "stale-if-error";

#[tokio::test]
async fn public_page_is_fresh_for_a_minute_and_stale_for_ten() {
    const PAGE: CachePolicy = CachePolicy::public_page();
    // the lifetime is up to 10 % shorter
    assert_eq!(outcomes(PAGE, 0, &[0, 53]).await, ["stored", "hit"]);
    assert_eq!(outcomes(PAGE, 600, &[0, 61, 62]).await, ["stored", SWR, "hit"]);
    assert_eq!(outcomes(PAGE, 600, &[0, 590, 591]).await, ["stored", SWR, "hit"]);
    assert_eq!(outcomes(PAGE, 0, &[0, 1000, DAY]).await, ["stored", SIE, SIE]);
    assert_eq!(after_anonymous(PAGE, &[("cookie", "sid=1")]).await, "cookie");
    assert_eq!(after_anonymous(PAGE, &[("cookie", "_ga=1")]).await, "hit");
    assert_eq!(after_anonymous(PAGE, &[("authorization", "Bearer a")]).await, "authorization");
    assert!(stores_status(PAGE, 301).await && !stores_status(PAGE, 404).await);
}

#[tokio::test]
async fn hashed_asset_is_fresh_for_a_year_whatever_the_cookies() {
    const ASSET: CachePolicy = CachePolicy::hashed_asset();
    assert_eq!(outcomes(ASSET, 0, &[0, 364 * DAY]).await, ["stored", "hit"]);
    assert_eq!(outcomes(ASSET, 400 * DAY, &[0, 366 * DAY]).await, ["stored", "stored"]);
    assert_eq!(after_anonymous(ASSET, &[("cookie", "sid=1")]).await, "hit");
    assert_eq!(after_anonymous(ASSET, &[("authorization", "Bearer a")]).await, "authorization");
    assert!(!stores_status(ASSET, 404).await && !stores_status(ASSET, 301).await);
}

#[tokio::test]
async fn search_is_fresh_for_half_a_minute_and_bounded() {
    const SEARCH: CachePolicy = CachePolicy::search();
    assert_eq!(outcomes(SEARCH, 100, &[0, 29, 59, 60]).await, ["stored", "hit", SWR, "hit"]);
    assert_eq!(outcomes(SEARCH, 0, &[0, 100, 629]).await, ["stored", SIE, SIE]);
    assert_eq!(outcomes(SEARCH, 0, &[0, 631]).await[1], "no-freshness");
    assert_eq!(after_anonymous(SEARCH, &[("cookie", "sid=1")]).await, "cookie");
    assert!(!stores_status(SEARCH, 404).await && !stores_status(SEARCH, 301).await);
    let (layer, _) = with_clock(SEARCH);
    let (app, _) = cached(&layer, |_| response(200, &[], &"x".repeat((1 << 20) + 1)));
    assert_eq!(outcome(&send(&app, get("/", &[])).await), "too-large");
}

#[tokio::test]
async fn user_api_keeps_an_entry_for_each_user() {
    const API: CachePolicy = CachePolicy::user_api();
    assert_eq!(outcomes(API, 100, &[0, 9, 10]).await, ["stored", "hit", "stored"]);
    assert_eq!(outcomes(API, 0, &[0, 10]).await[1], "no-freshness");
    assert_eq!(after_anonymous(API, &[("authorization", "Bearer a")]).await, "stored");
    assert_eq!(after_anonymous(API, &[("cookie", "sid=1")]).await, "cookie");
    assert!(!stores_status(API, 404).await);
    let (layer, _) = with_clock(API);
    let (app, _) = cached(&layer, |request| {
        response(200, &[], request.headers()["authorization"].to_str().unwrap())
    });
    for _ in 0..2 {
        for token in ["Bearer a", "Bearer b"] {
            let answer = send(&app, get("/orders", &[("authorization", token)])).await;
            assert_eq!(answer.text(), token);
        }
    }
    assert_eq!(layer.handle().counts().hits, 2);
}

on_every_store! {
    async fn only_listed_cookies_skip_the_cache(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.cookies(Cookies::BypassIf(&["sid", "remember_*"])));
        let (app, calls) = cached(&layer, |request| {
            response(200, &[], if request.headers().contains_key("cookie") { "with" } else { "without" })
        });
        assert!(!send(&app, get("/", &[])).await.is_hit());
        for others in ["theme=dark", "consent=1; sid2=x", "remember=1"] {
            assert_eq!(outcome(&send(&app, get("/", &[("cookie", others)])).await), "hit", "{others}");
        }
        for listed in ["sid=1", "theme=dark; sid=", "remember_me=1", "SID=1", "not a cookie"] {
            let answer = send(&app, get("/", &[("cookie", listed)])).await;
            assert_eq!((outcome(&answer), answer.text()), ("cookie", "with"), "{listed}");
        }
        assert_eq!(calls.count(), 6);
        assert_eq!(send(&app, get("/", &[])).await.text(), "without");
    }

    async fn excepted_cookies_do_not_skip_the_cache(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.cookies(Cookies::Except(&["consent", "ab_*"])));
        let (app, _) = cached(&layer, |_| response(200, &[], "x"));
        assert!(!send(&app, get("/", &[])).await.is_hit());
        for listed in ["consent=1", "ab_7=b; consent=0; _ga=GA1.2"] {
            assert_eq!(outcome(&send(&app, get("/", &[("cookie", listed)])).await), "hit", "{listed}");
        }
        for others in ["sid=1", "consent=1; theme=dark", "ab=1", "Consent=1", "consent"] {
            assert_eq!(outcome(&send(&app, get("/", &[("cookie", others)])).await), "cookie", "{others}");
        }
    }

    async fn a_public_response_serves_listed_cookies_too(kit: Kit) {
        for (uri, cookies) in [("/a", Cookies::BypassIf(&["sid"])), ("/b", Cookies::Except(&["consent"]))] {
            let layer = kit.layer().with_policy(MINUTE.cookies(cookies));
            let (app, _) = cached(&layer, |_| response(200, &[("cache-control", "public, max-age=60")], "x"));
            send(&app, get(uri, &[("cookie", "sid=1")])).await;
            assert!(send(&app, get(uri, &[("cookie", "sid=2")])).await.is_hit());
        }
    }

    async fn a_cache_that_is_off_stores_nothing_and_invalidates(kit: Kit) {
        let layer = kit.layer();
        let on = layer.with_policy(MINUTE);
        let off = layer.clone().enabled(false).with_policy(MINUTE);
        let (app, _) = cached(&on, |_| response(200, &[], "x"));
        let (app_off, calls) = cached(&off, |_| response(200, &[], "x"));
        for _ in 0..2 {
            assert_eq!(outcome(&send(&app_off, get("/", &[])).await), "policy");
        }
        assert_eq!((calls.count(), layer.handle().counts().stored), (2, 0));
        send(&app, get("/", &[])).await;
        assert_eq!(outcome(&send(&app_off, get("/", &[])).await), "policy");
        assert!(send(&app, get("/", &[])).await.is_hit());
        // others may serve what this one changes
        send(&app_off, request("PUT", "/", &[])).await;
        assert!(!send(&app, get("/", &[])).await.is_hit());
        let (app_on, _) = cached(&off.enabled(true), |_| response(200, &[], "x"));
        assert!(send(&app_on, get("/", &[])).await.is_hit());
    }
}

/// The layer or nothing, as one type.
fn optional(
    cache: Option<CacheLayer<MemoryStore>>,
) -> Option<impl Layer<axum::routing::Route, Service: OnARoute> + Clone + Send + Sync + 'static> {
    cache.map(|cache| {
        let body = |response: Response<CacheBody<Body>>| response.map(Body::new);
        ServiceBuilder::new().map_response(body).layer(cache).into_inner()
    })
}

/// What a layer makes of an axum route, so that `Router::layer` takes it.
trait OnARoute:
    tower::Service<
        Request<Body>,
        Response = Response,
        Error = std::convert::Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> OnARoute for S where
    S: tower::Service<
            Request<Body>,
            Response = Response,
            Error = std::convert::Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

async fn statuses(app: Router) -> Vec<Option<bool>> {
    let mut seen = Vec::new();
    for _ in 0..2 {
        let answer = app.clone().oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        seen.push(answer.extensions().get::<CacheStatus>().map(CacheStatus::is_hit));
    }
    seen
}

#[tokio::test]
async fn option_layer_takes_the_cache_or_nothing() {
    for (is_on, expected) in [(true, [Some(false), Some(true)]), (false, [None, None])] {
        let cache = || is_on.then(|| CacheLayer::new(MemoryStore::new()).with_policy(MINUTE));
        let page = || Router::new().route("/", on_get(|| async { "home" }));
        let app = page().layer(option_layer(optional(cache())));
        assert_eq!(statuses(app).await, expected);
        let app = page().layer(ServiceBuilder::new().option_layer(optional(cache())));
        assert_eq!(statuses(app).await, expected);
    }
}

#[tokio::test]
async fn two_layers_on_one_route_are_a_tuple() {
    let cache = CacheLayer::new(MemoryStore::new()).with_policy(MINUTE);
    let pass = axum::middleware::from_fn(
        |request: axum::extract::Request, next: axum::middleware::Next| next.run(request),
    );
    let both = on_get(|| async { "home" }).layer((pass, cache.clone(), cache));
    assert_eq!(statuses(Router::new().route("/", both)).await, [Some(false), Some(true)]);
}

#[tokio::test]
async fn shared_limits_are_set_before_the_layer_is_cloned() {
    let cache = CacheLayer::new(MemoryStore::new()).recording_bytes(1 << 20).queue_bytes(1 << 20);
    let set: [fn(CacheLayer<MemoryStore>) -> CacheLayer<MemoryStore>; 3] = [
        |cache| cache.recording_bytes(1),
        |cache| cache.queue_bytes(1),
        |cache| cache.max_refreshes(1),
    ];
    for (set, setting) in set.into_iter().zip(["recording_bytes", "queue_bytes", "max_refreshes"]) {
        let clone = cache.clone();
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(set(clone))));
        let message = *panic.unwrap_err().downcast::<String>().unwrap();
        assert!(
            message.starts_with(setting) && message.contains("it must be set before"),
            "{message}"
        );
    }
}

/// The line of a panic is that of the wrong setting.
#[test]
fn a_wrong_setting_is_reported_where_it_is_made() {
    use std::sync::Mutex;
    static PLACES: Mutex<Vec<(String, u32)>> = Mutex::new(Vec::new());
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic); // for the other tests
        let place = panic.location().unwrap();
        PLACES.lock().unwrap().push((place.file().to_owned(), place.line()));
    }));
    let cache = CacheLayer::new(MemoryStore::new());
    let wrong: [(u32, &dyn Fn()); 3] = [
        (line!(), &|| drop(cache.clone().prefix("a b"))),
        (line!(), &|| drop(cache.with_policy(MINUTE.ttl(Duration::ZERO)))),
        (line!(), &|| drop(cache.clone().scheme("ftp"))),
    ];
    for (_, make) in &wrong {
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(make)).is_err());
    }
    drop(std::panic::take_hook());
    let places = PLACES.lock().unwrap();
    for (line, _) in wrong {
        assert!(
            places.iter().any(|place| place == &(file!().to_owned(), line)),
            "{line}: {places:?}"
        );
    }
}
