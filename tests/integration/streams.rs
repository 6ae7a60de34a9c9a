//! Bodies that stream, break, fail, never end, or have trailers; and inner services that are busy, full or failing.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_mysql_cache::service::CacheBody;
use tower_mysql_cache::status::Forward;
use tower_mysql_cache::store::BoxStore;
use tower_mysql_cache::{CacheLayer, CachePolicy};

use crate::kit::{Answer, App, Calls, Kit, cached, get, in_memory, on_every_store, response, send};

type Item = Result<Frame<Bytes>, &'static str>;
type Streamed = UnsyncBoxBody<Bytes, &'static str>;

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));

/// A handler whose bodies are sent by the test, and the sender of each call.
fn streaming(
    layer: &CacheLayer<BoxStore>,
    fields: &'static [(&'static str, &'static str)],
) -> (App<Infallible, Streamed>, mpsc::UnboundedReceiver<mpsc::Sender<Item>>) {
    let (calls, senders) = mpsc::unbounded_channel();
    let service = layer.layer(tower::service_fn(move |_: Request<()>| {
        let (sender, mut receiver) = mpsc::channel::<Item>(16);
        calls.send(sender).unwrap();
        let stream = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
        for (name, value) in fields {
            response.headers_mut().append(*name, value.parse().unwrap());
        }
        async move { Ok(response) }
    }));
    (App::new(service), senders)
}

fn data(text: &'static str) -> Item {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

async fn next(body: &mut CacheBody<Streamed>) -> Option<Result<Bytes, &'static str>> {
    let frame = tokio::time::timeout(Duration::from_secs(5), Box::pin(body.frame())).await;
    let frame = frame.expect("a frame in time")?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}

