use http::HeaderValue;
use proptest::prelude::*;

use super::super::syntax::DELTA_MAX_SECS;
use super::super::testing::field_bytes;
use super::*;

fn lines(name: HeaderName, values: &[impl AsRef<[u8]>]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(&name, HeaderValue::from_bytes(value.as_ref()).unwrap());
    }
    headers
}

fn response(value: impl AsRef<[u8]>) -> ResponseDirectives {
    ResponseDirectives::parse(&lines(CACHE_CONTROL, &[value]))
}

fn request(value: &str) -> RequestDirectives {
    RequestDirectives::parse(&lines(CACHE_CONTROL, &[value]))
}

fn names(of: &Qualified) -> Vec<&str> {
    of.fields().iter().map(HeaderName::as_str).collect()
}

// RFC 9111 5.2
#[test]
fn names_of_directives_are_read_in_any_case() {
    for value in ["no-store", "NO-STORE", "No-Store", "max-age=100, nO-sToRe", " \tno-store,"] {
        assert!(response(value).no_store, "{value}");
    }
    assert_eq!(response("MAX-AGE=5, S-MaxAge=6").max_age, Some(5));
    assert_eq!(response("MAX-AGE=5, S-MaxAge=6").s_maxage, Some(6));
}

// RFC 9111 5.2.2.5
#[test]
fn no_store_counts_next_to_max_age() {
    for value in [
        "no-store, max-age=10000",
        "max-age=10000, no-store",
        "no-store=1",
        "no-store=\"\"",
        "no-store foo",
        "no-store;max-age=5",
    ] {
        assert!(response(value).no_store, "{value}");
    }
}

// RFC 9111 5.2.3
#[test]
fn unknown_directives_are_ignored() {
    for value in [
        "foo",
        "foo=bar",
        "foo=\"bar\"",
        "no-storex",
        "xno-store",
        "no_store",
        "max-agee=5",
        "s-max-age=5",
        "a-name-that-is-longer-than-all-of-those-that-are-known=5",
        ",,, ,\t,",
        "=5",
        "",
    ] {
        let expected = ResponseDirectives { present: true, ..ResponseDirectives::default() };
        assert_eq!(response(value), expected, "{value}");
    }
}

// RFC 9110 5.3
#[test]
fn several_lines_are_one_list() {
    let headers = lines(CACHE_CONTROL, &["max-age=1", "foo, no-store", "private"]);
    let directives = ResponseDirectives::parse(&headers);
    assert_eq!(directives.max_age, Some(1));
    assert!(directives.no_store && directives.private == Qualified::All);
}

// RFC 9111 5.2
#[test]
fn text_in_quotes_is_no_directive() {
    for (value, seconds) in [
        ("extension=\"max-age=3600\", max-age=1", Some(1)),
        ("max-age=1, extension=\"max-age=3600\"", Some(1)),
        ("extension=\"a, max-age=3600, b\"", None),
        ("extension=\"a\\\", max-age=3600, \\\"\"", None),
        ("extension=\"a\\\\\", max-age=3600", Some(3600)),
    ] {
        assert_eq!(response(value).max_age, seconds, "{value}");
    }
    assert!(!response("extension=\"a, no-store, b\"").no_store);
}

#[test]
fn what_a_broken_quote_swallows_can_restrict_but_not_permit() {
    for value in [
        "foo=\"bar, no-store, max-age=5",
        "foo= \"bar, no-store, max-age=5\"",
        "foo\"bar, no-store, max-age=5\"",
        "foo=\"a\"b, \"no-store, max-age=5\"",
    ] {
        let directives = response(value);
        assert!(directives.no_store, "{value}");
        assert!(directives.max_age.is_none_or(|seconds| seconds == 0), "{value}");
    }
    assert!(!response("foo=\"bar, public, must-understand").public);
    assert!(!response("foo=\"bar, public, must-understand").must_understand);
    let headers = lines(CACHE_CONTROL, &["foo=\"bar", "no-store"]);
    assert!(ResponseDirectives::parse(&headers).no_store, "a quote ends with its line");
}

// RFC 9111 1.2.2, 4.2.1
#[test]
fn a_max_age_that_is_not_digits_is_stale() {
    for (value, seconds) in [
        ("max-age=3600", 3600),
        ("max-age=\"3600\"", 3600),
        ("max-age=\"36\\00\"", 3600),
        ("max-age=003600", 3600),
        ("max-age=0", 0),
        ("max-age='3600'", 0),
        ("max-age=-1", 0),
        ("max-age=+5", 0),
        ("max-age=3600.0", 0),
        ("max-age=3600.5", 0),
        ("max-age=a3600", 0),
        ("max-age=3600a", 0),
        ("max-age=0x10", 0),
        ("max-age=1e3", 0),
        ("max-age =3600", 0),
        ("max-age= 3600", 0),
        ("max-age = 3600", 0),
        ("max-age=\" 3600\"", 0),
        ("max-age=\"3600", 0),
        ("max-age=3600\"", 0),
        ("max-age=36 00", 0),
        ("max-age=3600;foo=bar", 0),
        ("max-age:3600", 0),
        ("max-age=", 0),
        ("max-age", 0),
        ("max-age=\"\"", 0),
    ] {
        assert_eq!(response(value).max_age, Some(seconds), "{value}");
        let shared = value.replace("max-age", "s-maxage");
        assert_eq!(response(&shared).s_maxage, Some(seconds), "{shared}");
    }
}

