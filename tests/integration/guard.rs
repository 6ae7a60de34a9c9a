//! The guard: fields that layers outside the cache add decide whether a response is stored.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get as on_get;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use http::header::{CACHE_CONTROL, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt;
use tower_cookies::{Cookie, CookieManagerLayer, Cookies};
use tower_mysql_cache::policy::Collapse;
use tower_mysql_cache::store::Store;
use tower_mysql_cache::{CacheHandle, CacheLayer, CachePolicy, CacheStatus, MemoryStore};
use tower_sessions::{MemoryStore as Sessions, Session, SessionManagerLayer};

use crate::kit::{Calls, Kit};

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
static SURROGATE: [HeaderName; 1] = [HeaderName::from_static("surrogate-control")];
const OURS: [&str; 5] = [
    "set-cookie-outside",
    "private-outside",
    "no-store-outside",
    "vary-outside",
    "replaced-outside",
];

fn memory(policy: CachePolicy) -> CacheLayer<MemoryStore> {
    CacheLayer::new(MemoryStore::new()).prefix("test").with_policy(policy)
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    cache: Option<CacheStatus>,
}

impl Reply {
    fn is_hit(&self) -> bool {
        self.cache.as_ref().is_some_and(CacheStatus::is_hit)
    }

    fn detail(&self) -> Option<&'static str> {
        self.cache.as_ref()?.reason().map(|reason| reason.as_str())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn cookies(&self) -> usize {
        self.headers.get_all(SET_COOKIE).iter().count()
    }
}

async fn read(response: Response) -> Reply {
    let (parts, body) = response.into_parts();
    let cache = parts.extensions.get().cloned();
    let body = body.collect().await.unwrap().to_bytes();
    Reply { status: parts.status, headers: parts.headers, body, cache }
}

fn request(method: &str, uri: &str, fields: &[(&str, &str)]) -> Request {
    let mut request = http::Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

async fn get(app: &Router, uri: &str) -> Reply {
    let reply = async { read(app.clone().oneshot(request("GET", uri, &[])).await.unwrap()).await };
    tokio::time::timeout(Duration::from_secs(20), reply).await.expect("an answer")
}

/// How often each of the guard's reasons prevented storing.
fn called_off(handle: &CacheHandle) -> Vec<(&'static str, u64)> {
    handle.reasons().into_iter().filter(|(reason, _)| OURS.contains(reason)).collect()
}

/// A body in two pieces; the second one comes later.
fn streamed() -> Body {
    let pieces = stream::unfold(0, |sent| async move {
        if sent == 1 {
            tokio::task::yield_now().await;
        }
        let piece = ["pa", "ge"].get(sent).copied()?;
        Some((Ok::<_, Infallible>(Bytes::from_static(piece.as_bytes())), sent + 1))
    });
    Body::from_stream(pieces)
}

/// A router with one cached page at every path: complete at once below `/whole`, streamed elsewhere.
fn pages<St: Store>(cache: &CacheLayer<St>) -> (Router, Calls) {
    let calls = Calls::default();
    let counted = calls.clone();
    let page = move |request: Request| {
        counted.add();
        let whole = request.uri().path().starts_with("/whole");
        async move { if whole { Body::from("page") } else { streamed() } }
    };
    (Router::new().route("/{*path}", on_get(page).layer(cache.clone())), calls)
}

fn with(name: &'static str, value: &'static str) -> impl Fn(Response) -> Response + Clone {
    move |mut response: Response| {
        response.headers_mut().append(name, HeaderValue::from_static(value));
        response
    }
}

/// A layer outside the cache that changes responses.
fn outside(
    app: Router,
    change: impl Fn(Response) -> Response + Clone + Send + Sync + 'static,
) -> Router {
    app.layer(axum::middleware::map_response(move |response: Response| {
        let changed = change(response);
        async move { changed }
    }))
}

/// A layer outside the cache that lets each response pass when there is a permit for it.
#[derive(Clone)]
struct Gate {
    came: Arc<Semaphore>,
    goes: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self { came: Arc::new(Semaphore::new(0)), goes: Arc::new(Semaphore::new(0)) }
    }

    fn around(&self, app: Router) -> Router {
        let pass = |State(gate): State<Self>, request: Request, next: Next| async move {
            let response = next.run(request).await;
            gate.came.add_permits(1);
            gate.goes.acquire().await.unwrap().forget();
            response
        };
        app.layer(from_fn_with_state(self.clone(), pass))
    }

    /// Waits until a response has reached the gate.
    async fn came(&self) {
        self.came.acquire().await.unwrap().forget();
    }

    fn open(&self) {
        self.goes.add_permits(1000);
    }
}

