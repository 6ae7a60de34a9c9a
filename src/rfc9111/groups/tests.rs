use http::HeaderValue;
use proptest::prelude::*;

use super::super::testing::{field_bytes, headers};
use super::*;

fn of(lines: &[&str]) -> Vec<String> {
    let fields: Vec<_> = lines.iter().map(|line| ("cache-groups", *line)).collect();
    cache_groups(&headers(&fields))
}

fn invalidated(method: &Method, status: u16, line: &str) -> Vec<String> {
    let fields = headers(&[("cache-group-invalidation", line)]);
    invalidated_groups(method, StatusCode::from_u16(status).unwrap(), &fields)
}

fn quoted(groups: &[String]) -> String {
    let quoted =
        |group: &String| format!("\"{}\"", group.replace('\\', "\\\\").replace('"', "\\\""));
    groups.iter().map(quoted).collect::<Vec<_>>().join(", ")
}

// RFC 9875 2, RFC 9651 4.2
#[test]
fn a_field_that_is_no_list_of_strings_is_ignored_whole() {
    for line in [
        "a",
        "\"a\", b",
        "b, \"a\"",
        "\"a\" \"b\"",
        "\"a\",",
        ",\"a\"",
        "\"a\",,\"b\"",
        "\"a",
        "a\"",
        "'a'",
        "\"a\", 1",
        "\"a\", ?1",
        "\"a\", :YQ==:",
        "\"a\", @1",
        "\"a\", %\"b\"",
        "\"a\", (\"b\")",
        "(\"a\" \"b\")",
        "()",
        "\"a\\x\"",
        "\"caf\u{e9}\"",
        "\"a\tb\"",
        "\"a\";X",
        "*",
    ] {
        assert_eq!(of(&[line]), [""; 0], "{line}");
        assert_eq!(of(&["\"x\"", line]), [""; 0], "{line}");
        assert_eq!(invalidated(&Method::POST, 200, line), [""; 0], "{line}");
    }
}

// RFC 9875 2
#[test]
fn a_response_belongs_to_each_group_that_it_names() {
    for (lines, groups) in [
        (&[][..], &[][..]),
        (&[""], &[]),
        (&["\"scripts\""], &["scripts"]),
        (&["\"a\", \"b\""], &["a", "b"]),
        (&["\"a\",\t\"b\" "], &["a", "b"]),
        (&["\"a\"", "\"b\", \"c\""], &["a", "b", "c"]),
        (&["\"a\", \"b\", \"a\""], &["a", "b"]),
        (&["\"a\";revalidate, \"b\";x=1;y=\"c, d\""], &["a", "b"]),
        (&["\"\""], &[""]),
    ] {
        assert_eq!(of(lines), groups, "{lines:?}");
    }
    // lines that are no values by themselves
    assert_eq!(of(&["\"a", "b\""]), [""; 0]);
    assert_eq!(of(&["\"a\"", ""]), [""; 0]);
}

// RFC 9875 2.1
#[test]
fn groups_are_compared_to_the_letter() {
    let line = "\"News\", \"news\", \"news \", \" news\", \"n%65ws\", \"NEWS\"";
    assert_eq!(of(&[line]), ["News", "news", "news ", " news", "n%65ws", "NEWS"]);
}

#[test]
fn a_group_with_commas_spaces_and_quotes_is_one_group() {
    assert_eq!(of(&["\"a, b\", \"c d\""]), ["a, b", "c d"]);
    assert_eq!(of(&["\"a,b\""]), ["a,b"]);
    assert_eq!(of(&["\"a\", \"b\""]), ["a", "b"]);
    assert_eq!(of(&["\"a\\\", \\\"b\""]), ["a\", \"b"]);
    assert_eq!(of(&["\"\\\\\""]), ["\\"]);
    assert_eq!(invalidated(&Method::POST, 200, "\"a, b\", \"c\""), ["a, b", "c"]);
}

// RFC 9875 2
#[test]
fn at_least_32_groups_of_32_characters_are_kept() {
    let groups: Vec<_> = (0..MAX_GROUPS).map(|number| format!("{number:032}")).collect();
    assert_eq!(of(&[&quoted(&groups)]), groups);
    assert_eq!(invalidated(&Method::POST, 200, &quoted(&groups)), groups);
    let long = vec!["x".repeat(MAX_GROUP_CHARS)];
    assert_eq!(of(&[&quoted(&long)]), long);
}

#[test]
fn groups_beyond_the_limits_are_left_out_and_none_is_cut() {
    let mut groups: Vec<_> = (0..=MAX_GROUPS).map(|number| number.to_string()).collect();
    let all = quoted(&groups);
    groups.truncate(MAX_GROUPS);
    assert_eq!(of(&[&all]), groups);
    // repeats take no place
    assert_eq!(of(&["\"0\", \"0\"", &all]), groups);
    let long = "x".repeat(MAX_GROUP_CHARS + 1);
    assert_eq!(of(&[&format!("\"{long}\", \"a\"")]), ["a"]);
}

// RFC 9875 3
#[test]
fn a_success_of_an_unsafe_or_unknown_method_invalidates_groups() {
    for name in ["POST", "PUT", "DELETE", "PATCH", "FOO"] {
        let method = Method::from_bytes(name.as_bytes()).unwrap();
        for status in [200, 201, 204, 303, 304] {
            assert_eq!(
                invalidated(&method, status, "\"a\", \"b\";x"),
                ["a", "b"],
                "{name} {status}"
            );
        }
    }
}

// RFC 9875 3
#[test]
fn the_field_is_ignored_on_safe_methods() {
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE] {
        assert_eq!(invalidated(&method, 200, "\"a\""), [""; 0], "{method}");
    }
}

// RFC 9111 4.4
#[test]
fn the_field_is_ignored_on_errors() {
    for status in [100, 400, 404, 409, 500, 503, 999] {
        assert_eq!(invalidated(&Method::POST, status, "\"a\""), [""; 0], "{status}");
    }
}

// RFC 9875 2, 3
#[test]
fn membership_and_invalidation_are_two_fields() {
    let fields = headers(&[("cache-groups", "\"a\""), ("cache-group-invalidation", "\"b\"")]);
    assert_eq!(cache_groups(&fields), ["a"]);
    assert_eq!(invalidated_groups(&Method::POST, StatusCode::OK, &fields), ["b"]);
}

proptest! {
    #[test]
    fn any_bytes_are_groups_or_none(
        lines in prop::collection::vec(
            prop_oneof![
                field_bytes(40),
                "(\"[a-c\\\\, ]{0,3}\"(;[a-b])?[, ]{0,2}){0,4}".prop_map(String::into_bytes),
            ],
            0..3,
        ),
    ) {
        let mut fields = HeaderMap::new();
        for line in lines.iter().filter_map(|line| HeaderValue::from_bytes(line).ok()) {
            fields.append(CACHE_GROUPS, line);
        }
        let groups = cache_groups(&fields);
        prop_assert!(groups.len() <= MAX_GROUPS);
        for (index, group) in groups.iter().enumerate() {
            prop_assert!(group.len() <= MAX_GROUP_CHARS);
            prop_assert_eq!(groups.iter().position(|other| other == group), Some(index));
        }
    }

    #[test]
    fn groups_survive_the_wire(groups in prop::collection::hash_set("[ -~]{0,40}", 0..40)) {
        let groups: Vec<_> = groups.into_iter().collect();
        prop_assert_eq!(of(&[&quoted(&groups)]), groups);
    }
}
