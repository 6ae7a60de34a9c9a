use http::HeaderValue;
use proptest::prelude::*;

use super::super::testing::{field_bytes, headers};
use super::*;

fn names(names: &[&str]) -> Vec<HeaderName> {
    names.iter().map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap()).collect()
}

fn of(lines: &[&str]) -> Nominated {
    nominated(&headers(&lines.iter().map(|line| ("vary", *line)).collect::<Vec<_>>()))
}

/// Whether a response to a request with the fields `a` answers one with `b`.
fn alike(vary: &[&str], a: &[(&str, &str)], b: &[(&str, &str)]) -> bool {
    let selecting = select(&names(vary), &headers(a));
    let other = select(&names(vary), &headers(b));
    let matching = matches(&selecting, &headers(b));
    assert_eq!(matching, secondary_key(&selecting) == secondary_key(&other));
    matching
}

// RFC 9111 4.1
#[test]
fn nominated_names_are_one_list_without_order() {
    assert_eq!(of(&[]), Nominated::None);
    assert_eq!(of(&["", " , ,"]), Nominated::None);
    let expected = Nominated::Names(names(&["accept", "x-a", "x-b"]));
    for lines in [
        &["X-B, Accept, X-A"][..],
        &["x-a", "x-b", "accept"],
        &["x-a,x-b", "", "ACCEPT, x-a", ",X-B,"],
    ] {
        assert_eq!(of(lines), expected, "{lines:?}");
    }
}

// RFC 9111 4.1
#[test]
fn a_star_anywhere_matches_nothing() {
    for lines in [
        &["*"][..],
        &[" * "],
        &["*, accept"],
        &["accept, *"],
        &["accept,*,x-a"],
        &["accept", "*"],
        &["*", "accept"],
        &["*, *"],
        &[", *"],
        &["", "*"],
    ] {
        assert_eq!(of(lines), Nominated::Any, "{lines:?}");
    }
}

#[test]
fn a_member_that_is_no_name_matches_nothing() {
    for line in ["accept encoding", "a;b", "accept, \"x\"", "caf\u{e9}", "a: b", "(accept)"] {
        assert_eq!(of(&[line]), Nominated::Any, "{line}");
    }
}

// RFC 9111 4.1
#[test]
fn every_nominated_field_has_to_match() {
    let vary = ["foo", "bar", "baz"];
    let first = [("foo", "1"), ("bar", "abc"), ("baz", "789")];
    assert!(alike(&vary, &first, &[("baz", "789"), ("other", "x"), ("foo", "1"), ("bar", "abc")]));
    assert!(!alike(&vary, &first, &[("foo", "2"), ("bar", "abc"), ("baz", "789")]));
    assert!(!alike(&vary, &first, &[("foo", "1"), ("bar", "abcde"), ("baz", "789")]));
    assert!(!alike(&vary, &first, &[("foo", "1"), ("bar", "abc")]));
    assert!(!alike(&vary, &first, &[]));
    assert!(alike(&[], &first, &[]));
}

// RFC 9111 4.1
#[test]
fn absent_matches_only_absent() {
    let vary = ["foo"];
    assert!(alike(&vary, &[], &[("bar", "1")]));
    assert!(alike(&vary, &[("foo", "")], &[("foo", "")]));
    for value in ["", "-", "0", "null", "*"] {
        assert!(!alike(&vary, &[], &[("foo", value)]), "{value:?}");
        assert!(!alike(&vary, &[("foo", value)], &[]), "{value:?}");
    }
    assert!(!alike(&vary, &[("foo", "")], &[("foo", "-")]));
}

