//! Which requests find which entry: targets, variants, custom keys, layers in layers.

use super::*;

on_every_store! {
    async fn different_targets_are_different_entries(kit: Kit) {
        let (app, calls) = cached(&kit.layer(), |request| {
            let host = request.headers().get("host").map_or("", |host| host.to_str().unwrap());
            response(200, &[FRESH], &format!("{host}{}", request.uri()))
        });
        let long = format!("/{}", "x".repeat(8 * 1024));
        let longer = format!("{long}y");
        let targets = [
            "/", "/?", "/?a=1&b=2", "/?b=2&a=1", "/a", "/A", "/a/", "/a%20", "/a%00", "/a%00b", "/%F0%9F%A6%80",
            "/\u{1f980}", "/..", "//", "/a;b", "/a'\"", "/\u{e9}", &long, &longer,
        ];
        for round in 0..2 {
            for host in ["a.example", "b.example", "a.example:8080"] {
                for target in targets {
                    let answer = send(&app, get(target, &[("host", host)])).await;
                    let seen = answer.text().to_owned();
                    let uri: http::Uri = target.parse().unwrap();
                    assert_eq!(seen, format!("{host}{uri}"));
                    assert_eq!(answer.is_hit(), round == 1, "{host}{target}");
                }
            }
        }
        assert_eq!(calls.count(), 3 * targets.len());
    }

    async fn variants_are_stored_side_by_side(kit: Kit) {
        let layer = kit.layer();
        let (app, calls) = cached(&layer, |request| {
            let field = |name| request.headers().get(name).map_or("absent", |value| value.to_str().unwrap());
            let body = format!("{}/{}", field("x-a"), field("x-b"));
            response(200, &[FRESH, ("vary", "X-A, x-b")], &body)
        });
        let requests: [&[(&str, &str)]; 7] = [
            &[],
            &[("x-a", "1")],
            &[("x-b", "1")],
            &[("x-a", "ab"), ("x-b", "c")],
            &[("x-a", "a"), ("x-b", "bc")],
            &[("x-a", "")],
            &[("x-a", "absent"), ("x-b", "absent")],
        ];
        for round in 0..3 {
            for fields in requests {
                let answer = send(&app, get("/", fields)).await;
                assert_eq!(answer.is_hit(), round > 0, "{fields:?}");
                let value = |name| fields.iter().find(|(n, _)| *n == name).map_or("absent", |(_, v)| v);
                assert_eq!(answer.text(), format!("{}/{}", value("x-a"), value("x-b")));
            }
            kit.settle(&layer.handle()).await;
        }
        assert_eq!(calls.count(), requests.len());
        let another = send(&app, get("/", &[("x-a", "new")])).await;
        assert_eq!(another.cache().forward(), Some(Forward::VaryMiss));
    }

    async fn the_oldest_of_too_many_variants_is_deleted(kit: Kit) {
        let layer = kit.layer();
        let (app, _) = cached(&layer, |request| {
            let language = request.headers()["accept-language"].to_str().unwrap().to_owned();
            response(200, &[FRESH, ("vary", "accept-language")], &language)
        });
        for n in 0..80 {
            send(&app, get("/", &[("accept-language", &format!("x-{n}"))])).await;
        }
        layer.handle().flush().await.unwrap();
        eventually("sixteen are deleted, and the index stays", async || {
            kit.store.stats().await.unwrap().entries == 64 + 1
        })
        .await;
        assert_eq!(layer.handle().counts().variants_evicted, 16);
        assert!(send(&app, get("/", &[("accept-language", "x-79")])).await.is_hit());
        assert!(send(&app, get("/", &[("accept-language", "x-16")])).await.is_hit());
        assert!(!send(&app, get("/", &[("accept-language", "x-15")])).await.is_hit());
    }

    async fn another_process_finds_the_variants(kit: Kit) {
        let layer = kit.layer();
        let vary = |request: http::Request<()>| {
            let language = request.headers()["accept-language"].to_str().unwrap().to_owned();
            response(200, &[FRESH, ("vary", "accept-language")], &language)
        };
        let (app, _) = cached(&layer, vary);
        for language in ["de", "fr"] {
            send(&app, get("/", &[("accept-language", language)])).await;
        }
        kit.settle(&layer.handle()).await;
        let other = crate::kit::patient(kit.neighbour().await);
        let (app, calls) = cached(&other, vary);
        for language in ["de", "fr"] {
            let answer = send(&app, get("/", &[("accept-language", language)])).await;
            assert_eq!((answer.is_hit(), answer.text()), (true, language));
        }
        assert_eq!(calls.count(), 0);
    }

    async fn a_target_that_sometimes_varies_never_mixes_variants(kit: Kit) {
        let calls = Calls::default();
        let counted = calls.clone();
        let (app, _) = cached(&kit.layer(), move |request| {
            let vary = ["", "x-a", "x-a, x-b", "x-b"][counted.add() % 4];
            let field = |name| request.headers().get(name).map_or("-", |value| value.to_str().unwrap());
            let fields = [FRESH, ("vary", vary), ("x-seen", vary)];
            let body = format!("{} {}", field("x-a"), field("x-b"));
            response(200, if vary.is_empty() { &fields[..1] } else { &fields }, &body)
        });
        for n in 0..60 {
            let (a, b) = (format!("{}", n % 3), format!("{}", n % 5));
            let answer = send(&app, get("/", &[("x-a", &a), ("x-b", &b)])).await;
            let (seen_a, seen_b) = answer.text().split_once(' ').unwrap();
            let vary = answer.field("x-seen");
            assert!(!vary.contains("x-a") || seen_a == a, "{vary}: {}", answer.text());
            assert!(!vary.contains("x-b") || seen_b == b, "{vary}: {}", answer.text());
        }
    }

    async fn custom_keys_replace_the_target(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE).key_builder(
            |request: &http::request::Parts, default: TargetKey| match request.uri.path() {
                "/bypass" => None,
                "/default" => Some(default),
                _ => Some(TargetKey::custom("one for all")),
            },
        );
        let (app, calls) = cached(&layer, |_| response(200, &[], "x"));
        send(&app, get("/a", &[])).await;
        assert!(send(&app, get("/b", &[])).await.is_hit());
        assert!(!send(&app, get("/default", &[])).await.is_hit());
        for _ in 0..2 {
            let bypassed = send(&app, get("/bypass", &[])).await;
            assert_eq!(bypassed.field("cache-status"), "test; fwd=bypass");
            assert_eq!(bypassed.reason(), Some("key-builder"));
        }
        layer.handle().invalidate_key(&TargetKey::custom("one for all")).await.unwrap();
        assert!(!send(&app, get("/b", &[])).await.is_hit());
        assert_eq!(calls.count(), 5);
    }

    async fn query_rules_belong_to_the_route(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (only, calls) = cached(&layer.clone().only_query(["q"]), |_| response(200, &[], "x"));
        send(&only, get("/s?q=1&utm_source=a", &[])).await;
        assert!(send(&only, get("/s?q=1&page=9", &[])).await.is_hit());
        assert!(!send(&only, get("/s?q=2", &[])).await.is_hit());
        assert_eq!(calls.count(), 2);
        let tracking = layer.without_tracking_query();
        let (clean, _) = cached(&tracking, |_| response(200, &[], "x"));
        send(&clean, get("/t?gclid=1&a=2", &[])).await;
        assert!(send(&clean, get("/t?a=2&fbclid=3", &[])).await.is_hit());
    }

    async fn of_two_layers_around_a_handler_the_inner_one_works(kit: Kit) {
        let outer = kit.layer().with_policy(MINUTE);
        let inner = outer.clone().with_policy(MINUTE.tags(&["t"]));
        let (app, calls) = cached(&inner, |_| response(200, &[], "x"));
        let app = outer.layer(app);
        let first = send(&app, get("/", &[])).await;
        assert_eq!((first.is_hit(), first.reason()), (false, Some("inner-layer")));
        assert_eq!(outer.handle().counts().collapse_timeouts, 0, "they do not wait for each other");
        kit.settle(&outer.handle()).await;
        assert!(send(&app, get("/", &[])).await.is_hit());
        outer.handle().invalidate_tags(["t"]).await.unwrap();
        assert!(!send(&app, get("/", &[])).await.is_hit(), "the tags are the inner one's");
        assert_eq!(calls.count(), 2);

        let (app, calls) = cached(&outer.clone().with_policy(CachePolicy::bypass()), |_| response(200, &[], "x"));
        let app = outer.layer(app);
        for _ in 0..3 {
            assert!(!send(&app, get("/never", &[])).await.is_hit());
        }
        assert_eq!(calls.count(), 3);
    }

    async fn layers_of_two_caches_do_not_wait_for_each_other(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let other = CacheLayer::new(MemoryStore::new()).prefix("other").with_policy(MINUTE);
        let (app, calls) = cached(&layer, |_| response(200, &[], "x"));
        let app = layer.layer(other.layer(app));
        assert_eq!(send(&app, get("/", &[])).await.text(), "x");
        assert!(send(&app, get("/", &[])).await.is_hit());
        assert_eq!(calls.count(), 1);
        for counts in [layer.handle().counts(), other.handle().counts()] {
            assert_eq!(counts.collapse_timeouts, 0);
        }
        kit.settle(&layer.handle()).await;
        assert_eq!(layer.handle().counts().stored + other.handle().counts().stored, 2);
    }
}
