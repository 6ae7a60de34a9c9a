//! Hostile clients, unlucky timing, and unusual handlers.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::Notify;
use tower::{Layer, ServiceExt};
use tower_mysql_cache::key::*;
use tower_mysql_cache::policy::*;
use tower_mysql_cache::store::*;
use tower_mysql_cache::*;

use crate::kit::{Answer, cached, get, request, response, send};

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
const FRESH: (&str, &str) = ("cache-control", "max-age=60");

fn layer() -> CacheLayer<BoxStore> {
    CacheLayer::new(BoxStore::new(MemoryStore::new())).prefix("test")
}

/// A memory store that waits where a test wants it to.
#[derive(Clone)]
struct Slow {
    inner: MemoryStore,
    freshen: Arc<AtomicBool>,
    put: Arc<AtomicBool>,
    go: Arc<Notify>,
    fail_put: Arc<AtomicBool>,
    lookups: Arc<Mutex<Vec<usize>>>,
}
impl Slow {
    fn new() -> Self {
        Self {
            inner: MemoryStore::new(),
            freshen: Default::default(),
            put: Default::default(),
            go: Default::default(),
            fail_put: Default::default(),
            lookups: Default::default(),
        }
    }
}
impl Entries for Slow {
    async fn get_many(&self, keys: Vec<CacheKey>) -> Result<Vec<Option<Stored>>, StoreError> {
        self.lookups.lock().unwrap().push(keys.len());
        self.inner.get_many(keys).await
    }
    async fn put_many(&self, e: Vec<Entry>) -> Result<(), StoreError> {
        if self.put.load(Ordering::SeqCst) {
            self.go.notified().await;
        }
        if self.fail_put.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable);
        }
        self.inner.put_many(e).await
    }
    async fn freshen(&self, u: HeadUpdate) -> Result<bool, StoreError> {
        if self.freshen.load(Ordering::SeqCst) {
            self.go.notified().await;
        }
        self.inner.freshen(u).await
    }
    async fn remove(&self, r: KeyRange) -> Result<u64, StoreError> {
        self.inner.remove(r).await
    }
}
impl Admin for Slow {}
impl Store for Slow {
    type Log = MemoryLog;
    fn log(&self) -> &MemoryLog {
        self.inner.log()
    }
}

// 1 ---------------------------------------------------------------------
#[tokio::test]
async fn a_session_cookie_named_like_analytics_is_a_credential() {
    let (app, _) = cached(&layer().with_policy(MINUTE), |r| {
        response(200, &[], r.headers().get("cookie").map_or("-", |c| c.to_str().unwrap()))
    });
    send(&app, get("/account", &[("cookie", "_gallery_session=alice")])).await;
    let bob = send(&app, get("/account", &[("cookie", "_gallery_session=bob")])).await;
    assert_eq!(bob.text(), "_gallery_session=bob");
}

#[tokio::test]
async fn an_absolute_target_with_another_host_poisons_nothing() {
    let layer = layer().with_policy(MINUTE).hosts(["shop.example"]);
    let (app, _) = cached(&layer, |r| {
        let host = r.headers().get("host").map_or("-", |h| h.to_str().unwrap()).to_owned();
        response(200, &[], &format!("<script src=//{host}/a.js>"))
    });
    send(&app, get("http://shop.example/", &[("host", "evil.example")])).await;
    let victim = send(&app, get("/", &[("host", "shop.example")])).await;
    assert_eq!(victim.text(), "<script src=//shop.example/a.js>");
}

#[tokio::test]
async fn a_user_in_the_host_field_poisons_nothing() {
    let layer = layer().with_policy(MINUTE).hosts(["shop.example"]);
    let (app, _) = cached(&layer, |r| {
        let host = r.headers().get("host").map_or("-", |h| h.to_str().unwrap()).to_owned();
        response(200, &[], &host)
    });
    send(&app, get("/", &[("host", "evil:x@shop.example")])).await;
    let victim = send(&app, get("/", &[("host", "shop.example")])).await;
    assert_eq!(victim.text(), "shop.example");
}

