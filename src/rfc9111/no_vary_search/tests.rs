use http::HeaderValue;
use proptest::prelude::*;

use super::super::testing::{field_bytes, headers};
use super::*;

fn of(lines: &[&str]) -> NoVarySearch {
    let fields: Vec<_> = lines.iter().map(|line| ("no-vary-search", *line)).collect();
    NoVarySearch::parse(&headers(&fields))
}

/// Whether the queries are the same for a response with this field; "-" is no query at all.
fn alike(field: &str, a: &str, b: &str) -> bool {
    same(&of(&[field]), query(a), query(b))
}

fn query(text: &str) -> Option<&str> {
    (text != "-").then_some(text)
}

fn same(nvs: &NoVarySearch, a: Option<&str>, b: Option<&str>) -> bool {
    let equal = equivalent(nvs, a, b);
    assert_eq!(equal, equivalent(nvs, b, a), "{a:?} {b:?}");
    assert_eq!(equal, canonical(nvs, a) == canonical(nvs, b), "{a:?} {b:?}");
    equal
}

// draft-ietf-httpbis-no-vary-search 5.1
#[test]
fn a_field_that_is_not_valid_gives_way_in_nothing() {
    for line in [
        // no dictionary
        "params=(\"a\"",
        "params=(\"a\"),",
        "params=(\"a\") key-order",
        "params=(\"a\", \"b\")",
        "params=(\"a\" \"caf\u{e9}\")",
        "Params=(\"a\")",
        "params=(\"a\"), X",
        "\"params\"",
        "(\"a\")",
        // the wrong type
        "key-order=\"?1\"",
        "key-order=1",
        "key-order=yes",
        "key-order=(\"a\")",
        "key-order=1, params=(\"a\")",
        "params=(\"a\"), key-order=(?1)",
        "key-order=(), except=(\"b\")",
        "params=\"a\"",
        "params=a",
        "params=1",
        "params=(a)",
        "params=(\"a\" b)",
        "params=(b \"a\")",
        "params=(\"a\" 1)",
        "params=(\"a\" ?1)",
        "params=(\"a\" :YQ==:)",
        "params=(\"a\" %\"b\")",
        "except=\"a\"",
        "except=a",
        "except=(a)",
        "except=(\"a\" b)",
        "except",
        "except=?0",
        "params=\"a\", key-order",
        "except=(a), key-order",
        // a boolean, which earlier drafts had
        "params",
        "params=?1",
        "params=?0",
        "params, key-order",
        "key-order, params=?0",
        // both
        "params=(\"a\"), except=(\"b\")",
        "params=(), except=()",
        "params, except=(\"a\")",
        "params=?1, except=(\"a\")",
        "params=?0, except=(\"a\")",
        "except=(\"a\"), params=(\"b\"), key-order",
        "params=(\"a\"), except=1",
    ] {
        assert!(of(&[line]).is_default(), "{line}");
        assert!(of(&["x", line]).is_default(), "{line}");
        assert!(!alike(line, "a=1", "a=2") && !alike(line, "a=1&b=2", "b=2&a=1"), "{line}");
    }
}

// draft-ietf-httpbis-no-vary-search 4, 5.2
#[test]
fn a_field_that_says_nothing_gives_way_in_nothing() {
    assert!(of(&[]).is_default());
    for line in ["", "key-order=?0", "params=()", "key-order=?0, params=()", "x", "x=(1), y=2"] {
        assert!(of(&[line]).is_default(), "{line}");
    }
    assert!(of(&["", "params=(\"a\")"]).is_default());
    assert!(of(&["params=(\"a\"", "\"b\")"]).is_default());
}

