//! Which fields of the final head prevent storing.

use super::*;

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
        let reply = send(&app, ask).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (status, text));
        settle().await;
        let hit = get(&app, path).await;
        assert_eq!((hit.is_hit(), hit.text()), (true, "page"), "{path}");
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
