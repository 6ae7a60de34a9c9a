//! Stale responses: served while one request refreshes them, and instead of errors; never if the response forbids it,
//! and never after their window. The handler's `Age` makes a response stale, so no test waits for a clock.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::sync::oneshot;
use tower::{Layer, Service, ServiceExt};
use tower_mysql_cache::service::CacheBody;
use tower_mysql_cache::status::Forward;
use tower_mysql_cache::store::{BoxStore, ManualClock};
use tower_mysql_cache::{
    CacheHandle, CacheLayer, CacheOverride, CachePolicy, CacheStatus, MemoryStore,
};

use crate::kit::{Answer, Kit, get, on_every_store, request, response, send};

type Fields = &'static [(&'static str, &'static str)];

const SECOND: Duration = Duration::from_secs(1);
const ETAG: (&str, &str) = ("etag", "\"1\"");
const FRESH: (&str, &str) = ("cache-control", "max-age=60");
/// Ten seconds stale, with a lifetime of 60 s.
const OLD: (&str, &str) = ("age", "70");
const SAFE: CachePolicy = CachePolicy::new();
const STRICT: CachePolicy = CachePolicy::rfc9111();

/// What the handler does with a call.
enum Step {
    Say(u16, Fields, &'static str),
    /// The same, with an override.
    Override(CacheOverride, Fields, &'static str),
    Fail,
    Hang,
    /// Answers when the test tells it to.
    Wait(oneshot::Receiver<()>, Fields, &'static str),
}

use Step::{Fail, Hang, Override, Say, Wait};

/// Requests as the handler received them.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(Method, HeaderMap)>>>);

impl Seen {
    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn last(&self) -> (Method, HeaderMap) {
        self.0.lock().unwrap().last().cloned().unwrap()
    }
}

/// A handler that does one of these steps per call, and fails if it is called too often.
fn handler<I: IntoIterator<Item = Step>>(
    layer: &CacheLayer<BoxStore>,
    steps: I,
) -> (
    impl Service<
        Request<()>,
        Response = Response<CacheBody<Full<Bytes>>>,
        Error = &'static str,
        Future: Send,
    > + Clone
    + Send
    + use<I>,
    Seen,
) {
    let seen = Seen::default();
    let record = seen.clone();
    let steps = Arc::new(Mutex::new(steps.into_iter().collect::<VecDeque<_>>()));
    let service = layer.layer(tower::service_fn(move |request: Request<()>| {
        let (parts, ()) = request.into_parts();
        record.0.lock().unwrap().push((parts.method, parts.headers));
        let step = steps.lock().unwrap().pop_front();
        async move {
            match step {
                Some(Say(status, fields, body)) => Ok(response(status, fields, body)),
                Some(Override(overrides, fields, body)) => {
                    let mut response = response(200, fields, body);
                    response.extensions_mut().insert(overrides);
                    Ok(response)
                }
                Some(Wait(told, fields, body)) => {
                    told.await.unwrap();
                    Ok(response(200, fields, body))
                }
                Some(Hang) => pending().await,
                Some(Fail) => Err("broken"),
                None => Err("once too often"),
            }
        }
    }));
    (service, seen)
}

/// A response that is stored, and ten seconds stale.
fn stored(cache_control: &'static str) -> Step {
    let fields = vec![("cache-control", cache_control), OLD, ETAG, ("x-a", "1")];
    Say(200, fields.leak(), "old")
}

async fn settled(handle: CacheHandle) {
    handle.flush().await.expect("flushes");
}

/// Asserts that the answer is the stored response, with its true age and a negative `ttl`.
#[track_caller]
fn assert_stale(answer: &Answer, why: &str) {
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "old"), "{answer:?}");
    let age: u64 = answer.field("age").parse().unwrap();
    assert!((70..75).contains(&age), "{age}");
    let ttl = answer.cache.ttl_secs().unwrap();
    assert!((-15..=-10).contains(&ttl), "{ttl}");
    assert_eq!(answer.field("cache-status"), format!("test; hit; ttl={ttl}"));
    assert_eq!(answer.cache.reason().map(|reason| reason.as_str()), Some(why));
}

/// The stale response to a request whose handler is slow. The handler's later response is stored.
async fn answered_for(kit: &Kit, fields: &[(&str, &str)]) -> Answer {
    let policy = SAFE.stale_if_error(30 * SECOND).handler_timeout(SECOND / 50);
    let layer = kit.layer().with_policy(policy);
    let (tell, told) = oneshot::channel();
    let (app, seen) = handler(&layer, [stored("max-age=60"), Wait(told, &[FRESH], "new")]);
    send(&app, get("/", &[])).await;
    settled(layer.handle()).await;
    let stale = send(&app, get("/", fields)).await;
    tell.send(()).unwrap();
    settled(layer.handle()).await;
    let fresh = send(&app, get("/", &[])).await;
    assert_eq!((fresh.is_hit(), fresh.text(), seen.count()), (true, "new", 2));
    stale
}

on_every_store! {
    async fn a_stale_page_is_served_while_one_request_refreshes(kit: Kit) {
        let layer = kit.layer();
        let steps = [
            stored("max-age=60, stale-while-revalidate=30"),
            Say(304, &[FRESH, ETAG, ("x-a", "2")], ""),
        ];
        let (app, seen) = handler(&layer, steps);
        assert!(send(&app, get("/", &[])).await.cache.is_stored());
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("/", &[])).await, "stale-while-revalidate");
        settled(layer.handle()).await;
        assert_eq!(seen.last().1["if-none-match"], "\"1\"");
        let fresh = send(&app, get("/", &[])).await;
        assert!(fresh.is_hit() && fresh.cache.reason().map(|reason| reason.as_str()).is_none());
        assert_eq!((fresh.text(), fresh.field("x-a")), ("old", "2".to_owned()));
        assert_eq!(seen.count(), 2);
        let counts = layer.handle().counts();
        assert_eq!((counts.hits, counts.stale_while_revalidate, counts.refreshes), (2, 1, 1));
        assert_eq!(counts.refresh_failures, 0);
        assert_eq!(layer.handle().reasons()["stale-while-revalidate"], 1);
    }

    async fn without_a_validator_the_refresh_fetches_the_whole_page(kit: Kit) {
        let layer = kit.layer();
        let old = [("cache-control", "max-age=0, stale-while-revalidate=30")];
        let steps = [Say(200, old.to_vec().leak(), "old"), Say(200, &[FRESH], "new")];
        let (app, seen) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_eq!(send(&app, get("/", &[("range", "bytes=0-0")])).await.text(), "o");
        settled(layer.handle()).await;
        assert!(!seen.last().1.contains_key("range"), "the whole response is stored");
        let fresh = send(&app, get("/", &[])).await;
        assert_eq!((fresh.is_hit(), fresh.text(), seen.count()), (true, "new", 2));
    }

    async fn a_handler_in_a_refresh_may_flush(kit: Kit) {
        let layer = kit.layer();
        let handle = layer.handle();
        let app = layer.layer(tower::service_fn(move |_: Request<()>| {
            let handle = handle.clone();
            async move {
                handle.flush().await.unwrap();
                let fields = [("cache-control", "max-age=0, stale-while-revalidate=600")];
                Ok::<_, &'static str>(response(200, &fields, "x"))
            }
        }));
        for _ in 0..3 {
            send(&app, get("/", &[])).await;
            settled(layer.handle()).await;
        }
        let counts = layer.handle().counts();
        assert_eq!((counts.refreshes, counts.refresh_failures), (2, 0));
    }

    async fn one_refresh_runs_for_all_stale_hits(kit: Kit) {
        let layer = kit.layer();
        let (tell, told) = oneshot::channel();
        let steps =
            [stored("max-age=60, stale-while-revalidate=30"), Wait(told, &[FRESH, ETAG], "new")];
        let (app, seen) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        for _ in 0..50 {
            assert_stale(&send(&app, get("/", &[])).await, "stale-while-revalidate");
        }
        tell.send(()).unwrap();
        settled(layer.handle()).await;
        assert_eq!(send(&app, get("/", &[])).await.text(), "new");
        assert_eq!((seen.count(), layer.handle().counts().refreshes), (2, 1));
    }

    async fn after_the_window_a_stale_response_is_not_served(kit: Kit) {
        let layer = kit.layer();
        let steps = [
            stored("max-age=60, stale-while-revalidate=9"),
            Say(200, &[FRESH], "new"),
        ];
        let (app, seen) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        let answer = send(&app, get("/", &[])).await;
        assert_eq!((answer.text(), answer.cache.forward()), ("new", Some(Forward::Stale)));
        assert_eq!(seen.count(), 2);
    }

    async fn a_failed_refresh_keeps_the_stored_response(kit: Kit) {
        let layer = kit.layer();
        let failing = [("cache-control", "max-age=60")];
        let steps = [
            stored("max-age=60, stale-while-revalidate=30"),
            Fail,
            Say(503, failing.to_vec().leak(), "down"),
            Say(200, &[FRESH], "new"),
        ];
        let (app, seen) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        for _ in 0..3 {
            settled(layer.handle()).await;
            assert_stale(&send(&app, get("/", &[])).await, "stale-while-revalidate");
        }
        settled(layer.handle()).await;
        assert_eq!((send(&app, get("/", &[])).await.text(), seen.count()), ("new", 4));
        let counts = layer.handle().counts();
        assert_eq!((counts.refreshes, counts.refresh_failures), (3, 2));
    }

    async fn refreshes_over_the_limit_are_shed_and_counted(kit: Kit) {
        let layer = kit.layer().max_refreshes(0);
        let (app, seen) = handler(&layer, [stored("max-age=60, stale-while-revalidate=30")]);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("/", &[])).await, "stale-while-revalidate");
        let counts = layer.handle().counts();
        assert_eq!((seen.count(), counts.refreshes, counts.refreshes_shed), (1, 0, 1));
    }

    async fn a_stale_head_or_304_is_refreshed_as_a_get(kit: Kit) {
        for (method, fields, status) in
            [("HEAD", &[][..], 200), ("GET", &[("if-none-match", "\"1\"")], 304)]
        {
            let layer = kit.layer().version(status);
            let steps =
                [stored("max-age=60, stale-while-revalidate=30"), Say(200, &[FRESH], "new")];
            let (app, seen) = handler(&layer, steps);
            send(&app, get("/", &[])).await;
            settled(layer.handle()).await;
            let answer = send(&app, request(method, "/", fields)).await;
            assert_eq!((u32::from(answer.status.as_u16()), answer.body.len()), (status, 0));
            assert!(answer.is_hit());
            settled(layer.handle()).await;
            assert_eq!(seen.last().0, Method::GET);
            assert_eq!(send(&app, get("/", &[])).await.text(), "new");
        }
    }

    async fn a_stale_response_is_served_instead_of_an_error(kit: Kit) {
        let layer = kit.layer();
        let mut steps = vec![stored("max-age=60, stale-if-error=30"), Fail];
        steps.extend([500, 502, 503, 504].map(|status| Say(status, &[], "down")));
        let (app, seen) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("/", &[])).await, "inner-error");
        for _ in 0..4 {
            assert_stale(&send(&app, get("/", &[])).await, "stale-if-error");
        }
        assert_eq!((seen.count(), layer.handle().counts().stale_if_error), (6, 5));
        let condition = send(&app, get("/", &[("if-none-match", "\"1\"")])).await;
        assert_eq!(condition.status, StatusCode::NOT_MODIFIED);
    }

    async fn other_errors_are_passed_on(kit: Kit) {
        let layer = kit.layer();
        let mut steps = vec![stored("max-age=60, stale-if-error=30")];
        steps.extend([404, 501, 505, 429].map(|status| Say(status, &[], "no")));
        let (app, _) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        for status in [404, 501, 505, 429] {
            let answer = send(&app, get("/", &[])).await;
            assert_eq!((answer.status.as_u16(), answer.text()), (status, "no"));
        }
    }

    async fn after_the_window_the_error_is_passed_on(kit: Kit) {
        let layer = kit.layer();
        let steps = [stored("max-age=60, stale-if-error=9"), Say(503, &[], "down"), Fail];
        let (app, _) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        let answer = send(&app, get("/", &[])).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (503, "down"));
        assert_eq!(app.clone().oneshot(get("/", &[])).await.unwrap_err(), "broken");
    }

    async fn no_stale_response_is_served_without_permission(kit: Kit) {
        let layer = kit.layer().with_policy(SAFE.handler_timeout(SECOND / 100));
        let (tell, told) = oneshot::channel();
        let steps = [stored("max-age=60"), Say(503, &[], "down"), Fail, Wait(told, &[FRESH], "new")];
        let (app, _) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_eq!(send(&app, get("/", &[("cache-control", "stale-if-error=99")])).await.text(), "down");
        assert_eq!(app.clone().oneshot(get("/", &[])).await.unwrap_err(), "broken");
        let waiting = tokio::spawn(app.clone().oneshot(get("/", &[])));
        tokio::time::sleep(SECOND / 20).await;
        assert!(!waiting.is_finished(), "the limit is for what has something stale to serve");
        tell.send(()).unwrap();
        assert_eq!(Answer::of(waiting.await.unwrap().unwrap()).await.text(), "new");
    }

    async fn a_prohibition_of_the_response_cannot_be_overridden(kit: Kit) {
        let window = 600 * SECOND;
        let overrides = CacheOverride::new()
            .stale_while_revalidate(window)
            .stale_if_error(window);
        for (version, forbidding) in
            [(10, "must-revalidate"), (11, "proxy-revalidate"), (12, "no-cache"), (13, "s-maxage=60")]
        {
            for (mode, policy) in [SAFE, STRICT].into_iter().enumerate() {
                let policy = policy
                    .stale_while_revalidate(600 * SECOND)
                    .stale_if_error(600 * SECOND)
                    .handler_timeout(SECOND / 100);
                let layer = kit.layer().version(version * 2 + mode as u32).with_policy(policy);
                let said = format!("max-age=60, {forbidding}, stale-while-revalidate=600, stale-if-error=600");
                let fields = vec![("cache-control", &*said.leak()), OLD, ETAG];
                let (tell, told) = oneshot::channel();
                let steps = [
                    Override(overrides.clone(), fields.leak(), "old"),
                    Say(503, &[], "down"),
                    Fail,
                    Wait(told, &[], "late"),
                ];
                let (app, seen) = handler(&layer, steps);
                send(&app, get("/", &[])).await;
                settled(layer.handle()).await;
                let wanted = [("cache-control", "stale-if-error=600, max-stale")];
                let down = send(&app, get("/", &wanted)).await;
                assert_eq!((down.status.as_u16(), down.text()), (503, "down"), "{forbidding}");
                match app.clone().oneshot(get("/", &wanted)).await {
                    Err(error) => assert_eq!(error, "broken"),
                    Ok(answer) => assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT),
                }
                let late = tokio::spawn(app.clone().oneshot(get("/", &wanted)));
                tokio::time::sleep(SECOND / 20).await;
                tell.send(()).unwrap();
                assert_eq!(Answer::of(late.await.unwrap().unwrap()).await.text(), "late");
                assert_eq!(seen.count(), 4);
            }
        }
    }

    async fn in_strict_mode_must_revalidate_and_an_error_are_a_504(kit: Kit) {
        for (version, said) in [(1, "must-revalidate"), (2, "proxy-revalidate"), (3, "s-maxage=60")] {
            let layer = kit.layer().version(version).with_policy(STRICT);
            let said = format!("max-age=60, {said}").leak();
            let (app, _) = handler(&layer, [stored(said), Fail]);
            send(&app, get("/", &[])).await;
            settled(layer.handle()).await;
            let answer = send(&app, get("/", &[])).await;
            assert_eq!((answer.status, answer.body.len()), (StatusCode::GATEWAY_TIMEOUT, 0));
            assert_eq!(answer.field("cache-status"), "", "RFC 9211 2");
            assert_eq!(answer.cache.reason().map(|reason| reason.as_str()), Some("must-revalidate"));
        }
        let layer = kit.layer().version(9);
        let (app, _) = handler(&layer, [stored("max-age=60, must-revalidate"), Fail]);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_eq!(app.clone().oneshot(get("/", &[])).await.unwrap_err(), "broken");
    }

    async fn in_strict_mode_a_handler_error_is_answered_stale(kit: Kit) {
        let layer = kit.layer().with_policy(STRICT);
        let fields = [FRESH, OLD];
        let steps =
            [stored("max-age=60"), Fail, Say(503, &[], "down"), Say(200, fields.to_vec().leak(), "x")];
        let (app, _) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("/", &[])).await, "inner-error");
        assert_eq!(send(&app, get("/", &[])).await.text(), "down", "an answer is an answer");
        assert_eq!(send(&app, get("/", &[("cache-control", "no-cache")])).await.text(), "x");
    }

    async fn in_strict_mode_a_request_can_permit_stale_if_error(kit: Kit) {
        let layer = kit.layer().with_policy(STRICT);
        let steps = [stored("max-age=60"), Say(503, &[], "down"), Say(503, &[], "down")];
        let (app, _) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        let short = send(&app, get("/", &[("cache-control", "stale-if-error=9")])).await;
        assert_eq!(short.text(), "down");
        let long = send(&app, get("/", &[("cache-control", "stale-if-error=30")])).await;
        assert_stale(&long, "stale-if-error");
    }

    async fn a_slow_handler_is_answered_stale_and_continues(kit: Kit) {
        assert_stale(&answered_for(&kit, &[]).await, "handler-timeout");
    }

    async fn a_slow_range_request_stores_the_whole_response(kit: Kit) {
        let part = answered_for(&kit, &[("range", "bytes=0-0")]).await;
        assert_eq!((part.status.as_u16(), part.text()), (206, "o"));
    }

    async fn a_page_invalidated_during_a_slow_handler_is_not_served(kit: Kit) {
        let policy = SAFE.stale_if_error(30 * SECOND).handler_timeout(SECOND / 2);
        let layer = kit.layer().with_policy(policy);
        let (tell, told) = oneshot::channel();
        let (app, seen) = handler(&layer, [stored("max-age=60"), Wait(told, &[FRESH], "new")]);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        let asked = app.clone();
        let waiting = tokio::spawn(async move { send(&asked, get("/", &[])).await });
        while seen.count() < 2 {
            tokio::task::yield_now().await;
        }
        layer.handle().invalidate_uri("/").await.unwrap();
        tokio::time::sleep(SECOND).await;
        tell.send(()).unwrap();
        assert_eq!(waiting.await.unwrap().text(), "new");
    }

    async fn a_404_on_refresh_ends_stale_hits(kit: Kit) {
        let layer = kit.layer();
        let steps = [
            stored("max-age=60, stale-while-revalidate=30"),
            Say(404, &[], "gone"),
            Say(404, &[], "gone"),
        ];
        let (app, _) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("/", &[])).await, "stale-while-revalidate");
        settled(layer.handle()).await;
        tokio::time::sleep(SECOND / 5).await;
        assert_eq!(send(&app, get("/", &[])).await.text(), "gone");
    }

    async fn a_slow_handler_is_dropped_if_no_refresh_slot_is_free(kit: Kit) {
        let policy = SAFE.stale_if_error(30 * SECOND).handler_timeout(SECOND / 50);
        let layer = kit.layer().max_refreshes(0).with_policy(policy);
        let (app, _) = handler(&layer, [stored("max-age=60"), Hang, Say(200, &[FRESH], "new")]);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("/", &[])).await, "handler-timeout");
        assert_eq!(layer.handle().counts().refreshes_shed, 1);
        assert_eq!(send(&app, get("/", &[])).await.text(), "new");
    }

    async fn windows_come_from_override_response_and_policy_in_turn(kit: Kit) {
        let policy = SAFE.stale_if_error(30 * SECOND);
        let short = CacheOverride::new().stale_if_error(5 * SECOND);
        let long = CacheOverride::new().stale_if_error(30 * SECOND);
        const SILENT: Fields = &[FRESH, OLD, ETAG];
        const SHORT: Fields = &[("cache-control", "max-age=60, stale-if-error=5"), OLD, ETAG];
        for (version, step, served) in [
            (1, Say(200, SILENT, "old"), true),
            (2, Say(200, SHORT, "old"), false),
            (3, Override(long, SHORT, "old"), true),
            (4, Override(short, SILENT, "old"), false),
        ] {
            let layer = kit.layer().version(version).with_policy(policy);
            let (app, _) = handler(&layer, [step, Say(503, &[], "down")]);
            let first = send(&app, get("/", &[])).await;
            assert!(first.headers.keys().all(|name| !name.as_str().starts_with("tower")));
            settled(layer.handle()).await;
            let answer = send(&app, get("/", &[])).await;
            assert_eq!(answer.text() == "old", served, "{version}");
            assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("tower")));
        }
    }

    async fn an_overrides_window_survives_a_revalidation(kit: Kit) {
        let layer = kit.layer();
        let overrides = CacheOverride::new().stale_if_error(30 * SECOND);
        let steps = [
            Override(overrides, &[FRESH, OLD, ETAG], "old"),
            Say(304, &[FRESH, OLD, ETAG], ""),
            Say(503, &[], "down"),
        ];
        let (app, seen) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_eq!(send(&app, get("/", &[])).await.text(), "old");
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("/", &[])).await, "stale-if-error");
        assert_eq!(seen.count(), 3);
    }

    async fn a_field_named_by_no_cache_is_not_served_stale(kit: Kit) {
        let layer = kit.layer();
        let steps = [
            stored("max-age=60, no-cache=\"x-a\", stale-while-revalidate=30, stale-if-error=30"),
            Fail,
        ];
        let (app, _) = handler(&layer, steps);
        assert_eq!(send(&app, get("/", &[])).await.field("x-a"), "1");
        settled(layer.handle()).await;
        let stale = send(&app, get("/", &[])).await;
        assert_stale(&stale, "stale-while-revalidate");
        assert_eq!(stale.field("x-a"), "");
    }

    async fn an_invalid_response_is_not_served_stale(kit: Kit) {
        let layer = kit.layer();
        let steps = [
            stored("max-age=60, stale-while-revalidate=30, stale-if-error=30"),
            Say(503, &[], "down"),
        ];
        let (app, _) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        layer.handle().invalidate_uri("/").await.unwrap();
        assert_eq!(send(&app, get("/", &[])).await.text(), "down");
    }

    async fn an_invalidation_during_a_refresh_is_not_undone(kit: Kit) {
        let layer = kit.layer();
        let (tell, told) = oneshot::channel();
        let steps = [
            stored("max-age=60, stale-while-revalidate=30"),
            Wait(told, &[FRESH], "too old"),
            Say(200, &[FRESH], "new"),
        ];
        let (app, seen) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("/", &[])).await, "stale-while-revalidate");
        while seen.count() < 2 {
            tokio::task::yield_now().await;
        }
        layer.handle().invalidate_uri("/").await.unwrap();
        tell.send(()).unwrap();
        settled(layer.handle()).await;
        assert_eq!(send(&app, get("/", &[])).await.text(), "new");
    }

    async fn a_request_that_cannot_be_stored_starts_no_refresh(kit: Kit) {
        let layer = kit.layer();
        let (app, seen) = handler(&layer, [stored("max-age=60, stale-while-revalidate=30")]);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        for directive in ["no-store", "only-if-cached"] {
            let answer = send(&app, get("/", &[("cache-control", directive)])).await;
            assert_stale(&answer, "stale-while-revalidate");
        }
        settled(layer.handle()).await;
        assert_eq!((seen.count(), layer.handle().counts().refreshes), (1, 0));
    }

    async fn a_slow_response_is_refreshed_before_it_is_stale(kit: Kit) {
        let layer = kit.layer().with_policy(SAFE.early_refresh(100.0));
        let (tell, told) = oneshot::channel();
        // two seconds before it is stale; the handler took 50 ms, which is multiplied by 100
        let fields = [FRESH, ("age", "50"), ETAG];
        let steps = [Wait(told, fields.to_vec().leak(), "old"), Say(304, &[FRESH, ETAG], "")];
        let (app, seen) = handler(&layer, steps);
        let first = tokio::spawn(app.clone().oneshot(get("/", &[])));
        tokio::time::sleep(SECOND / 20).await;
        tell.send(()).unwrap();
        Answer::of(first.await.unwrap().unwrap()).await;
        for n in 0.. {
            assert!(n < 10_000, "no request did it");
            let answer = send(&app, get("/", &[])).await;
            assert!(answer.is_hit() && answer.cache.ttl_secs() >= Some(0), "{answer:?}");
            if seen.count() == 2 || layer.handle().counts().early_refreshes == 1 {
                break;
            }
        }
        settled(layer.handle()).await;
        assert!(send(&app, get("/", &[])).await.cache.ttl_secs() > Some(50), "it has been renewed");
    }
}