// RFC 9110 5.3, 5.5
#[test]
fn an_empty_last_line_is_the_same_as_a_comma_at_the_end() {
    for name in ["authorization", "from", "referer", "user-agent", "x-a", "accept"] {
        assert!(alike(&[name], &[(name, "a"), (name, "")], &[(name, "a,")]), "{name}");
        assert!(alike(&[name], &[(name, "a"), (name, "")], &[(name, "a, ")]), "{name}");
    }
    assert!(!alike(&["from"], &[("from", "a"), ("from", "")], &[("from", "a")]));
    assert!(alike(&["cookie"], &[("cookie", "a=1"), ("cookie", "")], &[("cookie", "a=1;")]));
}

// RFC 9110 5.3, 5.6.1
#[test]
fn several_lines_equal_one_and_space_around_commas_means_nothing() {
    let vary = ["foo"];
    for (a, b, same) in [
        (&["1, 2"][..], &["1", "2"][..], true),
        (&["1,2"], &["1 ,\t2 "], true),
        (&["1,2"], &["2,1"], false),
        (&["1 2"], &["1,2"], false),
        (&["1,2"], &["12"], false),
        (&["\"a,b\""], &["\"a, b\""], false), // inside of quotes it does
        (&["\"a,b\" , c"], &["\"a,b\",c"], true),
        (&["A"], &["a"], false),
    ] {
        let fields =
            |lines: &[&'static str]| lines.iter().map(|line| ("foo", *line)).collect::<Vec<_>>();
        assert_eq!(alike(&vary, &fields(a), &fields(b)), same, "{a:?} {b:?}");
    }
}

// RFC 9111 4.1
#[test]
fn single_values_are_compared_as_they_are() {
    for name in ["user-agent", "referer", "authorization", "cookie", "from"] {
        assert!(!alike(&[name], &[(name, "a,b")], &[(name, "a, b")]), "{name}");
        assert!(alike(&[name], &[(name, "a,b")], &[(name, "a,b")]), "{name}");
    }
    // RFC 9113 8.2.3
    assert!(alike(&["cookie"], &[("cookie", "a=1; b=2")], &[("cookie", "a=1"), ("cookie", "b=2")]));
}

// RFC 9110 12.5.4
#[test]
fn languages_match_in_any_case_space_and_order() {
    let vary = ["accept-language"];
    let language = |value: &'static str| [("accept-language", value)];
    for (a, b, same) in [
        ("en, de", "de, en", true),
        ("en,de;q=0.5", "DE; q=0.500 ,EN;q=1.0", true),
        ("en;q=0.8, de;q=0.8", "de;Q=0.8,en;q=0.80", true),
        ("en, en", "en", true),
        ("en,,", "en", true),
        ("en, de;q=0.5", "en, de", false),
        ("en;q=0.5, de", "en, de;q=0.5", false),
        ("en-gb", "en", false),
        ("en", "de", false),
        ("", "en", false),
        ("de;q=0", "", false),
    ] {
        assert_eq!(alike(&vary, &language(a), &language(b)), same, "{a:?} {b:?}");
    }
}

// RFC 9110 12.5.3
#[test]
fn encodings_match_in_any_case_space_and_order() {
    let vary = ["accept-encoding"];
    let encoding = |value: &'static str| [("accept-encoding", value)];
    for (a, b, same) in [
        ("gzip, br", "br,GZIP", true),
        ("gzip;q=1, br;q=0", "br;q=0.000, gzip", true),
        ("gzip, br", "gzip", false),
        ("gzip, br;q=0", "gzip, br", false),
        ("identity", "", false),
        ("gzip;q=500", "gzip;q=0.5", false), // no weight is repaired
        ("gzip;q=2", "gzip", false),
        ("gzip;q=1.5", "gzip", false),
        ("gzip;q=0.5000", "gzip;q=0.5", false),
        ("gzip;q=", "gzip", false),
        ("gzip;q=.5", "gzip;q=0.5", false),
    ] {
        assert_eq!(alike(&vary, &encoding(a), &encoding(b)), same, "{a:?} {b:?}");
    }
    assert!(!alike(&vary, &encoding("br"), &[]), "br is not for who did not ask");
}

// RFC 9110 12.5.1
#[test]
fn media_ranges_keep_their_parameters() {
    let vary = ["accept"];
    let accept = |value: &'static str| [("accept", value)];
    for (a, b, same) in [
        ("text/html, */*;q=0.1", "*/* ; q=0.1, TEXT/HTML", true),
        ("text/html;level=1", "text/html;Level=1", true),
        ("text/html;level=1", "text/html", false),
        ("a/b;x=\"Q,q;q=0.5\"", "a/b; x=\"Q,q;q=0.5\"", true),
        ("a/b;x=\"A\"", "a/b;x=\"a\"", false),
        ("text/html, a/b", "text/html, a/c", false),
    ] {
        assert_eq!(alike(&vary, &accept(a), &accept(b)), same, "{a:?} {b:?}");
    }
}

// RFC 9110 12.4.2, 12.5.1
#[test]
fn what_is_not_of_the_grammar_is_taken_for_nothing_else() {
    for (name, values) in [
        (
            "accept",
            &[
                "a/b;q=1;q=0.900",
                "a/b;q=0.9",
                "a/b",
                "a/b;q=0.9;q=1",
                "a/b;q=0.900;q=0.900",
                "a/b;q=1;q=2",
                "a/b;q=0.9;x=1",
                "a/b;x=1;q=0.9",
                "a/b;x=1",
                "a/b;q=.9",
                "a/b;q=0.9000",
                "a/b;q=\"0.900\"",
                "a/b;q =0.9",
                "a/b;q= 0.9",
                "a/b;q",
                "a/b;Q=",
                "a/b;",
                "a/b;q=0.9;",
                ";q=0.9",
                ";a/b;q=0.9",
                "a/b;;q=0.9",
                "a/b;x",
                "a/b;X",
                "a/b;x=\"1;q=0.900\"",
                "a/b;x=\"1;q=0.900",
                "a/b;x=\\\"1;q=0.900",
                "a/b;\"x=1\"",
                "a/b;\"X=1\"",
                "\"A\"",
                "\"a\"",
                "a b",
                "A b",
                "a=b",
                "A=b",
                "a/b;x=1 2",
                "a/b;X=1 2",
                "a/b;x=\"\\\"\"",
                "a/b;x=\"\\",
                "a/b;x=\"\\\\\"",
                "caf\u{e9}",
                "CAF\u{e9}",
            ][..],
        ),
        (
            "accept-encoding",
            &[
                "gzip;q=1;q=0.000",
                "gzip;q=0",
                "gzip",
                "gzip;q=0;q=1",
                "gzip;q=2",
                "gzip;q=1.001",
                "gzip;q=-0",
                "gzip;q=0,5",
                "gzip;q=00",
                "gzip;q=1e0",
                "gzip;q=+1",
                "gzip;q=0.5 ;q=1",
            ],
        ),
        // an unterminated string reaches to the end, and sorts before what stands before it
        ("accept-language", &["b,\"a", "\"a,b", "\"a, b", "a,\"b", "b;x=\",a", "a,b;x=\""]),
        // one range with two weights: readers take the first, or the last
        ("accept-language", &["en, en;q=0.5", "en;q=0.5, en", "en", "en;q=0.5"]),
        (
            "accept-encoding",
            &["gzip, br;q=0, br", "br, gzip, br;q=0", "br;q=0, br, gzip", "br,gzip"],
        ),
    ] {
        for (index, a) in values.iter().enumerate() {
            for (other, b) in values.iter().enumerate() {
                assert_eq!(alike(&[name], &[(name, a)], &[(name, b)]), index == other, "{a} {b}");
            }
        }
    }
    // what is of the grammar still has one form
    for (a, b) in
        [("a/b;q=1.", "A/B"), ("a/b;q=0.", "a/b;q=0.000"), ("a/b;X=1 ; Q=0.9", "a/b;x=1;q=0.90")]
    {
        assert!(alike(&["accept"], &[("accept", a)], &[("accept", b)]), "{a} {b}");
    }
}

#[test]
fn the_secondary_key_confuses_no_two_combinations() {
    let keys = [
        &[("x-a", "ab"), ("x-b", "c")][..],
        &[("x-a", "a"), ("x-b", "bc")],
        &[("x-a", "abc"), ("x-b", "")],
        &[("x-a", "abc")],
        &[("x-b", "abc")],
        &[("x-a", "c"), ("x-b", "ab")],
        &[("x-a", "-")],
        &[("x-a", "")],
        &[],
    ]
    .map(|fields| secondary_key(&select(&names(&["x-a", "x-b"]), &headers(fields))));
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(keys.iter().position(|other| other == key), Some(index));
    }
    let one = secondary_key(&select(&names(&["x-a"]), &headers(&[])));
    let two = secondary_key(&select(&names(&["x-a", "x-b"]), &headers(&[])));
    let other = secondary_key(&select(&names(&["x-b"]), &headers(&[])));
    assert!(one != two && one != other && secondary_key(&[]) != one);
}

