//! The service outside the cache: makes a client's message fit to be passed on, and the origin's
//! trouble a response.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue, MAX_FORWARDS, TE, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use tower::{Service, ServiceExt};
use tower_mysql_cache::CacheStatus;

use crate::fields;
use crate::origin::OriginError;

/// What other methods a client may hope for is the origin's to say.
const ALLOW: (HeaderName, &str) = (http::header::ALLOW, "GET, HEAD, OPTIONS");

#[derive(Clone)]
pub(crate) struct Edge<S> {
    cache: S,
    /// The origin's own authority, for requests that name none.
    authority: HeaderValue,
}

/// A response of the gateway's own.
struct Refusal {
    status: StatusCode,
    text: String,
    field: Option<(HeaderName, &'static str)>,
}

impl<S> Edge<S> {
    pub(crate) fn new(cache: S, authority: &str) -> Result<Self, http::Error> {
        Ok(Self { cache, authority: HeaderValue::try_from(authority)? })
    }

    pub(crate) async fn answer<B>(
        self,
        request: Request<Incoming>,
    ) -> Response<Either<B, Full<Bytes>>>
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = OriginError>,
    {
        let (mut parts, body) = request.into_parts();
        let prepared = self.prepare(&mut parts, &body);
        let response = match prepared {
            Err(refusal) => Err(refusal),
            Ok(()) => {
                let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
                let response = self.cache.oneshot(Request::from_parts(parts, body)).await;
                response.map_err(|error| {
                    tracing::warn!(%error, %method, path, "no response from the origin");
                    error.into()
                })
            }
        };
        match response {
            Ok(mut response) => {
                // what comes out of the store is the cache's own message and goes out as it is
                let status = response.extensions().get::<CacheStatus>();
                if !status.is_some_and(CacheStatus::is_hit) {
                    fields::strip_hop_by_hop(response.headers_mut());
                }
                *response.version_mut() = Version::HTTP_11; // a gateway's own: RFC 9110 6.2
                if response.status().canonical_reason().is_none() {
                    // hyper would make one up
                    let none = ReasonPhrase::from_static(b"");
                    response.extensions_mut().get_or_insert_with(|| none);
                }
                response.map(Either::Left)
            }
            Err(refusal) => refusal.response().map(Either::Right),
        }
    }

    /// Makes of a request for this connection a request for the next.
    fn prepare(&self, parts: &mut Parts, body: &Incoming) -> Result<(), Refusal> {
        if parts.method == Method::CONNECT {
            // RFC 9110 9.3.6: a gateway is no tunnel
            return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "no tunnels here"));
        }
        if fields::is_chunked(&parts.headers).is_err() {
            return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "unknown transfer coding"));
        }
        let host = self.host(parts)?;
        if fields::has_been_here(&parts.headers) {
            return Err(Refusal::new(StatusCode::LOOP_DETECTED, "the origin is this gateway"));
        }
        count_down(parts)?;

        let headers = &mut parts.headers;
        let trailers = fields::has_member(headers, &TE, "trailers");
        fields::drop_overridden_length(headers);
        fields::strip_hop_by_hop(headers);
        fields::drop_underscores(headers);
        fields::join_cookies(headers);
        headers.insert(HOST, host);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        // the framing of the next connection, which also tells the cache that there is a body
        if !body.is_end_stream() && body.size_hint().exact().is_none() {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        // the authority is in Host now, and the scheme is that of this gateway
        let path = parts.uri.path_and_query().cloned();
        parts.uri = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
        Ok(())
    }

    /// Whom a request is for: its target's authority, else its Host (RFC 9112 3.2).
    fn host(&self, parts: &Parts) -> Result<HeaderValue, Refusal> {
        let wrong = |text| Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        let mut lines = parts.headers.get_all(HOST).iter();
        let (first, second) = (lines.next(), lines.next());
        if second.is_some() {
            return wrong("several Host fields");
        }
        // RFC 9112 3.2.3: the authority alone is a target for CONNECT only
        if parts.uri.authority().is_some() && parts.uri.scheme().is_none() {
            return wrong("the target is an authority");
        }
        let valid = |host: &HeaderValue| {
            host.is_empty() || Authority::try_from(host.as_bytes()).is_ok_and(|a| is_host(&a))
        };
        // RFC 9112 3.2: also where the target says it as well
        if first.is_some_and(|line| !valid(line)) {
            return wrong("not a Host");
        }
        if first.is_none() && parts.version == Version::HTTP_11 {
            return wrong("no Host field");
        }
        let named = match (parts.uri.authority(), first) {
            (Some(authority), _) => HeaderValue::try_from(without_user(authority.as_str())).ok(),
            (None, Some(line)) => Some(line.clone()),
            (None, None) if parts.version < Version::HTTP_11 => Some(self.authority.clone()),
            (None, None) => return wrong("no Host field"),
        };
        match named.filter(valid) {
            Some(host) => Ok(host),
            None => wrong("not a Host"),
        }
    }
}

/// Whether an authority is a host and, after a colon, a port or nothing (RFC 3986 3.2.3).
fn is_host(authority: &Authority) -> bool {
    let port = authority.as_str().strip_prefix(authority.host());
    let is_number = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && (port.is_empty() || port.parse::<u16>().is_ok())
    };
    !authority.host().is_empty()
        && port.is_some_and(|port| port.is_empty() || port.strip_prefix(':').is_some_and(is_number))
}

fn without_user(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// OPTIONS and TRACE may say how far they are to go (RFC 9110 7.6.2).
fn count_down(parts: &mut Parts) -> Result<(), Refusal> {
    if parts.method != Method::OPTIONS && parts.method != Method::TRACE {
        return Ok(());
    }
    let Some(left) = parts.headers.get(MAX_FORWARDS) else { return Ok(()) };
    let digits = left.to_str().ok().filter(|left| left.bytes().all(|byte| byte.is_ascii_digit()));
    let digits = digits.filter(|digits| !digits.is_empty());
    // more than can be counted is as good as no limit
    match digits.map(|digits| digits.parse().unwrap_or(u64::MAX)) {
        Some(0) => Err(Refusal {
            status: match parts.method {
                Method::TRACE => StatusCode::METHOD_NOT_ALLOWED,
                _ => StatusCode::OK,
            },
            text: String::new(),
            field: Some(ALLOW),
        }),
        Some(left) => {
            parts.headers.insert(MAX_FORWARDS, HeaderValue::from(left - 1));
            Ok(())
        }
        None => Ok(()),
    }
}

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), field: None }
    }

    fn response(self) -> Response<Full<Bytes>> {
        let Self { status, mut text, field } = self;
        if !text.is_empty() {
            text.push('\n');
        }
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        let plain = (CONTENT_TYPE, "text/plain; charset=utf-8");
        for (name, value) in [Some(plain), field].into_iter().flatten() {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl From<OriginError> for Refusal {
    fn from(error: OriginError) -> Self {
        let status = match &error {
            OriginError::Timeout => StatusCode::GATEWAY_TIMEOUT,
            OriginError::Request => StatusCode::BAD_REQUEST,
            OriginError::Failed(_) | OriginError::Nonsense(_) => StatusCode::BAD_GATEWAY,
        };
        // why is for the log: it shows addresses
        let text = match &error {
            OriginError::Failed(_) => "the origin failed".to_owned(),
            error => error.to_string(),
        };
        Self::new(status, text)
    }
}
