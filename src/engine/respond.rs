//! How is a response built for the client? From a stored response, or from the handler's, with the layer's own
//! fields.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, EXPIRES, SET_COOKIE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::Route;
use super::decide::{Rescue, Serve};
use super::request::{Cx, ReplyKind};
use crate::body::CacheBody;
use crate::key::CacheKey;
use crate::overrides::CacheOverride;
use crate::policy::OWN_FIELD;
use crate::rfc9111::age_field;
use crate::rfc9111::range::content_range;
use crate::rfc9111::stale::Cause;
use crate::rfc9111::validation::not_modified_fields;
use crate::status::{CACHE_STATUS, CacheStatus, FieldValues, StatusField};
use crate::store::Store;
use crate::stored::StoredResponse;
use crate::telemetry::count;

/// The layer's own fields and status, for a response.
#[derive(Debug)]
pub(crate) struct Finish {
    pub(crate) field: Option<HeaderValue>,
    pub(crate) status: CacheStatus,
}

impl Finish {
    pub(crate) fn new(route: &Route, status: CacheStatus) -> Self {
        let field = field(&mut FieldValues::new(), route, &status, None);
        Self { field, status }
    }

    pub(super) fn keyed(route: &Route, key: &CacheKey, status: CacheStatus) -> Self {
        Self::with_values(&mut FieldValues::new(), route, key, status)
    }

    fn with_values(
        values: &mut FieldValues,
        route: &Route,
        key: &CacheKey,
        status: CacheStatus,
    ) -> Self {
        let field = field(values, route, &status, Some(key));
        Self { field, status }
    }

    /// Completes a response of which nothing is stored.
    pub(crate) fn apply<RB>(self, response: Response<RB>) -> Response<CacheBody<RB>> {
        let response = response.map(CacheBody::passthrough);
        // RFC 9110 15.2.2: after this response, the connection has another protocol
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return response;
        }
        self.wrap(response)
    }

    pub(super) fn wrap<RB>(self, mut response: Response<CacheBody<RB>>) -> Response<CacheBody<RB>> {
        response.extensions_mut().remove::<CacheOverride>();
        response.headers_mut().remove(OWN_FIELD); // RFC 9213 2.2: it was meant for this cache
        if let Some(value) = self.field {
            response.headers_mut().append(CACHE_STATUS, value);
        }
        response.extensions_mut().insert(self.status);
        response
    }
}

/// This cache's member of the `Cache-Status` list, if the route sends one.
fn field(
    values: &mut FieldValues,
    route: &Route,
    status: &CacheStatus,
    key: Option<&CacheKey>,
) -> Option<HeaderValue> {
    match route.status_field {
        StatusField::Off => None,
        StatusField::On => status.field(values, route.name(), None, false),
        StatusField::Debug => status.field(values, route.name(), key.map(CacheKey::as_bytes), true),
    }
}

/// Answers a request with a stored response: complete, in part, or as a 304 or 416.
pub(super) fn serve<St: Store, RB>(
    cx: &Cx<St>,
    request: &Parts,
    serve: Serve,
) -> Response<CacheBody<RB>> {
    let Serve { response: StoredResponse { head, body, .. }, kind, status, left_out } = serve;
    let mut headers = with_room(&head.headers);
    let mut code = head.status;
    let length = body.len() as u64;
    let mut sent = body.clone();
    match &kind {
        ReplyKind::Full | ReplyKind::CallHandler => {}
        ReplyKind::NotModified => {
            code = StatusCode::NOT_MODIFIED;
            headers = not_modified_fields(&head.headers); // RFC 9110 15.4.5
            sent = Bytes::new();
        }
        ReplyKind::Part(part) => {
            code = StatusCode::PARTIAL_CONTENT;
            headers.insert(CONTENT_RANGE, content_range(Some(part), length));
            without_digests(&mut headers);
            sent = slice(&body, part);
        }
        ReplyKind::Parts(parts) => {
            code = StatusCode::PARTIAL_CONTENT;
            let media = headers.get(CONTENT_TYPE).cloned();
            let (multipart, joined) = multipart(&body, parts, media.as_ref());
            headers.insert(CONTENT_TYPE, multipart);
            without_digests(&mut headers);
            sent = joined;
        }
        ReplyKind::Unsatisfiable => {
            code = StatusCode::RANGE_NOT_SATISFIABLE;
            unsatisfiable_fields(&mut headers, length);
            sent = Bytes::new();
        }
    }
    let mut values = FieldValues::new();
    // RFC 9110 8.6: no Content-Length in a 204; a 304 must not have the length of its own empty body
    if code != StatusCode::NO_CONTENT && code != StatusCode::NOT_MODIFIED {
        let bytes = left_out.unwrap_or(sent.len() as u64); // RFC 9110 9.3.2: the length that a GET would have
        values.number(bytes).map(|value| headers.insert(CONTENT_LENGTH, value));
    }
    if cx.route.age_field {
        let age_secs = age_field(&head, cx.engine.store.now_ms()); // RFC 9111 5.1
        values.number(age_secs).map(|value| headers.insert(AGE, value));
    }
    // RFC 9110 9.3.2: the fields of a GET, without its body
    let sent = if request.method == Method::HEAD { Bytes::new() } else { sent };
    let mut response = Response::new(CacheBody::stored(sent));
    *response.status_mut() = code;
    *response.headers_mut() = headers;
    Finish::with_values(&mut values, &cx.route, &cx.plan.base, status).wrap(response)
}

