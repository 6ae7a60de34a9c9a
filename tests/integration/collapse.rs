//! Many requests for a page that is not cached yet: one call of the handler, and no request hangs, whatever happens.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::sync::{Semaphore, mpsc};
use tower::{Layer, Service, ServiceExt};
use tower_mysql_cache::policy::Collapse;
use tower_mysql_cache::service::CacheBody;
use tower_mysql_cache::status::Forward;
use tower_mysql_cache::store::BoxStore;
use tower_mysql_cache::{CacheLayer, CachePolicy, Cookies, MemoryStore};

use crate::kit::{Answer, Calls, Kit, get, on_every_store, request, response, send};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
const FRESH: (&str, &str) = ("cache-control", "max-age=60");

type Plain = Response<Full<Bytes>>;

/// A handler that needs a permit for each call, the number of its calls, and the permits.
fn gated<F>(
    layer: &CacheLayer<BoxStore>,
    handler: F,
) -> (
    impl Service<
        Request<()>,
        Response = Response<CacheBody<Full<Bytes>>>,
        Error = &'static str,
        Future: Send,
    > + Clone
    + Send
    + use<F>,
    Calls,
    Arc<Semaphore>,
)
where
    F: Fn(usize, &Request<()>) -> Result<Plain, &'static str> + Clone + Send + Sync + 'static,
{
    let (calls, gate) = (Calls::default(), Arc::new(Semaphore::new(0)));
    let (counted, waits) = (calls.clone(), Arc::clone(&gate));
    let service = layer.layer(tower::service_fn(move |request: Request<()>| {
        let (handler, gate) = (handler.clone(), Arc::clone(&waits));
        let call = counted.add();
        async move {
            gate.acquire().await.expect("open").forget();
            handler(call, &request)
        }
    }));
    (service, calls, gate)
}

/// Starts these requests, and lets each run until it waits.
async fn start<S>(app: &S, requests: impl IntoIterator<Item = Request<()>>) -> Vec<Waiting>
where
    S: Service<
            Request<()>,
            Response = Response<CacheBody<Full<Bytes>>>,
            Error = &'static str,
            Future: Send,
        > + Clone
        + Send
        + 'static,
{
    let requests = requests.into_iter().map(|request| {
        let app = app.clone();
        tokio::spawn(async move {
            match app.oneshot(request).await {
                Ok(response) => Ok(Answer::of(response).await),
                Err(error) => Err(error),
            }
        })
    });
    let waiting: Vec<_> = requests.collect();
    tokio::time::sleep(SECOND / 10).await;
    waiting
}

/// Lets the first call end. Lets the other calls end when all followers wait for the second call.
async fn second_call(calls: &Calls, gate: &Semaphore) {
    gate.add_permits(1);
    while calls.count() < 2 {
        tokio::time::sleep(SECOND / 100).await;
    }
    tokio::time::sleep(SECOND / 10).await;
    gate.add_permits(200);
}

type Waiting = tokio::task::JoinHandle<Result<Answer, &'static str>>;

async fn answers(waiting: Vec<Waiting>) -> Vec<Answer> {
    let all = join_all(waiting);
    let all = tokio::time::timeout(30 * SECOND, all).await.expect("no request hangs");
    all.into_iter().map(|answer| answer.unwrap().unwrap()).collect()
}