// draft-ietf-httpbis-no-vary-search 6
#[test]
fn by_default_queries_are_compared_to_the_letter() {
    for (a, b) in [
        ("-", ""),
        ("a=1", "a=2"),
        ("a=1&b=2", "b=2&a=1"),
        ("a", "a="),
        ("a=b&&&c", "a=b&c="),
        ("a=%78", "a=x"),
        ("a=%f6", "a=%ef%bf%bd"),
        ("a=%F6", "a=%f6"),
        ("a=+", "a=%20"),
        ("?", ""),
    ] {
        assert!(!alike("", a, b), "{a} {b}");
        assert!(!alike("params", a, b), "{a} {b}");
        assert!(alike("", a, a) && alike("", b, b));
    }
    let exactly = NoVarySearch::default();
    assert_eq!(canonical(&exactly, None), "");
    assert_eq!(canonical(&exactly, Some("")), "?");
    assert_eq!(canonical(&exactly, Some("b=%f6+&&a?c")), "?b=%f6+&&a?c");
}

// draft-ietf-httpbis-no-vary-search 5.1, 6
#[test]
fn parameters_listed_in_params_do_not_distinguish() {
    for (a, b, same) in [
        ("a=1", "a=2", true),
        ("a=1", "-", true),
        ("a=1&a=2&b", "", true),
        ("x=1&a=1", "b=2&x=1&a=5", true),
        ("x=1", "x=2", false),
        ("a=1&x=1", "a=1", false),
        ("x=1&y=2", "y=2&x=1", false),
        ("x=1&a=0&y=2", "x=1&y=2", true),
        ("A=1", "A=2", false),
        ("aa=1", "aa=2", false),
        ("%61=1", "a=2", true),
        ("x=1", "x=1&x=1", false),
    ] {
        assert_eq!(alike("params=(\"a\" \"b\")", a, b), same, "{a} {b}");
    }
}

// draft-ietf-httpbis-no-vary-search 5.1, 6
#[test]
fn only_parameters_listed_in_except_distinguish() {
    for (a, b, same) in [
        ("a=1", "a=2", false),
        ("a=1", "-", false),
        ("a", "", false),
        ("a=1&x=1", "x=2&a=1&y", true),
        ("x=1", "-", true),
        ("a=1&a=2", "a=2&a=1", false),
        ("A=1", "A=2", true),
        ("%61=1", "a=1&utm=x", true),
        ("%61=1", "a=2", false),
    ] {
        assert_eq!(alike("except=(\"a\")", a, b), same, "{a} {b}");
    }
    assert!(!alike("except=(\"a\" \"b\")", "a=1&b=2", "b=2&a=1"));
}

// draft-ietf-httpbis-no-vary-search 5.2
#[test]
fn an_empty_except_leaves_nothing_to_distinguish() {
    for line in ["except=()", "except=(), key-order", "key-order=?0, except=()"] {
        for text in ["-", "", "a", "a=1&b=2", "%ff=+&&&"] {
            assert!(alike(line, text, "z=9"), "{line} {text}");
            assert_eq!(canonical(&of(&[line]), query(text)), "");
        }
    }
}

// draft-ietf-httpbis-no-vary-search 6
#[test]
fn with_key_order_the_order_of_names_does_not_matter() {
    for (line, a, b, same) in [
        ("key-order", "a=1&b=2", "b=2&a=1", true),
        ("key-order", "a=1&b=2&a=3", "b=2&a=1&a=3", true),
        ("key-order", "a=1&a=3", "a=3&a=1", false),
        ("key-order", "b&a=1&c&a=3", "a=3&b&c&a=1", false),
        ("key-order", "a=1&b=2", "a=2&b=1", false),
        ("key-order", "a=1", "a=1&a=1", false),
        ("key-order=?1", "a=1&b=2", "b=2&a=1", true),
        ("key-order=?0", "a=1&b=2", "b=2&a=1", false),
        ("key-order;x=?0", "a=1&b=2", "b=2&a=1", true),
        ("key-order, params=(\"u\")", "a=1&u=0&b=2", "b=2&a=1", true),
        ("key-order, params=(\"u\")", "a=1&u=0&a=2", "a=2&a=1", false),
        ("params=(\"u\")", "a=1&u=0&b=2", "b=2&a=1", false),
        ("except=(\"a\" \"b\"), key-order", "a=1&x=0&b=2", "b=2&a=1", true),
        ("except=(\"a\" \"b\"), key-order", "a=1&a=2&b", "b&a=2&a=1", false),
        ("key-order, params=()", "a=1&b=2", "b=2&a=1", true),
        ("key-order=?0, params=(\"u\")", "a=1&b=2", "b=2&a=1", false),
    ] {
        assert_eq!(alike(line, a, b), same, "{line}: {a} {b}");
    }
}

