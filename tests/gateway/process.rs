//! The process: signals and arguments.

use std::net::TcpStream;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc;

use crate::kit::{Gateway, HELLO, Origin, get, say};
use crate::support::example;
use crate::support::{PATIENCE, eventually_on_this_thread};

#[cfg(unix)]
#[test]
fn sigterm_lets_open_requests_end() {
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let origin = Origin::new(move |_, stream| {
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        say(stream, HELLO)
    });
    let gateway = Gateway::before(origin.address);
    let mut client = gateway.client();
    client.send(&get("/"));
    eventually_on_this_thread("the request is there", || !origin.seen().is_empty());
    let pid = gateway.process.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let refuses = || TcpStream::connect(gateway.address).is_err();
    eventually_on_this_thread("new connections are refused", refuses);
    go_on.send(()).unwrap();
    assert_eq!(client.response("GET").unwrap().text(), "hello world");
    let rest = gateway.process.ended();
    assert!(rest.contains("stored: 1"), "{rest}");
}

#[test]
fn unknown_arguments_are_errors() {
    for (arguments, says) in [
        (&["--origin", "http://a", "--wat"][..], "unknown argument '--wat'"),
        (&["--listen", "127.0.0.1:0"], "--origin is missing"),
        (&["--origin"], "--origin needs a value"),
        (&["--origin", "https://a"], "does not begin with http://"),
        (&["--origin", "http://a/b"], "has a path"),
        (&["--origin=http://a", "--origin=http://b"], "given twice"),
        (&["--origin", "http://a", "--timeout", "0"], "--timeout '0'"),
        (&["--origin", "http://a", "--idle", "-1"], "--idle '-1'"),
        (&["--origin", "http://a", "--connections", "0"], "--connections '0'"),
    ] {
        let output = Command::new(example("gateway")).args(arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && error.contains(says), "{arguments:?}: {error}");
    }
}
