use proptest::prelude::*;

use super::super::testing::{NOW_MS, at, head, headers};
use super::*;

const LEN: u64 = 1000;

fn ask_with(stored: &[(&str, &str)], request: &[(&str, &str)], len: u64) -> RangeOutcome {
    evaluate(&Method::GET, &headers(request), &head(stored), len, NOW_MS)
}

fn ask(range: &str) -> RangeOutcome {
    ask_with(&[], &[("range", range)], LEN)
}

// RFC 9110 14.1.2
#[test]
fn a_single_range_is_one_part() {
    for (range, part) in [
        ("bytes=0-499", 0..500),
        ("bytes=500-999", 500..1000),
        ("bytes=500-", 500..1000),
        ("bytes=500-99999", 500..1000),
        ("bytes=-1", 999..1000),
        ("bytes=-500", 500..1000),
        ("bytes=-99999", 0..1000),
        ("bytes=0-0", 0..1),
        ("bytes=0-", 0..1000),
        ("BYTES=0-0", 0..1),
        ("bytes= 0-0", 0..1),
        ("bytes=,0-0,", 0..1),
        ("bytes=000-0001", 0..2),
    ] {
        assert_eq!(ask(range), RangeOutcome::Single(part), "{range}");
    }
}

// RFC 9110 14.2
#[test]
fn a_range_is_acted_on_for_get_only() {
    let request = headers(&[("range", "bytes=0-0")]);
    for method in [Method::HEAD, Method::POST, Method::PUT] {
        let found = evaluate(&method, &request, &head(&[]), LEN, NOW_MS);
        assert_eq!(found, RangeOutcome::Whole, "{method}");
    }
    let mut missing = head(&[]);
    missing.status = StatusCode::NOT_FOUND;
    assert_eq!(evaluate(&Method::GET, &request, &missing, LEN, NOW_MS), RangeOutcome::Whole);
}

// RFC 9110 14.2
#[test]
fn an_unknown_unit_is_ignored() {
    for range in ["lines=0-0", "byte=0-0", "none", "x-bytes=0-0", "bytes x=0-0", "=0-0", ""] {
        assert_eq!(ask(range), RangeOutcome::Whole, "{range}");
    }
}

// RFC 9110 14.1.1
#[test]
fn an_invalid_range_is_ignored() {
    for range in [
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=5",
        "bytes=5-4",
        "bytes=a-b",
        "bytes=0-x",
        "bytes=0-0-0",
        "bytes=--1",
        "bytes=+0-1",
        "bytes=0 - 1",
        "bytes=0-1;2-3",
        "bytes=0-0,x",
        "bytes=0-0, 5-4",
        "bytes=1.5-2",
        "bytes: 0-0",
        "bytes 0-0",
    ] {
        assert_eq!(ask(range), RangeOutcome::Whole, "{range}");
    }
    let twice = [("range", "bytes=0-0"), ("range", "bytes=1-1")];
    assert_eq!(ask_with(&[], &twice, LEN), RangeOutcome::Whole);
}

// RFC 9110 14.4, 15.5.17
#[test]
fn a_range_beyond_the_end_is_unsatisfiable() {
    for range in ["bytes=1000-", "bytes=1000-1001", "bytes=-0", "bytes=5000-,6000-7000"] {
        assert_eq!(ask(range), RangeOutcome::Unsatisfiable, "{range}");
    }
    assert_eq!(ask_with(&[], &[("range", "bytes=0-")], 0), RangeOutcome::Unsatisfiable);
    assert_eq!(ask_with(&[], &[("range", "bytes=-0")], 0), RangeOutcome::Unsatisfiable);
    assert_eq!(ask_with(&[], &[("range", "bytes=-1")], 0), RangeOutcome::Whole);
    assert_eq!(content_range(None, LEN), "bytes */1000");
}

// RFC 9110 14.1.2
#[test]
fn positions_beyond_2_to_the_64_do_not_overflow() {
    let huge = "9".repeat(60);
    let max = u64::MAX.to_string();
    for (range, outcome) in [
        (format!("bytes=0-{huge}"), RangeOutcome::Single(0..LEN)),
        (format!("bytes=0-{max}"), RangeOutcome::Single(0..LEN)),
        (format!("bytes=-{huge}"), RangeOutcome::Single(0..LEN)),
        (format!("bytes={huge}-"), RangeOutcome::Unsatisfiable),
        (format!("bytes={huge}-{huge}"), RangeOutcome::Unsatisfiable),
        (format!("bytes={max}-{max}"), RangeOutcome::Unsatisfiable),
    ] {
        assert_eq!(ask(&range), outcome, "{range}");
    }
    let whole = ask_with(&[], &[("range", "bytes=0-")], u64::MAX);
    assert_eq!(whole, RangeOutcome::Single(0..u64::MAX));
}

