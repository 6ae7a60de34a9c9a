//! The gateway example, talked to over real sockets, in front of an origin made for each test: every
//! byte that goes in and comes out can be asserted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests

#[path = "support/mod.rs"]
mod support;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use support::{PATIENCE, eventually_on_this_thread};

// -- the gateway --

struct Gateway {
    child: Child,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Gateway {
    fn before(origin: SocketAddr) -> Self {
        Self::with(origin, &[])
    }

    fn with(origin: SocketAddr, more: &[&str]) -> Self {
        Self::start(Command::new(example("gateway")), origin, more)
    }

    /// One that may open so many files.
    #[cfg(unix)]
    fn with_files(origin: SocketAddr, files: u32) -> Self {
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")]);
        limited.arg(example("gateway"));
        Self::start(limited, origin, &[])
    }

    fn start(mut command: Command, origin: SocketAddr, more: &[&str]) -> Self {
        let origin = format!("http://{origin}");
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--origin", &origin])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the example runs");
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").expect("it listens");
        let address = address.parse().unwrap();
        Self { child, output, address }
    }

    fn client(&self) -> Client {
        Client::to(self.address)
    }

    /// One request on a connection of its own.
    fn ask(&self, request: &str) -> Message {
        let mut client = self.client();
        client.send(request);
        let method = request.split(' ').next().unwrap();
        client.response(method).unwrap()
    }

    fn get(&self, path: &str) -> Message {
        self.ask(&get(path))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of a built example: `cargo test` builds them all.
fn example(name: &str) -> std::path::PathBuf {
    // target/<profile>/deps/<this test> beside target/<profile>/examples/<name>
    let this = std::env::current_exe().unwrap();
    let path = this.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "the examples are not built: run `cargo build --examples` first");
    path
}

// -- messages --

/// A request as the origin has received it, or a response as the client has.
#[derive(Clone, Debug, Default)]
struct Message {
    line: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
}

impl Message {
    /// All lines of a field, joined.
    fn field(&self, name: &str) -> Option<String> {
        let found = self.fields.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        let lines: Vec<_> = found.map(|(_, value)| value.as_str()).collect();
        (!lines.is_empty()).then(|| lines.join(" | "))
    }

    fn status(&self) -> u16 {
        self.line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn cache_status(&self) -> String {
        self.field("cache-status").unwrap_or_default()
    }

    fn is_hit(&self) -> bool {
        self.cache_status().starts_with("gateway; hit; ttl=")
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    line.strip_suffix("\r\n").map(str::to_owned).ok_or(io::ErrorKind::UnexpectedEof.into())
}

fn read_fields(from: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = read_line(from)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let (name, value) = line.split_once(": ").ok_or_else(|| invalid("a field"))?;
        fields.push((name.to_ascii_lowercase(), value.to_owned()));
    }
}

fn read_head(from: &mut impl BufRead) -> io::Result<Message> {
    let line = read_line(from)?;
    Ok(Message { line, fields: read_fields(from)?, ..Message::default() })
}

/// Reads what follows a head. An end that is too early is an error.
fn read_body(from: &mut impl BufRead, message: &mut Message, to_the_end: bool) -> io::Result<()> {
    if message.field("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        loop {
            let size = usize::from_str_radix(&read_line(from)?, 16);
            let size = size.map_err(|_| invalid("a chunk"))?;
            if size == 0 {
                message.trailers = read_fields(from)?;
                return Ok(());
            }
            let start = message.body.len();
            message.body.resize(start + size, 0);
            from.read_exact(&mut message.body[start..])?;
            assert_eq!(read_line(from)?, "");
        }
    }
    match message.field("content-length") {
        Some(length) => {
            message.body = vec![0; length.parse().unwrap()];
            from.read_exact(&mut message.body)
        }
        None if to_the_end => from.read_to_end(&mut message.body).map(drop),
        None => Ok(()),
    }
}

// -- the client --

struct Client(BufReader<TcpStream>);

impl Client {
    fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the gateway closes the connection.
    fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    fn response(&mut self, method: &str) -> io::Result<Message> {
        let mut message = read_head(&mut self.0)?;
        if method != "HEAD" && !matches!(message.status(), 100..200 | 204 | 304) {
            read_body(&mut self.0, &mut message, true)?;
        }
        Ok(message)
    }
}

fn get(path: &str) -> String {
    get_with(path, "")
}

fn get_with(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n")
}

// -- the origin --

/// A server that does with its sockets what it is told to.
struct Origin {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
}

impl Origin {
    /// `answer` writes the response; the connection stays open until it says otherwise.
    fn new(answer: impl Fn(&Message, &mut TcpStream) -> Then + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (all, answer) = (Arc::clone(&seen), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, all, answer) =
                    (stream.unwrap(), Arc::clone(&all), Arc::clone(&answer));
                thread::spawn(move || {
                    stream.set_nodelay(true).unwrap();
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    while let Ok(mut request) = read_head(&mut reader) {
                        if read_body(&mut reader, &mut request, false).is_err() {
                            return;
                        }
                        all.lock().unwrap().push(request.clone());
                        if answer(&request, &mut stream) == Then::Close {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, seen }
    }

    /// Always the same response.
    fn saying(response: &'static str) -> Self {
        Self::new(move |_, stream| say(stream, response))
    }

    fn seen(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }

    fn last(&self) -> Message {
        self.seen().pop().expect("a request has come")
    }
}

#[derive(PartialEq, Eq)]
enum Then {
    Open,
    Close,
}

fn say(stream: &mut TcpStream, text: &str) -> Then {
    // the other side may have had enough
    match stream.write_all(text.as_bytes()) {
        Ok(()) => Then::Open,
        Err(_) => Then::Close,
    }
}

const HELLO: &str = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"v1\"\r\n\
    Content-Length: 11\r\n\r\nhello world";

// -- what is passed on --

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

// -- bodies --

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
    if let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", gateway.child.id())) {
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak_kb: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak_kb < 64 << 10, "{peak_kb} kB");
    }
}

// -- trouble upstream --

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

// -- the cache --

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
    let database = runtime.block_on(support::database());
    hits_at_once(&["--database", database.url()]);
}

/// `GATEWAY_REPETITIONS` asks for more or less than 10,000.
fn hits_at_once(more: &[&str]) {
    let repetitions = std::env::var("GATEWAY_REPETITIONS").map_or(10_000, |n| n.parse().unwrap());
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

// -- connections --

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

// -- the process --

#[cfg(unix)]
#[test]
fn sigterm_lets_open_requests_end() {
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let origin = Origin::new(move |_, stream| {
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        say(stream, HELLO)
    });
    let mut gateway = Gateway::before(origin.address);
    let mut client = gateway.client();
    client.send(&get("/"));
    eventually_on_this_thread("the request is there", || !origin.seen().is_empty());
    let pid = gateway.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let refuses = || TcpStream::connect(gateway.address).is_err();
    eventually_on_this_thread("new connections are refused", refuses);
    go_on.send(()).unwrap();
    assert_eq!(client.response("GET").unwrap().text(), "hello world");
    assert!(gateway.child.wait().unwrap().success());
    let mut rest = String::new();
    gateway.output.read_to_string(&mut rest).unwrap();
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
