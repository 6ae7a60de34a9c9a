//! What the gateway answers from its cache.

use std::thread;
use std::time::Duration;

use crate::kit::{Gateway, HELLO, Origin, Then, get, get_with, say};

#[test]
fn hits_do_not_touch_the_origin() {
    let origin = Origin::saying(HELLO);
    let gateway = Gateway::before(origin.address);
    let mut client = gateway.client();
    client.send(&get("/"));
    let first = client.response("GET").unwrap();
    assert_eq!(first.cache_status(), "gateway; fwd=uri-miss; stored");
    for _ in 0..20 {
        client.send(&get("/"));
        let hit = client.response("GET").unwrap();
        assert!(hit.is_hit() && hit.field("age").is_some(), "{hit:?}");
        assert_eq!((hit.text(), hit.field("etag")), ("hello world", Some("\"v1\"".to_owned())));
        assert_eq!(hit.field("date"), first.field("date"));
    }
    // one in HTTP/1.0 is closed after its length
    let old = gateway.ask("GET / HTTP/1.0\r\nHost: shop.example\r\n\r\n");
    assert!(old.is_hit() && old.line.starts_with("HTTP/1.0 200"), "{old:?}");
    assert_eq!(origin.seen().len(), 1);
}

/// RFC 9111 4.2.1, 5.2, 5.3: what is odd on the wire is read strictly, over all lines of a field.
#[test]
fn unusual_fields_never_make_a_response_fresher() {
    const CASES: [(&str, bool); 22] = [
        ("Cache-Control: max-age=60", true),
        ("cache-control:max-age=60", true),
        ("CACHE-CONTROL:   MAX-AGE=60   ", true),
        ("Cache-Control: max-age=60\r\nCache-Control: no-store", false),
        ("Cache-Control: public\r\nX-Between: 1\r\nCache-Control: max-age=60", true),
        ("Cache-Control: x=\"no-store, max-age=0\", max-age=\"60\"", true),
        ("Cache-Control: x=\"max-age=60\"", false),
        ("Cache-Control: x=\"\r\nCache-Control: max-age=60", true),
        ("Cache-Control: max-age=60, x=\", private", false),
        ("Cache-Control: max-age=99999999999999999999999", true),
        ("Cache-Control: max-age='60'", false),
        ("Cache-Control: max-age=60, max-age=-1", false),
        ("Cache-Control: ,,max-age=60;,", false),
        ("Cache-Control: max-age=60\r\nAge: 60", false),
        ("Cache-Control: max-age=60\r\nAge: 4294967296", false),
        ("Cache-Control: max-age=60\r\nVary: X-A\r\nVary: *", false),
        ("Expires: Friday, 31-Dec-99 23:59:59 UTC", false),
        ("Expires: Fri, 31 Dec 2100 23:59:59 GMT", true),
        ("Expires: Fri Dec 31 23:59:59 2100", true),
        ("Expires: Fri, 31 Dec 2100 23:59:59 GMT\r\nExpires: 0", false),
        ("Cache-Control: no-store\r\nCDN-Cache-Control: max-age=60", true),
        ("Cache-Control: max-age=60\r\nCDN-Cache-Control: max-age=60, no-store", false),
    ];
    let origin = Origin::new(|request, stream| {
        let path = request.line.split(' ').nth(1).unwrap();
        let (fields, _) = CASES[path.trim_start_matches('/').parse::<usize>().unwrap()];
        say(stream, &format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: 1\r\n\r\nx"))
    });
    let gateway = Gateway::before(origin.address);
    for (n, (fields, stored)) in CASES.into_iter().enumerate() {
        let first = gateway.get(&format!("/{n}"));
        assert_eq!(first.text(), "x");
        let second = gateway.get(&format!("/{n}"));
        assert_eq!(second.is_hit(), stored, "{fields}: {second:?}");
        assert_eq!(second.field("proxy-status"), None);
        assert_eq!(second.field("warning"), None);
    }
}

#[test]
fn a_request_right_after_the_first_body_is_a_hit() {
    hits_at_once(&[]);
}

#[test]
fn a_request_right_after_it_is_a_hit_with_a_database_too() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(crate::support::database());
    hits_at_once(&["--database", database.url()]);
}

