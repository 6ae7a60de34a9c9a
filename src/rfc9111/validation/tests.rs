use http::{HeaderValue, StatusCode};
use proptest::prelude::*;

use super::super::testing::{NOW_MS, at, field_bytes, head, headers};
use super::*;

fn ask(stored: &[(&str, &str)], request: &[(&str, &str)]) -> Precondition {
    evaluate(&headers(request), &head(stored), NOW_MS)
}

/// Whether the client has it already.
fn has(stored: &[(&str, &str)], request: &[(&str, &str)]) -> bool {
    match ask(stored, request) {
        Precondition::NotModified => true,
        Precondition::None => false,
        Precondition::Forward => panic!("forwarded"),
    }
}

// RFC 9110 13.1.2
#[test]
fn if_none_match_compares_weakly() {
    for (stored, asked, matching) in [
        ("\"a\"", "\"a\"", true),
        ("W/\"a\"", "\"a\"", true),
        ("\"a\"", "W/\"a\"", true),
        ("W/\"a\"", "W/\"a\"", true),
        ("\"a\"", "\"b\"", false),
        ("\"a\"", "\"A\"", false),
        ("\"\"", "\"\"", true),
        ("\"a,b\"", "\"a,b\"", true),
        ("\"a\"", "a", false),
        ("a", "a", false),
        ("a", "\"a\"", false),
        ("\"a\"", "w/\"a\"", false),
        ("\"a\"", "\"a", false),
        ("\"a\"", "\"a\"b", false),
        ("\"a\"", "", false),
        ("\"a b\"", "\"a b\"", false),
        ("\"caf\u{e9}\"", "\"caf\u{e9}\"", true),
    ] {
        let found = has(&[("etag", stored)], &[("if-none-match", asked)]);
        assert_eq!(found, matching, "{stored} {asked}");
    }
}

// RFC 9110 13.1.2
#[test]
fn if_none_match_is_a_list_or_a_star() {
    let stored = [("etag", "\"b\"")];
    for (asked, matching) in [
        ("\"a\", \"b\"", true),
        ("\"b\", \"a\"", true),
        ("\"a\",W/\"b\" ,\"c\"", true),
        (",, \"b\",", true),
        ("\"a\", \"c\"", false),
        ("\"a, \"b\"", true), // a tag without an end is passed over
        ("junk, \"b\"", true),
        ("\"a,\"b\",\"", false),
        ("*", true),
        (" * ", true),
        ("\"*\"", false),
        ("*, \"a\"", false),
    ] {
        assert_eq!(has(&stored, &[("if-none-match", asked)]), matching, "{asked}");
    }
    assert!(has(&stored, &[("if-none-match", "\"a\""), ("if-none-match", "\"b\"")]));
    assert!(has(&[], &[("if-none-match", "*")]));
    assert!(!has(&[], &[("if-none-match", "\"b\"")]));
}

// RFC 9110 13.1.3
#[test]
fn if_none_match_wins_over_if_modified_since() {
    let modified = at(-100);
    let stored = [("etag", "\"a\""), ("last-modified", modified.as_str())];
    let since = ("if-modified-since", &*at(0));
    assert!(!has(&stored, &[("if-none-match", "\"b\""), since]));
    assert!(!has(&stored, &[("if-none-match", "junk"), since]));
    assert!(!has(&stored[1..], &[("if-none-match", "\"a\""), since]));
    assert!(has(&stored, &[("if-none-match", "\"a\""), ("if-modified-since", &at(-200))]));
    assert!(has(&stored, &[since]));
}

// RFC 9110 13.1.3
#[test]
fn if_modified_since_compares_moments() {
    let stored = [("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")];
    for (since, unchanged) in [
        ("Sun, 06 Nov 1994 08:49:37 GMT", true),
        ("Sun, 06 Nov 1994 08:49:38 GMT", true),
        ("Sun, 06 Nov 1994 08:49:36 GMT", false),
        ("Sunday, 06-Nov-94 08:49:37 GMT", true),
        ("Sun Nov  6 08:49:37 1994", true),
        ("Fri, 31 Dec 9999 23:59:59 GMT", true),
    ] {
        assert_eq!(has(&stored, &[("if-modified-since", since)]), unchanged, "{since}");
    }
}