#[tokio::test]
async fn a_target_that_is_an_authority_is_not_the_root() {
    let (app, _) = cached(&layer(), |r| {
        if r.uri().path() == "/" {
            response(200, &[FRESH], "home")
        } else {
            response(404, &[FRESH], "no such page")
        }
    });
    send(&app, get("shop.example", &[("host", "shop.example")])).await;
    let victim = send(&app, get("/", &[("host", "shop.example")])).await;
    assert_eq!(victim.text(), "home");
}

fn ranged(r: Request<()>) -> Response<Full<Bytes>> {
    // like tower-http's ServeFile with a Cache-Control header on every response
    if r.headers().contains_key("if-unmodified-since") || r.headers().contains_key("if-match") {
        return response(412, &[FRESH], "");
    }
    if r.headers().get("range").is_some_and(|range| range == "bytes=999-") {
        return response(416, &[FRESH, ("content-range", "bytes */4")], "");
    }
    response(200, &[FRESH], "file")
}

#[tokio::test]
async fn a_failed_condition_is_not_stored_for_everyone() {
    let (app, _) = cached(&layer(), ranged);
    send(&app, get("/f", &[("if-unmodified-since", "Tue, 15 Nov 1994 12:45:26 GMT")])).await;
    let victim = send(&app, get("/f", &[])).await;
    assert_eq!((victim.status.as_u16(), victim.text()), (200, "file"));
}

#[tokio::test]
async fn an_unsatisfiable_range_is_not_stored_for_everyone() {
    let (app, _) = cached(&layer(), ranged);
    send(&app, get("/f", &[("cache-control", "no-store")])).await; // the target is now marked as unstorable
    send(&app, get("/f", &[("range", "bytes=999-")])).await;
    let victim = send(&app, get("/f", &[])).await;
    assert_eq!((victim.status.as_u16(), victim.text()), (200, "file"));
}

// 2 ---------------------------------------------------------------------
#[tokio::test]
async fn a_write_over_another_protocol_version_invalidates() {
    let version = Arc::new(AtomicUsize::new(1));
    let v = version.clone();
    let (app, _) = cached(&layer().with_policy(MINUTE), move |r| {
        if r.method() == "PUT" {
            v.fetch_add(1, Ordering::SeqCst);
        }
        response(200, &[], &v.load(Ordering::SeqCst).to_string())
    });
    send(&app, get("https://shop.example/p", &[])).await; // HTTP/2 over TLS: :scheme and :authority
    send(&app, request("PUT", "/p", &[("host", "shop.example")])).await; // HTTP/1.1 over TLS
    assert_eq!(send(&app, get("https://shop.example/p", &[])).await.text(), "2");
}

#[tokio::test]
async fn a_write_with_an_upgrade_field_invalidates() {
    let v = Arc::new(AtomicUsize::new(1));
    let (app, _) = cached(&layer().with_policy(MINUTE), move |r| {
        if r.method() == "PUT" {
            v.fetch_add(1, Ordering::SeqCst);
        }
        response(200, &[], &v.load(Ordering::SeqCst).to_string())
    });
    send(&app, get("/p", &[])).await;
    app.clone().oneshot(request("PUT", "/p", &[("upgrade", "TLS/1.0")])).await.unwrap();
    assert_eq!(send(&app, get("/p", &[])).await.text(), "2");
}

#[tokio::test]
async fn a_write_without_a_partition_invalidates_all_partitions() {
    let v = Arc::new(AtomicUsize::new(1));
    let layer = layer()
        .with_policy(MINUTE)
        .partition_by("locale", |r| Some(r.headers.get("x-locale")?.as_bytes().to_vec()));
    let (app, _) = cached(&layer, move |r| {
        if r.method() == "PUT" {
            v.fetch_add(1, Ordering::SeqCst);
        }
        response(200, &[], &v.load(Ordering::SeqCst).to_string())
    });
    send(&app, get("/p", &[("x-locale", "de")])).await;
    send(&app, request("PUT", "/p", &[])).await;
    assert_eq!(send(&app, get("/p", &[("x-locale", "de")])).await.text(), "2");
}

