//! The gateway, its client and its origin.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::{PATIENCE, Process, example};

pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

impl Gateway {
    pub(crate) fn before(origin: SocketAddr) -> Self {
        Self::with(origin, &[])
    }

    pub(crate) fn with(origin: SocketAddr, more: &[&str]) -> Self {
        Self::start(Command::new(example("gateway")), origin, more)
    }

    /// One that may open so many files.
    #[cfg(unix)]
    pub(crate) fn with_files(origin: SocketAddr, files: u32) -> Self {
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")]);
        limited.arg(example("gateway"));
        Self::start(limited, origin, &[])
    }

    pub(crate) fn start(mut command: Command, origin: SocketAddr, more: &[&str]) -> Self {
        let origin = format!("http://{origin}");
        command.args(["--listen", "127.0.0.1:0", "--origin", &origin]).args(more);
        let process = Process::start(command.stderr(Stdio::null()));
        let address = process.authority().parse().unwrap();
        Self { process, address }
    }

    pub(crate) fn client(&self) -> Client {
        Client::to(self.address)
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, request: &str) -> Message {
        let mut client = self.client();
        client.send(request);
        let method = request.split(' ').next().unwrap();
        client.response(method).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Message {
        self.ask(&get(path))
    }
}

// -- messages --

/// A request as the origin has received it, or a response as the client has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) line: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Message {
    /// All lines of a field, joined.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let found = self.fields.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        let lines: Vec<_> = found.map(|(_, value)| value.as_str()).collect();
        (!lines.is_empty()).then(|| lines.join(" | "))
    }

    pub(crate) fn status(&self) -> u16 {
        self.line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn cache_status(&self) -> String {
        self.field("cache-status").unwrap_or_default()
    }

    pub(crate) fn is_hit(&self) -> bool {
        self.cache_status().starts_with("gateway; hit; ttl=")
    }
}

pub(crate) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

pub(crate) fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    line.strip_suffix("\r\n").map(str::to_owned).ok_or(io::ErrorKind::UnexpectedEof.into())
}

pub(crate) fn read_fields(from: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
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

pub(crate) fn read_head(from: &mut impl BufRead) -> io::Result<Message> {
    let line = read_line(from)?;
    Ok(Message { line, fields: read_fields(from)?, ..Message::default() })
}

/// Reads what follows a head. An end that is too early is an error.
pub(crate) fn read_body(
    from: &mut impl BufRead,
    message: &mut Message,
    to_the_end: bool,
) -> io::Result<()> {
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

pub(crate) struct Client(pub(crate) BufReader<TcpStream>);

impl Client {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the gateway closes the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    pub(crate) fn response(&mut self, method: &str) -> io::Result<Message> {
        let mut message = read_head(&mut self.0)?;
        if method != "HEAD" && !matches!(message.status(), 100..200 | 204 | 304) {
            read_body(&mut self.0, &mut message, true)?;
        }
        Ok(message)
    }
}

pub(crate) fn get(path: &str) -> String {
    get_with(path, "")
}

pub(crate) fn get_with(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n")
}

// -- the origin --

/// A server that does with its sockets what it is told to.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<Message>>>,
}

impl Origin {
    /// `answer` writes the response; the connection stays open until it says otherwise.
    pub(crate) fn new(
        answer: impl Fn(&Message, &mut TcpStream) -> Then + Send + Sync + 'static,
    ) -> Self {
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
    pub(crate) fn saying(response: &'static str) -> Self {
        Self::new(move |_, stream| say(stream, response))
    }

    pub(crate) fn seen(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Message {
        self.seen().pop().expect("a request has come")
    }
}

#[derive(PartialEq, Eq)]
pub(crate) enum Then {
    Open,
    Close,
}

pub(crate) fn say(stream: &mut TcpStream, text: &str) -> Then {
    // the other side may have had enough
    match stream.write_all(text.as_bytes()) {
        Ok(()) => Then::Open,
        Err(_) => Then::Close,
    }
}

pub(crate) const HELLO: &str = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"v1\"\r\n\
    Content-Length: 11\r\n\r\nhello world";
