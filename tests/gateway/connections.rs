//! How many connections there are, and for how long.

use std::io::Read;
use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc;

use crate::kit::{Gateway, HELLO, Origin, Then, get, read_head, say};
use crate::support::{PATIENCE, eventually_on_this_thread};

const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[test]
fn connections_without_a_request_are_closed_in_time() {
    let origin = Origin::saying(HELLO);
    let gateway = Gateway::with(origin.address, &["--idle", "0.6"]);
    let settings = format!("{PREFACE}\0\0\0\x04\0\0\0\0\0");
    let sent = ["", "P", &PREFACE[..20], PREFACE, &settings, "GET / HTTP/1.1\r\nHost:"];
    let mut silent: Vec<_> = sent.iter().map(|sent| (sent, gateway.client())).collect();
    for (sent, client) in &mut silent {
        client.send(sent);
    }
    let mut kept = gateway.client();
    kept.send(&get("/"));
    assert_eq!(kept.response("GET").unwrap().text(), "hello world");
    for (sent, client) in &mut silent {
        assert!(client.is_closed(), "{sent:?}");
    }
    assert!(kept.is_closed());
}

#[test]
fn a_slow_request_is_not_an_idle_connection() {
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let origin = Origin::new(move |_, stream| {
        for part in ["HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst", "-last"] {
            wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            say(stream, part);
        }
        Then::Open
    });
    let gateway = Gateway::with(origin.address, &["--idle", "0.6"]);
    let mut client = gateway.client();
    client.send(&get("/"));
    // before the head, and in the body, another one is idle for too long
    assert!(gateway.client().is_closed());
    go_on.send(()).unwrap();
    assert_eq!(read_head(&mut client.0).unwrap().status(), 200);
    assert!(gateway.client().is_closed());
    go_on.send(()).unwrap();
    let mut body = [0; 10];
    client.0.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"first-last");
}

#[cfg(unix)]
#[test]
fn silent_connections_do_not_lock_clients_out() {
    let origin = Origin::saying(HELLO);
    let gateway = Gateway::with_files(origin.address, 256);
    let silent: Vec<_> = (0..300).map(|_| gateway.client()).collect();
    assert_eq!(gateway.get("/").status(), 200);
    assert!(gateway.get("/").is_hit());
    let half: Vec<_> = (0..300).map(|_| gateway.client()).collect();
    for mut client in half {
        // some are closed by now
        let _ = client.0.get_mut().write_all(b"GET / HT");
    }
    assert!(gateway.get("/").is_hit());
    drop(silent);
}

#[test]
fn the_longest_idle_connection_is_closed_for_a_new_one() {
    let origin = Origin::saying(HELLO);
    let gateway = Gateway::with(origin.address, &["--idle", "3600", "--connections", "2"]);
    // it sends nothing, so that it is idle from the start
    let mut first = gateway.client();
    let [mut second, _third] = [(); 2].map(|()| {
        let mut client = gateway.client();
        client.send(&get("/"));
        assert_eq!(client.response("GET").unwrap().status(), 200);
        client
    });
    assert!(first.is_closed());
    second.send(&get("/"));
    assert!(second.response("GET").unwrap().is_hit());
}

#[test]
fn new_clients_wait_while_every_connection_has_a_request() {
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let origin = Origin::new(move |request, stream| {
        if request.line.contains("/slow") {
            wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        }
        say(stream, HELLO)
    });
    let gateway = Gateway::with(origin.address, &["--connections", "1"]);
    let mut slow = gateway.client();
    slow.send(&get("/slow"));
    eventually_on_this_thread("the request is there", || !origin.seen().is_empty());
    let mut next = gateway.client();
    next.send(&get("/"));
    go_on.send(()).unwrap();
    assert_eq!(slow.response("GET").unwrap().text(), "hello world");
    assert_eq!(next.response("GET").unwrap().text(), "hello world");
    let paths: Vec<_> = origin.seen().into_iter().map(|request| request.line).collect();
    assert_eq!(paths, ["GET /slow HTTP/1.1", "GET / HTTP/1.1"]);
}
