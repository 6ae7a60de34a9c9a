//! Requests to the shop, over a real connection.

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// What a browser would have in its address line: the same on every node, so the keys are too.
pub(crate) const HOST: &str = "shop.example";
/// Nothing here takes longer, unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request, and what its answer is expected to be.
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) target: &'static str,
    pub(crate) fields: Vec<(&'static str, &'static str)>,
    pub(crate) body: &'static str,
    pub(crate) status: StatusCode,
    /// What `Cache-Status` must contain.
    pub(crate) expects: &'static [&'static str],
    /// What the body must begin with.
    pub(crate) shows: &'static str,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) took: Duration,
}

/// A request with this method, expected to be answered with 200 and so that `Cache-Status` contains
/// each of `expects`.
pub(crate) fn ask(method: Method, target: &'static str, expects: &'static [&'static str]) -> Ask {
    let (fields, status) = (Vec::new(), StatusCode::OK);
    Ask { method, target, fields, body: "", status, expects, shows: "" }
}

pub(crate) fn get(target: &'static str, expects: &'static [&'static str]) -> Ask {
    ask(Method::GET, target, expects)
}

impl Ask {
    pub(crate) fn field(mut self, name: &'static str, value: &'static str) -> Self {
        self.fields.push((name, value));
        self
    }

    pub(crate) fn body(mut self, body: &'static str) -> Self {
        self.body = body;
        self
    }

    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn shows(mut self, start: &'static str) -> Self {
        self.shows = start;
        self
    }
}

pub(crate) struct Browser(Client<HttpConnector, Full<Bytes>>);

impl Browser {
    pub(crate) fn new() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }

    /// Sends a request and reads the answer: of a stream without an end the first event, else all.
    pub(crate) async fn send(&self, to: SocketAddr, ask: &Ask) -> Result<Answer, Box<dyn Error>> {
        let uri = format!("http://{to}{}", ask.target);
        let mut request = Request::builder().method(&ask.method).uri(uri).header("host", HOST);
        for (name, value) in &ask.fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(ask.body))?;
        let began = Instant::now();
        let answer = async {
            let (head, mut body) = self.0.request(request).await?.into_parts();
            let is_stream =
                head.headers.get("content-type").is_some_and(|t| t == "text/event-stream");
            let body = if is_stream {
                let first =
                    body.frame().await.ok_or("the stream ended before its first event")??;
                first.into_data().unwrap_or_default()
            } else {
                body.collect().await?.to_bytes()
            };
            let took = began.elapsed();
            Ok(Answer { status: head.status, headers: head.headers, body, took })
        };
        let patience = tokio::time::timeout(PATIENCE, answer).await;
        patience.unwrap_or_else(|_| Err(format!("{} was not answered in time", ask.target).into()))
    }
}