// RFC 9111 1.2.2
#[test]
fn huge_values_count_as_2_to_the_31() {
    for digits in ["2147483648", "4294967297", "99999999999999999999999999999"] {
        assert_eq!(response(format!("max-age={digits}")).max_age, Some(DELTA_MAX_SECS));
    }
}

// RFC 9111 4.2.1
#[test]
fn of_repeated_lifetimes_the_first_counts_and_never_the_longest() {
    for (value, seconds) in [
        ("max-age=1, max-age=1800", 1),
        ("max-age=60, max-age=60", 60),
        ("max-age=1800, max-age=1", 0),
        ("max-age=1800, max-age=x", 0),
        ("max-age=x, max-age=1800", 0),
        ("max-age=10, max-age=20, max-age=5", 0),
    ] {
        assert_eq!(response(value).max_age, Some(seconds), "{value}");
        let on_lines: Vec<_> = value.split(", ").collect();
        let directives = ResponseDirectives::parse(&lines(CACHE_CONTROL, &on_lines));
        assert_eq!(directives.max_age, Some(seconds), "{value} on several lines");
    }
    assert_eq!(response("stale-if-error=9, stale-if-error=3").stale_if_error, Some(3));
}

// RFC 9111 5.2.2.4, 5.2.2.7
#[test]
fn no_cache_and_private_name_fields_or_mean_all() {
    for (argument, expected) in [
        ("=\"set-cookie\"", vec!["set-cookie"]),
        ("=\"Set-Cookie, X-Foo\"", vec!["set-cookie", "x-foo"]),
        ("=Set-Cookie", vec!["set-cookie"]),
    ] {
        assert_eq!(names(&response(format!("no-cache{argument}")).no_cache), expected);
        assert_eq!(names(&response(format!("private{argument}")).private), expected);
    }
    for argument in ["", "=", "=\"\"", "=\",\"", "=\"a b\"", "=\"a", "=a b", ";x=y", " =\"a\""] {
        let directives = response(format!("no-cache{argument}, private{argument}"));
        assert_eq!(directives.no_cache, Qualified::All, "no-cache{argument}");
    }
    assert_eq!(response("private, private=\"a\"").private, Qualified::All);
    assert_eq!(response("private=\"a\", private").private, Qualified::All);
    assert_eq!(names(&response("private=\"a\", private=\"b\"").private), ["a", "b"]);
}

// RFC 9111 5.2.2.4, 5.2.2.7
#[test]
fn no_cache_and_private_of_a_field_that_the_cache_decides_by_mean_all() {
    for name in [
        "Cache-Control",
        "expires",
        "date",
        "age",
        "vary",
        "etag",
        "last-modified",
        "content-type",
        "content-encoding",
        "content-location",
        "no-vary-search",
        "cache-groups",
        "cdn-cache-control",
        "Tower-MySQL-Cache-Control",
    ] {
        for argument in [format!("\"{name}\""), format!("\"x-a, {name}\""), name.to_owned()] {
            let directives = response(format!("no-cache={argument}, private={argument}"));
            assert_eq!(directives.no_cache, Qualified::All, "{argument}");
            assert_eq!(directives.private, Qualified::All, "{argument}");
            assert!(directives.forbids_stale());
        }
    }
}

#[test]
fn what_permits_has_to_be_well_formed() {
    let directives = response("public, must-understand, immutable");
    assert!(directives.public && directives.must_understand && directives.immutable);
    for value in ["public=1", "public x", "must-understand=\"\"", "immutable;x"] {
        let directives = response(value);
        assert!(!directives.public && !directives.must_understand && !directives.immutable);
    }
    assert_eq!(response("stale-while-revalidate=x").stale_while_revalidate, Some(0));
    assert_eq!(response("stale-if-error=-5").stale_if_error, Some(0));
}

// RFC 9111 4.2.4
#[test]
fn four_directives_forbid_to_serve_stale() {
    for value in ["no-cache", "must-revalidate", "proxy-revalidate", "s-maxage=5"] {
        assert!(response(format!("max-age=1, {value}")).forbids_stale(), "{value}");
    }
    for value in ["max-age=5", "no-cache=\"x\"", "stale-if-error=60", "public", "foo"] {
        assert!(!response(value).forbids_stale(), "{value}");
    }
}