/// The race is so rare that it needs many repetitions; `TMC_RACES=full` takes more.
fn hits_at_once(more: &[&str]) {
    let repetitions = if crate::support::is_full("TMC_RACES") { 10_000 } else { 2_500 };
    let origin = Origin::new(|request, stream| {
        let path = request.line.split(' ').nth(1).unwrap();
        let n: usize = path.trim_start_matches("/").parse().unwrap();
        let body = format!("{n} ").repeat(if n.is_multiple_of(50) { 20_000 } else { 30 });
        let (left, right) = body.split_at(body.len() / 2);
        let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\n";
        let (vary, length) = ("Vary: X-Kind\r\n", body.len());
        match n % 5 {
            0 => say(stream, &format!("{head}Content-Length: {length}\r\n\r\n{body}")),
            1 => {
                say(stream, &format!("{head}{vary}Content-Length: {length}\r\n\r\n{left}"));
                say(stream, right)
            }
            2 => {
                let (l, r) = (left.len(), right.len());
                say(
                    stream,
                    &format!("{head}Transfer-Encoding: chunked\r\n\r\n{l:x}\r\n{left}\r\n"),
                );
                say(stream, &format!("{r:x}\r\n{right}\r\n"));
                say(stream, "0\r\n\r\n")
            }
            3 => {
                say(stream, &format!("{head}Content-Length: {length}\r\n\r\n"));
                say(stream, left);
                // the halves travel apart
                thread::sleep(Duration::from_micros(300));
                say(stream, right)
            }
            _ => {
                say(stream, &format!("{head}Connection: close\r\n\r\n{body}"));
                Then::Close
            }
        }
    });
    let gateway = Gateway::with(origin.address, more);
    let (mut one, mut two) = (gateway.client(), gateway.client());
    let mut misses = Vec::new();
    for n in 0..repetitions {
        let request = get_with(&format!("/{n}"), "X-Kind: 1\r\n");
        one.send(&request);
        let first = one.response("GET").unwrap();
        two.send(&request);
        let second = two.response("GET").unwrap();
        assert!(first.body == second.body && !first.body.is_empty(), "/{n}");
        if !second.is_hit() {
            misses.push((n, second.cache_status()));
        }
    }
    let missed = misses.len();
    misses.truncate(10);
    assert_eq!(missed, 0, "of {repetitions}: {misses:?}");
    assert_eq!(origin.seen().len(), repetitions);
}