#[tokio::test]
async fn a_write_aborted_after_its_commit_invalidates() {
    let v = Arc::new(AtomicUsize::new(1));
    let app = layer().with_policy(MINUTE).layer(tower::service_fn(move |r: Request<()>| {
        let v = v.clone();
        async move {
            if r.method() == "PUT" {
                v.fetch_add(1, Ordering::SeqCst); // commit
                std::future::pending::<()>().await; // while the response is rendered, the client disconnects
            }
            Ok::<_, Infallible>(response(200, &[], &v.load(Ordering::SeqCst).to_string()))
        }
    }));
    send(&app, get("/p", &[])).await;
    let _ = tokio::time::timeout(
        Duration::from_millis(20),
        app.clone().oneshot(request("PUT", "/p", &[])),
    )
    .await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(send(&app, get("/p", &[])).await.text(), "2");
}

#[tokio::test]
async fn a_write_that_fails_after_its_commit_invalidates() {
    let v = Arc::new(AtomicUsize::new(1));
    let app = layer().with_policy(MINUTE).layer(tower::service_fn(move |r: Request<()>| {
        let v = v.clone();
        async move {
            if r.method() == "PUT" {
                v.fetch_add(1, Ordering::SeqCst);
                return Err("the handler timed out");
            }
            Ok(response(200, &[], &v.load(Ordering::SeqCst).to_string()))
        }
    }));
    send(&app, get("/p", &[])).await;
    assert!(app.clone().oneshot(request("PUT", "/p", &[])).await.is_err());
    assert_eq!(send(&app, get("/p", &[])).await.text(), "2");
}

