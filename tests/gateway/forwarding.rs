//! What the gateway passes on, in both directions.

use crate::kit::{Gateway, HELLO, Origin, get_with, say};

#[test]
fn hop_by_hop_fields_are_neither_forwarded_nor_replayed() {
    const NAMES: [&str; 9] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "te",
        "upgrade",
        "x-named",
    ];
    const FIELDS: &str = "Connection: keep-alive, X-Named\r\nKeep-Alive: timeout=5\r\n\
        Proxy-Connection: keep-alive\r\nProxy-Authenticate: Basic\r\n\
        Proxy-Authentication-Info: a=b\r\nProxy-Authorization: Basic Og==\r\nTE: gzip\r\n\
        Upgrade: websocket\r\nX-Named: secret\r\nX-Kept: 1\r\nX-Kept: 2\r\n";
    let origin = Origin::new(|_, stream| {
        let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n";
        say(stream, &format!("{head}{FIELDS}\r\n4\r\nbody\r\n0\r\n\r\n"))
    });
    let gateway = Gateway::before(origin.address);
    let passed = gateway.ask(&get_with("/", FIELDS));
    let replayed = gateway.ask(&get_with("/", FIELDS));
    assert!(replayed.is_hit(), "{replayed:?}");
    assert_eq!(origin.seen().len(), 1);
    for message in [&origin.last(), &passed, &replayed] {
        for name in NAMES {
            assert_eq!(message.field(name), None, "{name} in {message:?}");
        }
        assert_eq!(message.field("x-kept").as_deref(), Some("1 | 2"));
    }
    assert_eq!((passed.text(), replayed.text()), ("body", "body"));
    assert_eq!(replayed.field("transfer-encoding"), None);
    assert_eq!(replayed.field("content-length").as_deref(), Some("4"));
}

