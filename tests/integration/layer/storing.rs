//! Which responses are stored, and what a hit looks like.

use super::*;

on_every_store! {
    async fn the_request_after_a_miss_is_a_hit(kit: Kit) {
        let layer = kit.layer();
        let fields = [FRESH, ("content-type", "text/plain"), ("etag", "\"1\""), ("x-a", "1"), ("x-a", "2")];
        let (app, calls) = cached(&layer, move |_| response(200, &fields, "hello"));
        let miss = send(&app, get("/", &[])).await;
        assert_eq!(miss.field("cache-status"), "test; fwd=uri-miss; stored");
        assert_eq!(miss.cache().forward(), Some(Forward::UriMiss));
        assert!(miss.cache().is_stored());
        kit.settle(&layer.handle()).await;
        for _ in 0..3 {
            let hit = send(&app, get("/", &[])).await;
            assert_eq!((hit.status, hit.text()), (StatusCode::OK, "hello"));
            assert!(hit.field("cache-status").starts_with("test; hit; ttl="), "{:?}", hit.headers);
            assert_eq!(hit.field("x-a"), "1 | 2");
            assert_eq!(hit.field("content-length"), "5");
            assert_eq!(hit.field("etag"), "\"1\"");
            assert!(hit.field("age").parse::<u64>().unwrap() <= 1);
            assert!(!hit.field("date").is_empty());
        }
        assert_eq!(calls.count(), 1);
        let counts = layer.handle().counts();
        assert_eq!((counts.hits, counts.misses, counts.stored), (3, 1, 1));
    }

    async fn a_policys_lifetime_is_for_complete_responses_only(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        for (status, fields, stored) in [
            (200, &[][..], true),
            (203, &[], true),
            (204, &[], true),
            (301, &[("location", "/x")], true),
            (302, &[("location", "/x")], false),
            (404, &[], false),
            (500, &[], false),
            (404, &[FRESH], true),
            (503, &[FRESH], true),
            (299, &[FRESH], true),
            (206, &[FRESH], false),
            (304, &[FRESH], false),
        ] {
            let body = if matches!(status, 204 | 304) { "" } else { "x" };
            let (app, calls) = cached(&layer, move |_| response(status, fields, body));
            let uri = format!("/{status}/{}", fields.len());
            send(&app, get(&uri, &[])).await;
            let second = send(&app, get(&uri, &[])).await;
            assert_eq!(second.is_hit(), stored, "{status} {fields:?}");
            assert_eq!(second.status.as_u16(), status);
            assert_eq!(second.text(), body);
            assert_eq!(calls.count(), if stored { 1 } else { 2 });
        }
    }

    async fn nothing_is_stored_without_a_lifetime(kit: Kit) {
        let (app, calls) = cached(&kit.layer(), |_| response(200, &[("etag", "\"1\"")], "x"));
        for _ in 0..2 {
            let answer = send(&app, get("/", &[])).await;
            assert_eq!(answer.field("cache-status"), "test; fwd=uri-miss");
            assert_eq!(answer.reason(), Some("no-freshness"));
        }
        assert_eq!(calls.count(), 2);
    }

    async fn private_responses_are_never_shared(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let cases: [(&str, &[(&str, &str)]); 10] = [
            ("no-store", &[("cache-control", "max-age=60, No-Store")]),
            ("no-store", &[("cache-control", "public"), ("cache-control", "no-store")]),
            ("private", &[("cache-control", "private, max-age=60")]),
            ("private", &[("cache-control", "PRIVATE")]),
            ("set-cookie", &[FRESH, ("set-cookie", "sid=1")]),
            ("vary-any", &[FRESH, ("vary", "*")]),
            ("vary-any", &[FRESH, ("vary", "accept"), ("vary", "x, *")]),
            ("no-cache", &[("cache-control", "no-cache")]),
            ("stale-on-arrival", &[("cache-control", "max-age=0")]),
            ("stale-on-arrival", &[("expires", "0")]),
        ];
        for (i, (reason, fields)) in cases.into_iter().enumerate() {
            let (app, calls) = cached(&layer, move |_| response(200, fields, "mine"));
            let uri = format!("/{i}");
            for _ in 0..2 {
                let answer = send(&app, get(&uri, &[])).await;
                assert_eq!(answer.reason(), Some(reason), "{fields:?}");
                assert!(!answer.is_hit() && !answer.cache().is_stored());
            }
            assert_eq!(calls.count(), 2);
        }
        let reasons = layer.handle().reasons();
        assert_eq!((reasons["no-store"], reasons["private"], reasons["vary-any"]), (4, 4, 4));
    }

    async fn an_override_beats_the_policy_and_the_fields(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let hour = Duration::from_secs(3600);
        let cases: [(CacheOverride, &[(&str, &str)], Option<&str>); 8] = [
            (CacheOverride::new().ttl(hour), &[("cache-control", "max-age=1")], None),
            (CacheOverride::new().ttl(hour), &[("cache-control", "max-age=0")], None),
            (CacheOverride::new().ttl(Duration::ZERO), &[], Some("override")),
            (CacheOverride::new().no_store(), &[FRESH], Some("override")),
            (CacheOverride::new().ttl(hour), &[("cache-control", "private")], Some("private")),
            (CacheOverride::new().ttl(hour).shared(), &[("cache-control", "private, no-store")], None),
            (CacheOverride::new().ttl(hour).shared(), &[("set-cookie", "a=b")], Some("set-cookie")),
            (CacheOverride::new().ttl(hour).with_set_cookie(), &[("set-cookie", "a=b")], None),
        ];
        for (i, (overrides, fields, reason)) in cases.into_iter().enumerate() {
            let said = overrides.clone();
            let (app, _) = cached(&layer, move |_| {
                let mut response = response(200, fields, "x");
                response.extensions_mut().insert(said.clone());
                response
            });
            let uri = format!("/{i}");
            let first = send(&app, get(&uri, &[])).await;
            assert_eq!(first.reason(), reason, "{overrides:?} {fields:?}");
            let second = send(&app, get(&uri, &[])).await;
            assert_eq!(second.is_hit(), reason.is_none(), "{overrides:?} {fields:?}");
            if second.is_hit() {
                assert!(second.cache().ttl_secs().unwrap() > 3590);
            }
        }
    }

    async fn a_head_is_answered_by_a_stored_get_and_stores_nothing(kit: Kit) {
        let (app, calls) = cached(&kit.layer(), |_| response(200, &[FRESH], "hello"));
        let first = send(&app, request("HEAD", "/", &[])).await;
        assert_eq!((first.is_hit(), first.reason()), (false, Some("method")));
        assert!(!send(&app, get("/", &[])).await.is_hit());
        let head = send(&app, request("HEAD", "/", &[])).await;
        assert!(head.is_hit() && head.body.is_empty());
        assert_eq!(head.field("content-length"), "5");
        assert_eq!(send(&app, get("/", &[])).await.text(), "hello");
        assert_eq!(calls.count(), 2);
    }

    async fn uncacheable_requests_reach_the_handler_with_a_reason(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE).hosts(["known.example"]);
        let (app, calls) = cached(&layer, |_| response(200, &[], "x"));
        let cases: [(&str, &[(&str, &str)]); 4] = [
            ("request-body", &[("host", "known.example"), ("content-length", "3")]),
            ("request-body", &[("host", "known.example"), ("transfer-encoding", "chunked")]),
            ("unknown-host", &[("host", "evil.example")]),
            ("bad-host", &[("host", "a b")]),
        ];
        for (reason, fields) in cases {
            for _ in 0..2 {
                let answer = send(&app, get("/", fields)).await;
                assert_eq!(answer.reason(), Some(reason));
                assert_eq!(answer.cache().forward(), Some(Forward::Bypass));
            }
        }
        let off = layer.with_policy(CachePolicy::bypass());
        let (app, _) = cached(&off, |_| response(200, &[FRESH], "x"));
        for _ in 0..2 {
            assert_eq!(send(&app, get("/", &[])).await.reason(), Some("policy"));
        }
        assert_eq!(calls.count(), 8);
    }

    async fn cache_status_and_age_can_be_switched_off(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, _) = cached(&layer, |_| response(200, &[("cache-status", "origin; hit")], "x"));
        send(&app, get("/a", &[("host", "h")])).await;
        let hit = send(&app, get("/a", &[("host", "h")])).await;
        assert!(hit.field("cache-status").starts_with("origin; hit | test; hit; ttl="), "{:?}", hit.headers);

        let quiet = layer.clone().status_field(StatusField::Off).age_field(false);
        let (app, _) = cached(&quiet, |_| response(200, &[], "x"));
        let hit = send(&app, get("/a", &[("host", "h")])).await;
        assert!(hit.is_hit() && hit.field("age").is_empty());
        assert_eq!(hit.field("cache-status"), "origin; hit");

        let debug = layer.status_field(StatusField::Debug);
        let (app, _) = cached(&debug, |_| response(200, &[("cache-control", "no-store")], "x"));
        let miss = send(&app, get("/b", &[("host", "h")])).await;
        let expected = "test; fwd=uri-miss; key=\"test:1:/b http://h\"; detail=no-store";
        assert_eq!(miss.field("cache-status"), expected);
    }

    async fn the_next_request_after_a_fill_is_a_hit(kit: Kit) {
        let (app, _) = cached(&kit.layer(), |request| response(200, &[FRESH], request.uri().path()));
        for n in 0..300 {
            let uri = format!("/{n}");
            assert!(!send(&app, get(&uri, &[])).await.is_hit());
            let second = send(&app, get(&uri, &[])).await;
            assert_eq!((second.is_hit(), second.text()), (true, uri.as_str()));
        }
    }

    async fn an_entry_expires(kit: Kit) {
        let layer = kit.layer().with_policy(CachePolicy::new().ttl(Duration::from_secs(1)));
        let (app, calls) = cached(&layer, |_| response(200, &[], "x"));
        send(&app, get("/", &[])).await;
        assert!(send(&app, get("/", &[])).await.is_hit());
        let start = tokio::time::Instant::now();
        eventually("it expires", async || {
            send(&app, get("/", &[])).await;
            calls.count() == 2
        })
        .await;
        let lived = start.elapsed();
        assert!(lived > Duration::from_millis(500) && lived < Duration::from_secs(5), "{lived:?}");
    }
}