on_every_store! {
    async fn two_hundred_clients_cause_one_handler_call(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |_, _| Ok(response(200, &[FRESH], "hello")));
        let waiting = start(&app, (0..200).map(|_| get("/", &[]))).await;
        gate.add_permits(1);
        let answers = answers(waiting).await;
        assert_eq!(calls.count(), 1);
        assert!(answers.iter().all(|answer| answer.text() == "hello"));
        let collapsed: Vec<_> = answers.iter().filter(|answer| answer.cache.is_collapsed()).collect();
        // on a busy machine, some requests arrive when the response is already stored
        let late = answers.iter().filter(|answer| answer.is_hit()).count();
        let waited = collapsed.len() as u64;
        assert_eq!(collapsed.len() + late, 199);
        for answer in collapsed {
            assert_eq!(answer.field("cache-status"), "test; fwd=uri-miss; collapsed");
            assert!(answer.field("age").parse::<u64>().unwrap() <= 5);
            assert_eq!(answer.field("content-length"), "5");
            assert!(!answer.is_hit() && !answer.cache.is_stored());
        }
        let counts = layer.handle().counts();
        assert_eq!((counts.flights, counts.collapsed, counts.misses), (1, waited, 1));
        assert!(send(&app, get("/", &[])).await.is_hit());
    }

    async fn followers_get_the_same_as_a_hit(kit: Kit) {
        let etag = ("etag", "\"1\"");
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, move |_, _| Ok(response(200, &[FRESH, etag], "0123456789")));
        let mut waiting = start(&app, [get("/", &[])]).await;
        waiting.extend(start(&app, [
            request("HEAD", "/", &[]),
            get("/", &[("range", "bytes=2-3")]),
            get("/", &[("range", "bytes=20-")]),
            get("/", &[("if-none-match", "\"1\"")]),
        ]).await);
        gate.add_permits(1);
        let answers = answers(waiting).await;
        let seen: Vec<_> = answers.iter().map(|a| (a.status.as_u16(), a.text())).collect();
        assert_eq!(seen, [(200, "0123456789"), (200, ""), (206, "23"), (416, ""), (304, "")]);
        assert_eq!(answers[1].field("content-length"), "10");
        assert!(answers[1..].iter().all(|answer| answer.cache.is_collapsed()));
        assert_eq!(calls.count(), 1);
    }

    async fn an_unshareable_response_releases_all_followers_at_once(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |call, _| {
            Ok(response(200, &[("cache-control", "private")], &call.to_string()))
        });
        let waiting = start(&app, (0..20).map(|_| get("/", &[]))).await;
        assert_eq!(calls.count(), 1, "they wait for the first");
        gate.add_permits(1);
        tokio::time::sleep(SECOND / 10).await;
        assert_eq!(calls.count(), 20, "the handler runs for all of them");
        gate.add_permits(19);
        let mut seen: Vec<u32> = answers(waiting).await.iter().map(|a| a.text().parse().unwrap()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (1..=20).collect::<Vec<_>>(), "each got its own");
        assert_eq!(layer.handle().counts().flights_released, 19);
        let waiting = start(&app, (0..5).map(|_| get("/", &[]))).await;
        assert_eq!(calls.count(), 25, "no request waits in line");
        gate.add_permits(5);
        answers(waiting).await;
    }

    async fn each_variant_has_its_own_flight(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |_, request| {
            let language = request.headers()["accept-language"].to_str().unwrap().to_owned();
            Ok(response(200, &[FRESH, ("vary", "accept-language")], &language))
        });
        let languages = ["en", "de", "fr"];
        let requests = (0..60).map(|n| get("/", &[("accept-language", languages[n % 3])]));
        let waiting = start(&app, requests).await;
        gate.add_permits(100);
        for (n, answer) in answers(waiting).await.iter().enumerate() {
            assert_eq!(answer.text(), languages[n % 3]);
        }
        assert_eq!(calls.count(), 3);
    }

    async fn requests_with_credentials_have_separate_flights(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.cookies(Cookies::Bypass));
        let (app, calls, gate) = gated(&layer, |_, request| {
            let who = request.headers().get("cookie").map_or("all", |who| who.to_str().unwrap());
            Ok(response(200, &[], who))
        });
        let mut waiting = start(&app, (0..5).map(|n| get("/", &[("cookie", &format!("s={n}"))]))).await;
        waiting.extend(start(&app, (0..5).map(|_| get("/", &[]))).await);
        assert_eq!(calls.count(), 2);
        gate.add_permits(100);
        for (n, answer) in answers(waiting).await.iter().enumerate() {
            assert_eq!(answer.text(), if n < 5 { format!("s={n}") } else { "all".to_owned() });
        }
        assert_eq!(calls.count(), 6, "one for everyone and one each");
    }

    async fn if_the_handler_fails_the_next_follower_leads(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |call, _| match call {
            1 | 2 => Err("broken"),
            _ => Ok(response(200, &[FRESH], "mended")),
        });
        let waiting = start(&app, (0..20).map(|_| get("/", &[]))).await;
        gate.add_permits(3);
        let all = join_all(waiting).await;
        let failed = all.iter().filter(|answer| answer.as_ref().unwrap().is_err()).count();
        assert_eq!((failed, calls.count()), (2, 3), "only the two callers got the error");
    }

    async fn a_failing_handler_is_called_twice_for_100_clients(kit: Kit) {
        let layer = kit.layer();
        let is_up = Arc::new(AtomicUsize::new(0));
        let up = Arc::clone(&is_up);
        let (app, calls, gate) = gated(&layer, move |call, _| match up.load(Ordering::SeqCst) {
            0 => Ok(response(503, &[("retry-after", "9")], &call.to_string())),
            _ => Ok(response(200, &[FRESH], "up")),
        });
        let waiting = start(&app, (0..100).map(|_| get("/", &[]))).await;
        second_call(&calls, &gate).await;
        let answers_down = answers(waiting).await;
        assert!(answers_down.iter().all(|answer| answer.status == StatusCode::SERVICE_UNAVAILABLE));
        assert!(answers_down.iter().all(|answer| answer.field("retry-after") == "9"));
        let shared = answers_down.iter().filter(|answer| answer.cache.is_collapsed());
        // on a busy machine, some requests arrive late
        let down = calls.count();
        assert!(down < 50 && shared.count() == 100 - down, "{down} calls");
        is_up.store(1, Ordering::SeqCst);
        let waiting = start(&app, (0..20).map(|_| get("/", &[]))).await;
        assert!(answers(waiting).await.iter().all(|answer| answer.text() == "up"));
        assert_eq!(calls.count(), down + 1, "nothing is remembered");
    }

    async fn a_shared_failure_sets_no_cookies(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.strip_set_cookies(&["seen"]));
        let (app, calls, gate) = gated(&layer, |call, _| {
            let cookie = format!("seen={call}");
            Ok(response(503, &[("set-cookie", &cookie)], "down"))
        });
        let waiting = start(&app, (0..20).map(|_| get("/", &[]))).await;
        second_call(&calls, &gate).await;
        let answers = answers(waiting).await;
        let shared: Vec<_> = answers.iter().filter(|a| a.cache.is_collapsed()).collect();
        assert!(!shared.is_empty());
        assert!(shared.iter().all(|answer| answer.field("set-cookie").is_empty()));
    }

    async fn a_failure_that_may_be_personal_is_not_shared(kit: Kit) {
        let personal: [(CachePolicy, &[(&str, &str)], &[(&str, &str)]); 6] = [
            (MINUTE, &[("set-cookie", "sid=1")], &[]),
            (MINUTE, &[("cache-control", "private")], &[]),
            (MINUTE, &[("cache-control", "no-store")], &[]),
            (MINUTE, &[("vary", "*")], &[]),
            (MINUTE.cookies(Cookies::Bypass), &[], &[("cookie", "sid=1")]),
            (CachePolicy::rfc9111(), &[], &[]),
        ];
        for (n, (policy, fields, asked)) in personal.into_iter().enumerate() {
            let layer = kit.layer().version(n as u32 + 1).with_policy(policy);
            let fields = fields.to_vec();
            let (app, calls, gate) =
                gated(&layer, move |call, _| Ok(response(503, &fields, &call.to_string())));
            let waiting = start(&app, (0..6).map(|_| get("/", asked))).await;
            while calls.count() == 0 {
                tokio::time::sleep(SECOND / 100).await;
            }
            assert_eq!(calls.count(), 1, "{n}: they wait for the first");
            gate.add_permits(6);
            let mut seen: Vec<u32> =
                answers(waiting).await.iter().map(|a| a.text().parse().unwrap()).collect();
            seen.sort_unstable();
            assert_eq!(seen, [1, 2, 3, 4, 5, 6], "{n}: each got its own");
        }
    }

    async fn one_refused_request_does_not_disable_collapsing(kit: Kit) {
        for status in [400, 403, 406, 500] {
            let layer = kit.layer().version(status);
            let (app, calls, gate) = gated(&layer, move |_, request| {
                let is_evil = request.headers().contains_key("x-evil");
                Ok(if is_evil { response(status as u16, &[], "no") } else { response(200, &[FRESH], "x") })
            });
            let mut waiting = start(&app, [get("/", &[("x-evil", "1")])]).await;
            waiting.extend(start(&app, (0..50).map(|_| get("/", &[]))).await);
            second_call(&calls, &gate).await;
            let answers = answers(waiting).await;
            assert_eq!(answers[0].text(), "no");
            assert!(answers[1..].iter().all(|answer| answer.text() == "x"), "{status}");
            assert_eq!(calls.count(), 2, "{status}");
        }
    }

    async fn followers_of_a_failure_may_be_served_stale(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |call, _| match call {
            1 => Ok(response(200, &[("cache-control", "max-age=1, stale-if-error=60")], "old")),
            2 => Ok(response(503, &[], "down")),
            _ => Err("broken"),
        });
        gate.add_permits(1);
        send(&app, get("/", &[])).await;
        tokio::time::sleep(SECOND + SECOND / 5).await;
        for calls_so_far in [2, 3] {
            let waiting = start(&app, (0..20).map(|_| get("/", &[]))).await;
            gate.add_permits(1);
            assert!(answers(waiting).await.iter().all(|answer| answer.text() == "old"));
            assert_eq!(calls.count(), calls_so_far);
        }
    }

    async fn a_leaders_revalidation_answers_its_followers(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |call, _| match call {
            1 => Ok(response(200, &[("cache-control", "max-age=1"), ("etag", "\"1\"")], "kept")),
            _ => Ok(response(304, &[FRESH, ("etag", "\"1\"")], "")),
        });
        gate.add_permits(1);
        send(&app, get("/", &[])).await;
        tokio::time::sleep(SECOND + SECOND / 5).await;
        let waiting = start(&app, (0..20).map(|_| get("/", &[]))).await;
        gate.add_permits(1);
        let answers = answers(waiting).await;
        assert!(answers.iter().all(|answer| answer.text() == "kept"));
        let collapsed = answers.iter().filter(|answer| answer.cache.is_collapsed());
        assert_eq!((calls.count(), collapsed.count()), (2, 19));
        assert!(send(&app, get("/", &[])).await.is_hit());
    }

    async fn requests_after_an_invalidation_do_not_get_older_responses(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) =
            gated(&layer, |call, _| Ok(response(200, &[FRESH], if call == 1 { "old" } else { "new" })));
        let before = start(&app, [get("/", &[])]).await;
        layer.handle().invalidate_uri("/").await.unwrap();
        let after = start(&app, (0..10).map(|_| get("/", &[]))).await;
        assert_eq!(calls.count(), 2);
        gate.add_permits(2);
        assert_eq!(answers(before).await[0].text(), "old");
        assert!(answers(after).await.iter().all(|answer| answer.text() == "new"));
    }

    async fn followers_never_get_the_response_to_another_query(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |call, request| {
            let query = request.uri().query().unwrap_or_default();
            let field = ("no-vary-search", r#"params=("t")"#);
            let fields = [FRESH, field];
            Ok(response(200, if call == 1 { &fields } else { &fields[..1] }, query))
        });
        gate.add_permits(1);
        send(&app, get("/d?id=0&t=1", &[])).await;
        let leader = start(&app, [get("/d?id=1&t=secret", &[])]).await;
        let followers = start(&app, (0..10).map(|_| get("/d?id=1", &[]))).await;
        assert_eq!(calls.count(), 2, "they wait, for who knows");
        gate.add_permits(100);
        assert_eq!(answers(leader).await[0].text(), "id=1&t=secret");
        assert!(answers(followers).await.iter().all(|answer| answer.text() == "id=1"));
    }

    async fn after_two_invalidations_followers_call_the_handler(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |_, _| Ok(response(200, &[FRESH], "x")));
        let waiting = start(&app, (0..6).map(|_| get("/", &[]))).await;
        for calls_so_far in [1, 2, 6] {
            assert_eq!(calls.count(), calls_so_far);
            layer.handle().invalidate_uri("/").await.unwrap();
            gate.add_permits(1);
            tokio::time::sleep(SECOND / 5).await;
        }
        gate.add_permits(100);
        answers(waiting).await;
    }

    async fn a_429_does_not_disable_collapsing(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |call, _| match call {
            1 => Ok(response(429, &[], "slow down")),
            _ => Ok(response(200, &[FRESH], "x")),
        });
        gate.add_permits(1);
        send(&app, get("/", &[])).await;
        let waiting = start(&app, (0..10).map(|_| get("/", &[]))).await;
        gate.add_permits(100);
        answers(waiting).await;
        assert_eq!(calls.count(), 2);
    }

    async fn collapsing_can_be_switched_off(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.collapse(Collapse::Off));
        let (app, calls, gate) = gated(&layer, |_, _| Ok(response(200, &[], "x")));
        let waiting = start(&app, (0..20).map(|_| get("/", &[]))).await;
        assert_eq!(calls.count(), 20);
        gate.add_permits(20);
        assert!(answers(waiting).await.iter().all(|answer| !answer.cache.is_collapsed()));
    }

    async fn a_condition_for_the_handler_is_not_collapsed(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |_, _| Ok(response(200, &[FRESH], "x")));
        let mut waiting = start(&app, [get("/", &[])]).await;
        waiting.extend(start(&app, [get("/", &[("if-match", "\"1\"")])]).await);
        assert_eq!(calls.count(), 2);
        gate.add_permits(2);
        answers(waiting).await;
    }

    async fn followers_wait_for_a_slow_leader_only_collapse_wait(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.collapse_wait(SECOND / 20));
        let (app, calls, gate) = gated(&layer, |_, _| Ok(response(200, &[], "x")));
        let waiting = start(&app, (0..4).map(|_| get("/", &[]))).await;
        while calls.count() < 4 {
            tokio::time::sleep(SECOND / 100).await;
        }
        let timeouts = layer.handle().counts().collapse_timeouts;
        assert!((1..=3).contains(&timeouts), "{timeouts}");
        gate.add_permits(4);
        assert!(answers(waiting).await.iter().all(|answer| answer.text() == "x"));
    }
}

