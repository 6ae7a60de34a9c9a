//! Leaders with slow, endless and dropped bodies.

use super::*;

type Streamed = UnsyncBoxBody<Bytes, &'static str>;

/// A handler that takes some steps, with a body that takes some more steps.
fn in_steps(layer: &CacheLayer<BoxStore>) -> (App<Infallible, Streamed>, Calls) {
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
    (App::new(service), calls)
}

type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, &'static str>>;

/// A handler whose first bodies are sent by the test. Its later bodies are "new", and complete at once.
fn slow_at_first(
    layer: &CacheLayer<BoxStore>,
    slow: usize,
    fields: &'static [(&'static str, &'static str)],
) -> (App<Infallible, Streamed>, mpsc::UnboundedReceiver<Frames>, Calls) {
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
    (App::new(service), slow_bodies, calls)
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
    tokio::time::advance(4 * SECOND).await;
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
