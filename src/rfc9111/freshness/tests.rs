use proptest::prelude::*;

use super::super::testing::{NOW_MS, at, head, headers};
use super::*;

fn lifetime(fields: &[(&str, &str)]) -> Option<u64> {
    let headers = headers(fields);
    let directives = ResponseDirectives::parse(&headers);
    explicit_lifetime(&directives, &headers, NOW_MS).map(|lifetime| lifetime.as_secs())
}

// RFC 9111 4.2.1
#[test]
fn s_maxage_wins_over_max_age_and_max_age_over_expires() {
    let (date, expires) = (at(0), at(300));
    for (cache_control, seconds) in [
        (&["s-maxage=100, max-age=200"][..], 100),
        (&["max-age=200, s-maxage=100"], 100),
        (&["max-age=1, s-maxage=100"], 100),
        (&["max-age=0", "s-maxage=100"], 100),
        (&["s-maxage=0, max-age=100"], 0),
        (&["s-maxage=x, max-age=100"], 0),
        (&["max-age=200"], 200),
        (&["max-age=0"], 0),
        (&["max-age=-1"], 0),
        (&["max-age=x"], 0),
        (&["public"], 300),
        (&[], 300),
    ] {
        let mut fields = vec![("date", date.as_str()), ("expires", expires.as_str())];
        fields.extend(cache_control.iter().map(|line| ("cache-control", *line)));
        assert_eq!(lifetime(&fields), Some(seconds), "{cache_control:?}");
    }
    assert_eq!(lifetime(&[("cache-control", "public"), ("date", &date)]), None);
}

// RFC 9111 5.3
#[test]
fn expires_is_ignored_beside_max_age_or_s_maxage() {
    for expires in [&at(-1000), &at(9000), "0", "garbage"] {
        let field = ("expires", expires);
        assert_eq!(lifetime(&[field, ("cache-control", "max-age=60")]), Some(60), "{expires}");
        assert_eq!(lifetime(&[field, ("cache-control", "s-maxage=60")]), Some(60), "{expires}");
    }
}

// RFC 9111 5.3
#[test]
fn an_invalid_expires_is_in_the_past() {
    let date = at(0);
    for expires in ["0", "", "-1", "never", "Thu, 18 Aug 2050 02:01:18 UTC", "2544400878"] {
        assert_eq!(lifetime(&[("date", &date), ("expires", expires)]), Some(0), "{expires:?}");
    }
    let later = at(600);
    assert_eq!(lifetime(&[("expires", &later), ("expires", &later)]), Some(0), "two lines");
}

// RFC 9111 5.3, 4.2.1
#[test]
fn expires_is_compared_with_the_date_of_the_response() {
    for (date, expires, seconds) in [
        (0, 60, 60),
        (0, 0, 0),
        (0, -60, 0),
        (3600, 3660, 60),   // the origin's clock is fast
        (-3600, -3540, 60), // or slow: past for us, yet a minute of life
        (3600, 60, 0),
    ] {
        let found = lifetime(&[("date", &at(date)), ("expires", &at(expires))]);
        assert_eq!(found, Some(seconds), "{date} {expires}");
    }
}

// RFC 9110 6.6.1
#[test]
fn without_a_valid_date_the_time_of_receipt_counts() {
    let expires = at(60);
    assert_eq!(lifetime(&[("expires", &expires)]), Some(60));
    for date in ["", "0", "yesterday", "Thu, 15 Jan 26 00:00:00 GMT"] {
        assert_eq!(lifetime(&[("expires", &expires), ("date", date)]), Some(60), "{date:?}");
    }
}

// RFC 9111 1.2.2
#[test]
fn no_lifetime_is_longer_than_2_to_the_31_seconds() {
    let far = "Fri, 31 Dec 9999 23:59:59 GMT";
    for field in [("expires", far), ("cache-control", "max-age=99999999999999999999")] {
        assert_eq!(lifetime(&[field]), Some(DELTA_MAX_SECS), "{field:?}");
        // and so an age that is too large to represent is stale
        let aged = headers(&[field, ("age", "99999999999999999999")]);
        assert!(initial_age_ms(&aged, NOW_MS, NOW_MS) >= DELTA_MAX_MS);
    }
}