/// A layer in memory, for tests with a driven clock.
fn memory() -> CacheLayer<BoxStore> {
    CacheLayer::new(BoxStore::new(MemoryStore::new())).prefix("test").with_policy(MINUTE)
}

#[tokio::test(start_paused = true)]
async fn followers_wait_5_s_and_keys_are_unshareable_for_2_min() {
    let layer = memory();
    let (app, calls, gate) =
        gated(&layer, |_, _| Ok(response(200, &[("cache-control", "private")], "x")));
    let began = tokio::time::Instant::now();
    let waiting = start(&app, (0..2).map(|_| get("/", &[]))).await;
    while calls.count() < 2 {
        tokio::time::sleep(SECOND / 100).await;
    }
    let waited = began.elapsed();
    assert!(waited >= 5 * SECOND && waited < 5 * SECOND + SECOND / 10, "{waited:?}");
    gate.add_permits(2);
    answers(waiting).await;
    for (later, expected) in [(119, 3), (2, 1)] {
        tokio::time::sleep(later * SECOND).await;
        let before = calls.count();
        let waiting = start(&app, (0..3).map(|_| get("/", &[]))).await;
        assert_eq!(calls.count() - before, expected);
        gate.add_permits(3);
        answers(waiting).await;
    }
}

#[tokio::test(start_paused = true)]
async fn if_a_leader_panics_the_next_follower_leads() {
    let layer = memory();
    let (app, calls, gate) = gated(&layer, |call, _| {
        assert!(call > 3, "on purpose");
        Ok(response(200, &[], "x"))
    });
    let waiting = start(&app, (0..20).map(|_| get("/", &[]))).await;
    gate.add_permits(4);
    let all = join_all(waiting).await;
    assert_eq!(all.iter().filter(|answer| answer.is_err()).count(), 3, "those who panicked");
    assert!(all.into_iter().flatten().all(|answer| answer.unwrap().text() == "x"));
    assert_eq!(calls.count(), 4);
}