// draft-ietf-httpbis-no-vary-search 6
#[test]
fn queries_are_decoded_as_forms_are() {
    for (a, b, same) in [
        ("-", "", true),
        ("a=x", "%61=%78", true),
        ("a=\u{e9}", "a=%C3%A9", true),
        ("a=%c3%a9", "a=%C3%A9", true),
        ("a=%f6", "a=%ef%bf%bd", true),
        ("a=%f6", "a=%ff", true),
        ("a=%f6", "a=\u{fffd}", true),
        ("a=x&&&&", "a=x", true),
        ("&&", "-", true),
        ("a=", "a", true),
        ("a=%20", "a=+", true),
        ("a=%20", "a= &", true),
        ("a=%2B", "a=+", false),
        ("a=%2b", "a=%2B", true),
        ("a%3D1", "a=1", false),
        ("a=1%26b=2", "a=1&b=2", false),
        ("a=b=c", "a=b%3Dc", true),
        ("=", "-", false),
        ("=", "=&=", false),
        ("=1", "1", false),
        ("a=%", "a=%25", true),
        ("a=%zz", "a=%25zz", true),
        ("a=%c3%a9", "a=e%cc%81", false),
        ("a=%ef%bb%bf", "a=", false),
        ("a=?", "a=%3F", true),
        ("a=%00", "a", false),
        ("a;b", "a&b", false),
    ] {
        assert_eq!(alike("key-order", a, b), same, "{a} {b}");
        assert_eq!(alike("params=(\"u\")", a, b), same, "{a} {b}");
    }
}

// draft-ietf-httpbis-no-vary-search 5.3
#[test]
fn listed_names_are_decoded_as_well() {
    let line = "params=(\"%C3%A9+%E6%B0%97\")";
    for query in
        ["\u{e9} \u{6c17}=1", "\u{e9}+\u{6c17}=2", "%C3%A9%20\u{6c17}=3", "%C3%A9+%E6%B0%97=4"]
    {
        assert!(alike(line, query, "-"), "{query}");
    }
    assert!(alike("params=(\"%f6\")", "%ef%bf%bd=1", "%ff=2"));
    assert!(alike("params=(\"%2B\")", "%2b=1", "-") && !alike("params=(\"+\")", "%2b=1", "-"));
    assert!(alike("params=(\"\\\"\")", "%22=1", "-"));
    assert!(alike("params=(\"\")", "=1", "-"));
}

// draft-ietf-httpbis-no-vary-search 5.1
#[test]
fn parameters_of_members_and_other_members_are_ignored() {
    let plain = of(&["params=(\"a\" \"b\"), key-order"]);
    assert!(!plain.is_default());
    for lines in [
        &["key-order, params=(\"b\" \"a\")"][..],
        &["params=(\"a\";x \"b\";y=?0);z=1, key-order;k=?0"],
        &["params=(\"a\" \"b\" \"a\"), future=1, key-order"],
        &["params=(  \"a\"   \"%62\" ) ,\tkey-order=?1"],
        &["params=(\"a\" \"b\")", "key-order"],
        &["params, params=(\"a\" \"b\"), key-order=?0, key-order"], // RFC 9651 4.2.2
        &["params=(x), params=(\"c\"), key-order, params=(\"a\" \"b\")"],
    ] {
        assert_eq!(of(lines), plain, "{lines:?}");
    }
    assert!(of(&["params=(\"a\"), params"]).is_default());
    assert!(of(&["except=(\"a\"), except=(b)"]).is_default());
}