#[tokio::test]
async fn a_304_from_before_an_invalidation_revives_nothing() {
    let store = Slow::new();
    let layer = CacheLayer::new(BoxStore::new(store.clone())).prefix("test");
    let v = Arc::new(AtomicUsize::new(1));
    let (started, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let app = layer.layer(tower::service_fn({
        let (v, started, go) = (v.clone(), started.clone(), go.clone());
        move |r: Request<()>| {
            let (v, started, go) = (v.clone(), started.clone(), go.clone());
            async move {
                if r.method() == "PUT" {
                    v.fetch_add(1, Ordering::SeqCst);
                    return Ok::<_, Infallible>(response(200, &[], ""));
                }
                let etag = format!("\"{}\"", v.load(Ordering::SeqCst));
                if r.headers().get("if-none-match").is_some_and(|t| t.to_str().unwrap() == etag) {
                    started.notify_one();
                    go.notified().await;
                    return Ok(response(304, &[FRESH, ("etag", &etag)], ""));
                }
                Ok(response(
                    200,
                    &[("cache-control", "max-age=0"), ("etag", &etag)],
                    &format!("v{etag}"),
                ))
            }
        }
    }));
    send(&app, get("/p", &[])).await; // stored and stale
    store.freshen.store(true, Ordering::SeqCst); // a slow database
    let validating = tokio::spawn({
        let app = app.clone();
        async move { send(&app, get("/p", &[])).await }
    });
    started.notified().await; // the handler has read version 1
    send(&app, request("PUT", "/p", &[])).await; // version 2, and the invalidation has returned
    go.notify_one();
    validating.await.unwrap();
    let after = send(&app, get("/p", &[])).await;
    assert_eq!(after.text(), "v\"2\"", "{:?}", after.cache);
}

#[tokio::test]
async fn a_late_304_does_not_hide_a_newer_response() {
    let store = Slow::new();
    let layer = CacheLayer::new(BoxStore::new(store.clone())).prefix("test");
    let calls = Arc::new(AtomicUsize::new(0));
    let (started, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let app = layer.layer(tower::service_fn({
        let (calls, started, go) = (calls.clone(), started.clone(), go.clone());
        move |_: Request<()>| {
            let (n, started, go) =
                (calls.fetch_add(1, Ordering::SeqCst), started.clone(), go.clone());
            async move {
                Ok::<_, Infallible>(match n {
                    0 => response(200, &[("cache-control", "max-age=0"), ("etag", "\"1\"")], "old"),
                    1 => {
                        started.notify_one();
                        go.notified().await;
                        response(304, &[FRESH, ("etag", "\"1\"")], "")
                    }
                    _ => response(200, &[FRESH, ("etag", "\"2\"")], "new"),
                })
            }
        }
    }));
    send(&app, get("/p", &[])).await;
    store.freshen.store(true, Ordering::SeqCst);
    let slow = tokio::spawn({
        let app = app.clone();
        async move { send(&app, get("/p", &[])).await }
    });
    started.notified().await;
    assert_eq!(send(&app, get("/p", &[])).await.text(), "new");
    assert_eq!(send(&app, get("/p", &[])).await.text(), "new");
    go.notify_one();
    slow.await.unwrap();
    assert_eq!(send(&app, get("/p", &[])).await.text(), "new");
}

#[tokio::test]
async fn a_dropped_invalidation_future_still_invalidates() {
    let store = Slow::new();
    let layer = CacheLayer::new(BoxStore::new(store.clone())).prefix("test").with_policy(MINUTE);
    let (app, _) = cached(&layer, |_| response(200, &[], "x"));
    send(&app, get("/p", &[])).await;
    store.put.store(true, Ordering::SeqCst);
    send(&app, get("/other", &[])).await; // hangs in the store
    let handle = layer.handle();
    let _ = tokio::time::timeout(Duration::from_millis(10), handle.invalidate_uri("/p")).await; // the client disconnects
    store.go.notify_waiters();
    store.put.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!send(&app, get("/p", &[])).await.is_hit());
}

#[tokio::test]
async fn a_page_is_not_served_during_its_invalidation() {
    let store = Slow::new();
    let layer = CacheLayer::new(BoxStore::new(store.clone())).prefix("test").with_policy(MINUTE);
    let (app, _) = cached(&layer, |_| response(200, &[], "x"));
    send(&app, get("/p", &[])).await;
    store.put.store(true, Ordering::SeqCst);
    send(&app, get("/other", &[])).await; // one unrelated write hangs
    let at = std::time::Instant::now();
    send(&app, request("PUT", "/p", &[])).await;
    eprintln!(
        "PUT took {:?}; invalidation_errors={}",
        at.elapsed(),
        layer.handle().counts().invalidation_errors
    );
    let after = send(&app, get("/p", &[])).await;
    assert!(
        !after.is_hit(),
        "served after the PUT has been answered; errors counted: {}",
        layer.handle().counts().invalidation_errors
    );
}

// 4 ---------------------------------------------------------------------
#[tokio::test]
async fn cookies_of_a_304_reach_their_client() {
    let calls = AtomicUsize::new(0);
    let calls = Arc::new(calls);
    let (app, _) = cached(&layer(), move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => response(200, &[("cache-control", "max-age=0"), ("etag", "\"1\"")], "x"),
        _ => response(304, &[("etag", "\"1\""), ("set-cookie", "csrf=new")], ""),
    });
    send(&app, get("/", &[])).await;
    assert_eq!(send(&app, get("/", &[])).await.field("set-cookie"), "csrf=new");
}

#[tokio::test]
async fn stripped_cookies_reach_the_first_client_of_a_range() {
    let (app, _) = cached(&layer().with_policy(MINUTE.strip_set_cookies(&["seen"])), |_| {
        response(200, &[("set-cookie", "seen=1")], "0123")
    });
    assert_eq!(send(&app, get("/", &[("range", "bytes=0-1")])).await.field("set-cookie"), "seen=1");
}

