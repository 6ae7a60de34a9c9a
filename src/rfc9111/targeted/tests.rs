use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};
use proptest::prelude::*;

use super::super::directives::RequestDirectives;
use super::super::freshness::explicit_lifetime;
use super::super::options::{Credentials, Instructions, Options};
use super::super::storage::{Candidate, NotStorable, Storable};
use super::super::testing::{NOW_MS, at, field_bytes, headers};
use super::*;

const OURS: HeaderName = HeaderName::from_static("shop-cache-control");
const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");

fn of(lines: &[&str]) -> Option<ResponseDirectives> {
    let fields: Vec<_> = lines.iter().map(|line| ("cdn-cache-control", *line)).collect();
    targeted_directives(&[CDN], &headers(&fields))
}

fn directives(line: &str) -> ResponseDirectives {
    of(&[line]).unwrap_or_else(|| panic!("not valid: {line}"))
}

/// What a field that says nothing we know comes to.
fn nothing() -> ResponseDirectives {
    ResponseDirectives { present: true, targeted: true, ..ResponseDirectives::default() }
}

/// Whether a response with these fields, in place of which a targeted one may speak, is stored.
fn stored(fields: &[(&str, &str)]) -> Result<Storable, NotStorable> {
    let headers = headers(fields);
    let directives = targeted_directives(&[CDN], &headers)
        .unwrap_or_else(|| ResponseDirectives::parse(&headers));
    let candidate = Candidate {
        method: &Method::GET,
        request: &RequestDirectives::default(),
        credentials: Credentials::None,
        status: StatusCode::OK,
        headers: &headers,
        directives: &directives,
        options: Options::default(),
        instructions: Instructions::default(),
        sets_cookie: false,
        useful_stale: false,
        requested_ms: NOW_MS,
        received_ms: NOW_MS,
    };
    candidate.decide()
}

// RFC 9213 2.1, RFC 9651 4.2
#[test]
fn one_bad_member_spoils_the_field() {
    for line in [
        "max-age=10, &&&&&",
        "&&&&&, max-age=10",
        "max-age=10,",
        ",max-age=10",
        "max-age=10,,no-store",
        "max-age=10 no-store",
        "max-age=10; no-store=",
        "max-age=",
        "max-age= 10",
        "max-age =10",
        "max-age=10.",
        "max-age=10.1234",
        "max-age=+10",
        "max-age=--1",
        "max-age=1e3",
        "max-age='10'",
        "max-age=\"10",
        "max-age=10, x=\"caf\u{e9}\"",
        "max-age=10, x=\"\\n\"",
        "max-age=10, x=:a:",
        "max-age=10, x=?2",
        "max-age=10, x=(1",
        "max-age=10, x=(1,2)",
        "max-age=10;X=1",
        "max-age=10, 5=1",
        "max-age=10, caf\u{e9}",
        "*/*",
        "\"max-age=10\"",
    ] {
        assert_eq!(of(&[line]), None, "{line}");
        assert_eq!(of(&["no-store", line]), None, "{line}");
        assert_eq!(of(&[line, "no-store"]), None, "{line}");
    }
}

// RFC 9651 3.1.2
#[test]
fn a_key_in_capitals_spoils_the_field() {
    for line in ["Max-Age=10", "MAX-AGE=10", "max-age=10, No-Store", "max-age=10, X"] {
        assert_eq!(of(&[line]), None, "{line}");
    }
}

// RFC 9213 2.1
#[test]
fn a_field_without_members_is_not_there() {
    assert_eq!(of(&[]), None);
    for line in ["", " ", " \t "] {
        assert_eq!(of(&[line]), None, "{line:?}");
    }
    assert_eq!(of(&["", ""]), None);
}

// RFC 9213 3.1
#[test]
fn unknown_directives_are_a_value_that_says_nothing() {
    for line in ["none", "x=1, y=(a b);c", "*=@17", "x=%\"f%c3%bc\"", "maxage=10", "no-store-x"] {
        assert_eq!(directives(line), nothing(), "{line}");
    }
}