#[test]
fn head_is_answered_from_a_stored_get() {
    let origin = Origin::saying(HELLO);
    let gateway = Gateway::before(origin.address);
    gateway.get("/");
    let mut client = gateway.client();
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        let head = client.response("HEAD").unwrap();
        assert!(head.is_hit());
        assert_eq!(head.field("content-length").as_deref(), Some("11"));
    }
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn a_forwarded_head_has_its_length_and_no_body() {
    let origin = Origin::new(|request, stream| match request.line.starts_with("HEAD") {
        true => say(stream, HELLO.split_once("hello").unwrap().0),
        false => say(stream, HELLO),
    });
    let gateway = Gateway::before(origin.address);
    let mut client = gateway.client();
    for method in ["HEAD", "HEAD", "GET"] {
        client.send(&format!("{method} / HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
        let reply = client.response(method).unwrap();
        assert_eq!((reply.status(), reply.is_hit()), (200, false));
        assert_eq!(reply.field("content-length").as_deref(), Some("11"));
    }
    assert_eq!(origin.seen().len(), 3);
}

#[test]
fn a_range_is_served_from_the_stored_response() {
    let origin = Origin::saying(HELLO);
    let gateway = Gateway::before(origin.address);
    gateway.get("/");
    for (range, part, content_range) in [
        ("bytes=6-10", "world", "bytes 6-10/11"),
        ("bytes=-5", "world", "bytes 6-10/11"),
        ("bytes=0-0", "h", "bytes 0-0/11"),
    ] {
        let reply = gateway.ask(&get_with("/", &format!("Range: {range}\r\n")));
        assert_eq!((reply.status(), reply.text()), (206, part));
        assert_eq!(reply.field("content-range").as_deref(), Some(content_range));
        assert_eq!(reply.field("etag").as_deref(), Some("\"v1\""));
    }
    let reply = gateway.ask(&get_with("/", "Range: bytes=99-\r\n"));
    assert_eq!(reply.status(), 416);
    assert_eq!(reply.field("content-range").as_deref(), Some("bytes */11"));
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn a_client_with_the_response_gets_a_304() {
    let origin = Origin::saying(HELLO);
    let gateway = Gateway::before(origin.address);
    gateway.get("/");
    let mut client = gateway.client();
    for (condition, status) in [("W/\"v1\"", 304), ("\"v0\", \"v1\"", 304), ("\"v2\"", 200)] {
        client.send(&get_with("/", &format!("If-None-Match: {condition}\r\n")));
        let reply = client.response("GET").unwrap();
        assert_eq!((reply.status(), reply.is_hit()), (status, true), "{condition}");
        assert_eq!(reply.field("etag").as_deref(), Some("\"v1\""));
    }
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn a_stale_response_is_revalidated_and_freshened() {
    let origin = Origin::new(|request, stream| match request.field("if-none-match") {
        None => say(stream, &HELLO.replace("max-age=60", "max-age=0")),
        Some(_) => say(
            stream,
            "HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\nCache-Control: max-age=60\r\n\
             Connection: X-Named\r\nX-Named: secret\r\nX-New: 2\r\n\r\n",
        ),
    });
    let gateway = Gateway::before(origin.address);
    gateway.get("/");
    let validated = gateway.get("/");
    assert_eq!(origin.last().field("if-none-match").as_deref(), Some("\"v1\""));
    assert_eq!(validated.cache_status(), "gateway; fwd=stale; fwd-status=304");
    let hit = gateway.get("/");
    assert!(hit.is_hit());
    for reply in [validated, hit] {
        assert_eq!((reply.status(), reply.text()), (200, "hello world"));
        assert_eq!(reply.field("x-new").as_deref(), Some("2"));
        assert_eq!((reply.field("x-named"), reply.field("connection")), (None, None));
    }
    assert_eq!(origin.seen().len(), 2);
}

#[test]
fn an_unsafe_method_invalidates_unless_it_fails() {
    let origin = Origin::new(|request, stream| {
        if request.line.starts_with("GET") {
            return say(stream, HELLO);
        }
        let status = if request.text() == "bad" { "400 Bad Request" } else { "204 No Content" };
        say(stream, &format!("HTTP/1.1 {status}\r\n\r\n"));
        Then::Close
    });
    let gateway = Gateway::before(origin.address);
    gateway.get("/");
    let put = "PUT / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(gateway.ask(&format!("{put}bad")).status(), 400);
    assert!(gateway.get("/").is_hit());
    assert_eq!(gateway.ask(&format!("{put}new")).status(), 204);
    assert!(!gateway.get("/").is_hit());
}

#[test]
fn a_post_with_content_location_answers_later_gets() {
    let origin = Origin::new(|request, stream| {
        let what = if request.line.starts_with("POST") { "posted" } else { "gotten" };
        let shown = match request.line.split(' ').nth(1) {
            Some("/own") => "Content-Location: /own\r\n",
            Some("/other") => "Content-Location: /elsewhere\r\n",
            _ => "",
        };
        let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 6\r\n";
        say(stream, &format!("{head}{shown}\r\n{what}"))
    });
    let gateway = Gateway::before(origin.address);
    for (path, stored) in [("/own", true), ("/other", false), ("/none", false)] {
        assert_eq!(gateway.get(path).text(), "gotten");
        let fields = "Host: shop.example\r\nContent-Length: 1";
        let post = gateway.ask(&format!("POST {path} HTTP/1.1\r\n{fields}\r\n\r\nx"));
        assert_eq!(post.text(), "posted");
        let after = gateway.get(path);
        let expected = if stored { "posted" } else { "gotten" };
        assert_eq!((after.is_hit(), after.text()), (stored, expected), "{path}");
    }
    // RFC 9111 4.4: what Content-Location names on the same origin is invalidated as well
    gateway.get("/elsewhere");
    assert!(gateway.get("/elsewhere").is_hit());
    let fields = "Host: shop.example\r\nContent-Length: 0";
    gateway.ask(&format!("POST /other HTTP/1.1\r\n{fields}\r\n\r\n"));
    assert!(!gateway.get("/elsewhere").is_hit());
}
