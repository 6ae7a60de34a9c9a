//! The service outside the cache. It prepares clients' requests for the next connection, and makes responses of the origin's
//! errors.

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

/// The methods that the gateway itself knows to be allowed; the origin may allow more.
const ALLOW: (HeaderName, &str) = (http::header::ALLOW, "GET, HEAD, OPTIONS");

#[derive(Clone)]
pub(crate) struct Edge<S> {
    cache: S,
    /// The origin's authority, for requests without `Host`.
    authority: HeaderValue,
}

/// A response that the gateway makes itself.
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
                // a hit is the cache's own message, so it is sent unchanged
                let status = response.extensions().get::<CacheStatus>();
                if !status.is_some_and(CacheStatus::is_hit) {
                    fields::strip_hop_by_hop(response.headers_mut());
                }
                *response.version_mut() = Version::HTTP_11; // RFC 9110 6.2: the gateway's own version
                if response.status().canonical_reason().is_none() {
                    // without this, hyper invents a reason phrase
                    let none = ReasonPhrase::from_static(b"");
                    response.extensions_mut().get_or_insert_with(|| none);
                }
                response.map(Either::Left)
            }
            Err(refusal) => refusal.response().map(Either::Right),
        }
    }

    /// Changes a request of the client's connection to a request for the connection to the origin.
    fn prepare(&self, parts: &mut Parts, body: &Incoming) -> Result<(), Refusal> {
        if parts.method == Method::CONNECT {
            // RFC 9110 9.3.6: a gateway is not a tunnel
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
        // the framing of the next connection; it also tells the cache that there is a body
        if !body.is_end_stream() && body.size_hint().exact().is_none() {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        // `Host` now has the authority, and the scheme is this gateway's
        let path = parts.uri.path_and_query().cloned();
        parts.uri = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
        Ok(())
    }

    /// The host of a request: the authority in its target, else its `Host` (RFC 9112 3.2).
    fn host(&self, parts: &Parts) -> Result<HeaderValue, Refusal> {
        let wrong = |text| Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        let mut lines = parts.headers.get_all(HOST).iter();
        let (first, second) = (lines.next(), lines.next());
        if second.is_some() {
            return wrong("several Host fields");
        }
        // RFC 9112 3.2.3: only CONNECT may have an authority alone as its target
        if parts.uri.authority().is_some() && parts.uri.scheme().is_none() {
            return wrong("the target is an authority");
        }
        let valid = |host: &HeaderValue| {
            host.is_empty() || Authority::try_from(host.as_bytes()).is_ok_and(|a| is_host(&a))
        };
        // RFC 9112 3.2: `Host` must be valid even if the target has the authority too
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

/// Whether an authority is a host, with or without a colon and a port; the port may be empty (RFC 3986 3.2.3).
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

/// Counts `Max-Forwards` of OPTIONS and TRACE down (RFC 9110 7.6.2).
fn count_down(parts: &mut Parts) -> Result<(), Refusal> {
    if parts.method != Method::OPTIONS && parts.method != Method::TRACE {
        return Ok(());
    }
    let Some(left) = parts.headers.get(MAX_FORWARDS) else { return Ok(()) };
    let digits = left.to_str().ok().filter(|left| left.bytes().all(|byte| byte.is_ascii_digit()));
    let digits = digits.filter(|digits| !digits.is_empty());
    // a number that is too large counts as the largest one
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
        // the cause shows addresses, so it is for the log only
        let text = match &error {
            OriginError::Failed(_) => "the origin failed".to_owned(),
            error => error.to_string(),
        };
        Self::new(status, text)
    }
}