// RFC 9213 2.2
#[test]
fn the_first_valid_and_not_empty_field_of_the_list_decides() {
    let found = |fields: &[(&str, &str)]| {
        targeted_directives(&[OURS, CDN], &headers(fields)).and_then(|found| found.max_age)
    };
    let cdn = ("cdn-cache-control", "max-age=2");
    assert_eq!(found(&[cdn, ("shop-cache-control", "max-age=1")]), Some(1));
    assert_eq!(found(&[cdn]), Some(2));
    assert_eq!(found(&[("shop-cache-control", "none"), cdn]), None);
    for bad in ["", " ", "max-age=1,", "Max-Age=1"] {
        assert_eq!(found(&[("shop-cache-control", bad), cdn]), Some(2), "{bad:?}");
    }
    assert_eq!(found(&[("shop-cache-control", "max-age=1"), ("cdn-cache-control", ",")]), Some(1));
}

// RFC 9213 2.2
#[test]
fn a_field_that_is_not_on_the_list_changes_nothing() {
    let fields = headers(&[
        ("cdn-cache-control", "no-store"),
        ("surrogate-control", "no-store"),
        ("other-cache-control", "private"),
        ("cache-control", "max-age=10"),
    ]);
    assert_eq!(targeted_directives(&[], &fields), None);
    assert_eq!(targeted_directives(&[OURS], &fields), None);
}

// RFC 9213 2.2
#[test]
fn cache_control_and_expires_say_nothing_beside_a_targeted_field() {
    let expires = at(3600);
    for other in ["no-store", "private", "no-cache", "max-age=0", "s-maxage=0, must-revalidate"] {
        let fields = [("cache-control", other), ("cdn-cache-control", "max-age=60")];
        let storable = stored(&fields).unwrap_or_else(|reason| panic!("{other}: {reason:?}"));
        assert_eq!(storable.lifetime, Duration::from_secs(60), "{other}");
    }
    for (says, reason) in [
        ("no-store", NotStorable::NoStore),
        ("private", NotStorable::Private),
        ("no-cache", NotStorable::NoCache),
        ("max-age=0", NotStorable::StaleOnArrival),
        ("none", NotStorable::NoFreshness),
        ("max-age=60, no-store", NotStorable::NoStore),
    ] {
        let fields = [
            ("cdn-cache-control", says),
            ("cache-control", "public, max-age=3600, s-maxage=3600"),
            ("expires", &expires),
        ];
        assert_eq!(stored(&fields), Err(reason), "{says}");
    }
    // one that is not valid leaves the word to them
    let fields = [("cdn-cache-control", "max-age=60,"), ("cache-control", "no-store")];
    assert_eq!(stored(&fields), Err(NotStorable::NoStore));
    let fields = [("cdn-cache-control", "no-store,"), ("expires", &expires)];
    assert_eq!(stored(&fields).map(|it| it.lifetime), Ok(Duration::from_secs(3600)));
}

// RFC 9213 2.3
#[test]
fn age_and_date_count_beside_a_targeted_field() {
    let minute = ("cdn-cache-control", "max-age=60");
    let until = |fields: &[(&str, &str)]| stored(fields).map(|it| it.fresh_until_ms);
    assert_eq!(until(&[minute]), Ok(NOW_MS + 60_000));
    assert_eq!(until(&[minute, ("age", "20")]), Ok(NOW_MS + 40_000));
    assert_eq!(until(&[minute, ("date", &at(-30))]), Ok(NOW_MS + 30_000));
    assert_eq!(until(&[minute, ("age", "60")]), Err(NotStorable::StaleOnArrival));
}

// RFC 9213 2.1
#[test]
fn values_of_another_type_are_not_coerced() {
    for line in [
        "max-age=\"10\"",
        "max-age=1.5",
        "max-age=10.0",
        "max-age",
        "max-age=?1",
        "max-age=ten",
        "max-age=(10)",
        "max-age=:MTA=:",
        "max-age=@10",
        "max-age=%\"10\"",
        "s-maxage=\"10\"",
        "stale-while-revalidate=1.0",
        "stale-if-error",
        "no-store=?0",
        "no-store=1",
        "no-store=true",
        "no-store=\"\"",
        "no-store=()",
        "no-cache=?0",
        "no-cache=0",
        "no-cache=(\"x-a\")",
        "private=?0",
        "private=1",
        "private=(x-a)",
        "private=:eA==:",
        "public=?0",
        "public=1",
        "public=yes",
        "must-revalidate=1",
        "proxy-revalidate=?0",
        "must-understand=1",
        "no-transform=\"x\"",
        "immutable=0",
    ] {
        assert_eq!(directives(line), nothing(), "{line}");
        // the others count all the same
        let other = directives(&format!("{line}, x=1, must-revalidate"));
        assert_eq!(other, ResponseDirectives { must_revalidate: true, ..nothing() }, "{line}");
    }
}

