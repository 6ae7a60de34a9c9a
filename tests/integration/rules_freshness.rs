//! How long a response is fresh, and how old it is, seen from outside. A hit shows its remaining lifetime in
//! `Cache-Status`, so no test has to wait for it.

use std::time::{Duration, SystemTime};

use tower::Layer;
use tower_mysql_cache::status::Forward;
use tower_mysql_cache::store::{BoxStore, ManualClock};
use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore};

use crate::kit::{Answer, Kit, cached, get, on_every_store, response, send};

const ETAG: (&str, &str) = ("etag", "\"1\"");
const YEAR: i64 = 365 * 24 * 3600;
/// The tolerance for the duration of a test, in seconds.
const SLACK: i64 = 100;

/// The date this many seconds from now.
fn date(seconds: i64) -> String {
    let by = Duration::from_secs(seconds.unsigned_abs());
    let now = SystemTime::now();
    httpdate::fmt_http_date(if seconds < 0 { now - by } else { now + by })
}

/// The same date in the obsolete forms of RFC 9110 5.6.7: RFC 850's and asctime's.
fn obsolete(date: &str) -> [String; 2] {
    let parts: Vec<_> = date.split([' ', ',']).filter(|part| !part.is_empty()).collect();
    let [weekday, day, month, year, time, _] = parts[..] else { panic!("{date}") };
    let rest = [
        "Mon", "day", "Tue", "sday", "Wed", "nesday", "Thu", "rsday", "Fri", "day", "Sat", "urday",
        "Sun", "day",
    ];
    let at = rest.iter().position(|name| *name == weekday).unwrap();
    let short = format!("{:>2}", day.trim_start_matches('0'));
    [
        format!("{weekday}{}, {day}-{month}-{} {time} GMT", rest[at + 1], &year[2..]),
        format!("{weekday} {month} {short} {time} {year}"),
    ]
}

/// The `ttl` of a hit.
fn ttl(answer: &Answer) -> i64 {
    let field = answer.field("cache-status");
    field
        .split("ttl=")
        .nth(1)
        .and_then(|rest| rest.parse().ok())
        .unwrap_or_else(|| panic!("{field}"))
}

/// The `ttl` of the second request for a response with these fields; `None` if it is no hit.
async fn fresh_for(
    layer: &CacheLayer<BoxStore>,
    uri: &str,
    status: u16,
    fields: &[(&str, &str)],
) -> Option<i64> {
    let owned: Vec<_> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let (app, _) = cached(layer, move |_| {
        let fields: Vec<_> =
            owned.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        response(status, &fields, "x")
    });
    send(&app, get(uri, &[])).await;
    let again = send(&app, get(uri, &[])).await;
    again.is_hit().then(|| ttl(&again))
}

/// Asserts that each response has about the expected lifetime, in a layer with this policy.
async fn check(kit: &Kit, policy: CachePolicy, cases: &[(&[(&str, &str)], i64)]) {
    let layer = kit.layer().with_policy(policy);
    for (i, (fields, expected)) in cases.iter().enumerate() {
        let found = fresh_for(&layer, &format!("/{i}"), 200, fields).await;
        let right = match (found, *expected) {
            (None, 0) => true,
            (None, _) | (Some(_), 0) => false,
            (Some(found), expected) => (expected - SLACK..=expected).contains(&found),
        };
        assert!(right, "{fields:?}: {found:?} instead of {expected}");
    }
}

const SAFE: CachePolicy = CachePolicy::new();

