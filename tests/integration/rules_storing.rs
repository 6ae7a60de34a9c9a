//! Which responses are stored, seen from outside, with inputs that are easily misread.

use std::time::Duration;

use http::StatusCode;
use tower::Layer;
use tower_mysql_cache::CachePolicy;
use tower_mysql_cache::status::Forward;

use crate::kit::{Kit, cached, get, on_every_store, request, response, scripted, send};

const FRESH: (&str, &str) = ("cache-control", "max-age=60");
const ETAG: (&str, &str) = ("etag", "\"1\"");

on_every_store! {
    // RFC 9111 5.2.2.3
    async fn must_understand_stores_only_known_statuses(kit: Kit) {
        let cases = [
            (200, "must-understand, no-store, max-age=60", None),
            (404, "No-Store,max-age=60,\tMUST-UNDERSTAND", None),
            (299, "must-understand, max-age=60", Some("must-understand")),
            (599, "must-understand, no-store, max-age=60", Some("must-understand")),
            // with an argument, it is not the directive that overrides no-store
            (200, "must-understand=1, no-store, max-age=60", Some("no-store")),
            (200, "x=\"must-understand\", no-store, max-age=60", Some("no-store")),
        ];
        for (i, (status, value, reason)) in cases.into_iter().enumerate() {
            let (app, calls) = cached(&kit.layer(), move |_| response(status, &[("cache-control", value)], "x"));
            let uri = format!("/{i}");
            assert_eq!(send(&app, get(&uri, &[])).await.reason(), reason, "{status} {value}");
            assert_eq!(send(&app, get(&uri, &[])).await.is_hit(), reason.is_none(), "{status} {value}");
            assert_eq!(calls.count(), if reason.is_none() { 1 } else { 2 });
        }
    }

    // RFC 9111 4: a stored response that is still fresh is used further
    async fn a_no_store_response_keeps_a_fresh_stored_one(kit: Kit) {
        let layer = kit.layer().with_policy(CachePolicy::rfc9111());
        let (app, seen) = scripted(&layer, vec![
            (200, vec![FRESH, ETAG], "old"),
            (200, vec![("cache-control", "no-store")], "mine"),
        ]);
        send(&app, get("/", &[])).await;
        let past = send(&app, get("/", &[("cache-control", "no-cache")])).await;
        assert_eq!((past.text(), past.cache().forward()), ("mine", Some(Forward::Request)));
        assert_eq!(past.reason(), Some("no-store"));
        kit.settle(&layer.handle()).await;
        let after = send(&app, get("/", &[])).await;
        assert_eq!((after.is_hit(), after.text()), (true, "old"));
        assert_eq!(seen.count(), 2);

        // in safe mode, a client with a session bypasses the cache
        let (app, _) = cached(&kit.layer(), |request| match request.headers().contains_key("authorization") {
            true => response(200, &[("cache-control", "no-store")], "mine"),
            false => response(200, &[FRESH], "ours"),
        });
        send(&app, get("/safe", &[])).await;
        assert_eq!(send(&app, get("/safe", &[("authorization", "x")])).await.text(), "mine");
        let after = send(&app, get("/safe", &[])).await;
        assert_eq!((after.is_hit(), after.text()), (true, "ours"));
    }

    // RFC 9110 7.6.1, RFC 9111 3.1: several lines, unusual lists, upper case
    async fn fields_for_decisions_are_kept_despite_connection(kit: Kit) {
        let fields = [
            ("connection", "cache-control, vary, x-hop"),
            ("cache-control", "max-age=60, must-revalidate"),
            ("vary", "x-a"),
            ("x-hop", "1"),
        ];
        let (app, calls) = cached(&kit.layer(), move |_| response(200, &fields, "x"));
        send(&app, get("/", &[("x-a", "1")])).await;
        kit.settle(&kit.layer().handle()).await;
        let hit = send(&app, get("/", &[("x-a", "1")])).await;
        assert!(hit.is_hit());
        assert_eq!(hit.field("cache-control"), "max-age=60, must-revalidate");
        assert_eq!((hit.field("vary").as_str(), hit.field("x-hop").as_str()), ("x-a", ""));
        assert!(!send(&app, get("/", &[("x-a", "2")])).await.is_hit());
        assert_eq!(calls.count(), 2);
    }

    async fn fields_of_one_connection_are_not_stored(kit: Kit) {
        const ONE_HOP: [(&str, &str); 14] = [
            ("connection", "close, X-One ,,\t"),
            ("connection", ",x-two"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-two", "2 again"),
            ("keep-alive", "timeout=5, max=9"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers, deflate;q=0.5"),
            ("upgrade", "h2c, websocket"),
            ("trailer", "x-later"),
            ("proxy-authenticate", "Basic realm=\"a, b\""),
            ("proxy-authenticate", "Digest realm=\"c\""),
            ("proxy-authentication-info", "a=b"),
            ("proxy-authorization", "Basic Og=="),
        ];
        let kept = [FRESH, ("x-three", "close"), ("x-kept", "a, b"), ("x-kept", "\"c, d\"")];
        let fields = [&ONE_HOP[..], &kept].concat();
        let (app, _) = cached(&kit.layer(), move |_| response(200, &fields, "x"));
        send(&app, get("/", &[])).await;
        kit.settle(&kit.layer().handle()).await;
        for method in ["GET", "HEAD"] {
            let hit = send(&app, request(method, "/", &[])).await;
            assert!(hit.is_hit());
            for (name, _) in ONE_HOP {
                assert!(!hit.headers.contains_key(name), "{name} is replayed");
            }
            assert!(!hit.headers.contains_key("transfer-encoding"));
            assert_eq!((hit.field("x-three").as_str(), hit.field("x-kept").as_str()), ("close", "a, b | \"c, d\""));
        }
    }

    // RFC 9209 2: an application is an origin, and an origin does not send this field
    async fn no_proxy_status_is_ever_sent(kit: Kit) {
        let strict = kit.layer().with_policy(CachePolicy::rfc9111());
        let (app, _) = cached(&strict, |request| match request.uri().path() {
            "/error" => response(503, &[], "x"),
            "/own" => response(200, &[FRESH, ("proxy-status", "upstream; error=timeout")], "x"),
            _ => response(200, &[FRESH, ETAG], "0123456789"),
        });
        let cases: [(&str, &str, &[(&str, &str)], u16); 11] = [
            ("GET", "/", &[], 200),
            ("GET", "/", &[], 200),
            ("HEAD", "/", &[], 200),
            ("GET", "/", &[("if-none-match", "\"1\"")], 304),
            ("GET", "/", &[("range", "bytes=0-1")], 206),
            ("GET", "/", &[("range", "bytes=0-1, 4-5")], 206),
            ("GET", "/", &[("range", "bytes=99-")], 416),
            ("GET", "/", &[("cache-control", "no-cache")], 200),
            ("GET", "/new", &[("cache-control", "only-if-cached")], 504),
            ("GET", "/error", &[], 503),
            ("POST", "/", &[], 200),
        ];
        for (method, uri, fields, status) in cases {
            let answer = send(&app, request(method, uri, fields)).await;
            assert_eq!(answer.status.as_u16(), status, "{method} {uri} {fields:?}");
            assert!(!answer.headers.contains_key("proxy-status"), "{method} {uri} {fields:?}");
        }
        // a field that the handler itself sends is passed on
        for _ in 0..2 {
            let own = send(&app, get("/own", &[])).await;
            assert_eq!(own.field("proxy-status"), "upstream; error=timeout");
        }
    }

    // RFC 9111 5.5
    async fn no_warning_field_is_added(kit: Kit) {
        let layer = kit.layer().with_policy(CachePolicy::rfc9111());
        let old = [("cache-control", "max-age=40"), ("age", "100"), ETAG];
        let (app, _) = cached(&layer, move |_| response(200, &old, "x"));
        send(&app, get("/", &[])).await;
        let stale = send(&app, get("/", &[("cache-control", "max-stale")])).await;
        assert!(stale.is_hit() && !stale.headers.contains_key("warning"));
        let modified = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
        let (app, _) = cached(&layer, move |_| response(200, &[modified], "x"));
        send(&app, get("/heuristic", &[])).await;
        let heuristic = send(&app, get("/heuristic", &[])).await;
        assert!(heuristic.is_hit() && !heuristic.headers.contains_key("warning"));
    }

    // RFC 9213 2.1
    async fn a_targeted_value_of_another_type_is_not_coerced(kit: Kit) {
        let cases = [
            ("max-age=\"60\"", Some("no-freshness")),
            ("max-age=60.0", Some("no-freshness")),
            ("max-age=?1", Some("no-freshness")),
            ("max-age=(60)", Some("no-freshness")),
            ("max-age=60, max-age=\"60\"", Some("no-freshness")),
            ("max-age=\"60\", max-age=60", None),
            ("max-age=60, no-store=?0", None),
            ("max-age=60;no-store", None),
            ("max-age=60, no-store=?0, no-store", Some("no-store")),
            // these are invalid, so Cache-Control counts
            ("Max-Age=0", None),
            ("max-age=0,", None),
            ("max-age=0; =", None),
            ("max-age=01234567890123456", None),
        ];
        for (i, (value, reason)) in cases.into_iter().enumerate() {
            let fields = [("tower-mysql-cache-control", value), FRESH];
            let (app, _) = cached(&kit.layer(), move |_| response(200, &fields, "x"));
            let uri = format!("/{i}");
            assert_eq!(send(&app, get(&uri, &[])).await.reason(), reason, "{value}");
            assert_eq!(send(&app, get(&uri, &[])).await.is_hit(), reason.is_none(), "{value}");
        }
    }

    // RFC 9111 5.2.3
    async fn unknown_directives_change_nothing(kit: Kit) {
        let layer = kit.layer();
        let value = "community=\"UCI, no-store\", max-age=60, x-private, no-storee, foo=, =bar, \"\", private-x=1";
        let (app, calls) = cached(&layer, move |_| response(200, &[("cache-control", value)], "x"));
        send(&app, get("/", &[])).await;
        kit.settle(&layer.handle()).await;
        let strict = kit.layer().with_policy(CachePolicy::rfc9111());
        let (strict, _) = cached(&strict, |_| response(500, &[], ""));
        for asked in ["no-cachee, foo=\"no-cache, max-age=0\"", "x-no-store", "max-agee=0", ",,;"] {
            assert!(send(&app, get("/", &[("cache-control", asked)])).await.is_hit(), "{asked}");
            let answer = send(&strict, get("/", &[("cache-control", asked)])).await;
            assert!(answer.is_hit(), "{asked}: {:?}", answer.cache());
        }
        assert_eq!(calls.count(), 1);
    }
}

// RFC 9111 3: 1,000 lines of a field, and a field of many kilobytes
#[tokio::test]
async fn very_many_and_very_long_fields_are_read_back_unchanged() {
    let kit = Kit::mysql().await;
    let layer = kit.layer();
    let app = layer.layer(tower::service_fn(|_: http::Request<()>| async {
        let mut answer = response(200, &[FRESH], "x");
        for n in 0..1_000 {
            let value = http::HeaderValue::from_str(&format!("<{n}>, \"a, {n}\"")).unwrap();
            answer.headers_mut().append("link", value);
        }
        let long = http::HeaderValue::from_bytes(&[0xe9; 60_000]).unwrap();
        answer.headers_mut().append("x-long", long);
        Ok::<_, std::convert::Infallible>(answer)
    }));
    let first = send(&app, get("/", &[])).await;
    assert_eq!(first.status, StatusCode::OK);
    tokio::time::timeout(Duration::from_secs(20), layer.handle().flush()).await.unwrap().unwrap();
    let hit = send(&app, get("/", &[])).await;
    assert!(hit.is_hit());
    let lines: Vec<_> = hit.headers.get_all("link").iter().collect();
    assert_eq!(lines, first.headers.get_all("link").iter().collect::<Vec<_>>());
    assert_eq!(hit.headers["x-long"].len(), 60_000);
}