// RFC 9213 2.1
#[test]
fn a_lifetime_of_the_wrong_type_leaves_no_other_one() {
    let expires = at(3600);
    let fields = headers(&[
        ("cdn-cache-control", "max-age=\"60\""),
        ("cache-control", "max-age=60"),
        ("expires", &expires),
    ]);
    let found = targeted_directives(&[CDN], &fields).unwrap();
    assert_eq!(explicit_lifetime(&found, &fields, NOW_MS), None);
}

// RFC 9213 2.2
#[test]
fn every_directive_works() {
    type Change = fn(&mut ResponseDirectives);
    let cases: [(&str, Change); 15] = [
        ("max-age=10", |it| it.max_age = Some(10)),
        ("s-maxage=10", |it| it.s_maxage = Some(10)),
        ("stale-while-revalidate=10", |it| it.stale_while_revalidate = Some(10)),
        ("stale-if-error=10", |it| it.stale_if_error = Some(10)),
        ("no-store", |it| it.no_store = true),
        ("no-store=?1", |it| it.no_store = true),
        ("no-cache", |it| it.no_cache = Qualified::All),
        ("private", |it| it.private = Qualified::All),
        ("public", |it| it.public = true),
        ("must-revalidate", |it| it.must_revalidate = true),
        ("proxy-revalidate", |it| it.proxy_revalidate = true),
        ("must-understand", |it| it.must_understand = true),
        ("no-transform", |it| it.no_transform = true),
        ("immutable", |it| it.immutable = true),
        ("max-age=0010", |it| it.max_age = Some(10)),
    ];
    for (line, change) in cases {
        let mut expected = nothing();
        change(&mut expected);
        assert_eq!(directives(line), expected, "{line}");
        assert_eq!(directives(&format!("x ,\t{line};a=?0;b=\"c\" , y")), expected, "{line}");
    }
}

// RFC 9213 2.1, RFC 9111 5.2.2.4, 5.2.2.7
#[test]
fn no_cache_and_private_take_names_of_fields() {
    let names = |names: &[&'static str]| {
        Qualified::Fields(names.iter().map(|name| HeaderName::from_static(name)).collect())
    };
    for (value, expected) in [
        ("\"x-a, X-B\"", names(&["x-a", "x-b"])),
        ("\"set-cookie\";private=1", names(&["set-cookie"])),
        ("Set-Cookie", names(&["set-cookie"])),
        ("\"\"", Qualified::All),
        ("\" , \"", Qualified::All),
        ("\"a b\"", Qualified::All),
        ("a:b/c", Qualified::All),
    ] {
        let found = directives(&format!("no-cache={value}, private={value}"));
        assert_eq!((&found.no_cache, &found.private), (&expected, &expected), "{value}");
    }
}

// RFC 9111 5.2.2.4, 5.2.2.7
#[test]
fn no_cache_and_private_of_the_field_itself_mean_all() {
    let name = HeaderName::from_static("x-edge");
    for named in ["x-edge", "x-a, X-Edge", "cache-control", "age"] {
        let line = format!("max-age=60, no-cache=\"{named}\", private=\"{named}\"");
        let fields = headers(&[("x-edge", &line)]);
        let found = targeted_directives(std::slice::from_ref(&name), &fields).unwrap();
        assert_eq!(
            (&found.no_cache, &found.private),
            (&Qualified::All, &Qualified::All),
            "{named}"
        );
    }
}