#[tokio::test]
async fn without_a_validator_an_unstored_response_is_never_a_304() {
    let n = Arc::new(AtomicUsize::new(0));
    let (app, _) = cached(&layer(), move |_| {
        response(
            200,
            &[("cache-control", "no-store")],
            &n.fetch_add(1, Ordering::SeqCst).to_string(),
        )
    });
    let answer =
        send(&app, get("/", &[("if-modified-since", "Tue, 15 Nov 2033 12:45:26 GMT")])).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn an_unsatisfiable_range_has_no_lifetime() {
    let (app, _) = cached(&layer(), |_| {
        response(
            200,
            &[("cache-control", "public, max-age=86400"), ("content-encoding", "gzip")],
            "0123",
        )
    });
    send(&app, get("/", &[])).await;
    let answer = send(&app, get("/", &[("range", "bytes=99-")])).await;
    assert_eq!(
        (
            answer.status.as_u16(),
            answer.field("cache-control").as_str(),
            answer.field("content-encoding").as_str()
        ),
        (416, "", "")
    );
}

#[tokio::test]
async fn a_private_field_of_a_targeted_304_is_withheld() {
    let calls = Arc::new(AtomicUsize::new(0));
    let (app, _) = cached(&layer(), move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => response(200, &[("tower-mysql-cache-control", "max-age=0"), ("etag", "\"1\"")], "x"),
        _ => response(
            304,
            &[
                ("etag", "\"1\""),
                ("tower-mysql-cache-control", "max-age=60, private=\"x-user\""),
                ("x-user", "alice"),
            ],
            "",
        ),
    });
    send(&app, get("/", &[])).await;
    send(&app, get("/", &[])).await;
    let other = send(&app, get("/", &[])).await;
    assert!(other.is_hit());
    assert_eq!(other.field("x-user"), "");
}

#[tokio::test]
async fn a_refused_response_is_not_reported_as_stored() {
    let store = BoxStore::new(MemoryStore::builder().max_bytes(4096).build().unwrap());
    let (app, _) = cached(&CacheLayer::new(store).with_policy(MINUTE), |_| {
        response(200, &[], &"x".repeat(9000))
    });
    let answer = send(&app, get("/", &[])).await;
    assert!(
        !answer.cache.is_stored() && !answer.field("cache-status").contains("stored"),
        "{}",
        answer.field("cache-status")
    );
}

#[tokio::test]
async fn a_body_over_the_limit_has_a_named_reason() {
    let (app, _) = cached(&layer().with_policy(MINUTE.max_body_bytes(3)), |_| {
        response(200, &[("content-length", "4")], "0123")
    });
    assert_eq!(
        send(&app, get("/", &[])).await.cache.reason().map(|reason| reason.as_str()),
        Some("too-large")
    );
}

#[tokio::test]
async fn a_slow_handler_with_a_short_lifetime_is_stored() {
    let app = layer().with_policy(CachePolicy::new().ttl(Duration::from_secs(1))).layer(
        tower::service_fn(|_: Request<()>| async {
            tokio::time::sleep(Duration::from_millis(1100)).await;
            Ok::<_, Infallible>(response(200, &[], "slow"))
        }),
    );
    let answer = send(&app, get("/", &[])).await;
    assert!(answer.cache.is_stored(), "{:?}", answer.cache);
}

#[tokio::test]
async fn one_visitors_session_does_not_prevent_others_filling() {
    let (app, calls) = cached(&layer().with_policy(MINUTE), |r| {
        if r.headers().contains_key("cookie") {
            response(200, &[("cache-control", "private")], "account")
        } else if r.headers().contains_key("if-none-match") {
            response(304, &[("etag", "\"1\"")], "")
        } else {
            response(200, &[("etag", "\"1\"")], "page")
        }
    });
    send(&app, get("/", &[("cookie", "sid=1")])).await;
    for _ in 0..3 {
        send(&app, get("/", &[("if-none-match", "\"1\"")])).await;
    }
    assert_eq!(calls.count(), 2);
}

