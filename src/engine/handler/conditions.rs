//! The client's own conditions while the handler is asked for the whole response (RFC 9111 4.3.1, 4.3.2).

use std::sync::Arc;

use http::header::{
    ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
    RANGE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Request, Response};
use http_body::Body;

use super::super::find::FoundEntry;
use super::super::request::Cx;
use super::super::respond;
use crate::body::CacheBody;
use crate::rfc9111::range::{self, RangeOutcome};
use crate::rfc9111::validation::{Precondition, evaluate, has_validator, stored_etag};
use crate::store::Store;
use crate::stored::StoredHead;
use crate::tag::Validity;

/// Fields that the handler does not see while the cache fills or validates: they are evaluated
/// against the stored response.
pub(in crate::engine) const CONDITIONS: [HeaderName; 4] =
    [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE];

/// A client's conditions, taken off its request.
pub(in crate::engine) struct ClientConditions {
    method: Method,
    headers: HeaderMap,
    /// The request carries the stored response's validators in their place.
    pub(in crate::engine) validating: bool,
}

impl ClientConditions {
    /// Takes the client's conditions off a request that may fill the cache, and puts the validators of
    /// a stored response in their place (RFC 9111 4.3.1). `None` leaves the request as it is: a HEAD
    /// with nothing to validate, a target whose responses are not stored, or a condition that is the
    /// handler's to judge (RFC 9111 4.3.2).
    pub(in crate::engine) fn take(
        request: &mut Parts,
        stale: Option<&FoundEntry>,
        unstorable: bool,
    ) -> Option<Self> {
        let headers = &mut request.headers;
        if headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE) {
            return None;
        }
        let validators = stale.map(validators).unwrap_or_default();
        let validating = !validators.is_empty();
        if !validating && (unstorable || request.method != Method::GET) {
            return None;
        }
        let mut taken = HeaderMap::new();
        for name in CONDITIONS {
            for line in headers.get_all(&name) {
                taken.append(&name, line.clone());
            }
            headers.remove(&name);
        }
        headers.extend(validators);
        Some(Self { method: request.method.clone(), headers: taken, validating })
    }

    /// Forgets what the client asked for beside the response itself.
    pub(in crate::engine) fn clear(&mut self) {
        self.headers.clear();
    }

    /// Whether the client has this response of the handler's already.
    pub(in crate::engine) fn has(
        &self,
        response: &http::response::Parts,
        received_ms: u64,
    ) -> bool {
        let head = StoredHead::bare(response.status, response.headers.clone(), received_ms);
        // RFC 9111 4.3.2 compares Date for stored responses only
        let comparable = has_validator(&response.headers);
        comparable && evaluate(&self.headers, &head, received_ms) == Precondition::NotModified
    }

    /// What the client gets of a response that is not stored by now: often its body is still being made. What
    /// the client does not want of it is read behind the answer, where there is a place for that, so that it
    /// is stored all the same; where there is none, the client gets the whole.
    pub(in crate::engine) fn answer<St, RB>(
        &self,
        cx: &Cx<St>,
        mut response: http::response::Parts,
        body: CacheBody<RB>,
        length: Option<u64>,
        received_ms: u64,
    ) -> Response<CacheBody<RB>>
    where
        St: Store,
        RB: Body<Error: Send> + Send + 'static,
    {
        let head = StoredHead::bare(response.status, response.headers.clone(), received_ms);
        let Cx { engine, route, .. } = cx;
        let slot = || engine.background.reserve(engine.limits.max_refreshes);
        if self.has(&response, received_ms) {
            if let Some(slot) = slot() {
                slot.run(body.record(), || {});
                return respond::not_modified(response);
            }
            return Response::from_parts(response, body);
        }
        let limit = route.policy.max_body_bytes as u64;
        // what is too large to be stored is not read to find a part of it
        let Some(length) = length.filter(|length| *length <= limit) else {
            return Response::from_parts(response, body);
        };
        match range::evaluate(&self.method, &self.headers, &head, length, received_ms) {
            RangeOutcome::Single(part) => {
                respond::cut_to(&mut response, &part, length);
                let engine = Arc::clone(engine);
                let rest = move |rest| {
                    if let Some(slot) = engine.background.reserve(engine.limits.max_refreshes) {
                        slot.run(rest, || {});
                    }
                };
                Response::from_parts(response, body.part(part, rest))
            }
            RangeOutcome::Unsatisfiable => match slot() {
                Some(slot) => {
                    slot.run(body.record(), || {});
                    respond::unsatisfiable(response, length)
                }
                None => Response::from_parts(response, body),
            },
            // parts would have to wait for the whole
            RangeOutcome::Whole | RangeOutcome::Multi(_) => Response::from_parts(response, body),
        }
    }

    /// The client's conditions as a request of their own.
    pub(in crate::engine) fn request(&self) -> Parts {
        let mut parts = Request::new(()).into_parts().0;
        parts.method = self.method.clone();
        parts.headers = self.headers.clone();
        parts
    }
}

/// The conditions that validate a stored response (RFC 9111 4.3.1). What has been invalidated may have changed
/// within the second that a `Last-Modified` tells apart, and a weak `ETag` may be the same for other content: only a
/// strong `ETag` validates it (RFC 9110 8.8.1). Without one it is fetched again.
fn validators(entry: &FoundEntry) -> HeaderMap {
    let stored = &entry.response.head.headers;
    let valid = entry.validity == Validity::Valid;
    let is_strong = || stored_etag(stored).is_some_and(|etag| !etag.weak);
    let mut conditions = HeaderMap::new();
    if let Some(etag) = stored.get(ETAG).filter(|_| valid || is_strong()) {
        conditions.insert(IF_NONE_MATCH, etag.clone());
    }
    if let Some(modified) = stored.get(LAST_MODIFIED).filter(|_| valid) {
        conditions.insert(IF_MODIFIED_SINCE, modified.clone());
    }
    conditions
}
