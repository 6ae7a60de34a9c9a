//! Bodies: streamed, cut off, and very large.

use std::io;
use std::io::Read;
use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc;

use crate::kit::{Gateway, Origin, Then, get, read_head, say};
use crate::support::PATIENCE;

#[test]
fn a_miss_streams() {
    let (client_has_it, go_on) = mpsc::channel::<()>();
    let go_on = Mutex::new(go_on);
    let origin = Origin::new(move |_, stream| {
        say(
            stream,
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\nfirst",
        );
        go_on.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        say(stream, "-last")
    });
    let gateway = Gateway::before(origin.address);
    let mut client = gateway.client();
    client.send(&get("/"));
    let head = read_head(&mut client.0).unwrap();
    assert_eq!(head.status(), 200);
    let mut first = [0; 5];
    client.0.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first");
    client_has_it.send(()).unwrap();
    client.0.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"-last");
    let again = gateway.get("/");
    assert_eq!((again.is_hit(), again.text()), (true, "first-last"));
}

#[test]
fn a_body_cut_off_upstream_is_cut_off_and_not_stored() {
    let origin = Origin::new(|request, stream| {
        let framing = match request.line.contains("/chunked") {
            true => "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            false => "Content-Length: 10\r\n\r\nhello",
        };
        say(stream, &format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n{framing}"));
        Then::Close
    });
    let gateway = Gateway::before(origin.address);
    for (path, version) in [
        ("/length", "1.1"),
        ("/length", "1.1"),
        ("/chunked", "1.1"),
        ("/chunked", "1.1"),
        ("/chunked", "1.0"),
        ("/chunked", "1.0"),
    ] {
        let before = origin.seen().len();
        let mut client = gateway.client();
        client.send(&format!("GET {path} HTTP/{version}\r\nHost: a\r\n\r\n"));
        let error = client.response("GET").unwrap_err().kind();
        // in HTTP/1.0, a connection that is closed in order would end the body in order
        let cut = match version {
            "1.0" => io::ErrorKind::ConnectionReset,
            _ => io::ErrorKind::UnexpectedEof,
        };
        assert_eq!(error, cut, "{path} {version}");
        assert_eq!(origin.seen().len(), before + 1, "{path} {version}");
    }
}

#[test]
fn a_hundred_megabytes_go_through_both_ways_in_little_memory() {
    const CHUNK: usize = 1 << 16;
    const CHUNKS: usize = 1600;
    let origin = Origin::new(|request, stream| {
        if request.line.starts_with("POST") {
            let length = request.body.len();
            let text = length.to_string();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
            return say(stream, &(head + &text));
        }
        let length = CHUNK * CHUNKS;
        let caching = "Cache-Control: max-age=60\r\n";
        say(stream, &format!("HTTP/1.1 200 OK\r\n{caching}Content-Length: {length}\r\n\r\n"));
        let chunk = [b'x'; CHUNK];
        for _ in 0..CHUNKS {
            stream.write_all(&chunk).unwrap();
        }
        Then::Open
    });
    let gateway = Gateway::before(origin.address);
    let reply = gateway.get("/");
    assert_eq!(reply.body.len(), CHUNK * CHUNKS);
    assert!(reply.body.iter().all(|byte| *byte == b'x'));
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("{CHUNK:x}\r\n{}\r\n", "y".repeat(CHUNK));
    for _ in 0..CHUNKS {
        client.send(&chunk);
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.response("POST").unwrap().text(), (CHUNK * CHUNKS).to_string());
    if let Ok(status) =
        std::fs::read_to_string(format!("/proc/{}/status", gateway.process.child.id()))
    {
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak_kb: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak_kb < 64 << 10, "{peak_kb} kB");
    }
}
