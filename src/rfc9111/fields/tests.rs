use http::header::{CONTENT_TYPE, ETAG, EXPIRES, LAST_MODIFIED, SET_COOKIE};

use super::super::testing::{NOW_MS, at, headers};
use super::*;

fn stored(fields: &[(&str, &str)]) -> HeaderMap {
    let headers = headers(fields);
    stored_fields(&headers, &ResponseDirectives::parse(&headers), NOW_MS)
}

fn updated(before: &[(&str, &str)], from_304: &[(&str, &str)]) -> HeaderMap {
    let (stored, from_304) = (stored(before), headers(from_304));
    let says = if from_304.contains_key("cache-control") { &from_304 } else { &stored };
    let directives = ResponseDirectives::parse(says);
    update_fields(&stored, &from_304, &directives, NOW_MS + 60_000)
}

fn values(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> Vec<&[u8]> {
    headers.get_all(name).into_iter().map(http::HeaderValue::as_bytes).collect()
}

// RFC 9111 3.1
#[test]
fn every_field_is_stored_in_order_and_repeats_stay_lines() {
    let fields = stored(&[
        ("x-unknown", "1"),
        ("set-cookie", "a=1; Path=/"),
        ("content-type", "text/plain"),
        ("set-cookie", "b=2, 3"),
        ("x-unknown", "2, 3"),
        ("x-latin", "caf\u{e9}"),
        ("cache-status", "upstream; hit"),
        ("warning", "110 - stale"),
    ]);
    assert_eq!(values(&fields, SET_COOKIE), [&b"a=1; Path=/"[..], b"b=2, 3"]);
    assert_eq!(values(&fields, "x-unknown"), [&b"1"[..], b"2, 3"]);
    assert_eq!(values(&fields, "x-latin"), ["caf\u{e9}".as_bytes()]);
    assert!(fields.contains_key("cache-status") && fields.contains_key("warning"));
}

// RFC 9110 7.6.1
#[test]
fn connection_and_what_it_names_are_not_stored() {
    let fields = stored(&[
        ("connection", "X-Hop, close"),
        ("connection", ", \"x, x-other ,not a name"),
        ("x-hop", "1"),
        ("X-Other", "2"),
        ("x-kept", "3"),
    ]);
    for name in ["connection", "x-hop", "x-other"] {
        assert!(!fields.contains_key(name), "{name}");
    }
    assert!(fields.contains_key("x-kept"));
}

// RFC 9110 7.6.1: they are for all recipients, and are never to be named
#[test]
fn connection_takes_away_nothing_that_the_cache_decides_by() {
    let decisive = [
        "cache-control",
        "CDN-Cache-Control",
        "Expires",
        "Vary",
        "Date",
        "ETag",
        "Last-Modified",
        "Content-Type",
        "Content-Encoding",
        "No-Vary-Search",
        "Cache-Groups",
        "Pragma",
    ];
    let all = decisive.join(", ");
    let named = [("connection", all.as_str()), ("Connection", "close"), ("connection", "x-hop")];
    let fields: Vec<_> = decisive.iter().map(|name| (*name, "x")).chain([("x-hop", "1")]).collect();
    let fields = stored(&[&named[..], &fields].concat());
    for name in decisive {
        assert!(fields.contains_key(name), "{name}");
    }
    assert!(!fields.contains_key("x-hop") && !fields.contains_key("connection"));
}

// RFC 9111 3.1
#[test]
fn fields_of_a_single_connection_are_not_stored() {
    for name in ["Keep-Alive", "Proxy-Connection", "TE", "Transfer-Encoding", "Upgrade", "Trailer"]
    {
        assert!(!stored(&[(name, "x")]).contains_key(name), "{name}");
    }
}

// RFC 9111 3.1
#[test]
fn fields_of_a_proxy_are_not_stored() {
    for name in ["Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization"] {
        assert!(!stored(&[(name, "x")]).contains_key(name), "{name}");
    }
}

// RFC 9111 5.1
#[test]
fn age_and_content_length_are_computed_for_each_hit() {
    let fields = stored(&[("age", "5"), ("content-length", "7")]);
    assert!(!fields.contains_key(AGE) && !fields.contains_key(CONTENT_LENGTH));
}

// RFC 9111 5.2.2.4, 5.2.2.7
#[test]
fn fields_that_private_or_no_cache_name_are_not_stored() {
    let fields = stored(&[
        ("cache-control", "max-age=60, private=\"set-cookie, x-user\", no-cache=x-token"),
        ("set-cookie", "a=1"),
        ("x-user", "7"),
        ("x-token", "secret"),
        ("x-kept", "3"),
    ]);
    for name in ["set-cookie", "x-user", "x-token"] {
        assert!(!fields.contains_key(name), "{name}");
    }
    assert!(fields.contains_key("x-kept") && fields.contains_key(http::header::CACHE_CONTROL));
}

// RFC 9110 6.6.1
#[test]
fn a_response_without_date_gets_the_time_of_receipt() {
    assert_eq!(values(&stored(&[]), DATE), [at(0).as_bytes()]);
    assert_eq!(values(&stored(&[("date", "soon")]), DATE), [at(0).as_bytes()]);
    assert_eq!(values(&stored(&[("date", &at(-9)), ("date", &at(-8))]), DATE), [at(0).as_bytes()]);
}

// RFC 9111 4.2.3
#[test]
fn a_date_and_an_expires_are_stored_as_they_are() {
    let rfc_850 = "Sunday, 06-Nov-94 08:49:37 GMT";
    let fields = stored(&[("date", rfc_850), ("expires", "0")]);
    assert_eq!(values(&fields, DATE), [rfc_850.as_bytes()]);
    assert_eq!(values(&fields, EXPIRES), [b"0"]);
}

// RFC 9111 5.5
#[test]
fn no_warning_is_made() {
    assert!(!stored(&[("date", "invalid")]).contains_key("warning"));
}

// RFC 9111 3.2
#[test]
fn a_304_replaces_what_it_carries_and_keeps_the_rest() {
    let fields = updated(
        &[
            ("etag", "\"a\""),
            ("cache-control", "max-age=1"),
            ("x-list", "1"),
            ("x-list", "2"),
            ("last-modified", &at(-500)),
            ("content-type", "text/plain"),
        ],
        &[
            ("cache-control", "max-age=3600"),
            ("x-list", "3"),
            ("x-new", "4"),
            ("content-type", "a/b"),
        ],
    );
    assert_eq!(values(&fields, http::header::CACHE_CONTROL), [b"max-age=3600"]);
    assert_eq!(values(&fields, "x-list"), [b"3"]);
    assert_eq!(values(&fields, "x-new"), [b"4"]);
    assert_eq!(values(&fields, ETAG), [b"\"a\""]);
    assert_eq!(values(&fields, CONTENT_TYPE), [b"a/b"]);
    assert_eq!(values(&fields, LAST_MODIFIED), [at(-500).as_bytes()]);
    // without a date of its own it was made when it came
    assert_eq!(values(&fields, DATE), [at(60).as_bytes()]);
}

// RFC 9111 3.2
#[test]
fn a_304_touches_neither_length_nor_coding_nor_what_is_never_stored() {
    let fields = updated(
        &[("content-encoding", "br")],
        &[
            ("content-length", "0"),
            ("content-encoding", "gzip"),
            ("content-range", "bytes 0-0/1"),
            ("transfer-encoding", "chunked"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("age", "9"),
            ("keep-alive", "timeout=5"),
        ],
    );
    assert_eq!(values(&fields, CONTENT_ENCODING), [b"br"]);
    for name in
        ["content-length", "content-range", "transfer-encoding", "x-hop", "age", "keep-alive"]
    {
        assert!(!fields.contains_key(name), "{name}");
    }
}

// RFC 9111 3.2
#[test]
fn more_fields_than_a_map_can_hold_make_a_response_that_is_never_reused() {
    let many = |start: usize, count: usize| -> HeaderMap {
        let name = |n: usize| HeaderName::try_from(format!("x-{n}")).unwrap();
        (start..start + count).map(|n| (name(n), http::HeaderValue::from_static("1"))).collect()
    };
    let directives = ResponseDirectives::default();
    let never = |fields: &HeaderMap| values(fields, VARY) == [b"*"];
    // each holds as many names as there may be, without a date
    let full = stored_fields(&many(0, 24_576), &directives, NOW_MS);
    assert!(never(&full));
    assert!(never(&update_fields(&many(0, 20_000), &many(20_000, 20_000), &directives, NOW_MS)));
    assert!(never(&update_fields(&full, &many(30_000, 24_576), &directives, NOW_MS)));
    let some = update_fields(&many(0, 10_000), &many(10_000, 10_000), &directives, NOW_MS);
    assert!(!never(&some) && some.keys_len() == 20_001);
    // lines of one name are not counted
    let mut lines = HeaderMap::new();
    for _ in 0..40_000 {
        lines.append("x-a", http::HeaderValue::from_static("1"));
    }
    assert_eq!(update_fields(&lines, &many(0, 1), &directives, NOW_MS).len(), 40_002);
}

// RFC 9111 3.1, 3.2
#[test]
fn a_304_neither_brings_nor_leaves_what_private_names() {
    let before = [("cache-control", "private=\"x-user\", max-age=60")];
    assert!(!updated(&before, &[("x-user", "7")]).contains_key("x-user"));
    let later = [("cache-control", "private=\"x-user\", max-age=60")];
    assert!(!updated(&[("x-user", "7")], &later).contains_key("x-user"));
    assert!(
        updated(&before, &[("cache-control", "max-age=60"), ("x-user", "7")])
            .contains_key("x-user")
    );
}