type Streamed = UnsyncBoxBody<Bytes, &'static str>;

/// A handler that takes some steps, with a body that takes some more steps.
fn in_steps(
    layer: &CacheLayer<BoxStore>,
) -> (
    impl Service<
        Request<()>,
        Response = Response<CacheBody<Streamed>>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send
    + use<>,
    Calls,
) {
    let calls = Calls::default();
    let counted = calls.clone();
    let service = layer.layer(tower::service_fn(move |_: Request<()>| {
        counted.add();
        async move {
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            let (sender, mut frames) = mpsc::channel(1);
            tokio::spawn(async move {
                for part in ["1", "2", "3", "4"] {
                    tokio::task::yield_now().await;
                    let frame = Ok(Frame::data(Bytes::from_static(part.as_bytes())));
                    if sender.send(frame).await.is_err() {
                        return;
                    }
                }
            });
            let stream = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx));
            Ok(Response::new(StreamBody::new(stream).boxed_unsync()))
        }
    }));
    (service, calls)
}

type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, &'static str>>;

/// A handler whose first bodies are sent by the test. Its later bodies are "new", and complete at once.
fn slow_at_first(
    layer: &CacheLayer<BoxStore>,
    slow: usize,
    fields: &'static [(&'static str, &'static str)],
) -> (
    impl Service<
        Request<()>,
        Response = Response<CacheBody<Streamed>>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send
    + use<>,
    mpsc::UnboundedReceiver<Frames>,
    Calls,
) {
    let (calls, (senders, slow_bodies)) = (Calls::default(), mpsc::unbounded_channel());
    let counted = calls.clone();
    let service = layer.layer(tower::service_fn(move |_: Request<()>| {
        let body = if counted.add() <= slow {
            let (sender, mut frames) = mpsc::unbounded_channel();
            senders.send(sender).unwrap();
            let stream = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx));
            StreamBody::new(stream).boxed_unsync()
        } else {
            Full::from("new").map_err(|_| "never").boxed_unsync()
        };
        let mut response = Response::new(body);
        for (name, value) in fields {
            response.headers_mut().append(*name, value.parse().unwrap());
        }
        async move { Ok(response) }
    }));
    (service, slow_bodies, calls)
}

