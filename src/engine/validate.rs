//! Validation towards the handler, and the client's own conditions while it goes on (RFC 9111 4.3).

use std::sync::Arc;

use http::header::{
    CONTENT_LENGTH, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body::Body;

use super::admission::Plan;
use super::confirm::{self, Change, Confirmation};
use super::exchange::Miss;
use super::flight::Lead;
use super::guarded;
use super::judge::{expires_ms, has_validator};
use super::lookup::At;
use super::reply::{self, Want};
use super::{Engine, Route, nesting};
use crate::body::CacheBody;
use crate::cookies::Credentials;
use crate::key::KeyRange;
use crate::overrides::CacheOverride;
use crate::rfc9111::range::{self, RangeOutcome};
use crate::rfc9111::validation::{Precondition, evaluate, stored_etag};
use crate::store::Store;
use crate::stored::{HeadUpdate, StoredHead, StoredResponse};
use crate::tag::Validity;

/// Fields that the handler does not see while the cache fills or validates: they are evaluated
/// against the stored response.
pub(super) const CONDITIONS: [HeaderName; 4] = [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE];

/// A client's conditions, taken off its request.
pub(super) struct Stripped {
    method: Method,
    headers: HeaderMap,
    /// The request carries the stored response's validators in their place.
    pub(super) validating: bool,
}

impl Stripped {
    /// Takes the client's conditions off a request that may fill the cache, and puts the validators of
    /// a stored response in their place (RFC 9111 4.3.1). `None` leaves the request as it is: a HEAD
    /// with nothing to validate, a target whose responses are not stored, or a condition that is the
    /// handler's to judge (RFC 9111 4.3.2).
    pub(super) fn take(request: &mut Parts, stale: Option<&At>, unstorable: bool) -> Option<Self> {
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
    pub(super) fn waive(&mut self) {
        self.headers.clear();
    }

    /// Whether the client has this response of the handler's already.
    pub(super) fn has(&self, response: &http::response::Parts, received_ms: u64) -> bool {
        let head = StoredHead::bare(response.status, response.headers.clone(), received_ms);
        // RFC 9111 4.3.2 compares Date for stored responses only
        let comparable = has_validator(&response.headers);
        comparable && evaluate(&self.headers, &head, received_ms) == Precondition::NotModified
    }

    /// What the client gets of a response that is not stored by now: often its body is still being made. What
    /// the client does not want of it is read behind the answer, where there is a place for that, so that it
    /// is stored all the same; where there is none, the client gets the whole.
    pub(super) fn answer<St, RB>(
        &self,
        engine: &Arc<Engine<St>>,
        route: &Arc<Route>,
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
        let place = || engine.background.begin(route.max_refreshes);
        if self.has(&response, received_ms) {
            if let Some(place) = place() {
                place.run(body.record(), || {});
                return reply::not_modified(response);
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
                reply::cut_to(&mut response, &part, length);
                let (engine, limit) = (Arc::clone(engine), route.max_refreshes);
                let rest = move |rest| {
                    if let Some(place) = engine.background.begin(limit) {
                        place.run(rest, || {});
                    }
                };
                Response::from_parts(response, body.part(part, rest))
            }
            RangeOutcome::Unsatisfiable => match place() {
                Some(place) => {
                    place.run(body.record(), || {});
                    reply::unsatisfiable(response, length)
                }
                None => Response::from_parts(response, body),
            },
            // parts would have to wait for the whole
            RangeOutcome::Whole | RangeOutcome::Multi(_) => Response::from_parts(response, body),
        }
    }

    /// The client's conditions as a request of their own.
    pub(super) fn request(&self) -> Parts {
        let mut parts = Request::new(()).into_parts().0;
        parts.method = self.method.clone();
        parts.headers = self.headers.clone();
        parts
    }
}

/// The conditions that validate a stored response (RFC 9111 4.3.1). What has been invalidated may have changed
/// within the second that a `Last-Modified` tells apart, and a weak `ETag` may be the same for other content: only a
/// strong `ETag` validates it (RFC 9110 8.8.1). Without one it is fetched again.
fn validators(at: &At) -> HeaderMap {
    let stored = &at.response.head.headers;
    let valid = at.validity == Validity::Valid;
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

/// The handler says that the stored response still holds: its fields are updated and it answers the
/// client (RFC 9111 4.3.3, 4.3.4).
pub(super) fn revalidated<St, RB>(
    engine: &Arc<Engine<St>>,
    route: &Arc<Route>,
    plan: &Plan,
    mut miss: Miss,
    at: At,
    mut response: Response<RB>,
    received_ms: u64,
) -> Response<CacheBody<RB>>
where
    St: Store,
{
    let overrides = response.extensions().get::<CacheOverride>();
    let stored = &at.response.head;
    let (own, change) = if confirms(response.headers(), &stored.headers) {
        let fields = response.headers().clone();
        let said = Confirmation::new(route, &miss.asked, overrides, fields, received_ms);
        (Arc::new(said.own_clients(stored)), said.change(&at))
    } else {
        // the handler confirms what it was asked about and names another: it answers this request, as
        // it is, and the next one fetches it again
        (Arc::new(confirm::with_cookies_of(response.headers(), stored)), Change::Forget)
    };
    // an inner layer has decided, with its own policy
    let inner = nesting::is_answered(engine, response.extensions());
    let change = if inner { Change::Nothing } else { change };
    let body = at.response.body.clone();
    let (fills, lead) = (miss.fills, miss.lead.take());
    let confirmed = Confirmed { at, change, fills, lead, inner, received_ms };
    confirmed.hold(engine, route, plan);
    let client = miss.client.as_ref().map(Stripped::request);
    let request = client.unwrap_or_else(|| Request::new(()).into_parts().0);
    let want = Want::of(&request, &own, body.len(), received_ms);
    let status = miss.status.with_fwd_status(StatusCode::NOT_MODIFIED);
    engine.explain(&status);
    let own = StoredResponse { head: own, body };
    let mut reply = reply::serve(route, &plan.base, own, &want, &request, status, received_ms);
    guarded::pass_on(&mut response, &mut reply);
    reply
}

/// RFC 9111 4.3.4: a 304 updates the stored response that has its validators; one without any, only a
/// response without any.
fn confirms(from_304: &HeaderMap, stored: &HeaderMap) -> bool {
    let same = |name: &HeaderName| from_304.get(name) == stored.get(name);
    match (from_304.get(ETAG), from_304.get(LAST_MODIFIED)) {
        (Some(new), _) if stored.get(ETAG) == Some(new) => true,
        (Some(_), _) => stored_etag(from_304).is_some_and(|new| {
            stored_etag(stored)
                .is_some_and(|old| old.is_strongly(new) || (new.weak && old.opaque == new.opaque))
        }),
        (None, Some(_)) => same(&LAST_MODIFIED),
        (None, None) => !has_validator(stored),
    }
}

/// A HEAD answered 200 says something about the stored GET (RFC 9111 4.3.5): the same validators and
/// length update its fields, others make it stale. One that is made for somebody with credentials says nothing of
/// the GET that is for everyone.
pub(super) fn compare_head<St: Store, RB>(
    engine: &Arc<Engine<St>>,
    route: &Arc<Route>,
    plan: &Plan,
    miss: &Miss,
    at: At,
    response: &Response<RB>,
    received_ms: u64,
) {
    if response.status() != StatusCode::OK || at.response.head.status != StatusCode::OK {
        return;
    }
    let fields = response.headers();
    let stored = &at.response.head.headers;
    let length = fields.get(CONTENT_LENGTH).is_none_or(|length| {
        length.to_str().is_ok_and(|length| length.parse() == Ok(at.response.body.len()))
    });
    let same = |name: &HeaderName| fields.get(name) == stored.get(name);
    let says = has_validator(fields) || fields.contains_key(CONTENT_LENGTH);
    let is_same = says && same(&ETAG) && same(&LAST_MODIFIED) && length;
    let overrides = response.extensions().get::<CacheOverride>();
    let head = &at.response.head;
    let said = Confirmation::new(route, &miss.asked, overrides, fields.clone(), received_ms);
    let change = if is_same {
        said.change(&at)
    } else if says && (miss.asked.credentials == Credentials::None || said.is_for_everyone(head)) {
        let mut stale = StoredHead::clone(head);
        stale.fresh_until_ms = stale.fresh_until_ms.min(received_ms);
        Change::Head(Arc::new(stale))
    } else {
        return;
    };
    let confirmed =
        Confirmed { at, change, fills: miss.fills, lead: None, inner: false, received_ms };
    confirmed.hold(engine, route, plan);
}

/// What an answer that confirms a stored response does to it, and for those who wait.
struct Confirmed {
    at: At,
    change: Change,
    /// Fills of this process before the handler was called.
    fills: u64,
    lead: Option<Lead>,
    /// An inner layer has done it.
    inner: bool,
    received_ms: u64,
}

impl Confirmed {
    /// Does it when the guard agrees. What may not be stored any longer is removed at once.
    fn hold<St: Store>(self, engine: &Arc<Engine<St>>, route: &Arc<Route>, plan: &Plan) {
        if matches!(self.change, Change::Forget) {
            return self.settle(engine, route);
        }
        let (engine, route) = (Arc::clone(engine), Arc::clone(route));
        plan.consent.then(move |verdict| match verdict {
            Ok(()) => self.settle(&engine, &route),
            Err(objection) => engine.called_off(objection, self.lead),
        });
    }

    fn settle<St: Store>(self, engine: &Arc<Engine<St>>, route: &Route) {
        let Self { at, change, fills, lead, inner, received_ms } = self;
        // those who wait get it as it is now, unless something has been invalidated meanwhile
        let now = engine.apply(route, fills, &at, change);
        let Some(lead) = lead else { return };
        match now.map(|head| StoredResponse { head, body: at.response.body }) {
            _ if inner => lead.found(),
            None => lead.refuse(),
            Some(now) if engine.is_invalid_by_now(&at.key, &now.head) => lead.outdated(),
            Some(now) => {
                let lead = lead.if_shareable(route, &now.head, received_ms);
                engine.give_back_in_turn(lead.and_then(|lead| lead.land(now)));
            }
        }
    }
}

impl<St: Store> Engine<St> {
    /// Changes a stored response, visibly at once, unless it has been replaced since the handler was called.
    /// Returns the head that it has from now on, `None` where it is not stored any longer.
    fn apply(
        self: &Arc<Self>,
        route: &Route,
        fills: u64,
        at: &At,
        change: Change,
    ) -> Option<Arc<StoredHead>> {
        let (key, old) = (at.key.clone(), Arc::clone(&at.response.head));
        let new = match change {
            Change::Head(head) => head,
            Change::Nothing => return Some(old),
            Change::Forget => {
                self.forget(KeyRange::only(&key));
                return None;
            }
        };
        let expires_ms = expires_ms(route, &new);
        if self.is_unfilled_since(&key, fills) {
            let update = HeadUpdate { key, old, new: Arc::clone(&new), expires_ms };
            self.freshen_behind(update, at.response.body.clone(), route.queue_bytes);
        }
        Some(new)
    }
}