// RFC 9110 14.2
#[test]
fn many_or_overlapping_ranges_are_refused() {
    for range in ["bytes=0-9,5-14", "bytes=0-,0-", "bytes=0-0,-1000", "bytes=0-9,20-29,9-9"] {
        assert_eq!(ask(range), RangeOutcome::Whole, "{range}");
    }
    let many = |count: u64| {
        let parts: Vec<_> = (0..count).map(|n| format!("{}-{}", n * 10, n * 10)).collect();
        ask(&format!("bytes={}", parts.join(",")))
    };
    assert!(matches!(many(16), RangeOutcome::Multi(parts) if parts.len() == 16));
    assert_eq!(many(17), RangeOutcome::Whole);
    assert_eq!(many(5000), RangeOutcome::Whole);
}

// RFC 9110 15.3.7.2
#[test]
fn several_parts_keep_their_order_and_one_is_never_several() {
    assert_eq!(ask("bytes=0-9, 20-29"), RangeOutcome::Multi(vec![0..10, 20..30]));
    assert_eq!(ask("bytes=-10, 0-9"), RangeOutcome::Multi(vec![990..1000, 0..10]));
    assert_eq!(ask("bytes=0-9, 5000-"), RangeOutcome::Single(0..10));
    assert_eq!(ask("bytes=0-9, -0"), RangeOutcome::Single(0..10));
}

// RFC 9110 13.1.5
#[test]
fn if_range_compares_strongly() {
    let (date, modified) = (at(0), "Sun, 06 Nov 1994 08:49:37 GMT");
    let stored = [("etag", "\"a\""), ("last-modified", modified), ("date", date.as_str())];
    let weak = [("etag", "W/\"a\"")];
    let part = RangeOutcome::Single(0..1);
    for (stored, if_range, outcome) in [
        (&stored[..], "\"a\"", &part),
        (&stored, "\"b\"", &RangeOutcome::Whole),
        (&stored, "W/\"a\"", &RangeOutcome::Whole),
        (&weak, "W/\"a\"", &RangeOutcome::Whole),
        (&weak, "\"a\"", &RangeOutcome::Whole),
        (&[], "\"a\"", &RangeOutcome::Whole),
        (&stored, "\"a\", \"b\"", &RangeOutcome::Whole),
        (&stored, "*", &RangeOutcome::Whole),
        (&stored, modified, &part),
        (&stored, "Sunday, 06-Nov-94 08:49:37 GMT", &part),
        (&stored, "Sun, 06 Nov 1994 08:49:38 GMT", &RangeOutcome::Whole),
        (&stored, "junk", &RangeOutcome::Whole),
        (&weak, modified, &RangeOutcome::Whole),
    ] {
        let request = [("range", "bytes=0-0"), ("if-range", if_range)];
        assert_eq!(&ask_with(stored, &request, LEN), outcome, "{if_range}");
    }
    let twice = [("range", "bytes=0-0"), ("if-range", "\"a\""), ("if-range", "\"a\"")];
    assert_eq!(ask_with(&stored, &twice, LEN), RangeOutcome::Whole);
}

// RFC 9110 8.8.2.2
#[test]
fn a_date_as_young_as_the_response_is_no_strong_validator() {
    let now = at(0);
    let stored = [("last-modified", now.as_str()), ("date", now.as_str())];
    let request = [("range", "bytes=0-0"), ("if-range", now.as_str())];
    assert_eq!(ask_with(&stored, &request, LEN), RangeOutcome::Whole);
    // a clock that is ahead makes no response older
    let ahead = at(3600);
    let stored = [("last-modified", now.as_str()), ("date", ahead.as_str())];
    assert_eq!(ask_with(&stored, &request, LEN), RangeOutcome::Whole);
}

// RFC 9110 13.1.5
#[test]
fn if_range_without_range_is_ignored() {
    assert_eq!(ask_with(&[("etag", "\"a\"")], &[("if-range", "\"a\"")], LEN), RangeOutcome::Whole);
}

// RFC 9110 14.4
#[test]
fn content_range_counts_the_last_byte_in() {
    assert_eq!(content_range(Some(&(0..500)), LEN), "bytes 0-499/1000");
    assert_eq!(content_range(Some(&(999..1000)), LEN), "bytes 999-999/1000");
}

proptest! {
    #[test]
    fn parts_lie_inside_and_apart(
        range in prop_oneof!["bytes=[0-9,-]{0,40}", "bytes=([0-9]{1,4}-[0-9]{0,4},){1,5}", "[ -~]{0,30}"],
        len in prop_oneof![0u64..2000, Just(u64::MAX)],
    ) {
        let parts = match ask_with(&[], &[("range", &range)], len) {
            RangeOutcome::Whole | RangeOutcome::Unsatisfiable => Vec::new(),
            RangeOutcome::Single(part) => vec![part],
            RangeOutcome::Multi(parts) => {
                prop_assert!(parts.len() > 1);
                parts
            }
        };
        for part in &parts {
            prop_assert!(part.start < part.end && part.end <= len);
        }
        // what is sent is never more than the whole
        prop_assert!(parts.iter().map(|part| u128::from(part.end - part.start)).sum::<u128>() <= u128::from(len));
    }
}