async fn text(response: Response<CacheBody<Streamed>>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_waited_for_only_once() {
    let layer = memory();
    let (app, mut bodies, calls) = slow_at_first(&layer, 1, &[FRESH, ("content-length", "3")]);
    let ask = || app.clone().oneshot(get("/", &[]));
    let slow = ask().await.unwrap();
    let frames = bodies.recv().await.unwrap();
    tokio::time::sleep(4 * SECOND).await;
    // both requests come while the first flight is young; when it is old, one of them leads, and both get its
    // response
    let began = tokio::time::Instant::now();
    let both = futures_util::future::join(ask(), ask()).await;
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
    assert_eq!(calls.count(), 2);
    assert_eq!(text(both.0.unwrap()).await, "new");
    assert_eq!(text(both.1.unwrap()).await, "new");
    // the late body reaches only its own client
    frames.send(Ok(Frame::data(Bytes::from_static(b"old")))).unwrap();
    drop(frames);
    assert_eq!(text(slow).await, "old");
    let next = ask().await.unwrap();
    assert_eq!((text(next).await, calls.count()), ("new".to_owned(), 2));
    assert_eq!(layer.handle().reasons()["overtaken"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_starts_while_an_older_flight_is_open() {
    let layer = memory();
    let stale = ("cache-control", "max-age=60, stale-while-revalidate=600");
    let fields = Box::leak(Box::new([stale, ("age", "70"), ("content-length", "3")]));
    let (app, mut bodies, calls) = slow_at_first(&layer, 1, fields);
    let ask = || app.clone().oneshot(get("/", &[]));
    let _slow = ask().await.unwrap();
    let _frames = bodies.recv().await.unwrap();
    for expected in [2, 3, 4] {
        assert_eq!(text(ask().await.unwrap()).await, "new");
        layer.handle().flush().await.unwrap();
        assert_eq!(calls.count(), expected.max(2));
    }
    assert_eq!(layer.handle().counts().refreshes, 2);
}

#[tokio::test(start_paused = true)]
async fn an_endless_body_is_waited_for_only_once() {
    let layer = memory();
    let (app, mut bodies, calls) = slow_at_first(&layer, 9, &[]);
    let mut open = Vec::new();
    let mut waited = Vec::new();
    for _ in 0..6 {
        let began = tokio::time::Instant::now();
        open.push((app.clone().oneshot(get("/", &[])).await.unwrap(), bodies.recv().await));
        waited.push(began.elapsed().as_secs());
    }
    assert_eq!(waited, [0, 5, 0, 0, 0, 0]);
    assert_eq!(calls.count(), 6);
}

/// Polls a request and its body this many times, then drops it.
async fn polled<F, E>(request: F, times: usize) -> bool
where
    F: Future<Output = Result<Response<CacheBody<Streamed>>, E>>,
    E: std::fmt::Debug,
{
    let mut whole = pin!(async move { request.await.unwrap().into_body().collect().await.is_ok() });
    let mut left = times;
    let done = poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        whole.as_mut().poll(cx).map(Some)
    });
    done.await.unwrap_or(false)
}

#[tokio::test(start_paused = true)]
async fn a_leader_dropped_at_any_point_leaves_no_follower_hanging() {
    for times in 1..40 {
        let layer = memory();
        let (app, calls) = in_steps(&layer);
        let leader = polled(app.clone().oneshot(get("/", &[])), times);
        let followers = (0..5).map(|_| {
            let app = app.clone();
            async move {
                let response = app.oneshot(get("/", &[])).await.unwrap();
                response.into_body().collect().await.unwrap().to_bytes()
            }
        });
        let began = tokio::time::Instant::now();
        // the leader is polled first in each round
        let all = futures_util::future::join(leader, join_all(followers));
        let Ok((finished, bodies)) = tokio::time::timeout(4 * SECOND, all).await else {
            panic!("a request hangs after {times} polls");
        };
        assert!(bodies.iter().all(|body| body == "1234"), "{bodies:?}");
        assert!(began.elapsed() < SECOND, "no request waited for a timer");
        assert!(calls.count() <= 2, "{} calls after {times} polls", calls.count());
        if finished {
            assert_eq!(calls.count(), 1);
            return;
        }
    }
    panic!("the leader never came to its end");
}

/// Leaders and followers that disconnect at random moments. Handlers fail, panic, or answer for one client only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_thousand_requests_none_hangs() {
    let layer = memory();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let app = layer.layer(tower::service_fn(move |request: Request<()>| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            for _ in 0..call % 7 {
                tokio::task::yield_now().await;
            }
            if request.uri().path() == "/last" {
                return Ok(response(200, &[], "/last"));
            }
            if call % 11 == 3 {
                // a panic that the panic hook does not print
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            let fields: &[(&str, &str)] = if call % 13 == 5 { &[("vary", "x")] } else { &[] };
            match call % 17 {
                4 => Err("broken"),
                9 => Ok(response(503, &[], "down")),
                _ => Ok(response(200, fields, request.uri().path())),
            }
        }
    }));
    for round in 0..50_u64 {
        let requests = (0..200_u64).map(|n| {
            let path = format!("/{round}/{}", n % 3);
            let x = (n % 2).to_string();
            let request = get(&path, &[("x", &x)]);
            let call = app.clone().oneshot(request);
            let patience = if n % 5 == 0 { Duration::from_micros(n * 3) } else { 20 * SECOND };
            tokio::spawn(async move {
                let answer = tokio::time::timeout(patience, call).await;
                match answer {
                    Ok(Ok(response)) if response.status() == StatusCode::OK => {
                        let body = response.into_body().collect().await.unwrap().to_bytes();
                        assert_eq!(body, path.as_bytes());
                        true
                    }
                    Ok(_) => true,
                    Err(_) => patience < SECOND,
                }
            })
        });
        for answer in join_all(requests).await {
            // a panic of the handler reaches only its own caller
            assert!(answer.unwrap_or_else(|error| error.is_panic()), "a request hangs");
        }
    }
    let calls = calls.load(Ordering::SeqCst);
    assert!(calls < 50 * 200 / 2, "{calls} calls");
    assert!(
        send(&app.clone().map_err(|_| "no"), get("/last", &[])).await.cache.forward()
            == Some(Forward::UriMiss)
    );
}