#[test]
fn the_secondary_key_does_not_depend_on_the_order_of_names() {
    let request = headers(&[("x-a", "1"), ("x-b", "2")]);
    let one = select(&names(&["x-a", "x-b"]), &request);
    let two = select(&names(&["x-b", "x-a"]), &request);
    assert_eq!(secondary_key(&one), secondary_key(&two));
}

fn value() -> impl Strategy<Value = HeaderValue> {
    field_bytes(20).prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap())
}

// RFC 9110 12.5.3
#[test]
fn what_is_coded_is_selected_by_accept_encoding_too() {
    let names = |fields: &[(&str, &str)]| match selecting(&headers(fields)) {
        Nominated::Names(names) => names.iter().map(|name| name.as_str().to_owned()).collect(),
        Nominated::None => Vec::new(),
        Nominated::Any => vec!["*".to_owned()],
    };
    assert_eq!(names(&[("content-encoding", "gzip")]), ["accept-encoding"]);
    assert_eq!(
        names(&[("content-encoding", "Identity , br"), ("vary", "x-a")]),
        ["accept-encoding", "x-a"]
    );
    assert_eq!(
        names(&[("content-encoding", "br"), ("vary", "Accept-Encoding")]),
        ["accept-encoding"]
    );
    assert_eq!(names(&[("content-encoding", "br"), ("vary", "*")]), ["*"]);
    assert!(names(&[("content-encoding", "IDENTITY,, ")]).is_empty());
    assert!(names(&[("content-type", "text/html")]).is_empty());
}