// RFC 9111 4.2.1
#[test]
fn a_negative_number_is_stale() {
    for line in ["max-age=-1", "max-age=-0", "max-age=-999999999999999", "max-age=0"] {
        assert_eq!(directives(line).max_age, Some(0), "{line}");
    }
    assert_eq!(directives("s-maxage=-1").s_maxage, Some(0));
    assert_eq!(directives("stale-if-error=-1").stale_if_error, Some(0));
}

// RFC 9651 3.3.1, RFC 9111 1.2.2
#[test]
fn fifteen_digits_are_long_and_sixteen_are_not_valid() {
    for line in ["max-age=2147483648", "max-age=999999999999999", "max-age=000002147483648"] {
        assert_eq!(directives(line).max_age, Some(DELTA_MAX_SECS), "{line}");
    }
    for line in
        ["max-age=1000000000000000", "max-age=0000000000000010", "no-store, x=-1000000000000000"]
    {
        assert_eq!(of(&[line]), None, "{line}");
    }
}

// RFC 9651 4.2.2
#[test]
fn the_last_member_of_a_name_counts() {
    for (line, max_age) in [
        ("max-age=10, max-age=20", Some(20)),
        ("max-age=20, x, max-age=10", Some(10)),
        ("max-age=10, max-age=\"20\"", None),
        ("max-age=10, max-age=(20)", None),
        ("max-age=\"10\", max-age=20", Some(20)),
    ] {
        assert_eq!(directives(line).max_age, max_age, "{line}");
    }
    assert!(!directives("no-store, no-store=?0").no_store);
    assert_eq!(directives("private, private=\"x-a\"").private.fields().len(), 1);
    assert_eq!(directives("no-cache=\"x-a\", no-cache=\"x-b\"").no_cache.fields().len(), 1);
}

// RFC 9651 4.2
#[test]
fn several_lines_are_one_value() {
    let found = of(&["max-age=10, public", " no-transform\t", "max-age=20"]).unwrap();
    let expected =
        ResponseDirectives { max_age: Some(20), public: true, no_transform: true, ..nothing() };
    assert_eq!(found, expected);
    for lines in [
        &["", "max-age=10"][..],
        &["max-age=10", ""],
        &["max-age=10,", "public"],
        &["x=\"a", "b\", max-age=10"],
        &["x=(1", "2), max-age=10"],
    ] {
        assert_eq!(of(lines), None, "{lines:?}");
    }
}

#[test]
fn the_order_of_members_means_nothing() {
    let one = directives("max-age=10, private=\"x-a\", no-transform");
    assert_eq!(one, directives("no-transform, private=\"x-a\", max-age=10"));
}

fn line() -> impl Strategy<Value = HeaderValue> {
    let members = prop::collection::vec(
        "(max-age|no-store|private|x)(=(-?[0-9.]{1,16}|\\?[01]|\"[a-z,]{0,4}\"|[a-z:]{1,3}|\\([0-9 ]{0,4}\\)))?(;a)?",
        0..4,
    );
    let structured = members.prop_map(|members| members.join(", ").into_bytes());
    prop_oneof![field_bytes(40), structured]
        .prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap())
}

proptest! {
    #[test]
    fn any_bytes_are_a_value_or_none(lines in prop::collection::vec(line(), 0..3)) {
        let mut fields = HeaderMap::new();
        lines.iter().for_each(|line| { fields.append(CDN, line.clone()); });
        if let Some(found) = targeted_directives(&[OURS, CDN], &fields) {
            prop_assert!(found.targeted);
            prop_assert!(found.max_age.is_none_or(|seconds| seconds <= DELTA_MAX_SECS));
        }
    }

    /// What two lines say is what they say with a comma between them.
    #[test]
    fn lines_that_are_valid_are_joined_by_a_comma(a in line(), b in line()) {
        let field = |lines: &[&HeaderValue]| {
            let mut fields = HeaderMap::new();
            lines.iter().for_each(|line| { fields.append(CDN, (*line).clone()); });
            targeted_directives(&[CDN], &fields)
        };
        if let Some(apart) = field(&[&a, &b]) {
            let joined = [a.as_bytes(), b.as_bytes()].join(&b", "[..]);
            let joined = HeaderValue::from_bytes(&joined).unwrap();
            prop_assert_eq!(field(&[&joined]), Some(apart));
        }
    }
}
