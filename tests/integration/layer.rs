//! The layer over every store: which responses are served from the store, and which are not stored.

use std::time::Duration;

use http::StatusCode;
use tower::Layer;
use tower_mysql_cache::invalidation::Invalidation;
use tower_mysql_cache::key::TargetKey;
use tower_mysql_cache::policy::Authorization;
use tower_mysql_cache::status::{Forward, StatusField};
use tower_mysql_cache::store::Admin;
use tower_mysql_cache::{CacheLayer, CacheOverride, CachePolicy, Cookies, MemoryStore};

use crate::kit::{Calls, Kit, cached, get, on_every_store, request, response, send};

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
const FRESH: (&str, &str) = ("cache-control", "max-age=60");

on_every_store! {
    async fn the_request_after_a_miss_is_a_hit(kit: Kit) {
        let layer = kit.layer();
        let fields = [FRESH, ("content-type", "text/plain"), ("etag", "\"1\""), ("x-a", "1"), ("x-a", "2")];
        let (app, calls) = cached(&layer, move |_| response(200, &fields, "hello"));
        let miss = send(&app, get("/", &[])).await;
        assert_eq!(miss.field("cache-status"), "test; fwd=uri-miss; stored");
        assert_eq!(miss.cache.forward(), Some(Forward::UriMiss));
        assert!(miss.cache.is_stored());
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
            assert_eq!(answer.cache.reason().map(|reason| reason.as_str()), Some("no-freshness"));
        }
        assert_eq!(calls.count(), 2);
    }

    async fn of_two_layers_around_a_handler_the_inner_one_works(kit: Kit) {
        let outer = kit.layer().with_policy(MINUTE);
        let inner = outer.clone().with_policy(MINUTE.tags(&["t"]));
        let (app, calls) = cached(&inner, |_| response(200, &[], "x"));
        let app = outer.layer(app);
        let first = send(&app, get("/", &[])).await;
        assert_eq!((first.is_hit(), first.cache.reason().map(|reason| reason.as_str())), (false, Some("inner-layer")));
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
                assert_eq!(answer.cache.reason().map(|reason| reason.as_str()), Some(reason), "{fields:?}");
                assert!(!answer.is_hit() && !answer.cache.is_stored());
            }
            assert_eq!(calls.count(), 2);
        }
        let reasons = layer.handle().reasons();
        assert_eq!((reasons["no-store"], reasons["private"], reasons["vary-any"]), (4, 4, 4));
    }

    async fn requests_with_credentials_use_only_public_responses(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, calls) = cached(&layer, |request| {
            let who = request.headers().get("cookie").or(request.headers().get("authorization"));
            response(200, &[], who.map_or("nobody", |who| who.to_str().unwrap()))
        });
        for (i, credentials) in [("cookie", "sid=alice"), ("authorization", "Bearer bob")].into_iter().enumerate() {
            let uri = format!("/{i}");
            for _ in 0..2 {
                let answer = send(&app, get(&uri, &[credentials])).await;
                assert_eq!(answer.text(), credentials.1);
                assert_eq!(answer.field("cache-status"), "test; fwd=bypass");
                assert_eq!(answer.cache.reason().map(|reason| reason.as_str()), Some(credentials.0));
            }
            let anonymous = send(&app, get(&uri, &[])).await;
            assert_eq!((anonymous.text(), anonymous.is_hit()), ("nobody", false));
            let again = send(&app, get(&uri, &[credentials])).await;
            assert_eq!((again.text(), again.is_hit()), (credentials.1, false));
            assert!(send(&app, get(&uri, &[("cookie", "_ga=GA1.2.3; _gid=4")])).await.is_hit());
        }
        assert_eq!(calls.count(), 8);
    }

    async fn public_responses_are_shared_with_everyone(kit: Kit) {
        for (i, field) in ["public, max-age=60", "s-maxage=60"].into_iter().enumerate() {
            let (app, calls) = cached(&kit.layer(), move |_| response(200, &[("cache-control", field)], "all"));
            let uri = format!("/{i}");
            send(&app, get(&uri, &[("authorization", "Bearer a")])).await;
            assert!(send(&app, get(&uri, &[("cookie", "sid=b")])).await.is_hit());
            assert!(send(&app, get(&uri, &[])).await.is_hit());
            assert_eq!(calls.count(), 1);
        }
    }

    async fn keyed_credentials_have_their_own_entries(kit: Kit) {
        let policy = MINUTE.cookies(Cookies::Key(&["theme"])).authorization(Authorization::Key);
        let (app, calls) = cached(&kit.layer().with_policy(policy), |request| {
            let field = |name| request.headers().get(name).map_or("-", |value| value.to_str().unwrap());
            response(200, &[], &format!("{} {}", field("cookie"), field("authorization")))
        });
        let requests: [&[(&str, &str)]; 5] = [
            &[],
            &[("cookie", "theme=dark")],
            &[("cookie", "theme=light")],
            &[("authorization", "Bearer a")],
            &[("authorization", "Bearer b")],
        ];
        for round in 0..2 {
            for fields in requests {
                let answer = send(&app, get("/", fields)).await;
                assert_eq!(answer.is_hit(), round == 1, "{fields:?}");
                assert!(fields.iter().all(|(_, value)| answer.text().contains(value)));
            }
        }
        assert!(send(&app, get("/", &[("cookie", "theme=dark; sid=9")])).await.is_hit());
        assert_eq!(calls.count(), 5);
    }

    async fn ignored_cookies_do_not_matter(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.cookies(Cookies::Ignore));
        let (app, calls) = cached(&layer, |_| response(200, &[], "x"));
        send(&app, get("/", &[("cookie", "sid=a")])).await;
        assert!(send(&app, get("/", &[("cookie", "sid=b")])).await.is_hit());
        assert_eq!(calls.count(), 1);
    }

    async fn listed_cookies_are_stripped_from_stored_responses(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.strip_set_cookies(&["seen"]));
        let (app, _) = cached(&layer, |request| match request.uri().path() {
            "/one" => response(200, &[("set-cookie", "seen=1; Path=/")], "x"),
            _ => response(200, &[("set-cookie", "seen=1"), ("set-cookie", "sid=2")], "x"),
        });
        assert_eq!(send(&app, get("/one", &[])).await.field("set-cookie"), "seen=1; Path=/");
        let hit = send(&app, get("/one", &[])).await;
        assert_eq!((hit.is_hit(), hit.field("set-cookie").as_str()), (true, ""));
        send(&app, get("/two", &[])).await;
        let second = send(&app, get("/two", &[])).await;
        assert_eq!((second.is_hit(), second.cache.reason().map(|reason| reason.as_str())), (false, Some("set-cookie")));
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
            assert_eq!(first.cache.reason().map(|reason| reason.as_str()), reason, "{overrides:?} {fields:?}");
            let second = send(&app, get(&uri, &[])).await;
            assert_eq!(second.is_hit(), reason.is_none(), "{overrides:?} {fields:?}");
            if second.is_hit() {
                assert!(second.cache.ttl_secs().unwrap() > 3590);
            }
        }
    }

    async fn an_override_can_share_with_requests_with_credentials(kit: Kit) {
        let (app, calls) = cached(&kit.layer().with_policy(MINUTE), |_| {
            let mut response = response(200, &[], "x");
            response.extensions_mut().insert(CacheOverride::default().shared());
            response
        });
        send(&app, get("/", &[("cookie", "sid=a")])).await;
        assert!(send(&app, get("/", &[("authorization", "b")])).await.is_hit());
        assert_eq!(calls.count(), 1);
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
        assert_eq!(another.cache.forward(), Some(Forward::VaryMiss));
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
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while kit.store.stats().await.unwrap().entries != 64 + 1 {
            assert!(std::time::Instant::now() < deadline, "{:?}", kit.store.stats().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
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
        let other = tower_mysql_cache::CacheLayer::new(kit.neighbour().await).prefix("test");
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

    async fn a_head_is_answered_by_a_stored_get_and_stores_nothing(kit: Kit) {
        let (app, calls) = cached(&kit.layer(), |_| response(200, &[FRESH], "hello"));
        let first = send(&app, request("HEAD", "/", &[])).await;
        assert_eq!((first.is_hit(), first.cache.reason().map(|reason| reason.as_str())), (false, Some("method")));
        assert!(!send(&app, get("/", &[])).await.is_hit());
        let head = send(&app, request("HEAD", "/", &[])).await;
        assert!(head.is_hit() && head.body.is_empty());
        assert_eq!(head.field("content-length"), "5");
        assert_eq!(send(&app, get("/", &[])).await.text(), "hello");
        assert_eq!(calls.count(), 2);
    }

    async fn a_successful_unsafe_request_invalidates_its_target(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE)
            .partition_by("role", |request| Some(request.headers.get("x-role").map_or("-", |r| r.to_str().unwrap()).to_owned()));
        let (app, _) = cached(&layer, |request| {
            let status = request.headers().get("x-status").map_or(200, |s| s.to_str().unwrap().parse().unwrap());
            response(status, &[("vary", "accept-language")], "x")
        });
        let variants = [("accept-language", "de"), ("accept-language", "fr"), ("x-role", "admin")];
        let hits = async || {
            let mut hits = 0;
            for fields in &variants {
                hits += usize::from(send(&app, get("/p", &[*fields])).await.is_hit());
            }
            hits
        };
        let other = async || send(&app, get("/p/7", &[])).await.is_hit();
        for method in ["POST", "PUT", "DELETE", "PATCH", "PURGE-IT"] {
            hits().await;
            other().await;
            assert_eq!(hits().await, 3);
            let failed = send(&app, request(method, "/p", &[("x-status", "409")])).await;
            assert_eq!(failed.field("cache-status"), "test; fwd=method");
            assert_eq!(hits().await, 3, "{method} failed and invalidates nothing");
            send(&app, request(method, "/p", &[])).await;
            assert_eq!(hits().await, 0, "{method}");
            assert!(other().await, "{method} leaves other targets alone");
        }
        for method in ["OPTIONS", "TRACE", "QUERY", "PROPFIND", "REPORT", "SEARCH"] {
            send(&app, request(method, "/p", &[])).await;
            assert_eq!(hits().await, 3, "{method} is safe");
        }
    }

    async fn a_write_that_answers_408_or_5xx_invalidates(kit: Kit) {
        for (policy, invalidates) in [(MINUTE, true), (CachePolicy::rfc9111(), false)] {
            let (app, _) = cached(&kit.layer().with_policy(policy), |request| {
                let status = request.headers().get("x-status").map_or(200, |s| s.to_str().unwrap().parse().unwrap());
                response(status, &[FRESH], "x")
            });
            for status in ["408", "500", "503", "504"] {
                send(&app, get("/p", &[])).await;
                assert!(send(&app, get("/p", &[])).await.is_hit());
                send(&app, request("PUT", "/p", &[("x-status", status)])).await;
                assert_eq!(!send(&app, get("/p", &[])).await.is_hit(), invalidates, "{status}");
            }
        }
    }

    async fn writes_that_change_no_page_append_no_log_row(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let handle = layer.handle();
        let grpc = ("content-type", "application/grpc+proto");
        let shouted = ("content-type", "APPLICATION/GRPC");
        let silent = [
            (CachePolicy::bypass(), "POST", None),
            (MINUTE.invalidates_on_write(false), "POST", None),
            (MINUTE, "POST", Some(grpc)),
            (MINUTE, "POST", Some(shouted)),
            (MINUTE, "QUERY", None),
            (MINUTE, "PROPFIND", None),
        ];
        for (policy, method, field) in silent {
            let (app, calls) = cached(&layer.with_policy(policy), |_| response(200, &[], "x"));
            let answer = send(&app, request(method, "/graphql", field.as_slice())).await;
            assert_eq!((answer.field("cache-status").as_str(), calls.count()), ("test; fwd=method", 1));
        }
        assert_eq!(handle.invalidations(9).await.unwrap().len(), 0);
        let loud = [
            (CachePolicy::bypass().invalidates_on_write(true), "POST", None, 2),
            (MINUTE, "PUT", Some(grpc), 4),
            (CachePolicy::rfc9111(), "POST", Some(grpc), 6),
        ];
        for (policy, method, field, rows) in loud {
            let (app, _) = cached(&layer.with_policy(policy), |_| response(200, &[], "x"));
            send(&app, request(method, "/graphql", field.as_slice())).await;
            assert_eq!(handle.invalidations(9).await.unwrap().len(), rows);
        }
        let (app, _) = cached(&layer.with_policy(MINUTE).scheme("https"), |_| response(200, &[], "x"));
        send(&app, request("POST", "/graphql", &[])).await;
        assert_eq!(handle.invalidations(9).await.unwrap().len(), 7, "one row where the scheme is known");
    }

    async fn a_client_cannot_invalidate_other_pages_by_location(kit: Kit) {
        let (app, _) = cached(&kit.layer().with_policy(MINUTE), |request| {
            let fields = [("location", "/home"), ("content-location", "/list")];
            response(if request.method() == "POST" { 303 } else { 200 }, &fields, "x")
        });
        for uri in ["/home", "/list"] {
            send(&app, get(uri, &[])).await;
        }
        send(&app, request("POST", "/login?next=/home", &[])).await;
        assert!(send(&app, get("/home", &[])).await.is_hit());
        assert!(!send(&app, get("/list", &[])).await.is_hit());
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

    async fn location_fields_invalidate_only_on_the_same_origin(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.invalidates_location(true));
        let (app, _) = cached(&layer, |request| {
            if request.method() == "POST" {
                let fields = [("location", "/new?x=1"), ("content-location", "http://H.example/list")];
                let foreign = [("location", "http://other.example/new?x=1")];
                let fields = if request.uri().path() == "/foreign" { &foreign[..] } else { &fields };
                return response(201, fields, "");
            }
            response(200, &[], "x")
        });
        let host = ("host", "h.example");
        let hits = async || {
            let mut hits = 0;
            for uri in ["/new?x=1", "/list", "/new"] {
                hits += usize::from(send(&app, get(uri, &[host])).await.is_hit());
            }
            hits
        };
        hits().await;
        send(&app, request("POST", "/foreign", &[host])).await;
        assert_eq!(hits().await, 3);
        send(&app, request("POST", "/orders", &[host])).await;
        assert_eq!(hits().await, 1);
    }

    async fn the_handle_invalidates_a_uri_on_one_origin_or_all(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE).sort_query();
        let handle = layer.handle();
        let (app, _) = cached(&layer, |_| response(200, &[], "x"));
        let hit = async |uri: &str, host: &str| send(&app, get(uri, &[("host", host)])).await.is_hit();
        let fill = async || {
            for host in ["a", "b"] {
                for uri in ["/p?x=1&y=2", "/p", "/pp"] {
                    hit(uri, host).await;
                }
            }
        };
        fill().await;
        handle.invalidate_uri("/p?y=2&x=1").await.unwrap();
        assert!(!hit("/p?x=1&y=2", "a").await && !hit("/p?x=1&y=2", "b").await);
        assert!(hit("/p", "a").await && hit("/pp", "b").await);
        handle.invalidate_uri("http://a/p").await.unwrap();
        assert!(!hit("/p", "a").await && hit("/p", "b").await);
        assert_eq!(handle.invalidate_uri("not a uri").await.unwrap_err().as_str(), "config");
    }

    async fn a_purge_invalidates_only_its_prefix(kit: Kit) {
        let shop = kit.layer().try_prefix("shop").unwrap().with_policy(MINUTE);
        let blog = kit.layer().try_prefix("shop-blog").unwrap().with_policy(MINUTE);
        let (shop_app, _) = cached(&shop, |_| response(200, &[], "shop"));
        let (next_app, _) = cached(&shop.clone().version(2), |_| response(200, &[], "shop 2"));
        let (blog_app, _) = cached(&blog, |_| response(200, &[], "blog"));
        for app in [&shop_app] {
            assert!(!send(app, get("/", &[])).await.is_hit());
        }
        assert_eq!(send(&next_app, get("/", &[])).await.text(), "shop 2");
        assert_eq!(send(&blog_app, get("/", &[])).await.text(), "blog");
        shop.handle().flush().await.unwrap();
        assert_eq!(shop.handle().dry_run(&Invalidation::all()).await.unwrap().named, 2);
        shop.handle().invalidate_all().await.unwrap();
        assert!(!send(&shop_app, get("/", &[])).await.is_hit());
        assert!(!send(&next_app, get("/", &[])).await.is_hit());
        assert!(send(&blog_app, get("/", &[])).await.is_hit());
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
            assert_eq!(bypassed.cache.reason().map(|reason| reason.as_str()), Some("key-builder"));
        }
        layer.handle().invalidate_key(&TargetKey::custom("one for all")).await.unwrap();
        assert!(!send(&app, get("/b", &[])).await.is_hit());
        assert_eq!(calls.count(), 5);
    }

    async fn a_write_also_invalidates_entries_under_custom_keys(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.invalidates_location(true)).key_builder(
            |request: &http::request::Parts, default: TargetKey| match request.uri.path() {
                "/listed" => Some(default),
                path => Some(TargetKey::custom(path)),
            },
        );
        let (app, _) = cached(&layer, |request| match request.method().as_str() {
            "POST" => {
                let fields = [("location", "/listed"), ("cache-group-invalidation", "\"all\"")];
                response(200, &fields, "done")
            }
            _ => response(200, &[("cache-groups", "\"all\"")], "x"),
        });
        let host = ("host", "h");
        for uri in ["/own", "/listed", "/other"] {
            send(&app, get(uri, &[host])).await;
            assert!(send(&app, get(uri, &[host])).await.is_hit(), "{uri}");
        }
        send(&app, request("POST", "/own", &[host])).await;
        for uri in ["/own", "/listed", "/other"] {
            assert!(!send(&app, get(uri, &[host])).await.is_hit(), "{uri}");
        }
    }

    async fn a_write_to_an_unlisted_host_invalidates_too(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE).hosts(["known.example"]);
        let (app, _) = cached(&layer, |_| response(200, &[], "x"));
        let page = async |path: &str| send(&app, get(path, &[("host", "known.example:80")])).await;
        for host in ["10.0.0.1:8080", "a b"] {
            page("/p").await;
            page("/q").await;
            assert!(page("/p").await.is_hit());
            send(&app, request("PUT", "/p", &[("host", host)])).await;
            assert!(!page("/p").await.is_hit(), "{host}");
            assert!(page("/q").await.is_hit(), "{host}");
        }
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
                assert_eq!(answer.cache.reason().map(|reason| reason.as_str()), Some(reason));
                assert_eq!(answer.cache.forward(), Some(Forward::Bypass));
            }
        }
        let off = layer.with_policy(CachePolicy::bypass());
        let (app, _) = cached(&off, |_| response(200, &[FRESH], "x"));
        for _ in 0..2 {
            assert_eq!(send(&app, get("/", &[])).await.cache.reason().map(|reason| reason.as_str()), Some("policy"));
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

    async fn without_a_fixed_scheme_both_schemes_are_invalidated(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, _) = cached(&layer, |_| response(200, &[], "x"));
        let handle = layer.handle();
        for erases in [false, true] {
            send(&app, get("/p", &[("host", "shop.example")])).await;
            kit.settle(&handle).await;
            if erases {
                assert_eq!(handle.erase_uri("https://shop.example/p").await.unwrap(), 1);
            } else {
                handle.invalidate_uri("https://shop.example/p").await.unwrap();
            }
            assert!(!send(&app, get("/p", &[("host", "shop.example")])).await.is_hit());
        }
    }

    async fn a_response_made_during_an_invalidation_is_not_stored(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let handle = layer.handle();
        let app = layer.layer(tower::service_fn(move |_: http::Request<()>| {
            let handle = handle.clone();
            async move {
                // the handler reads the data, another client changes the data, and then the handler answers
                handle.invalidate_uri("/p").await.unwrap();
                Ok::<_, std::convert::Infallible>(response(200, &[], "old"))
            }
        }));
        for _ in 0..2 {
            assert!(!send(&app, get("/p", &[])).await.is_hit());
        }
        send(&app, get("/q", &[])).await;
        assert!(send(&app, get("/q", &[])).await.is_hit());
    }

    async fn an_entry_expires(kit: Kit) {
        let layer = kit.layer().with_policy(CachePolicy::new().ttl(Duration::from_secs(1)));
        let (app, calls) = cached(&layer, |_| response(200, &[], "x"));
        send(&app, get("/", &[])).await;
        assert!(send(&app, get("/", &[])).await.is_hit());
        let start = tokio::time::Instant::now();
        while calls.count() < 2 {
            assert!(start.elapsed() < Duration::from_secs(5), "never expired");
            tokio::time::sleep(Duration::from_millis(50)).await;
            send(&app, get("/", &[])).await;
        }
        assert!(start.elapsed() > Duration::from_millis(500));
    }
}
