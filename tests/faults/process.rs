//! Processes of an application: examples of this crate.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// A process that ends when this value is dropped.
pub(crate) struct Process {
    child: Child,
    address: String,
    client: Client<HttpConnector, Empty<Bytes>>,
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn is_hit(&self) -> bool {
        self.field("cache-status").contains("; hit")
    }
}

impl Process {
    /// Starts the process. It listens on the first address that it prints.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the example runs");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut words = lines
            .map_while(Result::ok)
            .flat_map(|line| line.split([' ', ';']).map(str::to_owned).collect::<Vec<_>>());
        let address =
            words.find(|word| word.starts_with("http://")).expect("it says where it listens");
        // its later output is ignored, but must be read so that it does not block
        std::thread::spawn(move || words.for_each(drop));
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { child, address, client }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `GET path`, which must be answered with 200.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        let reply = self.ask(path).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        reply
    }

    /// `GET path`.
    pub(crate) async fn ask(&self, path: &str) -> Reply {
        let uri = format!("{}{path}", self.address);
        // like a load balancer: one name for all processes
        let request = Request::builder().uri(uri).header("host", "shop.example");
        let request = request.body(Empty::new()).unwrap();
        let response = self.client.request(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Reply { status: parts.status, headers: parts.headers, body }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of a built example; `cargo test` builds all examples.
pub(crate) fn example(name: &str) -> Command {
    // target/<profile>/deps/<this test> is next to target/<profile>/examples/<name>
    let this = std::env::current_exe().unwrap();
    let path: PathBuf = this.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "the examples are not built: run `cargo build --examples` first");
    Command::new(path)
}
