//! Invalidations while handlers run, while the store is slow, and from clients that disconnect.

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;

use super::*;

/// The race is so rare that it needs many rounds; `TMC_RACES=full` takes more.
fn rounds() -> u32 {
    if crate::support::is_full("TMC_RACES") { 20_000 } else { 4_000 }
}

on_every_store! {
    async fn a_response_made_during_an_invalidation_is_not_stored(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let handle = layer.handle();
        let app = layer.layer(tower::service_fn(move |_: Request<()>| {
            let handle = handle.clone();
            async move {
                // the handler reads the data, another client changes the data, and then the handler answers
                handle.invalidate_uri("/p").await.unwrap();
                Ok::<_, Infallible>(response(200, &[], "old"))
            }
        }));
        for _ in 0..2 {
            assert!(!send(&app, get("/p", &[])).await.is_hit());
        }
        send(&app, get("/q", &[])).await;
        assert!(send(&app, get("/q", &[])).await.is_hit());
    }
}

#[tokio::test]
async fn a_write_aborted_after_its_commit_invalidates() {
    let (version, rendering) = (Calls::default(), Gate::closed());
    let gate = rendering.clone();
    let app =
        in_memory().with_policy(MINUTE).layer(tower::service_fn(move |request: Request<()>| {
            let (version, gate) = (version.clone(), gate.clone());
            async move {
                if request.method() == "PUT" {
                    version.add(); // commit
                    gate.pass().await; // while the response is rendered, the client disconnects
                }
                Ok::<_, Infallible>(response(200, &[], &version.count().to_string()))
            }
        }));
    send(&app, get("/p", &[])).await;
    let writing = tokio::spawn(app.clone().oneshot(request("PUT", "/p", &[])));
    rendering.arrival().await;
    writing.abort();
    eventually("the write invalidates", async || send(&app, get("/p", &[])).await.text() == "1")
        .await;
}

#[tokio::test]
async fn a_write_that_fails_after_its_commit_invalidates() {
    let version = Calls::default();
    let app =
        in_memory().with_policy(MINUTE).layer(tower::service_fn(move |request: Request<()>| {
            let version = version.clone();
            async move {
                if request.method() == "PUT" {
                    version.add();
                    return Err("the handler timed out");
                }
                Ok(response(200, &[], &version.count().to_string()))
            }
        }));
    send(&app, get("/p", &[])).await;
    assert!(app.clone().oneshot(request("PUT", "/p", &[])).await.is_err());
    assert_eq!(send(&app, get("/p", &[])).await.text(), "1");
}

#[tokio::test]
async fn a_304_from_before_an_invalidation_revives_nothing() {
    let store = Slow::new();
    let layer = over(store.clone());
    let (version, gate) = (Calls::default(), Gate::closed());
    let (versions, validating) = (version.clone(), gate.clone());
    let app = layer.layer(tower::service_fn(move |request: Request<()>| {
        let (version, gate) = (versions.clone(), validating.clone());
        async move {
            if request.method() == "PUT" {
                version.add();
                return Ok::<_, Infallible>(response(200, &[], ""));
            }
            let etag = format!("\"{}\"", version.count());
            if request.headers().get("if-none-match").is_some_and(|known| *known == *etag) {
                gate.pass().await;
                return Ok(response(304, &[FRESH, ("etag", &etag)], ""));
            }
            let fields = [("cache-control", "max-age=0"), ("etag", &*etag)];
            Ok(response(200, &fields, &format!("v{etag}")))
        }
    }));
    send(&app, get("/p", &[])).await; // stored and stale
    store.hold_heads(); // a slow database
    let validating = tokio::spawn({
        let app = app.clone();
        async move { send(&app, get("/p", &[])).await }
    });
    gate.arrival().await; // the handler has read version 0
    send(&app, request("PUT", "/p", &[])).await; // version 1, and the invalidation has returned
    gate.let_pass(1);
    validating.await.unwrap();
    let after = send(&app, get("/p", &[])).await;
    assert_eq!(after.text(), "v\"1\"", "{:?}", after.cache());
}

