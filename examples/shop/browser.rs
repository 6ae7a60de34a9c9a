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

/// The host in the browser's address line. It is the same for every node, so the keys are the same.
pub(crate) const HOST: &str = "shop.example";
/// The longest time for a request. If a request takes longer, something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request, and its expected answer.
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) target: &'static str,
    pub(crate) fields: Vec<(&'static str, &'static str)>,
    pub(crate) body: &'static str,
    pub(crate) status: StatusCode,
    /// `Cache-Status` must contain each of these.
    pub(crate) expects: &'static [&'static str],
    /// The body must begin with this.
    pub(crate) shows: &'static str,
}

/// The answer to a request.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) took: Duration,
}

/// A request with this method. The expected answer is a 200 with each of `expects` in its `Cache-Status`.
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

    /// Sends a request and reads the answer. Of an endless stream, it reads only the first event.
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