#[tokio::test]
async fn ranges_of_variants_over_the_limit_reach_the_handler() {
    use futures_util::stream;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let s = seen.clone();
    let app = layer().with_policy(MINUTE.max_body_bytes(3)).layer(tower::service_fn(
        move |r: Request<()>| {
            s.lock().unwrap().push(r.headers().contains_key("range"));
            let body = http_body_util::StreamBody::new(stream::iter(["01", "23"].map(|t| {
                Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(t.as_bytes())))
            })));
            async move {
                Ok::<_, Infallible>(
                    Response::builder().header("vary", "accept-encoding").body(body).unwrap(),
                )
            }
        },
    ));
    for _ in 0..2 {
        send(&app, get("/", &[("range", "bytes=0-0")])).await;
    }
    assert_eq!(*seen.lock().unwrap(), [false, true]);
}

#[tokio::test]
async fn a_body_of_known_size_is_complete_without_its_end() {
    struct Sized(Option<Bytes>);
    impl http_body::Body for Sized {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
            std::task::Poll::Ready(self.0.take().map(|b| Ok(http_body::Frame::data(b))))
        }
        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(self.0.as_ref().map_or(0, |b| b.len() as u64))
        }
    }
    let app = layer().with_policy(MINUTE).layer(tower::service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Sized(Some("hello".into()))))
    }));
    // hyper writes a Content-Length of 5, and stops polling after five bytes
    let mut r = app.clone().oneshot(get("/", &[])).await.unwrap();
    let _ = r.body_mut().frame().await;
    drop(r);
    assert!(Answer::of(app.clone().oneshot(get("/", &[])).await.unwrap()).await.is_hit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_old_response_is_never_seen_after_an_invalidation() {
    // the entry is visible after `begin` and before the fence is checked
    let layer = layer().with_policy(MINUTE);
    let v = Arc::new(AtomicUsize::new(0));
    let (app, _) = cached(&layer, {
        let v = v.clone();
        move |r| {
            if r.method() == "PUT" {
                v.fetch_add(1, Ordering::SeqCst);
                return response(200, &[], "");
            }
            response(200, &[], &v.load(Ordering::SeqCst).to_string())
        }
    });
    let (mut stale, mut fenced) = (0, 0);
    for _ in 0..20_000_u64 {
        // a body that is complete only after the invalidation
        let (tx, mut rx) =
            tokio::sync::mpsc::channel::<Result<http_body::Frame<Bytes>, Infallible>>(4);
        let body = http_body_util::StreamBody::new(futures_util::stream::poll_fn(move |cx| {
            rx.poll_recv(cx)
        }));
        let body = Arc::new(Mutex::new(Some(body)));
        let slow = layer.layer(tower::service_fn(move |_: Request<()>| {
            let b = body.lock().unwrap().take().unwrap();
            async move { Ok::<_, Infallible>(Response::new(b)) }
        }));
        let r = slow.oneshot(get("/p", &[])).await.unwrap();
        tx.try_send(Ok(http_body::Frame::data(Bytes::from_static(b"OLD")))).unwrap();
        drop(tx);
        send(&app, request("PUT", "/p", &[])).await;
        let reading = tokio::spawn(async move { r.into_body().collect().await.unwrap() });
        for _ in 0..6 {
            let answer =
                send(&app, request("GET", "/p", &[("cache-control", "only-if-cached")])).await;
            if answer.text() == "OLD" {
                stale += 1;
            } else {
                fenced += 1;
            }
        }
        reading.await.unwrap();
        let answer = send(&app, request("GET", "/p", &[("cache-control", "only-if-cached")])).await;
        assert_eq!(answer.status, 504);
    }
    assert_eq!(stale, 0, "of {fenced}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_is_replaced_only_if_it_is_the_expected_one() {
    let kit = crate::kit::Kit::mysql().await;
    let now = kit.store.now_ms();
    let head = |etag: &'static str| {
        let etag = http::HeaderValue::from_static(etag);
        let headers = http::HeaderMap::from_iter([(http::header::ETAG, etag)]);
        StoredHead::new(http::StatusCode::OK, headers, now)
    };
    let key = CacheKey::new("test:1:/ http://h");
    let entry = |head: StoredHead, body: &'static str| {
        let stored = Stored::Response(StoredResponse::new(head, body.into()));
        Entry::new(key.clone(), stored, now + 60_000)
    };
    kit.store.put(entry(head("\"2\""), "two")).await.unwrap(); // replaced "one" in the same millisecond
    let mut new = head("\"1\"");
    new.fresh_until_ms = now + 50_000;
    let old = Arc::new(head("\"1\""));
    let update = HeadUpdate::new(key.clone(), old, Arc::new(new), now + 60_000);
    let done = kit.store.freshen(update).await.unwrap();
    let Some(Stored::Response(r)) = kit.store.get(key).await.unwrap() else { panic!() };
    assert_eq!(
        (done, &r.head.headers["etag"], &r.body[..]),
        (false, &http::HeaderValue::from_static("\"2\""), &b"two"[..])
    );
}