// RFC 9213 2.2
#[test]
fn expires_says_nothing_beside_a_targeted_field() {
    let directives = ResponseDirectives { targeted: true, ..ResponseDirectives::default() };
    let headers = headers(&[("expires", &at(60))]);
    assert_eq!(explicit_lifetime(&directives, &headers, NOW_MS), None);
}

fn heuristic(status: u16, fields: &[(&str, &str)]) -> Option<u64> {
    let headers = headers(fields);
    let directives = ResponseDirectives::parse(&headers);
    let status = StatusCode::from_u16(status).unwrap();
    heuristic_lifetime(status, &directives, &headers, NOW_MS).map(|lifetime| lifetime.as_secs())
}

// RFC 9111 4.2.2
#[test]
fn the_heuristic_is_a_tenth_of_the_time_since_the_last_change() {
    let (date, modified) = (at(0), at(-1000));
    assert_eq!(heuristic(200, &[("date", &date), ("last-modified", &modified)]), Some(100));
    assert_eq!(heuristic(200, &[("last-modified", &modified)]), Some(100));
    assert_eq!(heuristic(200, &[("date", &date)]), None);
    assert_eq!(heuristic(200, &[("date", &date), ("last-modified", &at(5))]), None);
    assert_eq!(heuristic(200, &[("date", &date), ("last-modified", "x")]), None);
    assert_eq!(heuristic(200, &[("last-modified", &modified), ("last-modified", &modified)]), None);
}

// RFC 9111 4.2.2
#[test]
fn a_date_in_the_future_makes_no_heuristic_longer() {
    let modified = at(-1000);
    for date in [at(1), at(3600), "Fri, 31 Dec 2090 23:59:59 GMT".to_owned()] {
        let fields = [("date", date.as_str()), ("last-modified", &modified)];
        assert_eq!(heuristic(200, &fields), Some(100), "{date}");
        // nor is what was changed after it was received as old as its date makes it
        let changed = at(5);
        assert_eq!(heuristic(200, &[("date", &date), ("last-modified", &changed)]), None, "{date}");
    }
}

// RFC 9111 4.2.2
#[test]
fn there_is_no_heuristic_beside_an_explicit_expiry() {
    let modified = at(-100_000);
    for explicit in [
        ("cache-control", "max-age=0"),
        ("cache-control", "max-age=60"),
        ("cache-control", "s-maxage=x"),
        ("expires", "0"),
        ("expires", &at(60)),
    ] {
        assert_eq!(heuristic(200, &[("last-modified", &modified), explicit]), None, "{explicit:?}");
    }
}

// RFC 9111 3, RFC 9110 15.1
#[test]
fn the_heuristic_needs_a_status_that_allows_it_or_public() {
    let modified = at(-1000);
    for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
        assert_eq!(heuristic(status, &[("last-modified", &modified)]), Some(100), "{status}");
    }
    for status in [201, 202, 302, 303, 307, 400, 403, 500, 502, 503, 504, 299, 499, 599, 999] {
        assert_eq!(heuristic(status, &[("last-modified", &modified)]), None, "{status}");
        let public = [("last-modified", modified.as_str()), ("cache-control", "public")];
        assert_eq!(heuristic(status, &public), Some(100), "{status}");
    }
}

fn initial_age(fields: &[(&str, &str)], delay_ms: u64) -> u64 {
    initial_age_ms(&headers(fields), NOW_MS - delay_ms, NOW_MS)
}