/// Whether it is what a gateway says of itself in `Via`: a name that no other has.
fn is_ours(via: &str, version: &str) -> bool {
    let name = via.strip_prefix(version).and_then(|rest| rest.strip_prefix(" tower-mysql-cache-"));
    name.is_some_and(|name| name.len() == 8 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[test]
fn a_request_that_comes_back_is_a_loop() {
    let origin = Origin::saying(HELLO);
    let gateway = Gateway::before(origin.address);
    gateway.ask(&get_with("/a", ""));
    let via = origin.last().field("via").unwrap();
    for fields in [format!("Via: {via}\r\n"), format!("Via: 1.0 fred, {via} (a comment)\r\n")] {
        assert_eq!(gateway.ask(&get_with("/b", &fields)).status(), 508, "{fields}");
    }
    assert_eq!(origin.seen().len(), 1);
    // another gateway is none
    let behind = Gateway::before(origin.address);
    assert_eq!(behind.ask(&get_with("/c", &format!("Via: {via}\r\n"))).status(), 200);
}

#[test]
fn other_fields_that_name_a_target_do_not_mix_responses() {
    let origin = Origin::saying(HELLO);
    let gateway = Gateway::before(origin.address);
    gateway.get("/");
    assert!(gateway.get("/").is_hit());
    for fields in [
        "X-Forwarded-Host: evil.example\r\n",
        "X-Original-URL: /evil\r\n",
        "X-HTTP-Method-Override: DELETE\r\n",
        "X-Http-Method: DELETE\r\n",
        "X-Method-Override: DELETE\r\n",
        "X-Original-URI: /evil\r\n",
        "X-Forwarded-Uri: /evil\r\n",
        "X-Forwarded-Path: /evil\r\n",
        "X-Forwarded-Protocol: https\r\n",
        "X-Forwarded-Method: DELETE\r\n",
        "X-Forwarded: for=192.0.2.1;host=evil.example\r\n",
        "X-Url-Scheme: https\r\n",
        "X-Script-Name: /evil\r\n",
        "X-Envoy-Original-Path: /evil\r\n",
        "Front-End-Https: on\r\n",
        "X-Host: evil.example\r\n",
        "X-Host-Override: evil.example\r\n",
        "X-HTTP-Host-Override: evil.example\r\n",
        "X-Rewrite-URL: /evil\r\n",
        "X-Scheme: https\r\n",
        "CloudFront-Forwarded-Proto: https\r\n",
        "CF-Visitor: {\"scheme\":\"https\"}\r\n",
        "Destination: http://evil.example/\r\n",
        "Forwarded: for=192.0.2.1;host=evil.example\r\n",
        "Forwarded: for=192.0.2.1, proto=https\r\n",
    ] {
        assert!(!gateway.ask(&get_with("/", fields)).is_hit(), "{fields}");
        let seen = origin.last();
        let (name, value) = fields.trim_end().split_once(": ").unwrap();
        assert_eq!(seen.field(&name.to_ascii_lowercase()).as_deref(), Some(value));
        assert!(gateway.ask(&get_with("/", fields)).is_hit(), "{fields}");
    }
    // who asks is not what is asked for
    for fields in [
        "Forwarded: For=192.0.2.7;by=_proxy\r\n",
        "X-Forwarded-For: 192.0.2.7\r\n",
        "X-Original-Forwarded-For: 192.0.2.7\r\n",
        "X-Real-IP: 192.0.2.7\r\n",
    ] {
        assert!(gateway.ask(&get_with("/", fields)).is_hit(), "{fields}");
    }
}

#[test]
fn fields_with_an_underscore_do_not_reach_the_origin() {
    let origin = Origin::saying(HELLO);
    let gateway = Gateway::before(origin.address);
    // to a WSGI application both are HTTP_X_FORWARDED_HOST
    for name in ["X_Forwarded_Host", "X-Forwarded_Host", "X_Original-URL", "_"] {
        let path = format!("/{name}");
        let fields = format!("{name}: evil.example\r\nX-Kept: 1\r\nX-Kept: 2\r\n");
        gateway.ask(&get_with(&path, &fields));
        let seen = origin.last();
        assert_eq!(seen.field(name), None, "{seen:?}");
        assert_eq!(seen.field("x-kept").as_deref(), Some("1 | 2"));
        assert!(gateway.get(&path).is_hit(), "{name}");
    }
}

#[test]
fn only_via_is_added_to_forwarded_requests() {
    let origin = Origin::saying(HELLO);
    let gateway = Gateway::before(origin.address);
    let reply = gateway.ask(&get_with("/a?b=%20c", "Via: 1.0 fred\r\nX-One: 1\r\n"));
    let seen = origin.last();
    assert_eq!(seen.line, "GET /a?b=%20c HTTP/1.1");
    let via = seen.fields.iter().map(|(_, value)| value).find(|value| is_ours(value, "1.1"));
    let via = via.expect("a name of the gateway's own").clone();
    let expected =
        [("host", "shop.example"), ("via", "1.0 fred"), ("via", via.as_str()), ("x-one", "1")];
    let mut fields = seen.fields;
    fields.sort();
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(fields, expected);
    // the response gains a date, which it must have, and what the cache says
    let names: Vec<_> = reply.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["cache-control", "etag", "content-length", "cache-status", "date"]);
}

#[test]
fn the_key_has_the_host_or_the_authority_of_the_target() {
    let origin = Origin::saying(HELLO);
    let gateway = Gateway::before(origin.address);
    gateway.get("/");
    assert!(gateway.get("/").is_hit());
    assert!(!gateway.ask("GET / HTTP/1.1\r\nHost: other.example\r\n\r\n").is_hit());
    let absolute = "GET http://third.example/x HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    assert!(!gateway.ask(absolute).is_hit());
    assert_eq!(origin.last().field("host").as_deref(), Some("third.example"));
    assert_eq!(origin.last().line, "GET /x HTTP/1.1");
}

#[test]
fn requests_without_a_clear_host_are_refused() {
    let origin = Origin::saying(HELLO);
    let gateway = Gateway::before(origin.address);
    for fields in ["", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: a@b\r\n"] {
        let reply = gateway.ask(&format!("GET / HTTP/1.1\r\n{fields}\r\n"));
        assert_eq!(reply.status(), 400, "{fields}");
        // RFC 9112 3.2: whatever the target says
        let reply = gateway.ask(&format!("GET http://shop.example/ HTTP/1.1\r\n{fields}\r\n"));
        assert_eq!(reply.status(), 400, "{fields}");
    }
    assert_eq!(origin.seen().len(), 0);
    // HTTP/1.0 did not have to
    assert_eq!(gateway.ask("GET / HTTP/1.0\r\n\r\n").status(), 200);
    let host = origin.address.to_string();
    assert_eq!(origin.last().field("host"), Some(host));
    assert!(is_ours(&origin.last().field("via").unwrap(), "1.0"));
}

#[test]
fn a_target_that_is_only_a_host_or_a_bad_port_is_a_400() {
    let origin = Origin::saying(HELLO);
    let gateway = Gateway::before(origin.address);
    // RFC 9112 3.2.3: for CONNECT only
    for target in ["evil", "evil:80", "evil.example"] {
        let reply = gateway.ask(&format!("GET {target} HTTP/1.1\r\nHost: good\r\n\r\n"));
        assert_eq!(reply.status(), 400, "{target}");
    }
    for host in ["good:evil", "good:+80", "good:65536", ":80", "[::1]:x"] {
        let reply = gateway.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(reply.status(), 400, "{host}");
        let reply = gateway.ask(&format!("GET http://{host}/ HTTP/1.1\r\nHost: good\r\n\r\n"));
        assert_eq!(reply.status(), 400, "{host}");
    }
    assert_eq!(origin.seen().len(), 0);
    for host in ["good", "good:8080", "good:", "[::1]", "[::1]:80"] {
        let reply = gateway.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(reply.status(), 200, "{host}");
    }
}

#[test]
fn methods_for_intermediaries_are_answered_or_counted_down() {
    let origin = Origin::saying("HTTP/1.1 204 No Content\r\nAllow: GET\r\n\r\n");
    let gateway = Gateway::before(origin.address);
    assert_eq!(gateway.ask("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").status(), 501);
    let ends_here = "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n";
    assert_eq!(gateway.ask(ends_here).status(), 200);
    let ends_here = "TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n";
    assert_eq!(gateway.ask(ends_here).status(), 405);
    assert_eq!(origin.seen().len(), 0);
    let goes_on = "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 5\r\n\r\n";
    assert_eq!(gateway.ask(goes_on).status(), 204);
    assert_eq!(origin.last().line, "OPTIONS * HTTP/1.1");
    assert_eq!(origin.last().field("max-forwards").as_deref(), Some("4"));
    for (said, sent) in [
        ("99999999999999999999999", "18446744073709551614"),
        ("007", "6"),
        ("+5", "+5"),
        ("-1", "-1"),
    ] {
        let fields = format!("Host: a\r\nMax-Forwards: {said}\r\n");
        gateway.ask(&format!("OPTIONS * HTTP/1.1\r\n{fields}\r\n"));
        assert_eq!(origin.last().field("max-forwards").as_deref(), Some(sent), "{said}");
    }
}

#[test]
fn request_bodies_are_passed_on_with_any_framing() {
    let origin = Origin::saying("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    let gateway = Gateway::before(origin.address);
    let post = |fields: &str, body: &str| {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}");
        assert_eq!(gateway.ask(&request).status(), 201, "{fields}");
        let seen = origin.last();
        (seen.text().to_owned(), seen.field("content-length"), seen.field("transfer-encoding"))
    };
    let chunked = Some("chunked".to_owned());
    let (body, length, coding) = post("Content-Length: 5\r\n", "hello");
    assert_eq!((body.as_str(), length.as_deref(), coding), ("hello", Some("5"), None));
    let chunks = "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    let (body, length, coding) = post("Transfer-Encoding: chunked\r\n", chunks);
    assert_eq!((body.as_str(), length, &coding), ("hello", None, &chunked));
    // where both are there, the length means nothing and goes no further
    let both = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n";
    let (body, length, coding) = post(both, chunks);
    assert_eq!((body.as_str(), length, &coding), ("hello", None, &chunked));
    // a GET with a body keeps it, and is not answered out of the store
    let with_body = get_with("/", "Transfer-Encoding: chunked\r\n") + chunks;
    assert_eq!(gateway.ask(&with_body).status(), 201);
    assert_eq!(origin.last().text(), "hello");
    let unknown = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n";
    assert_eq!(gateway.ask(&(unknown.to_owned() + chunks)).status(), 501);
}

#[test]
fn a_client_gets_100_continue_and_no_other_1xx() {
    let origin = Origin::saying(
        "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    let gateway = Gateway::before(origin.address);
    let mut client = gateway.client();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    let interim = client.response("PUT").unwrap();
    assert_eq!(interim.status(), 100);
    client.send("abc");
    let last = client.response("PUT").unwrap();
    assert_eq!((last.status(), last.text(), last.field("link")), (200, "ok", None));
    assert_eq!(origin.last().text(), "abc");
}

#[test]
fn trailers_are_passed_on_with_te_and_not_stored() {
    let origin = Origin::saying(
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTrailer: X-Sum\r\n\
         Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 7\r\n\r\n",
    );
    let gateway = Gateway::before(origin.address);
    let asking = get_with("/", "TE: trailers\r\nConnection: TE\r\n");
    for _ in 0..2 {
        let reply = gateway.ask(&asking);
        assert_eq!((reply.text(), reply.is_hit()), ("body", false));
        assert_eq!(reply.trailers, [("x-sum".to_owned(), "7".to_owned())]);
        assert_eq!(reply.field("x-sum"), None);
        assert_eq!(origin.last().field("te").as_deref(), Some("trailers"));
    }
    assert_eq!(origin.seen().len(), 2);
}

#[tokio::test]
async fn clients_of_http2_are_served_and_their_cookies_joined() {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    let origin = Origin::saying(HELLO);
    let gateway = Gateway::before(origin.address);
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let request = http::Request::get(format!("http://{}/", gateway.address))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Empty::<bytes::Bytes>::new());
    let reply = client.request(request.unwrap()).await.unwrap();
    assert_eq!(reply.version(), http::Version::HTTP_2);
    assert_eq!(&reply.into_body().collect().await.unwrap().to_bytes()[..], b"hello world");
    let seen = origin.last();
    assert_eq!(seen.line, "GET / HTTP/1.1");
    assert_eq!(seen.field("cookie").as_deref(), Some("a=1; b=2"));
    assert_eq!(seen.field("host"), Some(gateway.address.to_string()));
    assert!(is_ours(&seen.field("via").unwrap(), "2.0"));
}