/// Lets all other tasks run as far as they can.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

async fn greeting(session: Session) -> String {
    let visitor: Option<u32> = session.get("visitor").await.unwrap();
    if visitor.is_none() {
        session.insert("visitor", 1).await.unwrap();
    }
    session.save().await.unwrap();
    format!("hello {}", session.id().unwrap())
}

async fn basket(cookies: Cookies) -> Body {
    let id = format!("{:p}", std::ptr::from_ref(&cookies));
    cookies.add(Cookie::new("basket", id));
    streamed()
}

#[tokio::test]
async fn a_session_from_an_outer_layer_reaches_no_other_client() {
    let sessions = || SessionManagerLayer::new(Sessions::default());
    // without a guard, the cache cannot see the cookie
    let cache = memory(MINUTE);
    let app = Router::new().route("/", on_get(greeting).layer(cache)).layer(sessions());
    let (ann, bob) = (get(&app, "/").await, get(&app, "/").await);
    assert!(bob.is_hit() && ann.body == bob.body, "the reason for the guard");

    let cache = memory(MINUTE);
    let app = Router::new().route("/", on_get(greeting).layer(cache.clone()));
    let app = app.layer(sessions()).layer(cache.guard());
    let (ann, bob) = (get(&app, "/").await, get(&app, "/").await);
    assert!(!ann.is_hit() && !bob.is_hit());
    assert_ne!(ann.body, bob.body);
    assert_eq!((ann.cookies(), bob.cookies()), (1, 1));
    assert_eq!(ann.headers["cache-status"], "test; fwd=uri-miss");
    assert_eq!(ann.detail(), Some("guarded"));
    assert_eq!(called_off(&cache.handle()), [("set-cookie-outside", 2)]);
}

#[tokio::test]
async fn a_session_from_an_inner_layer_reaches_no_other_client() {
    let cache = memory(MINUTE);
    let app = Router::new()
        .route("/", on_get(greeting))
        .layer(SessionManagerLayer::new(Sessions::default()))
        .layer(cache.clone())
        .layer(cache.guard());
    let (ann, bob) = (get(&app, "/").await, get(&app, "/").await);
    assert_ne!(ann.body, bob.body);
    assert_eq!(bob.detail(), Some("set-cookie"));
    assert_eq!(called_off(&cache.handle()), []);
}

#[tokio::test]
async fn a_session_from_an_outer_layer_is_not_in_the_table() {
    let kit = Kit::mysql().await;
    let cache = kit.layer().with_policy(MINUTE);
    let app = Router::new()
        .route("/", on_get(greeting).layer(cache.clone()))
        .route("/about", on_get(|| async { "about" }).layer(cache.clone()))
        .layer(SessionManagerLayer::new(Sessions::default()))
        .layer(cache.guard());
    for path in ["/", "/about"] {
        get(&app, path).await;
        kit.settle(&cache.handle()).await;
        assert_eq!(get(&app, path).await.is_hit(), path == "/about");
    }
    assert_eq!(called_off(&cache.handle()), [("set-cookie-outside", 2)]);
}