on_every_store! {
    async fn a_miss_streams_and_is_stored_at_its_end(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, mut senders) = streaming(&layer, &[]);
        let mut first = app.clone().oneshot(get("/", &[])).await.unwrap();
        assert_eq!(first.headers()["cache-status"], "test; fwd=uri-miss");
        let sender = senders.recv().await.unwrap();
        sender.send(data("he")).await.unwrap();
        assert_eq!(next(first.body_mut()).await.unwrap().unwrap(), "he");
        sender.send(data("llo")).await.unwrap();
        assert_eq!(next(first.body_mut()).await.unwrap().unwrap(), "llo");
        drop(sender);
        assert!(next(first.body_mut()).await.is_none());
        let hit = send(&app, get("/", &[])).await;
        assert_eq!((hit.is_hit(), hit.text()), (true, "hello"));
        assert_eq!(hit.field("content-length"), "5");
    }

    async fn if_the_client_disconnects_the_response_is_not_stored(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, mut senders) = streaming(&layer, &[]);
        for _ in 0..2 {
            let mut response = app.clone().oneshot(get("/", &[])).await.unwrap();
            let sender = senders.recv().await.expect("the handler runs again");
            sender.send(data("half")).await.unwrap();
            next(response.body_mut()).await;
        }
        assert_eq!(layer.handle().counts().abandoned, 2);
    }

    async fn stalled_clients_share_one_recording_budget(kit: Kit) {
        const PART: &str = "0123456789012345678901234567890123456789012345678901234567890123";
        let layer = kit.layer().recording_bytes(64 << 10).with_policy(MINUTE);
        let (app, mut senders) = streaming(&layer, &[]);
        let mut stalled = Vec::new();
        for n in 0..40 {
            let mut response = app.clone().oneshot(get(&format!("/{n}"), &[])).await.unwrap();
            let sender = senders.recv().await.unwrap();
            sender.send(data(PART)).await.unwrap();
            assert_eq!(next(response.body_mut()).await.unwrap().unwrap(), PART);
            stalled.push((response, sender));
        }
        // a copy of 4 KiB, plus 2 KiB of overhead
        assert_eq!(layer.handle().reasons()["recording-budget"], 30);
        assert_eq!(layer.handle().counts().abandoned, 30);
        for (mut response, sender) in stalled {
            sender.send(data("the end")).await.unwrap();
            drop(sender);
            assert_eq!(next(response.body_mut()).await.unwrap().unwrap(), "the end");
            assert!(next(response.body_mut()).await.is_none());
        }
        layer.handle().flush().await.unwrap();
        assert_eq!(layer.handle().counts().stored, 10);
        // there is room again
        let mut response = app.clone().oneshot(get("/again", &[])).await.unwrap();
        drop(senders.recv().await.unwrap());
        assert!(next(response.body_mut()).await.is_none());
        assert!(send(&app, get("/again", &[])).await.is_hit());
    }

    async fn a_failed_body_is_passed_on_and_not_stored(kit: Kit) {
        let (app, mut senders) = streaming(&kit.layer().with_policy(MINUTE), &[]);
        for _ in 0..2 {
            let mut response = app.clone().oneshot(get("/", &[])).await.unwrap();
            let sender = senders.recv().await.expect("the handler runs again");
            sender.send(data("half")).await.unwrap();
            sender.send(Err("cut")).await.unwrap();
            assert_eq!(next(response.body_mut()).await.unwrap().unwrap(), "half");
            assert_eq!(next(response.body_mut()).await.unwrap().unwrap_err(), "cut");
        }
    }

    async fn a_body_shorter_than_declared_is_not_stored(kit: Kit) {
        let (app, mut senders) = streaming(&kit.layer().with_policy(MINUTE), &[("content-length", "10")]);
        for _ in 0..2 {
            let mut response = app.clone().oneshot(get("/", &[])).await.unwrap();
            let sender = senders.recv().await.expect("the handler runs again");
            sender.send(data("short")).await.unwrap();
            drop(sender);
            while next(response.body_mut()).await.is_some() {}
        }
    }

    async fn a_body_is_complete_at_its_declared_length(kit: Kit) {
        let (app, mut senders) = streaming(&kit.layer().with_policy(MINUTE), &[("content-length", "5")]);
        let mut response = app.clone().oneshot(get("/", &[])).await.unwrap();
        let sender = senders.recv().await.unwrap();
        sender.send(data("hello")).await.unwrap();
        next(response.body_mut()).await;
        drop(response); // like hyper: at the declared length, it stops polling
        assert!(send(&app, get("/", &[])).await.is_hit());
    }

    async fn a_304_is_sent_while_the_body_is_still_streaming(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, mut senders) = streaming(&layer, &[("etag", "\"1\""), ("x-a", "1")]);
        let told = send(&app, get("/", &[("if-none-match", "\"1\"")])).await;
        assert_eq!((told.status.as_u16(), told.body.len(), told.field("x-a").as_str()), (304, 0, "1"));
        assert_eq!(told.field("cache-status"), "test; fwd=uri-miss; fwd-status=200");
        let sender = senders.recv().await.unwrap();
        for part in ["he", "llo"] {
            sender.send(data(part)).await.unwrap();
        }
        drop(sender);
        layer.handle().flush().await.unwrap();
        let hit = send(&app, get("/", &[])).await;
        assert_eq!((hit.is_hit(), hit.text()), (true, "hello"));
    }

    async fn a_range_of_a_streaming_body_is_a_206(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, mut senders) = streaming(&layer, &[("content-length", "10")]);
        let mut part = app.clone().oneshot(get("/", &[("range", "bytes=3-6")])).await.unwrap();
        assert_eq!(part.status(), 206);
        assert_eq!(part.headers()["cache-status"], "test; fwd=uri-miss; fwd-status=200");
        assert_eq!((&part.headers()["content-range"], &part.headers()["content-length"]),
            (&HeaderValue::from_static("bytes 3-6/10"), &HeaderValue::from_static("4")));
        assert_eq!(part.body().size_hint().exact(), Some(4));
        let sender = senders.recv().await.unwrap();
        sender.send(data("01")).await.unwrap();
        sender.send(data("2345")).await.unwrap();
        // the part is sent as soon as its bytes arrive
        assert_eq!(next(part.body_mut()).await.unwrap().unwrap(), "345");
        sender.send(data("678")).await.unwrap();
        assert_eq!(next(part.body_mut()).await.unwrap().unwrap(), "6");
        assert!(part.body().is_end_stream());
        drop(part);
        sender.send(data("9")).await.unwrap();
        layer.handle().flush().await.unwrap();
        let hit = send(&app, get("/", &[])).await;
        assert_eq!((hit.is_hit(), hit.text()), (true, "0123456789"));
    }

    async fn an_unsatisfiable_range_of_a_streaming_body_is_a_416(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, mut senders) = streaming(&layer, &[("content-length", "5"), ("content-type", "a/b")]);
        let answer = send(&app, get("/", &[("range", "bytes=5-")])).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (416, 0));
        assert_eq!((answer.field("content-range").as_str(), answer.field("content-type").as_str()), ("bytes */5", ""));
        senders.recv().await.unwrap().send(data("hello")).await.unwrap();
        layer.handle().flush().await.unwrap();
        assert!(send(&app, get("/", &[])).await.is_hit());
    }

    async fn the_whole_is_sent_if_a_range_would_have_to_wait(kit: Kit) {
        let cases = [
            (None, "range", "bytes=1-2", 64), // the length is not known
            (Some("5"), "range", "bytes=0-0,2-2", 64),
            (Some("5"), "if-none-match", "\"1\"", 0), // nothing after the end of the body
            (Some("5"), "range", "bytes=9-", 0),
        ];
        for (n, (length, field, value, places)) in cases.into_iter().enumerate() {
            let layer = kit.layer().max_refreshes(places).with_policy(MINUTE);
            let fields: &[_] = match length {
                Some(length) => Vec::leak(vec![("etag", "\"1\""), ("content-length", length)]),
                None => &[("etag", "\"1\"")],
            };
            let (app, mut senders) = streaming(&layer, fields);
            let uri = format!("/{n}");
            let answer = app.clone().oneshot(get(&uri, &[(field, value)])).await.unwrap();
            senders.recv().await.unwrap().send(data("hello")).await.unwrap();
            let answer = Answer::of(answer).await;
            assert_eq!((answer.status.as_u16(), answer.text()), (200, "hello"), "{n}");
            assert!(send(&app, get(&uri, &[])).await.is_hit(), "{n}");
        }
    }

    async fn a_range_of_a_failed_body_is_incomplete_and_not_stored(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, mut senders) = streaming(&layer, &[("content-length", "10")]);
        for fails in [true, false] {
            let mut part = app.clone().oneshot(get("/", &[("range", "bytes=3-6")])).await.unwrap();
            let sender = senders.recv().await.expect("the handler runs again");
            sender.send(data("01234")).await.unwrap();
            assert_eq!(next(part.body_mut()).await.unwrap().unwrap(), "34");
            if fails {
                sender.send(Err("cut")).await.unwrap();
                assert_eq!(next(part.body_mut()).await.unwrap().unwrap_err(), "cut");
            }
            drop(sender);
            assert!(next(part.body_mut()).await.is_none());
            // shorter than its length, so a server closes the connection
            assert_eq!((part.body().is_end_stream(), part.body().size_hint().exact()), (false, Some(2)));
        }
        assert_eq!(layer.handle().counts().abandoned, 2);
    }

    async fn a_body_over_the_limit_reaches_the_client_whole(kit: Kit) {
        let policy = MINUTE.max_body_bytes(8);
        let (app, mut senders) = streaming(&kit.layer().with_policy(policy), &[]);
        for _ in 0..2 {
            let response = app.clone().oneshot(get("/", &[])).await.unwrap();
            let sender = senders.recv().await.expect("the handler runs again");
            for part in ["1234", "5678", "9"] {
                sender.send(data(part)).await.unwrap();
            }
            drop(sender);
            assert_eq!(Answer::of(response).await.text(), "123456789");
        }
    }

    async fn server_sent_events_start_at_once_and_are_not_stored(kit: Kit) {
        let fields = &[("content-type", "text/event-stream"), ("cache-control", "max-age=60")];
        let (app, mut senders) = streaming(&kit.layer(), fields);
        let mut response = app.clone().oneshot(get("/", &[])).await.unwrap();
        let sender = senders.recv().await.unwrap();
        for _ in 0..3 {
            sender.send(data("data: x\n\n")).await.unwrap();
            assert_eq!(next(response.body_mut()).await.unwrap().unwrap(), "data: x\n\n");
        }
        let status = response.extensions().get::<tower_mysql_cache::CacheStatus>().unwrap();
        assert_eq!(status.reason().map(|reason| reason.as_str()), Some("streaming"));
    }

    async fn trailers_reach_the_client(kit: Kit) {
        let (app, mut senders) = streaming(&kit.layer().with_policy(MINUTE), &[]);
        for _ in 0..2 {
            let response = app.clone().oneshot(get("/", &[])).await.unwrap();
            let sender = senders.recv().await.expect("the handler runs again");
            sender.send(data("hello")).await.unwrap();
            let trailers = HeaderMap::from_iter([(http::header::ETAG, "\"1\"".parse().unwrap())]);
            sender.send(Ok(Frame::trailers(trailers))).await.unwrap();
            drop(sender);
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["etag"], "\"1\"");
            assert_eq!(body.to_bytes(), "hello");
        }
    }

    async fn tunnels_and_upgrades_are_untouched(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let app = layer.layer(tower::service_fn(|request: Request<()>| async move {
            let upgraded = request.headers().contains_key("sec-websocket-key");
            Ok::<_, Infallible>(response(if upgraded { 101 } else { 200 }, &[], "x"))
        }));
        let connect = Request::builder().method("CONNECT").uri("h.example:443").body(()).unwrap();
        let websocket = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "x")];
        for request in [get("/", &websocket), connect] {
            let response = app.clone().oneshot(request).await.unwrap();
            assert!(response.headers().is_empty() && response.extensions().is_empty());
        }
        let offer = get("/", &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")]);
        app.clone().oneshot(offer).await.unwrap().into_body().collect().await.unwrap();
        assert!(send(&app, get("/", &[])).await.is_hit());
        // an upgrade that the handler does not accept is an ordinary request, and reaches the handler
        let offered = [("connection", "upgrade"), ("upgrade", "TLS/1.2")];
        assert_eq!(send(&app, get("/", &offered)).await.reason(), Some("upgrade"));
        send(&app, crate::kit::request("POST", "/", &offered)).await;
        assert!(!send(&app, get("/", &[])).await.is_hit(), "a write is a write");
    }

    async fn the_inner_services_error_is_passed_on(kit: Kit) {
        let calls = Calls::default();
        let counted = calls.clone();
        let app = kit.layer().with_policy(MINUTE).layer(tower::service_fn(move |_: Request<()>| {
            let first = counted.add() == 1;
            async move { if first { Err("broken") } else { Ok(response(200, &[], "mended")) } }
        }));
        assert_eq!(app.clone().oneshot(get("/", &[])).await.unwrap_err(), "broken");
        assert!(!send(&app, get("/", &[])).await.is_hit());
        assert!(send(&app, get("/", &[])).await.is_hit());
        assert_eq!(calls.count(), 2);
    }

    async fn a_busy_inner_service_does_not_delay_hits(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (busy, mut started) = mpsc::unbounded_channel();
        let mut app = ServiceBuilder::new().layer(layer).concurrency_limit(1).service_fn(
            move |request: Request<()>| {
                let busy = busy.clone();
                async move {
                    if request.uri().path() == "/slow" {
                        busy.send(()).unwrap();
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, Infallible>(response(200, &[], "x"))
                }
            },
        );
        send(&app, get("/", &[])).await;
        let slow = tokio::spawn(app.clone().oneshot(get("/slow", &[])));
        started.recv().await.unwrap();
        // the limit is reached, but the service is still ready
        assert!(app.ready().await.is_ok());
        assert!(send(&app, get("/", &[])).await.is_hit());
        let waiting = tokio::spawn(app.clone().oneshot(get("/other", &[])));
        // lookups that came later have been answered
        for _ in 0..20 {
            assert!(send(&app, get("/", &[])).await.is_hit());
        }
        assert!(!waiting.is_finished(), "a miss waits for its turn");
        slow.abort();
        assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    }

    async fn a_layer_works_over_buffer_and_load_shed(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let app = ServiceBuilder::new().layer(layer).load_shed().buffer(4).service_fn(
            |_: Request<()>| async { Ok::<_, Infallible>(response(200, &[], "x")) },
        );
        assert!(!send(&app, get("/", &[])).await.is_hit());
        assert!(send(&app, get("/", &[])).await.is_hit());
    }

    async fn a_thousand_aborted_requests_do_no_harm(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let app = layer.layer(tower::service_fn(|request: Request<()>| async move {
            Ok::<_, Infallible>(response(200, &[], request.uri().path()))
        }));
        for n in 0..20 {
            send(&app, get(&format!("/{n}"), &[])).await;
        }
        layer.handle().flush().await.unwrap();
        for n in 0..1_000_u64 {
            let request = get(&format!("/{}", n % 20), &[]);
            let dropped = app.clone().oneshot(request);
            let _ = tokio::time::timeout(Duration::from_micros(n % 500), dropped).await;
        }
        for n in 0..20 {
            let answer = send(&app, get(&format!("/{n}"), &[])).await;
            assert_eq!((answer.is_hit(), answer.text()), (true, format!("/{n}").as_str()));
            assert_eq!(answer.cache().forward(), None::<Forward>);
        }
    }
}

#[tokio::test]
async fn a_body_over_the_limit_has_a_named_reason() {
    let (app, _) = cached(&in_memory().with_policy(MINUTE.max_body_bytes(3)), |_| {
        response(200, &[("content-length", "4")], "0123")
    });
    assert_eq!(send(&app, get("/", &[])).await.reason(), Some("too-large"));
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
    let app = in_memory().with_policy(MINUTE).layer(tower::service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Sized(Some("hello".into()))))
    }));
    // hyper writes a Content-Length of 5, and stops polling after five bytes
    let mut r = app.clone().oneshot(get("/", &[])).await.unwrap();
    let _ = r.body_mut().frame().await;
    drop(r);
    assert!(Answer::of(app.clone().oneshot(get("/", &[])).await.unwrap()).await.is_hit());
}
