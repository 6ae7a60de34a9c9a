//! Stale and early refreshes behind a guard.

use super::*;

/// Pages that are stale at once, with a window of an hour. After its first call, the handler needs a permit for each.
fn stale_pages(cache: &CacheLayer<BoxStore>) -> (Router, Calls, Gate) {
    let (calls, gate) = (Calls::default(), Gate::with(1));
    let (counted, waits) = (calls.clone(), gate.clone());
    let page = move |headers: HeaderMap| {
        let (call, gate) = (counted.add(), waits.clone());
        async move {
            gate.pass().await;
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
            async move { send(&app, ask).await }
        });
        settle().await;
        for _ in 0..3 {
            let served = get(&app, "/").await;
            assert_eq!((served.is_hit(), served.text()), (true, "old"));
            assert_eq!(served.reason(), Some("stale-while-revalidate"));
        }
        gate.let_pass(1);
        let refreshed = refreshes.await.unwrap();
        let text = if same { "old" } else { "new" };
        assert_eq!((refreshed.is_hit(), refreshed.text()), (false, text));
        assert!(refreshed.headers["cache-status"].to_str().unwrap().starts_with("test; fwd=stale"));
        assert_eq!((calls.count(), cache.handle().counts().refreshes), (2, 0));
        let next = tokio::spawn(async move { get(&inside, "/").await });
        gate.let_pass(1);
        let next = next.await.unwrap();
        let detail = cookie.then_some("stale-while-revalidate");
        assert_eq!((next.is_hit(), next.reason()), (true, detail), "{cookie} {same}");
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
    gate.let_pass(1);
    let ask = request("GET", "/", &[("x-fail", "1")]);
    let reply = send(&app, ask).await;
    assert_eq!((reply.status, reply.text(), calls.count()), (StatusCode::OK, "old", 2));
    // a handler that takes too long is dropped, and its response is not stored
    let reply = get(&app, "/").await;
    assert_eq!((reply.status, reply.text(), calls.count()), (StatusCode::OK, "old", 3));
    gate.let_pass(1);
    cache.handle().flush().await.unwrap();
    assert_eq!(gate.unused(), 1, "no request waits for it");
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
async fn two_layers_of_one_cache_refresh_behind_a_guard() {
    for same in [false, true] {
        let cache = memory(CachePolicy::new());
        let (inside, calls, gate) = stale_pages(&cache);
        let app = inside.layer(cache.clone()).layer(cache.guard());
        get(&app, "/").await;
        gate.let_pass(1);
        let fields: &[_] = if same { &[("x-same", "1")] } else { &[] };
        let ask = request("GET", "/", fields);
        send(&app, ask).await;
        let hit = get(&app, "/").await;
        assert_eq!((hit.is_hit(), hit.reason(), calls.count()), (true, None, 2));
        assert_eq!(hit.text(), if same { "old" } else { "new" });
    }
}

#[tokio::test]
async fn two_layers_of_one_cache_refresh_without_a_guard() {
    for outer in [CachePolicy::new(), MINUTE.collapse(Collapse::Off)] {
        let cache = memory(CachePolicy::new());
        let (inside, calls, gate) = stale_pages(&cache);
        let app = inside.layer(cache.clone().with_policy(outer));
        gate.let_pass(9);
        assert_eq!(get(&app, "/").await.text(), "old");
        assert_eq!(get(&app, "/").await.text(), "old");
        cache.handle().flush().await.unwrap();
        let hit = get(&app, "/").await;
        assert_eq!((hit.is_hit(), hit.text(), calls.count()), (true, "new", 2));
    }
}