async fn raw(addr: std::net::SocketAddr, text: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut s = tokio::net::TcpStream::connect(addr).await.unwrap();
    s.write_all(text.as_bytes()).await.unwrap();
    let mut out = String::new();
    let _ = tokio::time::timeout(Duration::from_secs(2), s.read_to_string(&mut out)).await;
    out
}

async fn shop() -> std::net::SocketAddr {
    let app = axum::Router::new()
        .route(
            "/",
            axum::routing::get(|h: http::HeaderMap| async move {
                format!("//{}/a.js", h["host"].to_str().unwrap())
            }),
        )
        .fallback(|| async {
            (http::StatusCode::NOT_FOUND, [("cache-control", "max-age=60")], "nothing here")
        })
        .layer(layer().with_policy(MINUTE).hosts(["shop.example"]));
    let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let a = l.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(l, app).await.unwrap() });
    a
}

#[tokio::test]
async fn an_absolute_target_over_the_wire_poisons_nothing() {
    let a = shop().await;
    raw(a, "GET http://shop.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        .await;
    let victim = raw(a, "GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").await;
    assert!(victim.ends_with("//shop.example/a.js"), "{victim}");
}

#[tokio::test]
async fn an_authority_over_the_wire_poisons_nothing() {
    let a = shop().await;
    let first =
        raw(a, "GET shop.example HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
            .await;
    let victim = raw(a, "GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").await;
    assert!(victim.ends_with("//shop.example/a.js"), "{first}\n{victim}");
}

#[tokio::test]
async fn a_head_without_a_validator_freshens_nothing() {
    let layer = layer().with_policy(CachePolicy::rfc9111());
    let (app, _) = cached(&layer, |r| {
        if r.method() == "HEAD" {
            response(200, &[("cache-control", "max-age=3600"), ("content-type", "text/plain")], "")
        } else {
            response(200, &[FRESH, ("content-type", "text/html")], "<p>old")
        }
    });
    send(&app, get("/", &[])).await;
    send(&app, request("HEAD", "/", &[("cache-control", "no-cache")])).await;
    let hit = send(&app, get("/", &[])).await;
    assert!(
        hit.field("content-type") == "text/html" && hit.cache.ttl_secs().is_none_or(|t| t <= 60),
        "{:?} {:?}",
        hit.cache,
        hit.headers
    );
}

#[tokio::test]
async fn extensions_of_a_first_response_reach_the_layers_outside() {
    #[derive(Clone)]
    struct Mine;
    let (app, _) = cached(&layer().with_policy(MINUTE), |_| {
        let mut r = response(200, &[], "0123");
        r.extensions_mut().insert(Mine);
        r
    });
    let plain = app.clone().oneshot(get("/a", &[])).await.unwrap();
    assert!(plain.extensions().get::<Mine>().is_some());
    let ranged = app.clone().oneshot(get("/b", &[("range", "bytes=0-0")])).await.unwrap();
    assert!(ranged.extensions().get::<Mine>().is_some());
}

#[tokio::test]
async fn a_failed_write_is_not_reported_as_stored() {
    let store = Slow::new();
    store.fail_put.store(true, Ordering::SeqCst);
    let (app, _) = cached(&CacheLayer::new(BoxStore::new(store)).with_policy(MINUTE), |_| {
        response(200, &[], "x")
    });
    let answer = send(&app, get("/", &[])).await;
    assert!(!answer.cache.is_stored(), "{}", answer.field("cache-status"));
}

fn _f(_: impl Future) {}

#[tokio::test]
async fn a_post_from_before_another_write_is_not_stored() {
    let v = Arc::new(AtomicUsize::new(1));
    let (started, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let app = layer().with_policy(MINUTE).layer(tower::service_fn({
        let (v, started, go) = (v.clone(), started.clone(), go.clone());
        move |r: Request<()>| {
            let (v, started, go) = (v.clone(), started.clone(), go.clone());
            async move {
                if r.method() == "PUT" {
                    v.store(2, Ordering::SeqCst);
                    return Ok::<_, Infallible>(response(200, &[], ""));
                }
                let read = v.load(Ordering::SeqCst).to_string();
                if r.method() == "POST" {
                    started.notify_one();
                    go.notified().await;
                }
                Ok(response(200, &[FRESH, ("content-location", "/p")], &read))
            }
        }
    }));
    let post = tokio::spawn({
        let app = app.clone();
        async move { send(&app, request("POST", "/p", &[("host", "h")])).await }
    });
    started.notified().await;
    send(&app, request("PUT", "/p", &[("host", "h")])).await;
    go.notify_one();
    post.await.unwrap();
    let after = send(&app, get("/p", &[("host", "h")])).await;
    assert_eq!(after.text(), "2", "{:?}", after.cache);
}

#[tokio::test]
async fn invalidating_a_path_keeps_its_query_rule() {
    let store = BoxStore::new(MemoryStore::new());
    let v = Arc::new(AtomicUsize::new(1));
    let handler = {
        let v = v.clone();
        move |r: Request<()>| {
            if r.method() == "PUT" {
                v.store(2, Ordering::SeqCst);
            }
            response(
                200,
                &[FRESH, ("no-vary-search", "params=(\"utm\")")],
                &v.load(Ordering::SeqCst).to_string(),
            )
        }
    };
    let one = CacheLayer::new(store.clone()).prefix("test");
    let (app, _) = cached(&one, handler.clone());
    send(&app, get("/s?q=1&utm=a", &[])).await;
    one.handle().invalidate_uri("/s").await.unwrap(); // the page without a query is another target
    let (app, _) = cached(&CacheLayer::new(store).prefix("test"), handler); // another process
    send(&app, request("PUT", "/s?q=1&utm=b", &[])).await;
    let after = send(&app, get("/s?q=1", &[])).await;
    assert_eq!(after.text(), "2", "{:?}", after.cache);
}

#[tokio::test]
async fn a_hit_costs_one_lookup_also_with_vary() {
    let store = Slow::new();
    let lookups = Arc::clone(&store.lookups);
    let layer = CacheLayer::new(BoxStore::new(store)).prefix("test");
    let (app, calls) = cached(&layer, |request| {
        let language = request.headers()["accept-language"].to_str().unwrap().to_owned();
        let vary = if request.uri().path() == "/plain" { "" } else { "accept-language" };
        response(200, &[FRESH, ("vary", vary)], &language)
    });
    for (path, keys) in [("/plain", 1), ("/varies", 2)] {
        let languages = if keys == 1 { &["de"][..] } else { &["de", "fr"] };
        for language in languages {
            send(&app, get(path, &[("accept-language", language)])).await;
        }
        layer.handle().flush().await.unwrap();
        for language in languages.repeat(5) {
            lookups.lock().unwrap().clear();
            let hit = send(&app, get(path, &[("accept-language", language)])).await;
            assert_eq!((hit.is_hit(), hit.text()), (true, language));
            // one call, with the keys of the target and of the variant
            assert_eq!(*lookups.lock().unwrap(), [keys], "{path}");
        }
    }
    assert_eq!(calls.count(), 3);
}