/// A copy with room for the fields of a hit: a clone would have to be moved when they are added.
fn with_room(headers: &HeaderMap) -> HeaderMap {
    const MORE: usize = 3; // Content-Length, Age, Cache-Status
    let Ok(mut copy) = HeaderMap::try_with_capacity(headers.keys_len() + MORE) else {
        return headers.clone();
    };
    for (name, value) in headers {
        if copy.try_append(name, value.clone()).is_err() {
            return headers.clone();
        }
    }
    copy
}

/// Answers with a stale response in place of an error, if it may be served.
pub(super) fn rescue<St: Store, RB>(
    cx: &Cx<St>,
    rescue: &Rescue,
    cause: Cause,
) -> Option<Response<CacheBody<RB>>> {
    rescue.decide(cx, cause).map(|stale| rescued(cx, rescue, stale))
}

/// The same, after the decision.
pub(super) fn rescued<St: Store, RB>(
    cx: &Cx<St>,
    rescue: &Rescue,
    stale: Serve,
) -> Response<CacheBody<RB>> {
    count(&cx.engine.counters.stale_if_error);
    cx.engine.explain(&stale.status);
    serve(cx, rescue.request(), stale)
}

/// Removes what the 200 says about its content and lifetime, which is not true for an error.
fn unsatisfiable_fields(headers: &mut HeaderMap, length: u64) {
    for name in [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE, CACHE_CONTROL, EXPIRES] {
        headers.remove(name);
    }
    headers.remove("cdn-cache-control");
    without_digests(headers);
    headers.insert(CONTENT_RANGE, content_range(None, length)); // RFC 9110 15.5.17
}

/// Removes digests of the whole content, because the content of a part differs (RFC 9530 2). `Repr-Digest` is about
/// the representation, and stays.
fn without_digests(headers: &mut HeaderMap) {
    headers.remove("content-digest");
    headers.remove("content-md5");
}

/// Reduces a response to one part, while its body of `length` bytes is still streaming.
pub(super) fn cut_to(response: &mut http::response::Parts, part: &Range<u64>, length: u64) {
    response.status = StatusCode::PARTIAL_CONTENT;
    let content_length = HeaderValue::from(part.end.saturating_sub(part.start));
    response.headers.insert(CONTENT_RANGE, content_range(Some(part), length));
    response.headers.insert(CONTENT_LENGTH, content_length);
    without_digests(&mut response.headers);
}

/// A 504 from the cache. It has no `Cache-Status`, which a cache should not add to its own errors (RFC 9211 2).
pub(super) fn gateway_timeout<RB>(status: CacheStatus) -> Response<CacheBody<RB>> {
    let mut response = Response::new(CacheBody::stored(Bytes::new()));
    *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
    response.extensions_mut().insert(status);
    response
}

/// A 416 in place of a response that does not have the requested part.
pub(super) fn unsatisfiable<RB>(
    mut response: http::response::Parts,
    length: u64,
) -> Response<CacheBody<RB>> {
    response.status = StatusCode::RANGE_NOT_SATISFIABLE;
    unsatisfiable_fields(&mut response.headers, length);
    response.headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    Response::from_parts(response, CacheBody::stored(Bytes::new()))
}

/// A 304 in place of a response that the client already has.
pub(super) fn not_modified<RB>(mut response: http::response::Parts) -> Response<CacheBody<RB>> {
    response.status = StatusCode::NOT_MODIFIED;
    response.headers = not_modified_fields(&response.headers);
    Response::from_parts(response, CacheBody::stored(Bytes::new()))
}

/// Adds the response's cookies and extensions, which are for its own client and are not stored.
pub(super) fn with_cookies_and_extensions<RB>(
    mut reply: Response<CacheBody<RB>>,
    parts: http::response::Parts,
) -> Response<CacheBody<RB>> {
    if !reply.headers().contains_key(SET_COOKIE) {
        for cookie in parts.headers.get_all(SET_COOKIE) {
            reply.headers_mut().append(SET_COOKIE, cookie.clone());
        }
    }
    let status = reply.extensions_mut().remove::<CacheStatus>();
    reply.extensions_mut().extend(parts.extensions);
    status.map(|status| reply.extensions_mut().insert(status));
    reply
}

fn slice(body: &Bytes, part: &Range<u64>) -> Bytes {
    let at = |position: u64| usize::try_from(position).unwrap_or(usize::MAX).min(body.len());
    let (start, end) = (at(part.start), at(part.end));
    if start < end { body.slice(start..end) } else { Bytes::new() }
}

/// `multipart/byteranges` (RFC 9110 14.6): the media type with its boundary, and the body.
fn multipart(
    body: &Bytes,
    parts: &[Range<u64>],
    media: Option<&HeaderValue>,
) -> (HeaderValue, Bytes) {
    let boundary = boundary();
    let mut joined = BytesMut::new();
    for part in parts {
        joined.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
        if let Some(media) = media {
            joined.extend_from_slice(b"Content-Type: ");
            joined.extend_from_slice(media.as_bytes());
            joined.extend_from_slice(b"\r\n");
        }
        joined.extend_from_slice(b"Content-Range: ");
        joined.extend_from_slice(content_range(Some(part), body.len() as u64).as_bytes());
        joined.extend_from_slice(b"\r\n\r\n");
        joined.extend_from_slice(&slice(body, part));
    }
    joined.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let media = format!("multipart/byteranges; boundary={boundary}");
    let media =
        HeaderValue::try_from(media).unwrap_or(HeaderValue::from_static("multipart/byteranges"));
    (media, joined.freeze())
}

/// A line that occurs in no body: it contains 128 new random bits each time.
fn boundary() -> String {
    let random = RandomState::new();
    format!("{:016x}{:016x}", random.hash_one(0_u8), random.hash_one(1_u8))
}
