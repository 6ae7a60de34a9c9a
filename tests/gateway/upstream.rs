//! Origins that are down, slow or wrong.

use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::kit::{Gateway, HELLO, Origin, Then, get, say};
use crate::support::PATIENCE;

#[test]
fn an_unreachable_origin_is_a_502_and_hits_are_served() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let reply = Gateway::before(dead).get("/");
    assert_eq!((reply.status(), reply.field("cache-status")), (502, None));

    let gone = Arc::new(AtomicBool::new(false));
    let is_gone = Arc::clone(&gone);
    let origin =
        Origin::new(
            move |_, stream| {
                if is_gone.load(Ordering::Relaxed) { Then::Close } else { say(stream, HELLO) }
            },
        );
    let gateway = Gateway::before(origin.address);
    gateway.get("/");
    gone.store(true, Ordering::Relaxed);
    assert!(gateway.get("/").is_hit());
    assert_eq!(gateway.get("/other").status(), 502);
}

#[test]
fn a_closed_idle_connection_fails_no_safe_request() {
    const FRESH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let origin = Origin::new(|_, stream| {
        say(stream, FRESH);
        Then::Close
    });
    let gateway = Gateway::before(origin.address);
    let mut client = gateway.client();
    for n in 0..300 {
        client.send(&get("/"));
        assert_eq!(client.response("GET").unwrap().status(), 200, "{n}");
    }
}

#[test]
fn an_origin_that_does_not_answer_in_time_is_a_504() {
    let origin = Origin::new(|_, stream| {
        // until the gateway gives up
        let _ = stream.read(&mut [0]);
        Then::Close
    });
    let gateway = Gateway::with(origin.address, &["--timeout", "0.2"]);
    let start = Instant::now();
    assert_eq!(gateway.get("/").status(), 504);
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn an_invalid_response_of_the_origin_is_a_502() {
    for nonsense in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "",
    ] {
        let origin = Origin::new(move |_, stream| {
            say(stream, nonsense);
            Then::Close
        });
        let gateway = Gateway::before(origin.address);
        assert_eq!(gateway.get("/").status(), 502, "{nonsense}");
    }
}

#[test]
fn a_length_with_chunked_coding_is_ignored() {
    let origin = Origin::saying(
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\
         Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    let gateway = Gateway::before(origin.address);
    let (first, second) = (gateway.get("/"), gateway.get("/"));
    assert_eq!((first.text(), first.field("content-length")), ("hello", None));
    assert_eq!((second.is_hit(), second.text()), (true, "hello"));
}
