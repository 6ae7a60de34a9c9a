use proptest::prelude::*;

use super::super::testing::{Head, NOW_MS, head, headers};
use super::super::vary::select;
use super::*;

const NOBODY: Credentials = Credentials::None;

fn wants(value: &str) -> RequestDirectives {
    RequestDirectives::parse(&headers(&[("cache-control", value)]))
}

fn ask(head: &Head, directives: &str, after_secs: u64) -> Reuse {
    let directives = wants(directives);
    reuse(head, &HeaderMap::new(), NOBODY, Some(&directives), NOW_MS + after_secs * 1000)
}

// RFC 9111 4, 4.2
#[test]
fn a_fresh_response_is_reused_and_a_stale_one_is_not() {
    let stored = head(&[]);
    for (after_ms, expected) in
        [(0, Reuse::Fresh), (59_999, Reuse::Fresh), (60_000, Reuse::Stale), (90_000, Reuse::Stale)]
    {
        let found = reuse(&stored, &HeaderMap::new(), NOBODY, None, NOW_MS + after_ms);
        assert_eq!(found, expected, "{after_ms}");
    }
}

// RFC 9111 4
#[test]
fn a_stale_response_is_not_reused_whatever_its_status() {
    for status in [200, 201, 203, 204, 299, 301, 302, 404, 410, 500, 503, 599] {
        let mut stored = head(&[]);
        stored.status = http::StatusCode::from_u16(status).unwrap();
        assert_eq!(reuse(&stored, &HeaderMap::new(), NOBODY, None, NOW_MS), Reuse::Fresh);
        let stale = reuse(&stored, &HeaderMap::new(), NOBODY, None, NOW_MS + 60_000);
        assert_eq!(stale, Reuse::Stale, "{status}");
    }
}

// RFC 9111 3.5
#[test]
fn credentials_reuse_only_what_is_shared() {
    let mut stored = head(&[]);
    for credentials in [Credentials::Other, Credentials::Authorization] {
        stored.shared = false;
        let found = reuse(&stored, &HeaderMap::new(), credentials, None, NOW_MS);
        assert_eq!(found, Reuse::NotShared);
        stored.shared = true;
        let found = reuse(&stored, &HeaderMap::new(), credentials, None, NOW_MS);
        assert_eq!(found, Reuse::Fresh);
    }
}

// RFC 9111 4.1
#[test]
fn other_selecting_fields_are_a_miss_even_when_fresh() {
    let english = headers(&[("accept-language", "en")]);
    let mut stored = head(&[("vary", "accept-language")]);
    stored.vary = select(&[http::header::ACCEPT_LANGUAGE], &english);
    assert_eq!(reuse(&stored, &english, NOBODY, None, NOW_MS), Reuse::Fresh);
    assert_eq!(reuse(&stored, &HeaderMap::new(), NOBODY, None, NOW_MS), Reuse::VaryMiss);
    let german = headers(&[("accept-language", "de")]);
    assert_eq!(reuse(&stored, &german, NOBODY, None, NOW_MS), Reuse::VaryMiss);
    assert_eq!(reuse(&stored, &german, NOBODY, None, NOW_MS + 90_000), Reuse::VaryMiss);
}

// RFC 9111 4.1
#[test]
fn a_stored_star_is_never_reused() {
    let stored = head(&[("vary", "accept"), ("vary", "x, *")]);
    assert_eq!(reuse(&stored, &HeaderMap::new(), NOBODY, None, NOW_MS), Reuse::VaryMiss);
}

// RFC 9111 5.2.1
#[test]
fn a_request_can_want_something_newer() {
    let stored = head(&[]);
    for (directives, after_secs, expected) in [
        ("no-cache", 0, Reuse::RequestWants),
        ("max-age=0", 0, Reuse::RequestWants),
        ("max-age=x", 0, Reuse::RequestWants),
        ("max-age=10", 10, Reuse::Fresh),
        ("max-age=10", 11, Reuse::RequestWants),
        ("max-age=99", 30, Reuse::Fresh),
        ("min-fresh=50", 10, Reuse::Fresh),
        ("min-fresh=50", 11, Reuse::RequestWants),
        ("min-fresh=99999999999999999999", 0, Reuse::RequestWants),
        ("max-stale", 0, Reuse::Fresh),
        ("no-store", 0, Reuse::Fresh),
        ("only-if-cached", 0, Reuse::Fresh),
        ("foo", 0, Reuse::Fresh),
    ] {
        assert_eq!(ask(&stored, directives, after_secs), expected, "{directives} {after_secs}");
    }
    let pragma = RequestDirectives::parse(&headers(&[("pragma", "no-cache")]));
    let found = reuse(&stored, &HeaderMap::new(), NOBODY, Some(&pragma), NOW_MS);
    assert_eq!(found, Reuse::RequestWants);
}

// RFC 9111 5.2.1
#[test]
fn what_a_request_wants_can_be_ignored() {
    for directives in ["no-cache", "max-age=0", "min-fresh=9999"] {
        let request = headers(&[("cache-control", directives), ("pragma", "no-cache")]);
        assert_eq!(reuse(&head(&[]), &request, NOBODY, None, NOW_MS), Reuse::Fresh);
    }
}

// RFC 9111 5.2.1.2
#[test]
fn max_stale_takes_what_is_not_staler() {
    let stored = head(&[]);
    for (directives, after_secs, taken) in [
        ("max-stale", 60, true),
        ("max-stale", 99_999, true),
        ("max-stale=10", 60, true),
        ("max-stale=10", 70, true),
        ("max-stale=10", 71, false),
        ("max-stale=x", 61, false),
        ("max-stale=10", 30, false), // still fresh: nothing to take
        ("max-stale, no-cache", 61, false),
        ("max-stale, max-age=30", 61, false),
        ("max-stale, max-age=300", 61, true),
        ("max-stale, min-fresh=5", 61, false),
        ("max-age=300", 61, false),
        ("foo", 61, false),
    ] {
        let now_ms = NOW_MS + after_secs * 1000;
        let found = request_takes_stale(&stored, &wants(directives), now_ms);
        assert_eq!(found, taken, "{directives} {after_secs}");
    }
}

proptest! {
    #[test]
    fn what_a_request_says_never_makes_a_response_usable(
        directives in "(no-cache|max-age|min-fresh|max-stale|foo)(=[0-9]{1,22})?", after_ms in 0u64..200_000,
    ) {
        let stored = head(&[]);
        let now_ms = NOW_MS + after_ms;
        let with = reuse(&stored, &HeaderMap::new(), NOBODY, Some(&wants(&directives)), now_ms);
        let without = reuse(&stored, &HeaderMap::new(), NOBODY, None, now_ms);
        prop_assert!(with == without || (without == Reuse::Fresh && with == Reuse::RequestWants));
    }
}
