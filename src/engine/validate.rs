//! Validation towards the handler, and the client's own conditions while it goes on (RFC 9111 4.3).

use std::sync::Arc;

use http::header::{
    CONTENT_LENGTH, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE, SET_COOKIE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body::Body;

use super::admission::Plan;
use super::exchange::Miss;
use super::judge::{Asked, add_new, expires_ms, has_validator};
use super::lookup::At;
use super::reply::{self, Want};
use super::{Engine, Route, stale};
use crate::body::CacheBody;
use crate::key::KeyRange;
use crate::overrides::{CacheOverride, STALE_FIELD};
use crate::policy::Mode;
use crate::rfc9111::fields::update_fields;
use crate::rfc9111::freshness::initial_age_ms;
use crate::rfc9111::no_vary_search::NoVarySearch;
use crate::rfc9111::range::{self, RangeOutcome};
use crate::rfc9111::validation::{Precondition, evaluate, stored_etag};
use crate::rfc9111::{Nominated, NotStored, select, selecting};
use crate::store::Store;
use crate::stored::{HeadUpdate, StoredHead, StoredResponse};
use crate::tag::{LogPosition, Validity};

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
        let stale = stale.map(|at| &at.response.head.headers).filter(|h| has_validator(h));
        if stale.is_none() && (unstorable || request.method != Method::GET) {
            return None;
        }
        let mut taken = HeaderMap::new();
        for name in CONDITIONS {
            for line in headers.get_all(&name) {
                taken.append(&name, line.clone());
            }
            headers.remove(&name);
        }
        if let Some(stored) = stale {
            for (validator, condition) in
                [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)]
            {
                if let Some(value) = stored.get(validator) {
                    headers.insert(condition, value.clone());
                }
            }
        }
        Some(Self { method: request.method.clone(), headers: taken, validating: stale.is_some() })
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

/// The handler says that the stored response still holds: its fields are updated and it answers the
/// client (RFC 9111 4.3.3, 4.3.4).
pub(super) fn revalidated<St, RB>(
    engine: &Arc<Engine<St>>,
    route: &Route,
    plan: &Plan,
    mut miss: Miss,
    at: At,
    response: Response<RB>,
    received_ms: u64,
) -> Response<CacheBody<RB>>
where
    St: Store,
{
    let overrides = response.extensions().get::<CacheOverride>().cloned();
    let fields = stored_by_update(route, response.headers());
    let updated = if confirms(&fields, &at.response.head.headers) {
        update(engine, route, &miss, overrides, &at, &fields, received_ms)
    } else {
        // the handler confirms what it was asked about and names another: it answers this request, as
        // it is, and the next one fetches it anew
        engine.forget(KeyRange::only(&at.key));
        at.response.clone()
    };
    // those who wait get it as it is now, unless something has been invalidated meanwhile
    let clear = !engine.is_invalid_by_now(&at.key, &updated.head);
    match miss.lead.take() {
        Some(lead) if !clear => lead.outdated(),
        lead => {
            let lead = lead.and_then(|l| l.if_shareable(route, &updated.head, received_ms));
            engine.give_back_in_turn(lead.and_then(|lead| lead.land(updated.clone())));
        }
    }
    let client = miss.client.as_ref().map(Stripped::request);
    let request = client.unwrap_or_else(|| Request::new(()).into_parts().0);
    let want = Want::of(&request, &updated.head, updated.body.len(), received_ms);
    let status = miss.status.with_fwd_status(StatusCode::NOT_MODIFIED);
    engine.explain(&status);
    let mut reply = reply::serve(route, &plan.base, updated, &want, &request, status, received_ms);
    if route.policy.mode == Mode::Safe {
        // cookies that the handler sets now are this client's alone
        for cookie in response.headers().get_all(SET_COOKIE) {
            reply.headers_mut().append(SET_COOKIE, cookie.clone());
        }
    }
    reply
}

