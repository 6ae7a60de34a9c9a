//! The service behind the cache: it forwards requests to the origin.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::iter::successors;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::Service;

use crate::fields;

/// Forwards requests to the origin. A failure of the origin is an `Err`, so that the cache knows about it.
#[derive(Clone)]
pub(crate) struct Origin {
    client: legacy::Client<HttpConnector, Upload>,
    /// Does not reuse connections: for a second try.
    fresh: legacy::Client<HttpConnector, Upload>,
    authority: Authority,
    timeout: Duration,
}

/// Why there is no response from the origin.
#[derive(Debug)]
pub(crate) enum OriginError {
    /// The origin did not begin its response in time.
    Timeout,
    /// The client's body failed while the gateway passed it on.
    Request,
    /// The origin cannot be reached, or the connection broke before the head of the response.
    Failed(legacy::Error),
    /// The origin's response cannot be passed on.
    Nonsense(&'static str),
}

impl Origin {
    pub(crate) fn new(authority: Authority, timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).timer(TokioTimer::new());
        let client = builder.build(connector.clone());
        let fresh = builder.pool_max_idle_per_host(0).build(connector);
        Self { client, fresh, authority, timeout }
    }

    /// Makes the request for the origin: HTTP/1.1, with `Via`, to the origin's address. The path and the other fields stay
    /// unchanged.
    fn forwarded(&self, request: Request<Incoming>) -> (Request<Upload>, Progress) {
        let progress = Progress::new();
        let (mut parts, body) = request.into_parts();
        fields::add_via(&mut parts.headers, parts.version);
        if parts.headers.contains_key(TE) {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("te")); // RFC 9110 10.1.4
        }
        let path = parts.uri.path_and_query().cloned();
        let mut target = http::uri::Parts::default();
        target.scheme = Some(Scheme::HTTP);
        target.authority = Some(self.authority.clone());
        target.path_and_query = path.or(Some(PathAndQuery::from_static("/")));
        parts.uri = Uri::from_parts(target).unwrap_or_default();
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        let body = Some(body).filter(|body| !body.is_end_stream());
        let body = Upload { body, progress: progress.clone() };
        (Request::from_parts(parts, body), progress)
    }
}

impl Service<Request<Incoming>> for Origin {
    type Response = Response<Incoming>;
    type Error = OriginError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, OriginError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), OriginError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let (request, progress) = self.forwarded(request);
        let again = repeated(&request);
        let response = self.client.request(request);
        let (fresh, timeout) = (self.fresh.clone(), self.timeout);
        let response = async move {
            match (response.await, again) {
                (Err(error), Some(again)) if went_away(&error) => fresh.request(again).await,
                (response, _) => response,
            }
        };
        Box::pin(async move {
            let response = tokio::select! {
                response = response => response.map_err(OriginError::from)?,
                _ = progress.rests_for(timeout) => return Err(OriginError::Timeout),
            };
            received(response)
        })
    }
}

/// A copy of the request for a second try, if that does no harm (RFC 9110 9.2.2). An origin may close a connection at the
/// moment when the gateway uses it again.
fn repeated(request: &Request<Upload>) -> Option<Request<Upload>> {
    let Upload { body, progress } = request.body();
    if !request.method().is_safe() || body.is_some() {
        return None;
    }
    let mut again = Request::new(Upload { body: None, progress: progress.clone() });
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}

/// Whether the connection broke before the whole head of a response had arrived.
fn went_away(error: &legacy::Error) -> bool {
    causes(error).any(|cause| {
        let http = cause.downcast_ref::<hyper::Error>();
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        http.is_some_and(hyper::Error::is_incomplete_message)
            || matches!(io, Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe))
    })
}

/// Checks that the response can be passed on.
fn received(mut response: Response<Incoming>) -> Result<Response<Incoming>, OriginError> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(OriginError::Nonsense(
            "a switch of protocols, which the gateway did not ask for",
        ));
    }
    // RFC 9112 6.1: the gateway did not ask for other codings, and cannot decode them
    if fields::is_chunked(response.headers()).is_err() {
        return Err(OriginError::Nonsense("a transfer coding that the gateway did not ask for"));
    }
    fields::drop_overridden_length(response.headers_mut());
    Ok(response)
}

impl From<legacy::Error> for OriginError {
    fn from(error: legacy::Error) -> Self {
        let of_hyper = |cause: &(dyn Error + 'static)| {
            cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_user)
        };
        if causes(&error).any(of_hyper) { Self::Request } else { Self::Failed(error) }
    }
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("the origin did not answer in time"),
            Self::Request => f.write_str("the request ended early"),
            Self::Failed(error) => {
                write!(f, "the origin failed: {error}")?;
                causes(error).try_for_each(|cause| write!(f, ": {cause}"))
            }
            Self::Nonsense(what) => write!(f, "the origin answered with {what}"),
        }
    }
}

impl Error for OriginError {}

/// The chain of causes of an error.
fn causes(error: &legacy::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    successors(error.source(), |cause| Error::source(*cause))
}

/// The time when part of a request's body was last sent. The origin's time limit begins when it has the whole body.
#[derive(Clone)]
struct Progress {
    start: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Progress {
    fn new() -> Self {
        Self { start: Instant::now(), last_ms: Arc::default() }
    }

    fn made(&self) {
        let now_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Waits until no part of the body has been sent for `limit`.
    async fn rests_for(&self, limit: Duration) {
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let rested = self.start.elapsed().saturating_sub(last);
            match limit.checked_sub(rested) {
                Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
                _ => return,
            }
        }
    }
}

/// A request's body on its way to the origin, if there is one.
pub(crate) struct Upload {
    body: Option<Incoming>,
    progress: Progress,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        self.progress.made();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