#[test]
fn bytes_beyond_ascii_survive() {
    let directives = response(b"for=\"\xff, max-age=9\", x=\xff, \xe9, max-age=7");
    assert_eq!(directives.max_age, Some(7));
    assert_eq!(response(b"max-age=5\xff").max_age, Some(0));
    assert_eq!(response("max-age=\u{665}").max_age, Some(0));
    assert!(response(b"no-store\xff").no_store);
}

// RFC 9111 5.2.1
#[test]
fn request_directives_are_read() {
    let directives = request("no-store, NO-CACHE, only-if-cached, max-age=5, min-fresh=6");
    assert!(directives.no_store && directives.no_cache && directives.only_if_cached);
    assert_eq!((directives.max_age, directives.min_fresh), (Some(5), Some(6)));
    assert_eq!(request("stale-if-error=\"7\"").stale_if_error, Some(7));
    for (value, expected) in [
        ("max-stale", MaxStale::Any),
        ("max-stale=60", MaxStale::Secs(60)),
        ("max-stale=x", MaxStale::Secs(0)),
        ("max-stale=", MaxStale::Secs(0)),
        ("max-stale, max-stale=5", MaxStale::Secs(5)),
        ("max-stale=5, max-stale", MaxStale::Secs(5)),
        ("max-stale=5, max-stale=9", MaxStale::Secs(5)),
    ] {
        assert_eq!(request(value).max_stale, Some(expected), "{value}");
    }
}

// RFC 9111 5.2.3
#[test]
fn unknown_request_directives_mean_nothing() {
    for value in ["foo", "no-cachex", "max-ages=0", "public", "private", "must-revalidate"] {
        assert_eq!(request(value), RequestDirectives::default(), "{value}");
    }
}

// RFC 9111 5.4
#[test]
fn pragma_counts_only_without_cache_control() {
    for (value, no_cache) in [
        ("no-cache", true),
        ("No-Cache", true),
        ("foo, no-cache", true),
        ("foo", false),
        ("no-cache=x", false),
        ("max-age=0", false),
    ] {
        let mut headers = lines(PRAGMA, &[value]);
        assert_eq!(RequestDirectives::parse(&headers).no_cache, no_cache, "{value}");
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
        assert!(!RequestDirectives::parse(&headers).no_cache, "{value}");
    }
    let headers = lines(PRAGMA, &["no-cache"]);
    assert_eq!(ResponseDirectives::parse(&headers), ResponseDirectives::default());
}

fn field_value() -> impl Strategy<Value = HeaderValue> {
    let bytes = field_bytes(60);
    let pieces = prop::sample::select(vec![
        "max-age", "s-maxage", "no-store", "private", "=", "\"", "\\", ",", " ", "3600", "1", "x",
    ]);
    let words = prop::collection::vec(pieces, 0..16).prop_map(|words| words.concat().into_bytes());
    prop_oneof![bytes, words].prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap())
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(values in prop::collection::vec(field_value(), 0..4)) {
        let headers = lines(CACHE_CONTROL, &values);
        let directives = ResponseDirectives::parse(&headers);
        prop_assert_eq!(directives.present, !values.is_empty());
        prop_assert!(directives.max_age.is_none_or(|seconds| seconds <= DELTA_MAX_SECS));
        RequestDirectives::parse(&headers);
    }

    /// The strict reader is the grammar in a few lines: it takes a value only from a member that is
    /// `max-age=` and digits, or digits in quotes.
    #[test]
    fn no_lifetime_is_longer_than_a_strict_reader_finds(value in field_value()) {
        let mut quoted = false;
        let members = value.as_bytes().split(|&byte| {
            quoted ^= byte == b'"';
            byte == b',' && !quoted
        });
        let strict = members.filter_map(|member| {
            let member = std::str::from_utf8(member).ok()?.trim();
            let digits = member.strip_prefix("max-age=")?.replace(['"', '\\'], "");
            digits.parse::<u64>().ok()
        });
        let longest = strict.max().unwrap_or(0);
        let headers = lines(CACHE_CONTROL, &[&value]);
        let found = ResponseDirectives::parse(&headers).max_age.unwrap_or(0);
        // an escaped quote is read differently by so simple a reader
        prop_assert!(found <= longest || value.as_bytes().contains(&b'\\'), "{found} > {longest}");
    }

    #[test]
    fn adding_a_restriction_never_loosens(value in field_value()) {
        let alone = response(&value);
        let more = ResponseDirectives::parse(&lines(CACHE_CONTROL, &[&value, &HeaderValue::from_static("no-store, private, no-cache, max-age=0")]));
        prop_assert!(more.no_store && more.private == Qualified::All && more.no_cache == Qualified::All);
        prop_assert!(more.max_age.unwrap_or(0) <= alone.max_age.unwrap_or(0));
        prop_assert_eq!(more.public, alone.public);
    }
}