/// The fields of a confirmation that may be stored.
fn stored_by_update(route: &Route, fields: &HeaderMap) -> HeaderMap {
    let mut fields = fields.clone();
    if route.policy.mode == Mode::Safe {
        fields.remove(SET_COOKIE);
    }
    fields.remove(STALE_FIELD);
    fields
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
/// length update its fields, others make it stale. The length alone says nothing of what has been invalidated:
/// other content may be as long.
pub(super) fn compare_head<St: Store, RB>(
    engine: &Arc<Engine<St>>,
    route: &Route,
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
    if is_same && !has_validator(fields) && at.validity != Validity::Valid {
        return;
    }
    if is_same {
        let overrides = response.extensions().get::<CacheOverride>().cloned();
        let fields = stored_by_update(route, fields);
        update(engine, route, miss, overrides, &at, &fields, received_ms);
    } else if says {
        let mut head = StoredHead::clone(&at.response.head);
        head.fresh_until_ms = head.fresh_until_ms.min(received_ms);
        engine.freshen(route, miss, &at, head);
    }
}

/// The stored response with updated fields, in the store and for the client.
fn update<St: Store>(
    engine: &Arc<Engine<St>>,
    route: &Route,
    miss: &Miss,
    overrides: Option<CacheOverride>,
    at: &At,
    fields: &HeaderMap,
    received_ms: u64,
) -> StoredResponse {
    let asked = &miss.asked;
    let stored = &at.response.head;
    let says = if route.has_directives(fields) { fields } else { &stored.headers };
    let headers = update_fields(&stored.headers, fields, &route.directives(says), received_ms);
    let directives = route.directives(&headers);
    let asked_for_get = Asked { method: Method::GET, ..asked.clone() };
    let decided = asked_for_get.decide(
        route,
        overrides.as_ref(),
        stored.status,
        &headers,
        &directives,
        received_ms,
    );
    let mut head = StoredHead::clone(stored);
    head.requested_ms = asked.requested_ms;
    // what the handler confirms, by a validator, holds as of the confirmation
    if has_validator(fields) {
        head.position = LogPosition::clone(&asked.position);
    }
    if let Ok(tags) = asked.tags(route, overrides.as_ref(), fields) {
        add_new(&mut head.tags, tags);
    }
    head.received_ms = received_ms;
    // the age is that of the answer just received, not of the response that it confirms
    head.initial_age_ms = initial_age_ms(fields, asked.requested_ms, received_ms);
    match &decided {
        Ok(storable) => {
            let until_ms = storable.fresh_until_ms(received_ms, head.initial_age_ms);
            head.fresh_until_ms = route.jittered(until_ms, received_ms);
            head.shared = storable.shared;
        }
        Err(_) => head.fresh_until_ms = received_ms,
    }
    if let Nominated::Names(names) = selecting(&headers) {
        head.vary = select(&names, &asked.headers);
    }
    head.headers = headers;
    stale::renew(&mut head.headers, overrides.as_ref());
    let rule = |headers: &HeaderMap| NoVarySearch::parse(headers);
    match decided {
        // it lies where its old rule has put it: the next request has it made anew
        Ok(_) if rule(&head.headers) != rule(&stored.headers) => {
            engine.forget(KeyRange::only(&at.key));
        }
        Ok(_) => engine.freshen(route, miss, at, head.clone()),
        // what may not be stored any more is not kept
        Err(NotStored::NoStore | NotStored::Private | NotStored::VaryAny | NotStored::Override) => {
            engine.forget(KeyRange::only(&at.key));
        }
        Err(_) => {}
    }
    StoredResponse { head: Arc::new(head), body: at.response.body.clone() }
}

impl<St: Store> Engine<St> {
    /// Replaces the head of a stored response, visibly at once, unless it has been invalidated since the
    /// request went inside.
    fn freshen(self: &Arc<Self>, route: &Route, miss: &Miss, at: &At, head: StoredHead) {
        let expires_ms = expires_ms(route, &head);
        let (key, old) = (at.key.clone(), Arc::clone(&at.response.head));
        let update = HeadUpdate { key, old, new: Arc::new(head), expires_ms };
        if self.is_unfilled_since(&update.key, miss.fills) {
            let body = at.response.body.clone();
            self.freshen_behind(update, body, route.queue_bytes);
        }
    }
}