/// A clock that the test drives, so that a response becomes stale at an exact time.
#[tokio::test]
async fn a_window_ends_exactly_at_its_second() {
    let clock = ManualClock::at(1_768_435_200_000);
    let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
    let layer = CacheLayer::new(BoxStore::new(store)).prefix("test");
    const BOTH: Fields =
        &[("cache-control", "max-age=60, stale-while-revalidate=10, stale-if-error=20")];
    let (app, seen) =
        handler(&layer, [Say(200, BOTH, "old"), Fail, Fail, Fail, Say(503, &[], "down")]);
    send(&app, get("/", &[])).await;
    for (advance, ttl, why, calls) in [
        (59, 1, None, 1),
        (1, 0, Some("stale-while-revalidate"), 2),
        (10, -10, Some("stale-while-revalidate"), 3),
        (10, -20, Some("inner-error"), 4),
    ] {
        clock.advance(advance * SECOND);
        let answer = send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_eq!((answer.text(), answer.cache.ttl_secs()), ("old", Some(ttl)));
        assert_eq!(answer.field("age"), (60 - ttl).to_string());
        assert_eq!(
            (answer.cache.reason().map(|reason| reason.as_str()), seen.count()),
            (why, calls)
        );
    }
    clock.advance(SECOND);
    assert_eq!(send(&app, get("/", &[])).await.text(), "down");
}

/// RFC 5861 3 without a runtime: a background refresh is not possible, so the request itself calls the handler.
#[test]
fn without_a_runtime_the_request_itself_revalidates() {
    let layer = CacheLayer::new(BoxStore::new(MemoryStore::new())).prefix("test");
    let steps = [stored("max-age=60, stale-while-revalidate=30"), Say(200, &[FRESH], "new")];
    let (app, _) = handler(&layer, steps);
    let answer = || {
        let mut task = Box::pin(app.clone().oneshot(get("/", &[])));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        loop {
            if let std::task::Poll::Ready(answer) = task.as_mut().poll(&mut cx) {
                break answer.unwrap();
            }
        }
    };
    answer();
    let status = answer().extensions().get::<CacheStatus>().cloned().unwrap();
    assert_eq!(status.forward(), Some(Forward::Stale));
}
