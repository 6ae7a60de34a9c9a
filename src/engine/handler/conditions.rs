//! Which of the client's conditions does the handler see, and who evaluates the others (RFC 9111 4.3.1, 4.3.2)?

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

/// Fields that the handler does not see while the cache fills or validates. They are evaluated against the stored
/// response.
pub(in crate::engine) const CONDITIONS: [HeaderName; 4] =
    [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE];

/// A client's conditions, removed from its request.
pub(in crate::engine) struct ClientConditions {
    method: Method,
    headers: HeaderMap,
    /// Whether the request carries the stored response's validators instead.
    pub(in crate::engine) validating: bool,
}

impl ClientConditions {
    /// Removes the client's conditions from a request that may fill the cache. Inserts the validators of a stored
    /// response (RFC 9111 4.3.1).
    ///
    /// It changes nothing and returns `None`
    ///
    /// - for a HEAD with nothing to validate,
    /// - if the target's responses are not storable,
    /// - if the handler must evaluate a condition (RFC 9111 4.3.2).
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

    /// Forgets the conditions: the complete response is wanted.
    pub(in crate::engine) fn clear(&mut self) {
        self.headers.clear();
    }

    /// Whether the client already has this response.
    pub(in crate::engine) fn has(
        &self,
        response: &http::response::Parts,
        received_ms: u64,
    ) -> bool {
        let head = StoredHead::new(response.status, response.headers.clone(), received_ms);
        // RFC 9111 4.3.2 compares `Date` for stored responses only
        let comparable = has_validator(&response.headers);
        comparable && evaluate(&self.headers, &head, received_ms) == Precondition::NotModified
    }

    /// What the client gets of a response that is not stored yet, often because its body is still streaming: a 304,
    /// one part, or a 416. The rest of the body is then read in the background, so that the response is stored.
    /// Without a free slot for that, the client gets the complete response.
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
        let head = StoredHead::new(response.status, response.headers.clone(), received_ms);
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
        // a body that is too large to be stored is not read to find a part
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
            // several parts can only be sent after the complete body
            RangeOutcome::Whole | RangeOutcome::Multi(_) => Response::from_parts(response, body),
        }
    }

    /// A request with the client's conditions.
    pub(in crate::engine) fn request(&self) -> Parts {
        let mut parts = Request::new(()).into_parts().0;
        parts.method = self.method.clone();
        parts.headers = self.headers.clone();
        parts
    }
}

/// The conditions that validate a stored response (RFC 9111 4.3.1). An invalidated response is validated by a strong
/// `ETag` only (RFC 9110 8.8.1): within one second `Last-Modified` does not change, and a weak `ETag` may stay the
/// same for new content. Without a strong `ETag`, the response is fetched again.
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
