//! Processes of an application: examples of this crate.

use std::process::Command;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::support;

/// A process that ends when this value is dropped.
pub(crate) struct Process {
    process: support::Process,
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
        let process = support::Process::start(command);
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { process, client }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// `GET path`, which must be answered with 200.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        let reply = self.ask(path).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        reply
    }

    /// `GET path`.
    pub(crate) async fn ask(&self, path: &str) -> Reply {
        let uri = format!("{}{path}", self.process.address);
        // like a load balancer: one name for all processes
        let request = Request::builder().uri(uri).header("host", "shop.example");
        let request = request.body(Empty::new()).unwrap();
        let response = self.client.request(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Reply { status: parts.status, headers: parts.headers, body }
    }
}