#[tokio::test]
async fn a_cookie_of_an_outer_layer_prevents_storing() {
    let cache = memory(MINUTE);
    for guarded_outside in [true, false] {
        let page = on_get(basket);
        let app = match guarded_outside {
            true => {
                Router::new().route("/", page.layer(cache.clone())).layer(CookieManagerLayer::new())
            }
            false => {
                Router::new().route("/", page).layer(CookieManagerLayer::new()).layer(cache.clone())
            }
        };
        let app = app.layer(cache.guard());
        for _ in 0..2 {
            let reply = get(&app, "/").await;
            assert_eq!((reply.is_hit(), reply.cookies(), reply.text()), (false, 1, "page"));
        }
    }
    assert_eq!(called_off(&cache.handle()), [("set-cookie-outside", 2)]);
}

#[tokio::test]
async fn fields_of_an_outer_layer_decide_and_are_not_stored() {
    let replaced = |response: Response| (response.status(), "other").into_response();
    let failed = |mut response: Response| {
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response
    };
    type Change = Arc<dyn Fn(Response) -> Response + Send + Sync>;
    let cases: [(Change, Option<&str>); 18] = [
        (Arc::new(|response| response), None),
        (Arc::new(with("x-frame-options", "deny")), None),
        (Arc::new(with("vary", "accept-encoding")), None),
        // the field names that CORS layers add to `Vary` are allowed
        (Arc::new(with("vary", "Origin, access-control-request-method")), None),
        (Arc::new(with("vary", "*")), Some("vary-outside")),
        (Arc::new(with("vary", "accept-encoding, HX-Request")), Some("vary-outside")),
        (Arc::new(with("vary", "cookie")), Some("vary-outside")),
        (Arc::new(with("vary", "a b")), Some("vary-outside")),
        (Arc::new(with("cache-control", "no-cache, max-age=0")), None),
        (Arc::new(with("set-cookie", "seen=1")), None),
        (Arc::new(with("set-cookie", "sid=1")), Some("set-cookie-outside")),
        (Arc::new(with("cache-control", "Private")), Some("private-outside")),
        (Arc::new(with("cache-control", "private=\"set-cookie\"")), Some("private-outside")),
        (Arc::new(with("cache-control", "no-store")), Some("no-store-outside")),
        (Arc::new(with("cdn-cache-control", "private")), Some("private-outside")),
        (Arc::new(with("tower-mysql-cache-control", "no-store")), Some("no-store-outside")),
        (Arc::new(replaced), Some("replaced-outside")),
        (Arc::new(failed), Some("replaced-outside")),
    ];
    for path in ["/whole", "/streamed"] {
        for (number, (change, reason)) in cases.iter().enumerate() {
            let cache = memory(MINUTE.strip_set_cookies(&["seen"]));
            let (inside, calls) = pages(&cache);
            let change = Arc::clone(change);
            let app = outside(inside.clone(), move |response| change(response));
            let app = app.layer(cache.guard());
            for _ in 0..2 {
                get(&app, path).await;
            }
            assert_eq!(calls.count(), if reason.is_some() { 2 } else { 1 }, "{path} {number}");
            let expected: Vec<_> = reason.iter().map(|reason| (*reason, 2)).collect();
            assert_eq!(called_off(&cache.handle()), expected, "{path} {number}");
            let stored = get(&inside, path).await;
            assert_eq!(stored.is_hit(), reason.is_none());
            for name in ["x-frame-options", "vary", "set-cookie", "cache-control"] {
                assert!(!stored.headers.contains_key(name), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn a_field_that_the_policy_names_decides_too() {
    for (value, reason) in [("private", "private-outside"), ("no-store", "no-store-outside")] {
        let cache = memory(MINUTE.targeted(&SURROGATE));
        let (inside, calls) = pages(&cache);
        let app = outside(inside, with("surrogate-control", value)).layer(cache.guard());
        for _ in 0..2 {
            get(&app, "/whole").await;
        }
        assert_eq!(calls.count(), 2);
        assert_eq!(called_off(&cache.handle()), [(reason, 2)]);
    }
}

#[tokio::test]
async fn the_caches_own_fields_do_not_prevent_storing() {
    let cache = memory(MINUTE.strip_set_cookies(&["seen"]));
    let page = || async {
        let targeted = HeaderName::from_static("tower-mysql-cache-control");
        let fields = [(SET_COOKIE, "seen=1"), (CACHE_CONTROL, "private"), (targeted, "max-age=60")];
        (axum::response::AppendHeaders(fields), "page")
    };
    let app = Router::new().route("/", on_get(page).layer(cache.clone())).layer(cache.guard());
    assert_eq!(get(&app, "/").await.headers[CACHE_CONTROL], "private");
    assert!(get(&app, "/").await.is_hit());
}

#[tokio::test]
async fn hits_do_not_wait_for_the_guard() {
    let cache = memory(MINUTE);
    let (inside, calls) = pages(&cache);
    get(&inside, "/whole").await;
    let app = outside(inside, with("set-cookie", "sid=1")).layer(cache.guard());
    let hit = get(&app, "/whole").await;
    assert_eq!((hit.is_hit(), hit.cookies(), calls.count()), (true, 1, 1));
    assert_eq!(called_off(&cache.handle()), []);
}

#[tokio::test]
async fn followers_wait_for_the_guard() {
    for path in ["/whole", "/streamed"] {
        for cookie in [false, true] {
            let cache = memory(MINUTE);
            let (app, calls) = pages(&cache);
            let gate = Gate::new();
            let app = match cookie {
                true => outside(app, with("set-cookie", "sid=1")),
                false => app,
            };
            let app = gate.around(app).layer(cache.guard());
            let clients: Vec<_> = (0..8)
                .map(|_| {
                    let app = app.clone();
                    tokio::spawn(async move { get(&app, path).await })
                })
                .collect();
            gate.came().await;
            settle().await;
            assert_eq!(calls.count(), 1);
            assert_eq!(cache.handle().counts().stored, 0, "nothing before the guard has seen it");
            gate.open();
            let replies = join_all(clients).await;
            assert!(replies.iter().all(|reply| reply.as_ref().unwrap().text() == "page"));
            assert_eq!(calls.count(), if cookie { 8 } else { 1 }, "{path}");
            assert_eq!(cache.handle().counts().stored, u64::from(!cookie), "{path}");
        }
    }
}

/// A hundred clients of a page whose handler answers 503, behind a guard. Returns the number of calls.
async fn calls_of_a_failing_page(
    change: impl Fn(Response) -> Response + Clone + Send + Sync + 'static,
) -> usize {
    let cache = memory(MINUTE);
    let (calls, gate) = (Calls::default(), Arc::new(Semaphore::new(0)));
    let (counted, waits) = (calls.clone(), Arc::clone(&gate));
    let page = move || {
        let (call, gate) = (counted.add(), Arc::clone(&waits));
        async move {
            gate.acquire().await.unwrap().forget();
            (StatusCode::SERVICE_UNAVAILABLE, call.to_string())
        }
    };
    let app = Router::new().route("/", on_get(page).layer(cache.clone()));
    let app = outside(app, change).layer(cache.guard());
    let asked = (0..100).map(|_| {
        let app = app.clone();
        tokio::spawn(async move { get(&app, "/").await })
    });
    let asked: Vec<_> = asked.collect();
    settle().await;
    assert_eq!(calls.count(), 1);
    gate.add_permits(1);
    while calls.count() < 2 {
        settle().await;
    }
    gate.add_permits(200);
    for reply in join_all(asked).await {
        assert_eq!(reply.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    }
    calls.count()
}

#[tokio::test]
async fn a_failure_is_shared_after_the_guard_has_seen_it() {
    assert_eq!(calls_of_a_failing_page(|response| response).await, 2);
    // a layer outside adds `private`
    assert_eq!(calls_of_a_failing_page(with("set-cookie", "sid=1")).await, 100);
}

#[tokio::test]
async fn followers_of_a_refused_response_do_not_wait_for_its_body() {
    let cache = memory(MINUTE);
    let calls = Calls::default();
    let counted = calls.clone();
    let page = move || {
        let first = counted.add() == 1;
        async move {
            let pieces = stream::unfold(0, move |sent| async move {
                match sent {
                    2 if first => pending().await,
                    0..4 => Some((Ok::<_, Infallible>(Bytes::from_static(b"x")), sent + 1)),
                    _ => None,
                }
            });
            Body::from_stream(pieces)
        }
    };
    let app = Router::new().route("/", on_get(page).layer(cache.clone()));
    let app = outside(app, with("set-cookie", "sid=1")).layer(cache.guard());
    let mut endless = app.clone().oneshot(request("GET", "/", &[])).await.unwrap();
    let follower = tokio::spawn({
        let app = app.clone();
        async move { get(&app, "/").await }
    });
    settle().await;
    assert_eq!(calls.count(), 1);
    for _ in 0..2 {
        endless.body_mut().frame().await.unwrap().unwrap();
    }
    assert_eq!(follower.await.unwrap().text(), "xxxx");
}

#[tokio::test]
async fn if_the_client_disconnects_early_nothing_is_stored() {
    let cache = memory(MINUTE);
    let (app, calls) = pages(&cache);
    let gate = Gate::new();
    let app = gate.around(app).layer(cache.guard());
    let start = || {
        let app = app.clone();
        tokio::spawn(async move { get(&app, "/whole").await })
    };
    let leaver = start();
    gate.came().await;
    let stays = start();
    settle().await;
    assert_eq!(calls.count(), 1);
    leaver.abort();
    gate.came().await;
    assert_eq!(calls.count(), 2, "the next one leads");
    assert_eq!(cache.handle().counts().stored, 0);
    assert_eq!(called_off(&cache.handle()), []);
    gate.open();
    assert_eq!(stays.await.unwrap().text(), "page");
    assert_eq!(cache.handle().counts().stored, 1);
}

#[tokio::test]
async fn if_an_outer_layer_panics_nothing_is_stored() {
    let cache = memory(MINUTE);
    let (inside, calls) = pages(&cache);
    let broken = Arc::new(AtomicBool::new(true));
    let breaks = Arc::clone(&broken);
    let app = outside(inside, move |response| {
        assert!(!breaks.load(Ordering::SeqCst), "on purpose");
        response
    });
    let app = app.layer(cache.guard());
    let first = tokio::spawn({
        let app = app.clone();
        async move { get(&app, "/whole").await.status }
    });
    assert!(first.await.unwrap_err().is_panic());
    assert_eq!((cache.handle().counts().stored, calls.count()), (0, 1));
    broken.store(false, Ordering::SeqCst);
    assert!(!get(&app, "/whole").await.is_hit());
    assert!(get(&app, "/whole").await.is_hit());
}

#[tokio::test]
async fn a_response_replaced_by_an_outer_timeout_is_not_stored() {
    let cache = memory(MINUTE);
    let (inside, calls) = pages(&cache);
    let gate = Gate::new();
    let limited = |request: Request, next: Next| async move {
        match tokio::time::timeout(Duration::from_millis(20), next.run(request)).await {
            Ok(response) => response,
            Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
        }
    };
    let app = gate.around(inside).layer(from_fn(limited)).layer(cache.guard());
    assert_eq!(get(&app, "/whole").await.status, StatusCode::REQUEST_TIMEOUT);
    assert_eq!(called_off(&cache.handle()), [("replaced-outside", 1)]);
    assert_eq!((cache.handle().counts().stored, calls.count()), (0, 1));
    gate.open();
    assert!(!get(&app, "/whole").await.is_hit());
    assert!(get(&app, "/whole").await.is_hit());
}

#[tokio::test]
async fn conditions_and_ranges_work_behind_a_guard() {
    let cache = memory(MINUTE);
    let page = || async { ([("etag", "\"1\"")], "page") };
    let app = Router::new().route("/{*path}", on_get(page).layer(cache.clone()));
    let app = app.layer(cache.guard());
    for (path, field, status, text) in [
        ("/a", ("if-none-match", "\"1\""), 304, ""),
        ("/b", ("range", "bytes=1-2"), 206, "ag"),
        ("/c", ("range", "bytes=9-"), 416, ""),
        ("/d", ("if-none-match", "\"2\""), 200, "page"),
    ] {
        let ask = request("GET", path, &[field]);
        let reply = read(app.clone().oneshot(ask).await.unwrap()).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (status, text));
        settle().await;
        let hit = get(&app, path).await;
        assert_eq!((hit.is_hit(), hit.text()), (true, "page"), "{path}");
    }
}

/// Pages that are stale at once, with a window of an hour. After its first call, the handler needs a permit for each.
fn stale_pages(cache: &CacheLayer<MemoryStore>) -> (Router, Calls, Arc<Semaphore>) {
    let (calls, gate) = (Calls::default(), Arc::new(Semaphore::new(1)));
    let (counted, waits) = (calls.clone(), Arc::clone(&gate));
    let page = move |headers: HeaderMap| {
        let (call, gate) = (counted.add(), Arc::clone(&waits));
        async move {
            gate.acquire().await.unwrap().forget();
            let old = ("cache-control", "max-age=60, stale-while-revalidate=3600");
            match call {
                1 => ([old, ("age", "70"), ("etag", "\"1\"")], "old").into_response(),
                _ if headers.contains_key("x-fail") => {
                    StatusCode::INTERNAL_SERVER_ERROR.into_response()
                }
                _ if headers.contains_key("x-same") => {
                    let fields = [("cache-control", "max-age=60"), ("etag", "\"1\"")];
                    (StatusCode::NOT_MODIFIED, fields).into_response()
                }
                _ => ([("cache-control", "max-age=60")], "new").into_response(),
            }
        }
    };
    (Router::new().route("/", on_get(page).layer(cache.clone())), calls, gate)
}

#[tokio::test]
async fn behind_a_guard_one_request_refreshes_and_others_are_served() {
    for (cookie, same) in [(false, false), (true, false), (false, true), (true, true)] {
        let cache = memory(CachePolicy::new());
        let (inside, calls, gate) = stale_pages(&cache);
        get(&inside, "/").await;
        let app = match cookie {
            true => outside(inside.clone(), with("set-cookie", "sid=1")),
            false => inside.clone(),
        };
        let app = app.layer(cache.guard());
        let fields: &[_] = if same { &[("x-same", "1")] } else { &[] };
        let ask = request("GET", "/", fields);
        let refreshes = tokio::spawn({
            let app = app.clone();
            async move { read(app.oneshot(ask).await.unwrap()).await }
        });
        settle().await;
        for _ in 0..3 {
            let served = get(&app, "/").await;
            assert_eq!((served.is_hit(), served.text()), (true, "old"));
            assert_eq!(served.detail(), Some("stale-while-revalidate"));
        }
        gate.add_permits(1);
        let refreshed = refreshes.await.unwrap();
        let text = if same { "old" } else { "new" };
        assert_eq!((refreshed.is_hit(), refreshed.text()), (false, text));
        assert!(refreshed.headers["cache-status"].to_str().unwrap().starts_with("test; fwd=stale"));
        assert_eq!((calls.count(), cache.handle().counts().refreshes), (2, 0));
        let next = tokio::spawn(async move { get(&inside, "/").await });
        gate.add_permits(1);
        let next = next.await.unwrap();
        let detail = cookie.then_some("stale-while-revalidate");
        assert_eq!((next.is_hit(), next.detail()), (true, detail), "{cookie} {same}");
        assert_eq!(next.text(), if cookie { "old" } else { text });
        let reasons: &[_] = if cookie { &[("set-cookie-outside", 1)] } else { &[] };
        assert_eq!(called_off(&cache.handle()), reasons);
    }
}

#[tokio::test]
async fn behind_a_guard_a_failed_refresh_serves_stale() {
    let cache = memory(CachePolicy::new().handler_timeout(Duration::from_millis(20)));
    let (inside, calls, gate) = stale_pages(&cache);
    get(&inside, "/").await;
    let app = inside.layer(cache.guard());
    gate.add_permits(1);
    let ask = request("GET", "/", &[("x-fail", "1")]);
    let reply = read(app.clone().oneshot(ask).await.unwrap()).await;
    assert_eq!((reply.status, reply.text(), calls.count()), (StatusCode::OK, "old", 2));
    // a handler that takes too long is dropped, and its response is not stored
    let reply = get(&app, "/").await;
    assert_eq!((reply.status, reply.text(), calls.count()), (StatusCode::OK, "old", 3));
    gate.add_permits(1);
    cache.handle().flush().await.unwrap();
    assert_eq!(gate.available_permits(), 1, "no request waits for it");
    assert_eq!(get(&app, "/").await.text(), "new");
    assert!(get(&app, "/").await.is_hit());
}

#[tokio::test]
async fn behind_a_guard_one_request_waits_for_an_early_refresh() {
    let policy = CachePolicy::new().ttl(Duration::from_secs(2)).early_refresh(100.0);
    let cache = memory(policy);
    let calls = Calls::default();
    let counted = calls.clone();
    let handler = move || {
        counted.add();
        async move {
            // a handler that takes no time is not refreshed early
            tokio::time::sleep(Duration::from_millis(50)).await;
            "page"
        }
    };
    let app = Router::new().route("/", on_get(handler).layer(cache.clone())).layer(cache.guard());
    get(&app, "/").await;
    let early = loop {
        let reply = get(&app, "/").await;
        // whether a request refreshes early is random; most do
        if !reply.is_hit() {
            break reply;
        }
    };
    assert_eq!((early.is_hit(), early.text(), calls.count()), (false, "page", 2));
    assert_eq!(cache.handle().counts().early_refreshes, 0, "none in the background");
}

#[tokio::test]
async fn a_freshened_head_waits_for_the_guard() {
    for cookie in [false, true] {
        let cache = memory(CachePolicy::new());
        let calls = Calls::default();
        let counted = calls.clone();
        let page = move || {
            let age = if counted.add() == 1 { "70" } else { "0" };
            let fields = [("cache-control", "max-age=60"), ("age", age), ("etag", "\"1\"")];
            async move { (fields, "page") }
        };
        let inside = Router::new().route("/", on_get(page).layer(cache.clone()));
        get(&inside, "/").await;
        let app = match cookie {
            true => outside(inside.clone(), with("set-cookie", "sid=1")),
            false => inside.clone(),
        };
        let app = app.layer(cache.guard());
        app.oneshot(request("HEAD", "/", &[])).await.unwrap();
        assert_eq!(get(&inside, "/").await.is_hit(), !cookie);
    }
}

#[tokio::test]
async fn one_guard_serves_all_caches_and_the_outermost_decides() {
    let (outer, inner) = (memory(MINUTE), memory(MINUTE));
    // another cache, and another layer of the same cache, around that of the route
    let (app, calls) = pages(&inner);
    let nested = app.layer(inner.guard()).layer(inner.clone()).layer(outer.clone());
    let private = outside(nested.clone(), with("cache-control", "private")).layer(outer.guard());
    for _ in 0..2 {
        assert_eq!(get(&private, "/whole").await.text(), "page");
    }
    assert_eq!(calls.count(), 2);
    assert_eq!(called_off(&outer.handle()), [("private-outside", 2)]);
    assert_eq!(called_off(&inner.handle()), [("private-outside", 2)]);
    let app = nested.layer(outer.guard());
    get(&app, "/whole").await;
    assert_eq!(calls.count(), 3);
    for cache in [outer, inner] {
        assert_eq!(cache.handle().counts().stored, 1);
    }
    assert!(get(&app, "/whole").await.is_hit());
}

#[tokio::test]
async fn two_layers_of_one_cache_refresh_behind_a_guard() {
    for same in [false, true] {
        let cache = memory(CachePolicy::new());
        let (inside, calls, gate) = stale_pages(&cache);
        let app = inside.layer(cache.clone()).layer(cache.guard());
        get(&app, "/").await;
        gate.add_permits(1);
        let fields: &[_] = if same { &[("x-same", "1")] } else { &[] };
        let ask = request("GET", "/", fields);
        read(app.clone().oneshot(ask).await.unwrap()).await;
        let hit = get(&app, "/").await;
        assert_eq!((hit.is_hit(), hit.detail(), calls.count()), (true, None, 2));
        assert_eq!(hit.text(), if same { "old" } else { "new" });
    }
}

#[tokio::test]
async fn two_layers_of_one_cache_refresh_without_a_guard() {
    for outer in [CachePolicy::new(), MINUTE.collapse(Collapse::Off)] {
        let cache = memory(CachePolicy::new());
        let (inside, calls, gate) = stale_pages(&cache);
        let app = inside.layer(cache.clone().with_policy(outer));
        gate.add_permits(9);
        assert_eq!(get(&app, "/").await.text(), "old");
        assert_eq!(get(&app, "/").await.text(), "old");
        cache.handle().flush().await.unwrap();
        let hit = get(&app, "/").await;
        assert_eq!((hit.is_hit(), hit.text(), calls.count()), (true, "new", 2));
    }
}

#[tokio::test]
async fn a_dropped_response_does_not_delay_the_next_request() {
    let cache = memory(MINUTE);
    let (inside, calls) = pages(&cache);
    // sends the request twice, and uses the second response
    let twice = |State(inside): State<Router>, request: Request, _: Next| async move {
        let (parts, _) = request.into_parts();
        let again = || inside.clone().oneshot(Request::from_parts(parts.clone(), Body::empty()));
        drop(again().await);
        again().await.unwrap()
    };
    let app = Router::new().fallback(|| async {}).layer(from_fn_with_state(inside, twice));
    let app = app.layer(cache.guard());
    let reply = tokio::time::timeout(Duration::from_secs(3), get(&app, "/whole")).await;
    assert_eq!((reply.unwrap().text(), calls.count()), ("page", 2));
    assert!(get(&app, "/whole").await.is_hit());
}

#[tokio::test]
async fn the_response_to_a_post_waits_for_the_guard() {
    for cookie in [false, true] {
        let cache = memory(CachePolicy::new());
        let page = || async {
            [("cache-control", "max-age=60"), ("content-location", "http://shop.example/")]
        };
        let inside = Router::new().route("/", on_get(page).post(page).layer(cache.clone()));
        let app = match cookie {
            true => outside(inside.clone(), with("set-cookie", "sid=1")),
            false => inside.clone(),
        };
        let app = app.layer(cache.guard());
        let fields = &[("host", "shop.example"), ("content-length", "0")];
        app.oneshot(request("POST", "/", fields)).await.unwrap();
        let ask = request("GET", "/", &fields[..1]);
        let next = read(inside.oneshot(ask).await.unwrap()).await;
        assert_eq!(next.is_hit(), !cookie);
    }
}

#[tokio::test]
async fn over_a_socket_a_session_reaches_no_other_client() {
    let cache = memory(MINUTE);
    let app = Router::new()
        .route("/", on_get(greeting).layer(cache.clone()))
        .route("/about", on_get(|| async { streamed() }).layer(cache.clone()))
        .layer(SessionManagerLayer::new(Sessions::default()))
        .layer(cache.guard());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<Body>();
    let get = async |path: &str| {
        let uri = format!("http://{address}{path}").parse().unwrap();
        let (parts, body) = client.get(uri).await.unwrap().into_parts();
        (parts.headers, body.collect().await.unwrap().to_bytes())
    };
    let (ann, bob) = (get("/").await, get("/").await);
    assert_ne!(ann.1, bob.1);
    assert!(ann.0.contains_key(SET_COOKIE) && bob.0.contains_key(SET_COOKIE));
    // a page that starts no session is stored
    get("/about").await;
    let (fields, body) = get("/about").await;
    assert!(fields["cache-status"].to_str().unwrap().starts_with("test; hit"));
    assert_eq!(body, "page");
    server.abort();
}
