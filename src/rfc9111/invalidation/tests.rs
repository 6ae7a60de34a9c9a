use http::header::{CONTENT_LOCATION, LOCATION};
use proptest::prelude::*;

use super::super::testing::headers;
use super::*;

const TARGET: Target<'_> =
    Target { scheme: "https", authority: "shop.example", path: "/products/7/edit" };

const FIELDS: &[HeaderName] = &[LOCATION, CONTENT_LOCATION];

fn method(name: &str) -> Method {
    Method::from_bytes(name.as_bytes()).unwrap()
}

fn of(reference: &str) -> Vec<String> {
    same_origin_targets(TARGET, &headers(&[("location", reference)]), FIELDS)
}

// RFC 9110 9.2.1, RFC 9111 4.4
#[test]
fn a_success_of_an_unsafe_or_unknown_method_invalidates() {
    for name in ["POST", "PUT", "DELETE", "PATCH", "MKCOL", "FOO", "get"] {
        let method = method(name);
        assert!(!is_safe(&method), "{name}");
        for status in [200, 201, 202, 204, 206, 299, 301, 302, 303, 304, 307, 399] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(invalidates(&method, status), "{name} {status}");
        }
    }
}

// RFC 9111 4.4
#[test]
fn an_error_invalidates_nothing() {
    for name in ["POST", "PUT", "DELETE", "FOO"] {
        for status in [100, 101, 400, 404, 409, 499, 500, 503, 599, 999] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(!invalidates(&method(name), status), "{name} {status}");
        }
    }
}

#[test]
fn a_time_out_or_a_server_error_leaves_open_what_has_changed() {
    for (status, open) in
        [(408, true), (500, true), (504, true), (400, false), (409, false), (200, false)]
    {
        assert_eq!(leaves_open(StatusCode::from_u16(status).unwrap()), open, "{status}");
    }
}

// RFC 9110 9.2.1, 16.1.1
#[test]
fn safe_methods_invalidate_nothing() {
    for name in ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "PROPFIND", "REPORT", "SEARCH"] {
        assert!(is_safe(&method(name)), "{name}");
        assert!(!invalidates(&method(name), StatusCode::OK), "{name}");
    }
}

// RFC 9111 4.4, RFC 3986 5.4
#[test]
fn references_to_the_same_origin_are_resolved() {
    for (reference, path) in [
        ("https://shop.example/a?b=c", "/a?b=c"),
        ("HTTPS://SHOP.example:443/a", "/a"),
        ("https://shop.example:/a", "/a"),
        ("https://shop.example", "/"),
        ("https://shop.example?x", "/?x"),
        ("https://shop.example/A%2f#top", "/A%2f"),
        ("//shop.example/a", "/a"),
        ("/a/b?c", "/a/b?c"),
        ("/a?u=http://other.example/", "/a?u=http://other.example/"),
        ("/", "/"),
        ("/a/./b/../c", "/a/c"),
        ("/../..", "/"),
        ("/a/..", "/"),
        ("/a/.", "/a/"),
        ("/a//b", "/a//b"),
        ("?page=2", "/products/7/edit?page=2"),
        ("show", "/products/7/show"),
        ("show?x=/../", "/products/7/show?x=/../"),
        ("../8", "/products/8"),
        ("./", "/products/7/"),
        ("..", "/products/"),
        ("../../../../x", "/x"),
        ("a/b:c", "/products/7/a/b:c"),
        (" /a ", "/a"),
    ] {
        assert_eq!(of(reference), [path], "{reference}");
    }
}

// RFC 9111 4.4
#[test]
fn another_origin_is_left_alone() {
    for reference in [
        "https://other.example/a",
        "http://shop.example/a",
        "https://shop.example:8443/a",
        "https://shop.example.evil/a",
        "https://evil/shop.example/a",
        "https://shop.example@evil/a",
        "https://user@shop.example/a",
        "https://:443/a",
        "https://shop.example:x/a",
        "https://shop.example:99999/a",
        "//other.example/a",
        "///a",
        "https:a",
        "https:/a",
        "mailto:me@shop.example",
        "javascript:alert(1)",
        ":",
        "",
        "#top",
        "/a b",
        "/a\tb",
        "/a\u{a0}b",
    ] {
        assert_eq!(of(reference), [""; 0], "{reference}");
    }
    assert!(same_origin_targets(TARGET, &headers(&[]), FIELDS).is_empty());
}

// RFC 9110 4.3.1
#[test]
fn the_port_is_part_of_the_origin() {
    let local = Target { scheme: "http", authority: "[::1]:3000", path: "/" };
    let of = |reference| same_origin_targets(local, &headers(&[("location", reference)]), FIELDS);
    assert_eq!(of("http://[::1]:3000/a"), ["/a"]);
    for reference in
        ["http://[::1]/a", "http://[::1]:80/a", "http://[::2]:3000/a", "http://::1:3000/a"]
    {
        assert!(of(reference).is_empty(), "{reference}");
    }
    let plain = Target { authority: "[::1]:80", ..local };
    assert_eq!(
        same_origin_targets(plain, &headers(&[("location", "http://[::1]/a")]), FIELDS),
        ["/a"]
    );
}

// RFC 9111 4.4
#[test]
fn location_and_content_location_both_count_once() {
    let fields = [("content-location", "/b"), ("location", "/a"), ("content-location", "/a")];
    assert_eq!(same_origin_targets(TARGET, &headers(&fields), FIELDS), ["/a", "/b"]);
}

proptest! {
    #[test]
    fn any_reference_gives_a_path_or_nothing(reference in "[ -~]{0,40}|[a-z:/?#.@]{0,20}", path in "(/[a-z.]{0,3}){0,4}") {
        let target = Target { path: &path, ..TARGET };
        let found = same_origin_targets(target, &headers(&[("location", &reference)]), FIELDS);
        for found in found {
            prop_assert!(found.starts_with('/'));
            prop_assert!(!found.contains([' ', '#']));
            let odd = reference.contains(|c| "\"<>\\^`{|}".contains(c));
            prop_assert!(odd || found.parse::<http::uri::PathAndQuery>().is_ok());
        }
    }
}