#[test]
fn the_canonical_query_ends_a_target() {
    let nvs = of(&["key-order, params=(\"utm\")"]);
    for (query, expected) in [
        (None, ""),
        (Some(""), ""),
        (Some("utm=1"), ""),
        (Some("b=2&utm=1&a"), "?a=&b=2"),
        (Some("b+c=%f6&a=%2f~*-._"), "?a=%2F%7E*-._&b%20c=%EF%BF%BD"),
        (Some("=&%26=%3d%25"), "?=&%26=%3D%25"),
    ] {
        assert_eq!(canonical(&nvs, query), expected, "{query:?}");
        let path = format!("/{expected}");
        assert_eq!(path.parse::<http::uri::PathAndQuery>().unwrap(), path.as_str());
    }
}

fn queries() -> impl Strategy<Value = Option<String>> {
    let piece = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "=",
        "=",
        "&",
        "&",
        "+",
        "%20",
        "%61",
        "%f6",
        "%ef%bf%bd",
        "%",
        "%2",
        "\u{e9}",
        "%c3%a9",
        "%3d",
        "%26",
        "%00",
        "?",
    ]);
    let pieces = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    prop::option::weighted(0.9, prop_oneof![4 => pieces, 1 => ".{0,12}"])
}

/// Valid fields of every kind, and a few that are not.
fn fields() -> impl Strategy<Value = NoVarySearch> {
    prop::sample::select(vec![
        "",
        "params",
        "key-order",
        "params=(\"a\")",
        "params=(\"b\" \"%C3%A9\" \"\")",
        "except=()",
        "except=(\"a\")",
        "except=(\"b\" \"%f6\")",
        "params=(\"a\"), key-order",
        "except=(\"a\" \"b\" \"c\"), key-order",
    ])
    .prop_map(|line| of(&[line]))
}

proptest! {
    #[test]
    fn canonical_queries_are_equal_where_queries_are_equivalent(nvs in fields(), a in queries(), b in queries()) {
        let equal = equivalent(&nvs, a.as_deref(), b.as_deref());
        prop_assert_eq!(equal, canonical(&nvs, a.as_deref()) == canonical(&nvs, b.as_deref()));
        prop_assert_eq!(equal, equivalent(&nvs, b.as_deref(), a.as_deref()));
        prop_assert!(equivalent(&nvs, a.as_deref(), a.as_deref()));
    }

    #[test]
    fn a_canonical_query_is_its_own(nvs in fields(), query in queries()) {
        let once = canonical(&nvs, query.as_deref());
        let again = once.strip_prefix('?');
        prop_assert_eq!(once.is_empty(), again.is_none());
        prop_assert_eq!(&canonical(&nvs, again), &once);
        prop_assert!(equivalent(&nvs, query.as_deref(), again));
    }

    #[test]
    fn single_names_can_be_shuffled_with_key_order(
        pairs in prop::collection::btree_map("[a-d]{1,2}", "[a-z%+]{0,3}", 0..6)
            .prop_map(|pairs| pairs.into_iter().collect::<Vec<_>>())
            .prop_flat_map(|pairs| (Just(pairs.clone()), Just(pairs).prop_shuffle())),
    ) {
        let join = |pairs: &[(String, String)]| {
            pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
        };
        let (a, b) = (join(&pairs.0), join(&pairs.1));
        prop_assert!(same(&of(&["key-order"]), Some(&a), Some(&b)));
        prop_assert_eq!(same(&of(&["params=(\"z\")"]), Some(&a), Some(&b)), a == b);
    }

    #[test]
    fn any_bytes_are_a_field(
        lines in prop::collection::vec(
            prop_oneof![
                field_bytes(40),
                "((key-order|params|except)(=(\\?[01]|\"a\"|\\((\"[a%+]{0,3}\"| |;x|b){0,4}\\)))?[, ]{0,2}){0,3}"
                    .prop_map(String::into_bytes),
            ],
            0..3,
        ),
        query in queries(),
    ) {
        let mut headers = HeaderMap::new();
        for line in lines.iter().filter_map(|line| HeaderValue::from_bytes(line).ok()) {
            headers.append(NO_VARY_SEARCH, line);
        }
        let nvs = NoVarySearch::parse(&headers);
        prop_assert!(equivalent(&nvs, query.as_deref(), query.as_deref()));
        canonical(&nvs, query.as_deref());
    }
}
