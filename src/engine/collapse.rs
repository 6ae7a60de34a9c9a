//! Collapsing: requests that ask the same at the same time go inside once (RFC 9111 4), and each gets of the
//! answer what it would get of a stored one.

use std::time::Duration;

use http::Response;
use http::header::{HeaderMap, IF_MATCH, IF_UNMODIFIED_SINCE};
use http::request::Parts;
use tokio::time::Instant;

use super::admission::Plan;
use super::background::Background;
use super::flight::{FlightKey, Joined, Landing, Lead};
use super::lookup::selected;
use super::reply::{self, Want};
use super::search::Rule;
use super::stale::Rescue;
use super::{Engine, Route};
use crate::body::CacheBody;
use crate::cookies::Credentials;
use crate::key::variant_key;
use crate::policy::{Collapse, Mode};
use crate::rfc9111::freshness::is_fresh;
use crate::rfc9111::stale::Cause;
use crate::rfc9111::{RequestDirectives, Reuse, reuse};
use crate::status::{CacheStatus, Forward};
use crate::store::Store;
use crate::stored::{StoredHead, StoredResponse, VariantIndex};
use crate::telemetry::count;

/// How often a request looks again before it goes inside alone: a target whose `Vary` changes with every
/// response must not keep it.
const ROUNDS: u8 = 4;

/// What becomes of a request that nothing usable is stored for.
pub(super) enum Collapsed<RB> {
    /// It is answered by another's response, or by a stale one in place of an error.
    Answer(Response<CacheBody<RB>>),
    /// It goes inside: for others as well, or alone.
    Inside(Option<Lead>),
    /// Something has been stored: it looks again.
    Again,
}

/// How long a request has queued.
#[derive(Default)]
pub(super) struct Queue {
    rounds: u8,
    /// Flights landed before its last lookup.
    landings: u64,
    /// When it has waited long enough.
    until: Option<Instant>,
}

impl Queue {
    /// To be called before each lookup.
    pub(super) fn looks<St: Store>(&mut self, engine: &Engine<St>) {
        self.landings = engine.flights.landings();
        self.rounds = self.rounds.saturating_add(1);
    }
}

/// What is known of a request that might be collapsed.
pub(super) struct Collapsing<'a, St> {
    pub(super) engine: &'a Engine<St>,
    pub(super) route: &'a Route,
    pub(super) plan: &'a Plan,
    pub(super) request: &'a Parts,
    pub(super) directives: &'a RequestDirectives,
    pub(super) index: Option<&'a VariantIndex>,
    pub(super) rescue: Option<&'a Rescue>,
}