proptest! {
    #[test]
    fn any_bytes_are_selected_and_match_themselves(lines in prop::collection::vec(value(), 0..4)) {
        for name in [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, COOKIE, VARY] {
            let mut request = HeaderMap::new();
            for line in &lines {
                request.append(&name, line.clone());
            }
            nominated(&request);
            let selecting = select(std::slice::from_ref(&name), &request);
            prop_assert!(matches(&selecting, &request));
            prop_assert_eq!(matches(&selecting, &HeaderMap::new()), lines.is_empty());
        }
    }

    #[test]
    fn framing_is_injective(a in prop::collection::vec("[ab]{0,3}", 0..4), b in prop::collection::vec("[ab]{0,3}", 0..4)) {
        let framed = |parts: &[String]| {
            let mut framed = Vec::new();
            parts.iter().for_each(|part| frame(&mut framed, part.as_bytes()));
            framed
        };
        prop_assert_eq!(a == b, framed(&a) == framed(&b));
    }

    /// Values without commas and outer spaces have one form only.
    #[test]
    fn different_single_members_never_match(a in "[!-+.-~]{0,8}", b in "[!-+.-~]{0,8}") {
        prop_assert_eq!(alike(&["x-a"], &[("x-a", &a)], &[("x-a", &b)]), a == b);
    }
}