#[tokio::test]
async fn a_refused_response_is_not_reported_as_stored() {
    let store = MemoryStore::builder().max_bytes(4096).build().unwrap();
    let layer = over(store).with_policy(MINUTE);
    let (app, _) = cached(&layer, |_| response(200, &[], &"x".repeat(9000)));
    let answer = send(&app, get("/", &[])).await;
    assert!(
        !answer.cache().is_stored() && !answer.field("cache-status").contains("stored"),
        "{}",
        answer.field("cache-status")
    );
}

#[tokio::test]
async fn a_failed_write_is_not_reported_as_stored() {
    let store = Slow::new();
    store.fail_writes();
    let (app, _) = cached(&over(store).with_policy(MINUTE), |_| response(200, &[], "x"));
    let answer = send(&app, get("/", &[])).await;
    assert!(!answer.cache().is_stored(), "{}", answer.field("cache-status"));
}

#[tokio::test]
async fn a_slow_handler_with_a_short_lifetime_is_stored() {
    let clock = ManualClock::at(1_768_435_200_000);
    let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
    let layer = over(store);
    let second = CachePolicy::new().ttl(Duration::from_secs(1));
    let (app, _) = cached(&layer.with_policy(second), move |_| {
        clock.advance(Duration::from_millis(1100));
        response(200, &[], "slow")
    });
    let answer = send(&app, get("/", &[])).await;
    assert!(answer.cache().is_stored(), "{:?}", answer.cache());
}

#[tokio::test]
async fn a_hit_costs_one_lookup_also_with_vary() {
    let store = Slow::new();
    let lookups = Arc::clone(&store.lookups);
    let layer = over(store);
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

#[tokio::test]
async fn extensions_of_a_first_response_reach_the_layers_outside() {
    #[derive(Clone)]
    struct Mine;
    let (app, _) = cached(&in_memory().with_policy(MINUTE), |_| {
        let mut response = response(200, &[], "0123");
        response.extensions_mut().insert(Mine);
        response
    });
    let plain = app.clone().oneshot(get("/a", &[])).await.unwrap();
    assert!(plain.extensions().get::<Mine>().is_some());
    let ranged = app.clone().oneshot(get("/b", &[("range", "bytes=0-0")])).await.unwrap();
    assert!(ranged.extensions().get::<Mine>().is_some());
}