// RFC 9111 4.2.3
#[test]
fn the_age_is_the_greater_of_apparent_age_and_age_plus_delay() {
    for (date, age, delay_ms, expected_ms) in [
        (0, "0", 0, 0),
        (0, "30", 0, 30_000),
        (0, "30", 2_500, 32_500), // counted from the request's start
        (-50, "30", 2_500, 50_000),
        (-10, "30", 0, 30_000),
        (3600, "30", 0, 30_000), // a date in the future makes nothing younger
        (3600, "0", 7, 7),
    ] {
        let found = initial_age(&[("date", &at(date)), ("age", age)], delay_ms);
        assert_eq!(found, expected_ms, "{date} {age} {delay_ms}");
    }
    assert_eq!(initial_age(&[], 1_234), 1_234);
    // a clock that went back during the request
    assert_eq!(initial_age_ms(&headers(&[("age", "3")]), NOW_MS + 500, NOW_MS), 3_000);
}

// RFC 9111 5.1
#[test]
fn of_several_ages_the_first_counts() {
    for (ages, seconds) in [
        (&["7200,0"][..], 7200),
        (&["7200", "0"], 7200),
        (&["0,7200"], 0),
        (&["0", "7200"], 0),
        (&["7200 , 7200"], 7200),
        (&["0007200"], 7200),
    ] {
        let fields: Vec<_> = ages.iter().map(|age| ("age", *age)).collect();
        assert_eq!(initial_age(&fields, 0), seconds * 1000, "{ages:?}");
    }
}

// RFC 9111 5.1
#[test]
fn an_age_that_is_not_digits_is_ignored() {
    for age in
        ["abc", "-7200", "7200.0", "+7200", "7200;foo=bar", "\"7200\"", "7200s", "", ",7200", "7 2"]
    {
        assert_eq!(initial_age(&[("age", age)], 0), 0, "{age:?}");
    }
}

// RFC 9111 1.2.2
#[test]
fn an_age_too_large_is_very_old_and_does_not_wrap() {
    for age in ["2147483648", "4294967296", "18446744073709551616", &"9".repeat(100)] {
        assert_eq!(initial_age(&[("age", age)], 5), DELTA_MAX_MS + 5, "{age}");
    }
    let mut old = head(&[]);
    old.initial_age_ms = u64::MAX - 1;
    assert_eq!(current_age_ms(&old, u64::MAX), u64::MAX);
    assert_eq!(age_field(&old, u64::MAX), 2_147_483_648);
}

// RFC 9111 4.2.3
#[test]
fn the_current_age_adds_the_time_in_the_store() {
    let mut stored = head(&[]);
    stored.initial_age_ms = 2_500;
    for (now_ms, age_ms, field) in [
        (NOW_MS, 2_500, 2),
        (NOW_MS + 499, 2_999, 2),
        (NOW_MS + 500, 3_000, 3),
        (NOW_MS + 60_000, 62_500, 62),
        (NOW_MS - 60_000, 2_500, 2), // a clock that went back
        (0, 2_500, 2),
    ] {
        assert_eq!(current_age_ms(&stored, now_ms), age_ms);
        assert_eq!(age_field(&stored, now_ms), field);
    }
}

// RFC 9111 4.2
#[test]
fn equal_to_its_lifetime_is_stale() {
    let stored = head(&[]);
    assert!(is_fresh(&stored, NOW_MS) && is_fresh(&stored, NOW_MS + 59_999));
    assert!(!is_fresh(&stored, NOW_MS + 60_000) && !is_fresh(&stored, u64::MAX));
    assert_eq!(staleness_ms(&stored, NOW_MS + 59_999), None);
    assert_eq!(staleness_ms(&stored, NOW_MS + 60_000), Some(0));
    assert_eq!(staleness_ms(&stored, NOW_MS + 61_000), Some(1_000));
}

#[test]
fn a_clock_that_goes_back_makes_nothing_fresh() {
    let mut stored = head(&[]);
    stored.fresh_until_ms = stored.received_ms - 1_000; // stale on arrival
    assert!(!is_fresh(&stored, NOW_MS - 3_600_000));
    assert_eq!(remaining_secs(&stored, NOW_MS - 3_600_000), -1);
}

