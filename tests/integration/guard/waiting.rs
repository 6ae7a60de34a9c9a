//! What waits until the guard has seen the final head, and what happens if it never sees it.

use super::*;

/// A layer outside the cache that lets each response pass when the gate does.
fn outer_gate(gate: &Gate, app: Router) -> Router {
    let pass = |State(gate): State<Gate>, request: Request, next: Next| async move {
        let response = next.run(request).await;
        gate.pass().await;
        response
    };
    app.layer(from_fn_with_state(gate.clone(), pass))
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
            let gate = Gate::closed();
            let app = match cookie {
                true => outside(app, with("set-cookie", "sid=1")),
                false => app,
            };
            let app = outer_gate(&gate, app).layer(cache.guard());
            let clients: Vec<_> = (0..8)
                .map(|_| {
                    let app = app.clone();
                    tokio::spawn(async move { get(&app, path).await })
                })
                .collect();
            gate.arrival().await;
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
    let (calls, gate) = (Calls::default(), Gate::closed());
    let (counted, waits) = (calls.clone(), gate.clone());
    let page = move || {
        let (call, gate) = (counted.add(), waits.clone());
        async move {
            gate.pass().await;
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
    gate.let_pass(1);
    while calls.count() < 2 {
        settle().await;
    }
    gate.let_pass(200);
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
    let gate = Gate::closed();
    let app = outer_gate(&gate, app).layer(cache.guard());
    let start = || {
        let app = app.clone();
        tokio::spawn(async move { get(&app, "/whole").await })
    };
    let leaver = start();
    gate.arrival().await;
    let stays = start();
    settle().await;
    assert_eq!(calls.count(), 1);
    leaver.abort();
    gate.arrival().await;
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
    let gate = Gate::closed();
    let limited = |request: Request, next: Next| async move {
        match tokio::time::timeout(Duration::from_millis(20), next.run(request)).await {
            Ok(response) => response,
            Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
        }
    };
    let app = outer_gate(&gate, inside).layer(from_fn(limited)).layer(cache.guard());
    assert_eq!(get(&app, "/whole").await.status, StatusCode::REQUEST_TIMEOUT);
    assert_eq!(called_off(&cache.handle()), [("replaced-outside", 1)]);
    assert_eq!((cache.handle().counts().stored, calls.count()), (0, 1));
    gate.open();
    assert!(!get(&app, "/whole").await.is_hit());
    assert!(get(&app, "/whole").await.is_hit());
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
        let next = send(&inside, ask).await;
        assert_eq!(next.is_hit(), !cookie);
    }
}
