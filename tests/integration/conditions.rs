//! Conditional requests from clients and to the handler, ranges, HEAD, and the strict mode.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, Service};
use tower_mysql_cache::invalidation::Invalidation;
use tower_mysql_cache::key::TargetKey;
use tower_mysql_cache::service::CacheBody;
use tower_mysql_cache::status::Forward;
use tower_mysql_cache::store::BoxStore;
use tower_mysql_cache::{CacheLayer, CachePolicy, MySqlStore};

use crate::kit::{Answer, Kit, cached, get, on_every_store, request, response, scripted, send};
use crate::support;

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
const FRESH: (&str, &str) = ("cache-control", "max-age=60");
/// Stored, and stale at once.
const STALE: (&str, &str) = ("cache-control", "max-age=0");
const ETAG: (&str, &str) = ("etag", "\"1\"");
const MODIFIED: (&str, &str) = ("last-modified", "Tue, 15 Nov 1994 12:45:26 GMT");

async fn with<S>(app: &S, fields: &[(&str, &str)]) -> Answer
where
    S: Service<
            Request<()>,
            Response = Response<CacheBody<Full<Bytes>>>,
            Error = std::convert::Infallible,
        > + Clone,
{
    send(app, get("/", fields)).await
}

on_every_store! {
    async fn a_client_with_the_stored_response_gets_a_304(kit: Kit) {
        let (app, calls) = cached(&kit.layer(), |_| {
            response(200, &[FRESH, ETAG, MODIFIED, ("vary", "x"), ("content-type", "text/plain")], "hello")
        });
        with(&app, &[]).await;
        for condition in [
            ("if-none-match", "\"1\""),
            ("if-none-match", "W/\"1\""),
            ("if-none-match", "\"0\", \"1\" , \"2\""),
            ("if-none-match", "*"),
            ("if-modified-since", "Tue, 15 Nov 1994 12:45:26 GMT"),
            ("if-modified-since", "Wednesday, 16-Nov-94 12:45:26 GMT"),
        ] {
            for method in ["GET", "HEAD"] {
                let answer = send(&app, request(method, "/", &[condition])).await;
                assert_eq!(answer.status, StatusCode::NOT_MODIFIED, "{condition:?}");
                assert!(answer.is_hit() && answer.body.is_empty());
                for name in ["cache-control", "date", "etag", "vary"] {
                    assert!(!answer.field(name).is_empty(), "{name}");
                }
                for name in ["content-length", "content-type"] {
                    assert_eq!(answer.field(name), "", "{name}");
                }
            }
        }
        for fields in [
            &[("if-none-match", "\"2\"")][..],
            &[("if-none-match", "\"2\""), ("if-modified-since", "Tue, 15 Nov 1994 12:45:26 GMT")],
            &[("if-modified-since", "Mon, 14 Nov 1994 12:45:26 GMT")],
            &[("if-modified-since", "yesterday")],
        ] {
            let answer = with(&app, fields).await;
            assert_eq!((answer.status, answer.text(), answer.is_hit()), (StatusCode::OK, "hello", true));
        }
        assert_eq!(calls.count(), 1);
    }

    async fn if_match_and_if_unmodified_since_reach_the_handler(kit: Kit) {
        let (app, seen) = scripted(&kit.layer(), vec![(200, vec![FRESH, ETAG], "x"), (412, vec![], "")]);
        with(&app, &[]).await;
        for condition in [("if-match", "\"9\""), ("if-unmodified-since", "Tue, 15 Nov 1994 12:45:26 GMT")] {
            let answer = with(&app, &[condition]).await;
            assert_eq!(answer.status, StatusCode::PRECONDITION_FAILED);
            assert_eq!(answer.cache.forward(), Some(Forward::Request));
            assert_eq!(seen.lock().unwrap().last().unwrap()[condition.0], condition.1);
        }
    }

    async fn a_first_conditional_request_fills_the_cache(kit: Kit) {
        let (app, seen) = scripted(&kit.layer(), vec![(200, vec![FRESH, ETAG], "0123456789")]);
        let first = with(&app, &[("if-none-match", "\"1\"")]).await;
        assert_eq!((first.status, first.body.len()), (StatusCode::NOT_MODIFIED, 0));
        assert_eq!(first.field("cache-status"), "test; fwd=uri-miss; fwd-status=200; stored");
        assert!(!seen.lock().unwrap()[0].contains_key("if-none-match"));
        let range = send(&app, get("/other", &[("range", "bytes=2-3")])).await;
        assert_eq!((range.status, range.text()), (StatusCode::PARTIAL_CONTENT, "23"));
        assert_eq!(range.field("content-range"), "bytes 2-3/10");
        assert!(with(&app, &[]).await.is_hit());
        assert!(send(&app, get("/other", &[])).await.is_hit());
    }

    async fn a_client_with_an_unstorable_response_gets_a_304_too(kit: Kit) {
        let layer = kit.layer();
        let (app, seen) = scripted(&layer, vec![(200, vec![("cache-control", "no-store"), ETAG], "x")]);
        let first = with(&app, &[("if-none-match", "\"1\"")]).await;
        assert_eq!((first.status, first.body.len()), (StatusCode::NOT_MODIFIED, 0));
        assert_eq!(first.field("cache-status"), "test; fwd=uri-miss; fwd-status=200");
        // from now on, the handler gets the conditions, because it may answer them faster
        with(&app, &[("if-none-match", "\"1\""), ("range", "bytes=0-1")]).await;
        let seen = seen.lock().unwrap();
        assert!(seen[1].contains_key("if-none-match") && seen[1].contains_key("range"));
    }

    async fn a_stale_response_is_revalidated_and_freshened(kit: Kit) {
        let layer = kit.layer();
        let freshened = vec![FRESH, ETAG, ("x-new", "1"), ("content-length", "99")];
        let (app, seen) = scripted(&layer, vec![
            (200, vec![STALE, ETAG, MODIFIED, ("x-old", "1"), ("x-new", "0")], "hello"),
            (304, freshened, ""),
        ]);
        with(&app, &[]).await;
        layer.handle().flush().await.unwrap();
        let validated = with(&app, &[("if-none-match", "\"theirs\"")]).await;
        assert_eq!((validated.status, validated.text()), (StatusCode::OK, "hello"));
        assert_eq!(validated.field("cache-status"), "test; fwd=stale; fwd-status=304");
        {
            let seen = seen.lock().unwrap();
            assert_eq!(seen[1]["if-none-match"], "\"1\"");
            assert_eq!(seen[1]["if-modified-since"], MODIFIED.1);
        }
        for _ in 0..2 {
            let hit = with(&app, &[]).await;
            assert!(hit.is_hit());
            assert_eq!(hit.text(), "hello");
            assert_eq!((hit.field("x-old").as_str(), hit.field("x-new").as_str()), ("1", "1"));
            assert_eq!(hit.field("content-length"), "5");
            layer.handle().flush().await.unwrap();
        }
        assert_eq!(seen.lock().unwrap().len(), 2);
    }

    async fn a_client_with_the_revalidated_response_gets_a_304(kit: Kit) {
        let (app, _) = scripted(&kit.layer(), vec![(200, vec![STALE, ETAG], "x"), (304, vec![ETAG], "")]);
        with(&app, &[]).await;
        let answer = with(&app, &[("if-none-match", "\"1\"")]).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_MODIFIED, 0));
    }

    async fn a_changed_response_replaces_the_stale_one(kit: Kit) {
        let (app, _) = scripted(&kit.layer(), vec![
            (200, vec![STALE, ETAG], "old"),
            (200, vec![FRESH, ("etag", "\"2\"")], "new"),
        ]);
        with(&app, &[]).await;
        let answer = with(&app, &[]).await;
        assert_eq!((answer.text(), answer.cache.forward()), ("new", Some(Forward::Stale)));
        let hit = with(&app, &[]).await;
        assert_eq!((hit.text(), hit.is_hit()), ("new", true));
    }

    async fn a_failed_revalidation_keeps_the_stored_response(kit: Kit) {
        let (app, _) = scripted(&kit.layer(), vec![
            (200, vec![STALE, ETAG], "old"),
            (503, vec![], "down"),
            (304, vec![FRESH, ETAG], ""),
        ]);
        with(&app, &[]).await;
        assert_eq!(with(&app, &[]).await.text(), "down");
        assert_eq!(with(&app, &[]).await.text(), "old");
        assert!(with(&app, &[]).await.is_hit());
    }

    async fn a_304_for_another_response_updates_nothing(kit: Kit) {
        let (app, _) = scripted(&kit.layer(), vec![
            (200, vec![STALE, ETAG], "old"),
            (304, vec![FRESH, ("etag", "\"2\"")], ""),
        ]);
        with(&app, &[]).await;
        let answer = with(&app, &[]).await;
        assert_eq!((answer.text(), answer.field("etag").as_str()), ("old", "\"1\""));
        assert!(!with(&app, &[]).await.is_hit(), "nothing made it fresh");
    }

    async fn an_unrequested_304_is_passed_on(kit: Kit) {
        let (app, _) = scripted(&kit.layer(), vec![(304, vec![FRESH, ETAG], "")]);
        for _ in 0..2 {
            let answer = with(&app, &[]).await;
            assert_eq!((answer.status, answer.is_hit()), (StatusCode::NOT_MODIFIED, false));
        }
    }

    async fn a_no_cache_response_is_revalidated_every_time(kit: Kit) {
        let no_cache = ("cache-control", "no-cache, max-age=60");
        let (app, seen) = scripted(&kit.layer(), vec![(200, vec![no_cache, ETAG], "x"), (304, vec![ETAG], "")]);
        for n in 0..4 {
            let answer = with(&app, &[]).await;
            assert_eq!((answer.text(), answer.is_hit()), ("x", false), "{n}");
        }
        assert_eq!(seen.lock().unwrap().len(), 4);
    }

    async fn a_304_with_no_store_ends_the_stored_response(kit: Kit) {
        let layer = kit.layer();
        let (app, _) = scripted(&layer, vec![
            (200, vec![STALE, ETAG], "old"),
            (304, vec![("cache-control", "no-store"), ETAG], ""),
            (200, vec![FRESH], "new"),
        ]);
        with(&app, &[]).await;
        assert_eq!(with(&app, &[]).await.text(), "old");
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            layer.handle().flush().await.unwrap();
            let answer = with(&app, &[]).await;
            assert!(std::time::Instant::now() < deadline);
            if answer.is_hit() {
                assert_eq!(answer.text(), "new");
                break;
            }
        }
    }

    async fn ranges_are_served_from_a_stored_response(kit: Kit) {
        let (app, calls) = cached(&kit.layer(), |_| {
            response(200, &[FRESH, ETAG, ("content-type", "text/plain")], "0123456789")
        });
        with(&app, &[]).await;
        for (range, part, text) in [
            ("bytes=0-0", "bytes 0-0/10", "0"),
            ("bytes=2-4", "bytes 2-4/10", "234"),
            ("bytes=7-", "bytes 7-9/10", "789"),
            ("bytes=-3", "bytes 7-9/10", "789"),
            ("bytes=-99", "bytes 0-9/10", "0123456789"),
            ("bytes=8-99999999999999999999999", "bytes 8-9/10", "89"),
        ] {
            let answer = with(&app, &[("range", range)]).await;
            assert_eq!((answer.status, answer.text()), (StatusCode::PARTIAL_CONTENT, text), "{range}");
            assert_eq!(answer.field("content-range"), part);
            assert_eq!(answer.field("content-length"), text.len().to_string());
            assert_eq!(answer.field("etag"), "\"1\"");
            assert!(answer.is_hit() && !answer.field("age").is_empty());
        }
        let beyond = with(&app, &[("range", "bytes=10-")]).await;
        assert_eq!((beyond.status, beyond.body.len()), (StatusCode::RANGE_NOT_SATISFIABLE, 0));
        assert_eq!(beyond.field("content-range"), "bytes */10");
        for fields in [
            &[("range", "lines=1-2")][..],
            &[("range", "bytes=5-2")],
            &[("range", "bytes=0-1"), ("if-range", "\"2\"")],
            &[("range", "bytes=0-1"), ("if-range", "W/\"1\"")],
            &[("if-range", "\"1\"")],
        ] {
            let whole = with(&app, fields).await;
            assert_eq!((whole.status, whole.text()), (StatusCode::OK, "0123456789"), "{fields:?}");
        }
        let cut = with(&app, &[("range", "bytes=0-1"), ("if-range", "\"1\"")]).await;
        assert_eq!((cut.status, cut.text()), (StatusCode::PARTIAL_CONTENT, "01"));
        let head = send(&app, request("HEAD", "/", &[("range", "bytes=0-1")])).await;
        assert_eq!((head.status, head.field("content-length").as_str()), (StatusCode::OK, "10"));
        assert_eq!(calls.count(), 1);
    }

    async fn several_ranges_are_served_as_multipart(kit: Kit) {
        let (app, _) = cached(&kit.layer(), |_| {
            response(200, &[FRESH, ("content-type", "text/plain")], "0123456789")
        });
        with(&app, &[]).await;
        let answer = with(&app, &[("range", "bytes=0-1, 5-5, -1")]).await;
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(answer.field("content-range"), "");
        let media = answer.field("content-type");
        let boundary = media.strip_prefix("multipart/byteranges; boundary=").unwrap();
        let expected = [("bytes 0-1/10", "01"), ("bytes 5-5/10", "5"), ("bytes 9-9/10", "9")]
            .map(|(range, text)| format!("\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: {range}\r\n\r\n{text}"));
        assert_eq!(answer.text(), format!("{}\r\n--{boundary}--\r\n", expected.concat()));
    }

    async fn a_head_freshens_a_page_or_makes_it_stale(kit: Kit) {
        let agrees = vec![FRESH, ETAG, ("content-length", "5"), ("x-new", "1")];
        let (app, _) = scripted(&kit.layer(), vec![(200, vec![STALE, ETAG], "hello"), (200, agrees, "")]);
        with(&app, &[]).await;
        let head = send(&app, request("HEAD", "/", &[])).await;
        assert!(!head.is_hit());
        let hit = with(&app, &[]).await;
        assert_eq!((hit.is_hit(), hit.text(), hit.field("x-new").as_str()), (true, "hello", "1"));

        let differs = vec![FRESH, ("etag", "\"2\"")];
        let (app, seen) = scripted(&kit.layer(), vec![
            (200, vec![STALE, ETAG], "hello"),
            (200, differs, ""),
            (200, vec![FRESH, ("etag", "\"2\"")], "other"),
        ]);
        send(&app, get("/d", &[])).await;
        send(&app, request("HEAD", "/d", &[])).await;
        let fresh = send(&app, get("/d", &[])).await;
        assert_eq!((fresh.is_hit(), fresh.text()), (false, "other"));
        assert_eq!(seen.lock().unwrap().len(), 3);
    }

    async fn a_head_of_equal_length_does_not_revive_an_invalid_page(kit: Kit) {
        let layer = kit.layer();
        let (app, seen) = scripted(&layer, vec![
            (200, vec![FRESH], "10"),
            (200, vec![FRESH, ("content-length", "2")], ""),
            (200, vec![FRESH], "12"),
        ]);
        with(&app, &[]).await;
        layer.handle().invalidate_uri("/").await.unwrap();
        send(&app, request("HEAD", "/", &[])).await;
        kit.settle(&layer.handle()).await;
        let fresh = with(&app, &[]).await;
        assert_eq!((fresh.is_hit(), fresh.text()), (false, "12"));
        assert_eq!(seen.lock().unwrap().len(), 3);
    }

    async fn a_part_has_no_digest_of_the_whole(kit: Kit) {
        let digest = ("content-digest", "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:");
        let repr = ("repr-digest", digest.1);
        let fields = vec![FRESH, digest, repr];
        let (app, _) = scripted(&kit.layer(), vec![(200, fields, "0123456789")]);
        with(&app, &[]).await;
        for range in ["bytes=0-1", "bytes=0-1,5-6", "bytes=90-"] {
            let part = with(&app, &[("range", range)]).await;
            assert!(part.status == 206 || part.status == 416);
            assert_eq!((part.field("content-digest"), part.field("repr-digest")), (String::new(), repr.1.to_owned()));
        }
        assert_eq!(with(&app, &[]).await.field("content-digest"), digest.1);
    }

    async fn requests_that_cannot_fill_keep_their_conditions(kit: Kit) {
        let (app, seen) = scripted(&kit.layer(), vec![(200, vec![FRESH], "page")]);
        for (name, value) in [("range", "bytes=0-1"), ("if-none-match", "\"1\"")] {
            for credentials in [("cookie", "sid=1"), ("authorization", "Bearer x")] {
                with(&app, &[(name, value), credentials]).await;
                assert!(seen.lock().unwrap().last().unwrap().contains_key(name), "{name}");
            }
        }
    }

    async fn only_if_cached_is_never_forwarded(kit: Kit) {
        let (app, calls) = cached(&kit.layer().with_policy(MINUTE), |_| response(200, &[], "x"));
        let only = [("cache-control", "only-if-cached")];
        let answer = with(&app, &only).await;
        assert_eq!((answer.status, answer.field("cache-status").as_str()), (StatusCode::GATEWAY_TIMEOUT, ""));
        with(&app, &[]).await;
        assert!(with(&app, &only).await.is_hit());
        assert_eq!(calls.count(), 1);
    }

    async fn client_directives_count_only_in_strict_mode(kit: Kit) {
        let safe = kit.layer();
        let strict = safe.try_with_policy(CachePolicy::rfc9111()).unwrap();
        let asking = [("cache-control", "no-cache"), ("cache-control", "max-age=0"), ("pragma", "no-cache"), ("cache-control", "min-fresh=3600")];
        for (layer, uri, obeyed) in [(safe, "/safe", false), (strict, "/strict", true)] {
            let (app, _) = cached(&layer, |_| response(200, &[FRESH], "x"));
            for field in asking {
                send(&app, get(uri, &[])).await;
                let answer = send(&app, get(uri, &[field])).await;
                assert_eq!(answer.cache.forward(), obeyed.then_some(Forward::Request), "{field:?}");
            }
        }
    }

    async fn strict_mode_stores_what_the_standard_allows(kit: Kit) {
        let layer = kit.layer().with_policy(CachePolicy::rfc9111());
        let cases: [(&[(&str, &str)], &[(&str, &str)], bool); 7] = [
            (&[FRESH, ("set-cookie", "a=b")], &[], true),
            (&[FRESH], &[("cookie", "sid=1")], true),
            (&[MODIFIED], &[], true),
            (&[], &[], false),
            (&[("cache-control", "max-age=60, must-revalidate")], &[("authorization", "x")], true),
            (&[FRESH], &[("authorization", "x")], false),
            (&[FRESH], &[("cache-control", "no-store")], false),
        ];
        for (i, (fields, asked, stored)) in cases.into_iter().enumerate() {
            let (app, _) = cached(&layer, move |_| response(200, fields, "x"));
            let uri = format!("/{i}");
            send(&app, get(&uri, asked)).await;
            let again = send(&app, get(&uri, &[])).await;
            assert_eq!(again.is_hit(), stored, "{fields:?} {asked:?}");
        }
        let (app, _) = cached(&layer, |_| response(200, &[FRESH, ("set-cookie", "a=b"), ("set-cookie", "c=d")], "x"));
        send(&app, get("/cookies", &[])).await;
        assert_eq!(send(&app, get("/cookies", &[])).await.field("set-cookie"), "a=b | c=d");
    }

    async fn max_stale_is_obeyed_in_strict_mode(kit: Kit) {
        let layer = kit.layer().with_policy(CachePolicy::rfc9111());
        let (app, _) = cached(&layer, |_| response(200, &[STALE, ETAG], "x"));
        with(&app, &[]).await;
        assert!(with(&app, &[("cache-control", "max-stale=60")]).await.is_hit());
        let strict = [("cache-control", "max-age=0, must-revalidate"), ETAG];
        let (app, _) = cached(&layer, move |_| response(200, &strict, "x"));
        send(&app, get("/must", &[])).await;
        assert!(!send(&app, get("/must", &[("cache-control", "max-stale")])).await.is_hit());
    }

    async fn a_listed_targeted_field_overrides_cache_control(kit: Kit) {
        let safe = kit.layer();
        let strict = safe.with_policy(CachePolicy::rfc9111());
        let cases: [(&CacheLayer<BoxStore>, &[(&str, &str)], bool); 8] = [
            (&safe, &[("tower-mysql-cache-control", "max-age=60"), ("cache-control", "no-store")], true),
            (&safe, &[("tower-mysql-cache-control", "no-store"), FRESH], false),
            (&safe, &[("tower-mysql-cache-control", "max-age=0"), FRESH], false),
            (&safe, &[("tower-mysql-cache-control", "max-age=60, &"), ("cache-control", "no-store")], false),
            (&safe, &[("cdn-cache-control", "max-age=60"), ("cache-control", "no-store")], false),
            (&strict, &[("cdn-cache-control", "max-age=60"), ("cache-control", "no-store"), ("expires", "0")], true),
            (&strict, &[("cdn-cache-control", "private"), FRESH], false),
            (&strict, &[("tower-mysql-cache-control", "max-age=60"), ("cdn-cache-control", "no-store")], true),
        ];
        for (i, (layer, fields, stored)) in cases.into_iter().enumerate() {
            let (app, _) = cached(layer, move |_| response(200, fields, "x"));
            let uri = format!("/{i}");
            let first = send(&app, get(&uri, &[])).await;
            let again = send(&app, get(&uri, &[])).await;
            assert_eq!(again.is_hit(), stored, "{fields:?}");
            for answer in [first, again] {
                assert_eq!(answer.field("tower-mysql-cache-control"), "");
                let cdn = fields.iter().find(|(name, _)| *name == "cdn-cache-control");
                assert_eq!(answer.field("cdn-cache-control"), cdn.map_or("", |(_, value)| value));
            }
        }
    }

    async fn a_post_with_content_location_answers_later_gets(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let cases: [(&[(&str, &str)], bool); 5] = [
            (&[FRESH, ("content-location", "/p?x=1")], true),
            (&[FRESH, ("content-location", "http://h/p?x=1")], true),
            (&[FRESH, ("content-location", "/other")], false),
            (&[FRESH], false),
            (&[("content-location", "/p?x=1")], false),
        ];
        let host = ("host", "h");
        for (fields, stored) in cases {
            let (app, calls) = cached(&layer, move |request| match request.method().as_str() {
                "POST" => response(200, fields, "posted"),
                _ => response(200, &[], "got"),
            });
            assert!(!send(&app, get("/p?x=1", &[host])).await.is_hit(), "{fields:?}");
            let posted = send(&app, request("POST", "/p?x=1", &[host])).await;
            assert_eq!((posted.text(), posted.cache.forward()), ("posted", Some(Forward::Method)));
            assert_eq!(posted.cache.is_stored(), stored);
            let after = send(&app, get("/p?x=1", &[host])).await;
            assert_eq!((after.is_hit(), after.text()), (stored, if stored { "posted" } else { "got" }));
            assert!(!send(&app, request("POST", "/p?x=1", &[host])).await.is_hit());
            assert_eq!(calls.count(), if stored { 3 } else { 4 });
            layer.handle().invalidate_all().await.unwrap();
        }
    }

    async fn a_post_is_not_stored_without_a_key_or_with_a_custom_key(kit: Kit) {
        for own in [false, true] {
            let layer = kit.layer().with_policy(MINUTE).key_builder(
                move |request: &http::request::Parts, default: TargetKey| {
                    let own = own.then(|| TargetKey::custom("of the application"));
                    if request.method == "POST" { own } else { Some(default) }
                },
            );
            let (app, _) = cached(&layer, |request| match request.method().as_str() {
                "POST" => response(200, &[FRESH, ("content-location", "/p")], "hers"),
                _ => response(200, &[], "everyone's"),
            });
            let posted = send(&app, request("POST", "/p", &[("host", "h")])).await;
            assert!(!posted.cache.is_stored());
            assert_eq!(send(&app, get("/p", &[("host", "h")])).await.text(), "everyone's");
            layer.handle().invalidate_all().await.unwrap();
        }
    }

    async fn a_policys_lifetime_starts_again_with_a_304(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let confirmed = vec![ETAG, ("age", "3000")];
        let (app, _) = scripted(&layer, vec![(200, vec![ETAG], "hello"), (304, confirmed, "")]);
        with(&app, &[]).await;
        layer.handle().flush().await.unwrap();
        layer.handle().invalidate(Invalidation::all().soft()).await.unwrap();
        let confirmed = with(&app, &[]).await;
        assert_eq!((confirmed.is_hit(), confirmed.text()), (false, "hello"));
        layer.handle().flush().await.unwrap();
        assert!(with(&app, &[]).await.is_hit());
    }

    async fn an_invalidation_during_a_revalidation_is_not_undone(kit: Kit) {
        let layer = kit.layer();
        let handle = layer.handle();
        let app = layer.layer(tower::service_fn(move |request: Request<()>| {
            let handle = handle.clone();
            async move {
                if !request.headers().contains_key("if-none-match") {
                    return Ok::<_, std::convert::Infallible>(response(200, &[STALE, ETAG], "old"));
                }
                handle.invalidate_uri("/").await.unwrap();
                Ok(response(304, &[FRESH, ETAG], ""))
            }
        }));
        with(&app, &[]).await;
        assert_eq!(with(&app, &[]).await.text(), "old");
        let after = with(&app, &[]).await;
        // the response freshened before the invalidation is not served, only revalidated again
        assert_eq!(after.cache.forward(), Some(Forward::Stale));
        assert_eq!(after.cache.reason().map(|reason| reason.as_str()), Some("invalidated"));
    }

    async fn a_304_without_a_validator_updates_no_response_with_one(kit: Kit) {
        for (script, updates) in [
            (vec![(200, vec![STALE, ETAG], "x"), (304, vec![FRESH], "")], false),
            (vec![(200, vec![STALE, MODIFIED], "x"), (304, vec![FRESH, MODIFIED], "")], true),
            (vec![(200, vec![STALE, ("etag", "W/\"1\"")], "x"), (304, vec![FRESH, ("etag", "W/\"1\"")], "")], true),
            (vec![(200, vec![STALE, ("etag", "W/\"1\"")], "x"), (304, vec![FRESH, ETAG], "")], false),
        ] {
            let layer = kit.layer();
            let (app, _) = scripted(&layer, script);
            with(&app, &[]).await;
            assert_eq!(with(&app, &[]).await.text(), "x");
            assert_eq!(with(&app, &[]).await.is_hit(), updates);
            layer.handle().invalidate_all().await.unwrap();
        }
    }

    async fn cookies_of_a_304_are_not_stored_in_either_mode(kit: Kit) {
        for (version, policy) in [(1, CachePolicy::new()), (2, CachePolicy::rfc9111())] {
            let layer = kit.layer().version(version).with_policy(policy);
            let (app, _) = scripted(&layer, vec![
                (200, vec![FRESH, ETAG, ("age", "70")], "x"),
                (304, vec![FRESH, ETAG, ("set-cookie", "sid=1")], ""),
            ]);
            with(&app, &[]).await;
            assert_eq!(with(&app, &[]).await.field("set-cookie"), "sid=1");
            let hit = with(&app, &[]).await;
            assert_eq!((hit.is_hit(), hit.field("set-cookie").as_str()), (true, ""));
        }
    }

    async fn a_field_of_a_304_that_is_private_is_not_stored(kit: Kit) {
        let targeted = ("tower-mysql-cache-control", r#"max-age=60, private="x-user""#);
        let (app, _) = scripted(&kit.layer(), vec![
            (200, vec![("tower-mysql-cache-control", r#"max-age=0, private="x-user""#), ETAG, ("x-user", "ann")], "x"),
            (304, vec![targeted, ETAG, ("x-user", "bob")], ""),
        ]);
        with(&app, &[]).await;
        with(&app, &[]).await;
        let hit = with(&app, &[]).await;
        assert_eq!((hit.is_hit(), hit.field("x-user").as_str()), (true, ""));
    }

    async fn a_dictionary_coded_response_needs_vary(kit: Kit) {
        for (i, (vary, stored)) in [("accept-encoding", false), ("accept-encoding, available-dictionary", true)].into_iter().enumerate() {
            let fields = [FRESH, ("content-encoding", "dcb"), ("vary", vary)];
            let (app, _) = cached(&kit.layer(), move |_| response(200, &fields, "x"));
            let uri = format!("/{i}");
            send(&app, get(&uri, &[])).await;
            assert_eq!(send(&app, get(&uri, &[])).await.is_hit(), stored);
        }
    }
}

/// Damages the body in the table, so that a response whose body is read is no hit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_is_read_only_if_it_is_needed() {
    let database = support::database().await;
    let store = MySqlStore::connect(database.url()).await.unwrap();
    store.migrate().await.unwrap();
    let layer = CacheLayer::new(BoxStore::new(store)).prefix("test").with_policy(MINUTE);
    let body: String =
        (0..200_000_u32).map(|n| char::from((n.wrapping_mul(2_654_435_761) >> 25) as u8)).collect();
    let length = body.len().to_string();
    let (app, calls) = cached(&layer, move |_| response(200, &[FRESH, ETAG, MODIFIED], &body));
    with(&app, &[]).await;
    layer.handle().flush().await.unwrap();
    let whole = with(&app, &[]).await;
    assert!(whole.is_hit());
    let mut connection = database.connection().await;
    let damage = "UPDATE cache_entries SET value = CONCAT('?', SUBSTRING(value, 2))";
    sqlx::query(damage).execute(&mut connection).await.unwrap();
    for condition in
        [("if-none-match", "\"1\""), ("if-modified-since", "Tue, 15 Nov 1994 12:45:26 GMT")]
    {
        let answer = with(&app, &[condition]).await;
        assert_eq!((answer.status, answer.is_hit()), (StatusCode::NOT_MODIFIED, true));
        assert_eq!((answer.field("etag"), answer.body.len()), ("\"1\"".to_owned(), 0));
        assert_eq!(answer.field("content-length"), "");
    }
    let head = send(&app, request("HEAD", "/", &[])).await;
    assert!(head.is_hit() && head.body.is_empty());
    assert_eq!(head.field("content-length"), length);
    for name in ["etag", "last-modified", "cache-control", "cache-status"] {
        let [head, whole] = [&head, &whole].map(|answer| answer.field(name));
        assert_eq!(head.split(';').next(), whole.split(';').next(), "{name}");
    }
    assert_eq!(calls.count(), 1);
    // a condition that does not hold needs the body, so the damage is noticed
    let answer = with(&app, &[("if-none-match", "\"2\"")]).await;
    assert_eq!((answer.status, answer.is_hit()), (StatusCode::OK, false));
    layer.handle().flush().await.unwrap();
    let answer = with(&app, &[("if-none-match", "\"2\"")]).await;
    assert!(answer.is_hit() && answer.body == whole.body, "it has been mended");
    // an invalid response is not served, with or without its body
    layer.handle().invalidate_uri("/").await.unwrap();
    assert!(!send(&app, request("HEAD", "/", &[])).await.is_hit());
    layer.handle().invalidate_uri("/").await.unwrap();
    assert!(!with(&app, &[("if-none-match", "\"1\"")]).await.is_hit());
}