// RFC 9211 2.4
#[test]
fn what_was_received_in_the_future_is_stale() {
    let mut stored = head(&[]);
    stored.fresh_until_ms = stored.received_ms + 600_000;
    let at = |before_ms: u64| stored.received_ms - before_ms;
    for before_ms in [0, 1, 20_000, 60_000] {
        assert!(is_fresh(&stored, at(before_ms)), "{before_ms}");
    }
    for before_ms in [60_001, 3_600_000, stored.received_ms] {
        assert!(!is_fresh(&stored, at(before_ms)), "{before_ms}");
        assert_eq!(staleness_ms(&stored, at(before_ms)), Some(u64::MAX), "in no window");
        assert_eq!(remaining_secs(&stored, at(before_ms)), -1);
    }
}

#[test]
fn the_remaining_lifetime_is_negative_when_stale() {
    let stored = head(&[]);
    for (now_ms, seconds) in [
        (NOW_MS, 60),
        (NOW_MS + 1, 59),
        (NOW_MS + 59_999, 0),
        (NOW_MS + 60_000, 0),
        (NOW_MS + 60_001, -1),
        (NOW_MS + 90_000, -30),
    ] {
        assert_eq!(remaining_secs(&stored, now_ms), seconds);
    }
    let mut eternal = head(&[]);
    eternal.fresh_until_ms = u64::MAX;
    assert!(remaining_secs(&eternal, NOW_MS) > 0);
    assert!(remaining_secs(&stored, u64::MAX) < 0);
}

proptest! {
    #[test]
    fn what_is_stale_stays_stale_and_age_only_grows(
        initial_age_ms: u64, received_ms: u64, fresh_until_ms: u64, a: u64, b: u64,
    ) {
        let mut stored = head(&[]);
        stored.initial_age_ms = initial_age_ms;
        stored.received_ms = received_ms;
        stored.fresh_until_ms = fresh_until_ms;
        // before that it is of the future
        let first = received_ms.saturating_sub(60_000);
        let (earlier, later) = (a.min(b).max(first), a.max(b).max(first));
        prop_assert!(is_fresh(&stored, earlier) || !is_fresh(&stored, later));
        prop_assert!(current_age_ms(&stored, earlier) <= current_age_ms(&stored, later));
        prop_assert!(current_age_ms(&stored, earlier) >= initial_age_ms);
        prop_assert!(remaining_secs(&stored, earlier) >= remaining_secs(&stored, later));
        prop_assert_eq!(is_fresh(&stored, a), staleness_ms(&stored, a).is_none());
        if remaining_secs(&stored, a) > 0 { prop_assert!(is_fresh(&stored, a)); }
        if remaining_secs(&stored, a) < 0 { prop_assert!(!is_fresh(&stored, a)); }
    }

    #[test]
    fn any_fields_give_a_lifetime_and_an_age_without_panic(
        expires in "[ -~]{0,30}", date in "[ -~]{0,30}", age in "[0-9,-]{0,30}",
        requested_ms: u64, received_ms: u64,
    ) {
        let headers = headers(&[("expires", &expires), ("date", &date), ("age", &age)]);
        let directives = ResponseDirectives::default();
        let lifetime = explicit_lifetime(&directives, &headers, received_ms).unwrap();
        prop_assert!(lifetime <= Duration::from_millis(DELTA_MAX_MS));
        initial_age_ms(&headers, requested_ms, received_ms);
    }

    /// A response with an `Age` is never younger than one without it.
    #[test]
    fn an_age_never_makes_younger(age in 0..=DELTA_MAX_SECS, date in -100_000i64..100_000, delay_ms in 0u64..100_000) {
        let date = at(date);
        let without = initial_age(&[("date", &date)], delay_ms);
        let with = initial_age(&[("date", &date), ("age", &age.to_string())], delay_ms);
        prop_assert!(with >= without && with >= age * 1000);
    }
}