impl<St: Store> Collapsing<'_, St> {
    /// Joins the flight about what the request asks for, or leads one.
    pub(super) async fn join<RB>(
        &self,
        status: &mut CacheStatus,
        queue: &mut Queue,
    ) -> Collapsed<RB> {
        let Self { engine, route, .. } = *self;
        if !self.is_possible(status) {
            return Collapsed::Inside(None);
        }
        let (key, rule) = self.key();
        loop {
            if engine.flights.is_unshareable(&key) {
                return Collapsed::Inside(None);
            }
            // what could not be stored is nothing to wait for (RFC 9111 5.2.1.5, 9.3.2)
            let may_lead = !self.plan.head_only && !self.directives.no_store;
            let remember = route.policy.unshareable_for;
            let clear = |moment| engine.fence.is_clear(key.key.as_bytes(), moment);
            let moment = engine.fence.moment();
            let follower = match engine.flights.join(&key, moment, may_lead, remember, clear) {
                Joined::Nobody => return Collapsed::Inside(None),
                Joined::Leads(lead) => {
                    // the last one landed between this request's lookup and now
                    if queue.rounds < ROUNDS && engine.flights.landed_since(&key, queue.landings) {
                        drop(lead);
                        return Collapsed::Again;
                    }
                    count(&engine.counters.flights);
                    return Collapsed::Inside(Some(lead));
                }
                Joined::Follows(follower) => follower,
            };
            match follower.wait(self.until(queue)).await {
                Landing::Response(response) => {
                    return self.share(status, queue, rule.as_deref(), response);
                }
                Landing::Released => {
                    count(&engine.counters.flights_released);
                    return Collapsed::Inside(None);
                }
                Landing::Failed(cause) => {
                    if let Some(stale) = self.rescued(cause) {
                        return Collapsed::Answer(stale);
                    }
                    if cause != Cause::Error {
                        count(&engine.counters.flights_released);
                        return Collapsed::Inside(None);
                    }
                }
                Landing::Vacant => {}
                Landing::TooLong => {
                    if let Some(stale) = self.rescued(Cause::Timeout) {
                        return Collapsed::Answer(stale);
                    }
                    count(&engine.counters.collapse_timeouts);
                    status.detail.get_or_insert("collapse-timeout");
                    return Collapsed::Inside(None);
                }
            }
        }
    }

    /// Whether the request is one of those that another's answer may be for.
    fn is_possible(&self, status: &CacheStatus) -> bool {
        let headers = &self.request.headers;
        let handlers = headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE);
        self.route.policy.collapse != Collapse::Off
            // the client wants an answer of its own (RFC 9111 5.2.1)
            && status.forward() != Some(Forward::Request)
            && !handlers
            && Background::is_possible()
    }

    /// What the flight is about: the key, and what it goes by.
    fn key(&self) -> (FlightKey, Rule) {
        let Self { engine, route, plan, .. } = *self;
        let known = plan.search.as_ref().map(|search| search.index.hash());
        let rule = known.and_then(|hash| engine.searches.get(&hash)).flatten();
        let base = rule.as_ref().map_or_else(|| plan.base.clone(), |rule| plan.key_by(route, rule));
        let key = variant_of(base, self.index, &self.request.headers);
        (FlightKey { key, credentialed: plan.credentials != Credentials::None }, rule)
    }

    /// When the request has waited long enough: sooner where there is something stale to serve.
    fn until(&self, queue: &mut Queue) -> Instant {
        let Self { engine, route, rescue, .. } = *self;
        *queue.until.get_or_insert_with(|| {
            let now_ms = engine.store.now_ms();
            let stale = rescue.is_some_and(|r| r.may_serve(route, Cause::Timeout, now_ms));
            let wait = route.policy.collapse_wait;
            let wait = match route.policy.handler_timeout {
                Some(limit) if stale => wait.min(limit),
                _ => wait,
            };
            Instant::now() + wait.min(LONGEST_WAIT)
        })
    }

    /// The stale response in place of an error.
    fn rescued<RB>(&self, cause: Cause) -> Option<Response<CacheBody<RB>>> {
        let Self { engine, route, plan, rescue, .. } = *self;
        if cause == Cause::Timeout && route.policy.handler_timeout.is_none() {
            return None;
        }
        rescue?.serve(engine, route, plan, cause)
    }

    /// Answers the request with the leader's response, if that answers it.
    fn share<RB>(
        &self,
        status: &CacheStatus,
        queue: &Queue,
        rule: Option<&crate::rfc9111::no_vary_search::NoVarySearch>,
        response: StoredResponse,
    ) -> Collapsed<RB> {
        let Self { engine, route, plan, request, directives, .. } = *self;
        let now_ms = engine.store.now_ms();
        let obeyed = (route.policy.mode == Mode::Strict).then_some(directives);
        let head = &response.head;
        match reuse(head, &request.headers, plan.credentials, obeyed, now_ms) {
            Reuse::Fresh => {}
            // another variant flies by itself, now that it is known what the target varies on; what is
            // stale may be served stale
            Reuse::VaryMiss | Reuse::Stale if queue.rounds < ROUNDS => return Collapsed::Again,
            _ => return Collapsed::Inside(None),
        }
        let want = Want::of(request, head, response.body.len(), now_ms);
        if want == Want::Inside || !plan.is_meant(rule, &response) || !engine.shares(&response) {
            return Collapsed::Inside(None);
        }
        count(&engine.counters.collapsed);
        let status = status.clone().collapsed();
        engine.explain(&status);
        let base = &plan.base;
        Collapsed::Answer(reply::serve(route, base, response, &want, request, status, now_ms))
    }
}

/// A wait that is added to the time now.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

fn variant_of(
    base: crate::key::CacheKey,
    index: Option<&VariantIndex>,
    request: &HeaderMap,
) -> crate::key::CacheKey {
    match index.filter(|index| !index.names.is_empty()) {
        Some(index) => variant_key(&base, &selected(&index.names, request)),
        None => base,
    }
}

impl<St: Store> Engine<St> {
    /// Whether the leader's response is valid for a request that arrived after the leader's: the one place
    /// that is asked before a response is shared. An invalidation of this process has ended the flight for
    /// those who come after it (`Flights::join`), and keeps its response from landing (`Fill`).
    fn shares(&self, _response: &StoredResponse) -> bool {
        true
    }
}

impl Lead {
    /// Keeps flying only for a response that is of use to those who wait.
    pub(super) fn if_shareable(
        self,
        route: &Route,
        head: &StoredHead,
        now_ms: u64,
    ) -> Option<Self> {
        if route.is_shareable(head, now_ms) {
            return Some(self);
        }
        self.refuse();
        None
    }
}

impl Route {
    /// Whether a response that is being stored is of use to those who wait for it: fresh, or to be served
    /// stale. What has to be validated for each use is not (RFC 9111 4).
    fn is_shareable(&self, head: &StoredHead, now_ms: u64) -> bool {
        is_fresh(head, now_ms) || self.windows_of(head).while_revalidate_ms > 0
    }
}