on_every_store! {
    // RFC 9111 4.2.1, 5.3
    async fn s_maxage_overrides_max_age_and_max_age_overrides_expires(kit: Kit) {
        let (day, past) = (date(86_400), date(-86_400));
        check(&kit, SAFE, &[
            (&[("cache-control", "s-maxage=1000, max-age=5000")], 1000),
            (&[("cache-control", "max-age=1, s-maxage=1000")], 1000),
            (&[("cache-control", "max-age=0"), ("cache-control", "S-MaxAge=1000")], 1000),
            (&[("cache-control", "s-maxage=0, max-age=5000")], 0),
            (&[("cache-control", "s-maxage=x, max-age=5000")], 0),
            (&[("cache-control", "max-age=1000"), ("expires", &past)], 1000),
            (&[("cache-control", "max-age=1000"), ("expires", "0")], 1000),
            (&[("cache-control", "max-age=0"), ("expires", &day)], 0),
            (&[("cache-control", "s-maxage=1000"), ("expires", &day)], 1000),
            (&[("expires", &day)], 86_400),
            (&[("cache-control", "public"), ("expires", &day)], 86_400),
            (&[("expires", &past)], 0),
        ]).await;
    }

    // RFC 9111 4.2.1: the first, or stale
    async fn of_two_lifetimes_a_longer_second_one_never_counts(kit: Kit) {
        check(&kit, SAFE, &[
            (&[("cache-control", "max-age=1000, max-age=5000")], 1000),
            (&[("cache-control", "max-age=1000"), ("cache-control", "max-age=5000")], 1000),
            (&[("cache-control", "max-age=5000, max-age=1000")], 0),
            (&[("cache-control", "max-age=1000, max-age=x")], 0),
            (&[("cache-control", "max-age=x, max-age=1000")], 0),
            (&[("cache-control", "s-maxage=1000, s-maxage=1000")], 1000),
        ]).await;
    }

    // RFC 9111 5.2
    async fn quoted_text_is_no_directive_but_numbers_may_be_quoted(kit: Kit) {
        check(&kit, SAFE, &[
            (&[("cache-control", "ext=\"max-age=5000\", max-age=1000")], 1000),
            (&[("cache-control", "max-age=1000, ext=\"no-store, max-age=0\"")], 1000),
            (&[("cache-control", "ext=\"a\\\", max-age=5000, b=\\\"\", max-age=1000")], 1000),
            (&[("cache-control", "ext=\"max-age=1000\"")], 0),
            (&[("cache-control", "max-age=\"1000\"")], 1000),
            // an unclosed quote may hide a restriction, but never a permission
            (&[("cache-control", "ext=\"x, max-age=1000")], 0),
            (&[("cache-control", "max-age=1000, ext=\"x, no-store")], 0),
        ]).await;
    }

    // RFC 9111 1.2.2
    async fn only_digits_are_a_number(kit: Kit) {
        check(&kit, SAFE, &[
            (&[("cache-control", "max-age=0001000")], 1000),
            (&[("cache-control", "max-age='1000'")], 0),
            (&[("cache-control", "max-age= 1000")], 0),
            (&[("cache-control", "max-age =1000")], 0),
            (&[("cache-control", "max-age=1000.0")], 0),
            (&[("cache-control", "max-age=+1000")], 0),
            (&[("cache-control", "max-age=-1")], 0),
            (&[("cache-control", "max-age=1e3")], 0),
            (&[("cache-control", "max-age=1000s")], 0),
            (&[("cache-control", "max-age=1000;x")], 0),
            (&[("cache-control", "max-age")], 0),
            (&[("cache-control", "max-age=")], 0),
        ]).await;
    }

    // RFC 9111 1.2.2: a number that is too large is large; this cache stores nothing for more than a year
    async fn numbers_that_are_too_large_do_not_overflow(kit: Kit) {
        let ages = "9".repeat(400);
        let huge = format!("max-age={ages}");
        check(&kit, SAFE, &[
            (&[("cache-control", "max-age=2147483647")], YEAR),
            (&[("cache-control", "max-age=2147483648")], YEAR),
            (&[("cache-control", "max-age=4294967297")], YEAR),
            (&[("cache-control", "s-maxage=18446744073709551617")], YEAR),
            (&[("cache-control", &huge)], YEAR),
            (&[("expires", "Fri, 31 Dec 9999 23:59:59 GMT")], YEAR),
            (&[("cache-control", "max-age=5000"), ("age", "2147483648")], 0),
            (&[("cache-control", "max-age=5000"), ("age", "4294967297")], 0),
            (&[("cache-control", "max-age=5000"), ("age", "18446744073709551617")], 0),
            (&[("cache-control", &huge), ("age", &ages)], 0),
        ]).await;
    }

    // RFC 9110 5.6.7, RFC 9111 5.3
    async fn invalid_dates_are_past_and_obsolete_formats_are_valid(kit: Kit) {
        let day = date(86_400);
        let [rfc850, asctime] = obsolete(&day);
        let nearly = [
            day.replace("GMT", "UTC"),
            day.replace("GMT", "+0000"),
            day.replace(", ", " "),
            day.replace(", ", ",  "),
            day.replacen(' ', "-", 3).replacen('-', " ", 1),
            day.replace(':', "."),
            format!("{}, {}", day, day),
            day.replace(" GMT", ""),
            "86400".to_owned(),
            "-1".to_owned(),
            String::new(),
        ];
        for value in &nearly {
            check(&kit, SAFE, &[(&[("expires", value)], 0)]).await;
        }
        let (lower, upper) = (day.to_lowercase(), day.to_uppercase());
        check(&kit, SAFE, &[
            (&[("expires", &day), ("expires", &day)], 0),
            (&[("expires", &rfc850)], 86_400),
            (&[("expires", &asctime)], 86_400),
            (&[("expires", &lower)], 86_400),
            (&[("expires", &upper)], 86_400),
        ]).await;
    }

    // RFC 9111 4.2.1, 5.3; RFC 9110 6.6.1
    async fn expires_is_compared_with_the_date_of_the_response(kit: Kit) {
        let at = [-5_000, -4_000, 0, 1_000, 4_000, 5_000, 86_400].map(date);
        let [m5000, m4000, _, p1000, p4000, p5000, day] = &at;
        check(&kit, SAFE, &[
            // the origin's clock is fast: the lifetime is counted by the origin's clock
            (&[("date", p4000), ("expires", p5000)], 1_000),
            // the origin's clock is slow: the age is counted from Date
            (&[("date", m5000), ("expires", m4000)], 0),
            (&[("date", m5000), ("expires", p1000)], 1_000),
            (&[("date", day), ("expires", day)], 0),
            (&[("date", p5000), ("expires", p1000)], 0),
            // without a valid Date, the time of receipt counts
            (&[("date", "0"), ("expires", p1000)], 1_000),
            (&[("date", p5000), ("date", p5000), ("expires", p1000)], 1_000),
            (&[("date", ""), ("cache-control", "max-age=1000")], 1_000),
        ]).await;
    }

    // RFC 9111 4.2.2, RFC 9110 15.1
    async fn a_heuristic_lifetime_is_a_tenth_for_some_statuses(kit: Kit) {
        let (old, now, future) = (date(-10_000), date(0), date(10_000));
        let strict = CachePolicy::rfc9111();
        check(&kit, strict, &[
            (&[("last-modified", &old)], 1_000),
            (&[("last-modified", &old), ("cache-control", "max-age=300")], 300),
            (&[("last-modified", &old), ("cache-control", "max-age=x")], 0),
            (&[("last-modified", &old), ("expires", "0")], 0),
            (&[("last-modified", &old), ("expires", &now), ("date", &now)], 0),
            (&[("last-modified", &old), ("cache-control", "foo")], 1_000),
            (&[("last-modified", &future)], 0),
            (&[("last-modified", "yesterday")], 0),
            (&[("last-modified", &old), ("last-modified", &old)], 0),
        ]).await;
        let layer = kit.layer().with_policy(strict);
        for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
            let found = fresh_for(&layer, &format!("/s{status}"), status, &[("last-modified", &old)]).await;
            assert!(found.is_some_and(|ttl| ttl > 1_000 - SLACK), "{status}: {found:?}");
        }
        for status in [201, 202, 302, 303, 307, 400, 403, 502, 503, 504, 299, 499, 599] {
            let fields = [("last-modified", old.as_str()), ("cache-control", "public")];
            let found = fresh_for(&layer, &format!("/n{status}"), status, &fields[..1]).await;
            assert_eq!(found, None, "{status}");
            let found = fresh_for(&layer, &format!("/p{status}"), status, &fields).await;
            assert!(found.is_some(), "{status} with public");
        }
    }

    // RFC 9111 3, 4.2: a response whose age equals its lifetime is stale
    async fn any_status_is_reused_only_while_fresh(kit: Kit) {
        let layer = kit.layer();
        for status in [200, 201, 203, 204, 299, 301, 302, 307, 400, 403, 404, 410, 451, 499, 500, 502, 503, 504, 599] {
            let fresh = [("cache-control", "max-age=5000"), ("age", "4000"), ETAG];
            let found = fresh_for(&layer, &format!("/f{status}"), status, &fresh).await;
            assert!(found.is_some_and(|ttl| (1_000 - SLACK..=1_000).contains(&ttl)), "{status}: {found:?}");
            let stale = [("cache-control", "max-age=5000"), ("age", "5000"), ETAG];
            assert_eq!(fresh_for(&layer, &format!("/s{status}"), status, &stale).await, None, "{status}");
        }
    }

    // RFC 9111 4.2.3, 5.1
    async fn the_age_of_a_hit_is_the_greater_of_age_and_date(kit: Kit) {
        let layer = kit.layer();
        let old = date(-3_000);
        let cases: [(&[(&str, &str)], i64); 12] = [
            (&[("age", "2000")], 2_000),
            (&[("age", "2000"), ("date", &old)], 3_000),
            (&[("age", "4000"), ("date", &old)], 4_000),
            // of a list, the first member; of several lines, the first line
            (&[("age", "2000, 9")], 2_000),
            (&[("age", "2000"), ("age", "9")], 2_000),
            (&[("age", "9"), ("age", "2000")], 9),
            // none of these is an age
            (&[("age", "-2000")], 0),
            (&[("age", "2000.5")], 0),
            (&[("age", "2000;x=1")], 0),
            (&[("age", "\"2000\"")], 0),
            (&[("age", "long")], 0),
            (&[("age", "x, 2000")], 0),
        ];
        for (i, (fields, expected)) in cases.into_iter().enumerate() {
            let fields: Vec<_> = fields.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let (app, _) = cached(&layer, move |_| {
                let mut all = vec![("cache-control", "max-age=50000")];
                all.extend(fields.iter().map(|(name, value)| (name.as_str(), value.as_str())));
                response(200, &all, "x")
            });
            let uri = format!("/{i}");
            send(&app, get(&uri, &[])).await;
            let hit = send(&app, get(&uri, &[])).await;
            assert_eq!(hit.headers.get_all("age").iter().count(), 1, "RFC 9111 5.1: one Age");
            let age: i64 = hit.field("age").parse().unwrap();
            assert!((expected..expected + SLACK).contains(&age), "{age} instead of {expected}");
            assert!((0..=1).contains(&(50_000 - age - ttl(&hit))), "age and ttl are the lifetime");
        }
    }

    // RFC 9111 4.2.3, RFC 9110 6.6.1
    async fn date_and_expires_are_sent_as_they_came(kit: Kit) {
        let now = date(0);
        let [rfc850, asctime] = obsolete(&now);
        for (i, sent) in [now.to_uppercase(), rfc850, asctime].into_iter().enumerate() {
            let expires = ["0", "Thu, 01 Jan 1970 00:00:00 GMT", "soon, \"perhaps\""][i];
            let as_sent = sent.clone();
            let (app, _) = cached(&kit.layer(), move |_| {
                response(200, &[("date", &as_sent), ("expires", expires), ("cache-control", "max-age=600")], "x")
            });
            let uri = format!("/{i}");
            send(&app, get(&uri, &[])).await;
            let hit = send(&app, get(&uri, &[])).await;
            assert!(hit.is_hit(), "{sent}");
            assert_eq!((hit.field("date"), hit.field("expires").as_str()), (sent, expires));
        }
    }

    // RFC 9211 2.4, RFC 9111 4.2.4
    async fn a_stale_hit_has_its_true_age_and_a_negative_ttl(kit: Kit) {
        let layer = kit.layer().with_policy(CachePolicy::rfc9111());
        let (app, _) = cached(&layer, |_| {
            response(200, &[("cache-control", "max-age=4000"), ("age", "10000"), ETAG], "x")
        });
        send(&app, get("/", &[])).await;
        kit.settle(&layer.handle()).await;
        let stale = send(&app, get("/", &[("cache-control", "max-stale=7000")])).await;
        assert!(stale.is_hit(), "{:?}", stale.cache());
        let age: i64 = stale.field("age").parse().unwrap();
        assert!((10_000..10_000 + SLACK).contains(&age), "{age}");
        assert!((-6_000 - SLACK..=-6_000).contains(&ttl(&stale)), "{}", stale.field("cache-status"));
        let staler = send(&app, get("/", &[("cache-control", "max-stale=5000")])).await;
        assert_eq!(staler.cache().forward(), Some(Forward::Stale));
    }
}

/// RFC 9111 4.2.3: the age includes the delay of the response and the time in the store. The response is stale
/// exactly at the second when its age equals its lifetime.
#[tokio::test]
async fn the_age_includes_the_delay_and_the_time_in_the_store() {
    let clock = ManualClock::at(1_768_435_200_000);
    let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
    let layer = CacheLayer::new(store).prefix("test");
    let slow = clock.clone();
    let app = layer.layer(tower::service_fn(move |_: http::Request<()>| {
        slow.advance(Duration::from_secs(5));
        async {
            Ok::<_, std::convert::Infallible>(response(
                200,
                &[("cache-control", "max-age=60"), ("age", "10")],
                "x",
            ))
        }
    }));
    send(&app, get("/", &[])).await;
    for (after, age) in [(0, 15), (7, 22), (37, 59)] {
        clock.advance(Duration::from_secs(after));
        let hit = send(&app, get("/", &[])).await;
        assert_eq!((hit.field("age"), ttl(&hit)), (age.to_string(), 60 - age));
    }
    clock.advance(Duration::from_secs(1));
    assert!(!send(&app, get("/", &[])).await.is_hit(), "RFC 9111 4.2: equal is stale");
}