// RFC 9110 13.1.3
#[test]
fn an_if_modified_since_that_is_not_one_date_is_ignored() {
    let stored = [("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")];
    let valid = "Sun, 06 Nov 1994 08:49:37 GMT";
    for since in ["", "0", "now", "Sun, 06 Nov 1994 08:49:37 UTC", &format!("{valid}, {valid}")] {
        assert!(!has(&stored, &[("if-modified-since", since)]), "{since}");
    }
    assert!(!has(&stored, &[("if-modified-since", valid), ("if-modified-since", valid)]));
}

// RFC 9111 4.3.2
#[test]
fn without_last_modified_the_date_is_compared() {
    let dated = [("date", &*at(-100))];
    assert!(has(&dated, &[("if-modified-since", &at(-100))]));
    assert!(!has(&dated, &[("if-modified-since", &at(-101))]));
    // and without that one the time of receipt, in whole seconds
    let mut undated = head(&[]);
    undated.received_ms = NOW_MS + 999;
    for (since, expected) in [(0, Precondition::NotModified), (-1, Precondition::None)] {
        let request = headers(&[("if-modified-since", &at(since))]);
        assert_eq!(evaluate(&request, &undated, NOW_MS), expected);
    }
}

// RFC 9111 4.3.2, RFC 9110 13.2.2
#[test]
fn if_match_and_if_unmodified_since_are_forwarded_before_all_others() {
    let stored = [("etag", "\"a\"")];
    for field in [("if-match", "\"a\""), ("if-match", "*"), ("if-unmodified-since", &*at(0))] {
        assert_eq!(ask(&stored, &[field]), Precondition::Forward);
        assert_eq!(ask(&stored, &[field, ("if-none-match", "\"a\"")]), Precondition::Forward);
    }
}

// RFC 9110 13.2.1
#[test]
fn preconditions_are_ignored_unless_the_answer_is_a_success() {
    for status in [300, 301, 404, 410, 500, 503] {
        let mut stored = head(&[("etag", "\"a\""), ("last-modified", &at(-100))]);
        stored.status = StatusCode::from_u16(status).unwrap();
        for field in
            [("if-none-match", "\"a\""), ("if-none-match", "*"), ("if-modified-since", &*at(0))]
        {
            let found = evaluate(&headers(&[field]), &stored, NOW_MS);
            assert_eq!(found, Precondition::None, "{status} {field:?}");
        }
    }
}

// RFC 9110 13.1.5
#[test]
fn without_preconditions_the_response_is_sent() {
    assert_eq!(ask(&[("etag", "\"a\"")], &[("if-range", "\"a\""), ("x", "y")]), Precondition::None);
}

// RFC 9110 15.4.5
#[test]
fn a_304_carries_what_the_200_would_but_for_the_content() {
    let kept = [
        ("cache-control", "max-age=60"),
        ("content-location", "/a"),
        ("date", &*at(0)),
        ("etag", "\"a\""),
        ("expires", &*at(60)),
        ("vary", "accept"),
        ("access-control-allow-origin", "*"),
        ("content-security-policy", "default-src 'self'"),
    ];
    let dropped = [
        ("content-type", "text/plain"),
        ("content-length", "5"),
        ("content-encoding", "br"),
        ("content-language", "en"),
        ("content-range", "bytes 0-4/5"),
        ("transfer-encoding", "chunked"),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ];
    let fields = not_modified_fields(&headers(&[&kept[..], &dropped[..]].concat()));
    assert_eq!(fields, headers(&kept));
    // without an ETag, it is what the client can validate with
    assert!(not_modified_fields(&headers(&dropped)).contains_key(LAST_MODIFIED));
}

// RFC 9110 8.8.3.2
#[test]
fn strong_comparison_takes_no_weak_tag() {
    let tag = |text: &'static str| single_etag(text.as_bytes()).unwrap();
    assert!(tag("\"a\"").is_strongly(tag("\"a\"")));
    assert!(!tag("W/\"a\"").is_strongly(tag("W/\"a\"")));
    assert!(!tag("\"a\"").is_strongly(tag("W/\"a\"")));
    assert!(!tag("\"a\"").is_strongly(tag("\"b\"")));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop_oneof![
        field_bytes(30),
        "[W/\"ab, *]{0,20}".prop_map(String::into_bytes),
    ]) {
        let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
        let mut request = HeaderMap::new();
        request.insert(IF_NONE_MATCH, value.clone());
        let found = evaluate(&request, &head(&[("etag", "\"a\"")]), NOW_MS);
        let named = bytes.trim_ascii() == b"*" || bytes.windows(3).any(|tag| tag == b"\"a\"");
        prop_assert!(found == Precondition::None || named);
        request.insert(ETAG, value);
        stored_etag(&request);
    }
}