#[tokio::test]
async fn a_dropped_invalidation_future_still_invalidates() {
    let store = Slow::new();
    let layer = over(store.clone()).with_policy(MINUTE);
    let (app, _) = cached(&layer, |_| response(200, &[], "x"));
    send(&app, get("/p", &[])).await;
    store.hold_writes();
    send(&app, get("/other", &[])).await; // hangs in the store
    let handle = layer.handle();
    // the client disconnects
    let _ = tokio::time::timeout(Duration::from_millis(10), handle.invalidate_uri("/p")).await;
    store.release_writes();
    eventually("it invalidates", async || !send(&app, get("/p", &[])).await.is_hit()).await;
}

#[tokio::test]
async fn a_page_is_not_served_during_its_invalidation() {
    let store = Slow::new();
    let layer = over(store.clone()).with_policy(MINUTE);
    let (app, _) = cached(&layer, |_| response(200, &[], "x"));
    send(&app, get("/p", &[])).await;
    store.hold_writes();
    send(&app, get("/other", &[])).await; // one unrelated write hangs
    send(&app, request("PUT", "/p", &[])).await;
    let after = send(&app, get("/p", &[])).await;
    assert!(
        !after.is_hit(),
        "served after the PUT has been answered; errors counted: {}",
        layer.handle().counts().invalidation_errors
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_old_response_is_never_seen_after_an_invalidation() {
    // the entry is visible after `begin` and before the fence is checked
    let layer = in_memory().with_policy(MINUTE);
    let app = versioned(&layer);
    let stored = async || send(&app, get("/p", &[("cache-control", "only-if-cached")])).await;
    for round in 0..rounds() {
        // a body that is complete only after the invalidation
        let (sender, mut frames) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(4);
        let body = StreamBody::new(stream::poll_fn(move |cx| frames.poll_recv(cx)));
        let body = Arc::new(Mutex::new(Some(body)));
        let slow = layer.layer(tower::service_fn(move |_: Request<()>| {
            let body = body.lock().unwrap().take().unwrap();
            async move { Ok::<_, Infallible>(Response::new(body)) }
        }));
        let response = slow.oneshot(get("/p", &[])).await.unwrap();
        sender.try_send(Ok(Frame::data(Bytes::from_static(b"OLD")))).unwrap();
        drop(sender);
        send(&app, request("PUT", "/p", &[])).await;
        let reading = tokio::spawn(async move { response.into_body().collect().await.unwrap() });
        for _ in 0..6 {
            assert_ne!(stored().await.text(), "OLD", "round {round}");
        }
        reading.await.unwrap();
        assert_eq!(stored().await.status, 504);
    }
}

#[tokio::test]
async fn a_post_from_before_another_write_is_not_stored() {
    let (version, gate) = (Calls::default(), Gate::closed());
    let rendering = gate.clone();
    let app =
        in_memory().with_policy(MINUTE).layer(tower::service_fn(move |request: Request<()>| {
            let (version, gate) = (version.clone(), rendering.clone());
            async move {
                if request.method() == "PUT" {
                    version.add();
                    return Ok::<_, Infallible>(response(200, &[], ""));
                }
                let read = version.count().to_string();
                if request.method() == "POST" {
                    gate.pass().await;
                }
                Ok(response(200, &[FRESH, ("content-location", "/p")], &read))
            }
        }));
    let post = tokio::spawn({
        let app = app.clone();
        async move { send(&app, request("POST", "/p", &[("host", "h")])).await }
    });
    gate.arrival().await;
    send(&app, request("PUT", "/p", &[("host", "h")])).await;
    gate.let_pass(1);
    post.await.unwrap();
    let after = send(&app, get("/p", &[("host", "h")])).await;
    assert_eq!(after.text(), "1", "{:?}", after.cache());
}
