//! Collapsing: requests that ask the same at the same time go inside once (RFC 9111 4), and each gets of the
//! answer what it would get of a stored one.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http::header::{IF_MATCH, IF_UNMODIFIED_SINCE};
use http::request::Parts;
use tokio::time::Instant;

use super::super::background::Background;
use super::super::find::variant_of;
use super::super::request::{Plan, Rule};
use super::super::rescue::Rescue;
use super::super::respond;
use super::super::respond::Want;
use super::super::{Engine, Route};
use super::flight::{FlightKey, Joined, Landing, Lead};
use super::lease;
use super::lease::Leased;
use crate::body::CacheBody;
use crate::policy::{Collapse, Mode};
use crate::rfc9111::stale::Cause;
use crate::rfc9111::{RequestDirectives, Reuse, reuse};
use crate::status::{CacheStatus, Forward};
use crate::store::{InvalidationLog as _, Store};
use crate::stored::{StoredResponse, VariantIndex};
use crate::telemetry::count;

/// How often a request looks again before it goes inside alone: a target whose `Vary` changes with every
/// response must not keep it.
const ROUNDS: u8 = 4;

/// What becomes of a request that nothing usable is stored for.
pub(in crate::engine) enum Collapsed<RB> {
    /// It is answered by another's response, or by a stale one in place of an error.
    Answer(Response<CacheBody<RB>>),
    /// It goes inside: for others as well, or alone.
    Inside(Option<Lead>),
    /// Something has been stored: it looks again.
    Again,
}

/// How long a request has queued.
pub(in crate::engine) struct Queue {
    arrived: std::time::Instant,
    rounds: u8,
    /// Flights landed before its last lookup.
    landings: u64,
    /// When it has waited long enough.
    until: Option<Instant>,
    /// It leads, but for looking once more.
    lead: Option<Lead>,
    /// How often another process had the lease.
    denials: u32,
    /// It has waited for a response that was invalidated before it was there.
    outdated: bool,
    /// It has waited for a response of which the log could not say whether it is valid.
    unjudged: bool,
    /// It has waited for an answer that was about one request or one moment.
    failed: bool,
}

impl Queue {
    /// A request that has just arrived.
    pub(in crate::engine) fn new() -> Self {
        let arrived = std::time::Instant::now();
        Self {
            arrived,
            rounds: 0,
            landings: 0,
            until: None,
            lead: None,
            denials: 0,
            outdated: false,
            unjudged: false,
            failed: false,
        }
    }

    /// Something usable has been found: those who wait for this request look as well.
    pub(in crate::engine) fn found(&mut self) {
        if let Some(lead) = self.lead.take() {
            lead.found();
        }
    }

    /// Flights landed before its last lookup.
    pub(in crate::engine) fn landings(&self) -> u64 {
        self.landings
    }

    /// To be called before each lookup.
    pub(in crate::engine) fn looks<St: Store>(&mut self, engine: &Engine<St>) {
        self.landings = engine.flights.landings();
        self.rounds = self.rounds.saturating_add(1);
    }
}

/// What is known of a request that might be collapsed.
pub(in crate::engine) struct Collapsing<'a, St> {
    pub(in crate::engine) engine: &'a Arc<Engine<St>>,
    pub(in crate::engine) route: &'a Route,
    pub(in crate::engine) plan: &'a Plan,
    pub(in crate::engine) request: &'a Parts,
    pub(in crate::engine) directives: &'a RequestDirectives,
    pub(in crate::engine) index: Option<&'a VariantIndex>,
    pub(in crate::engine) rescue: Option<&'a Rescue>,
}

impl<St: Store> Collapsing<'_, St> {
    /// Joins the flight about what the request asks for, or leads one.
    pub(in crate::engine) async fn join<RB>(
        &self,
        status: &mut CacheStatus,
        queue: &mut Queue,
    ) -> Collapsed<RB> {
        let Self { engine, route, .. } = *self;
        let leads = queue.lead.take();
        let may_look = may_look(status, queue);
        if !self.is_possible(status) {
            return Collapsed::Inside(None);
        }
        let (key, rule) = self.key();
        match leads {
            Some(lead) if *lead.key() == key => return self.lease(status, queue, lead).await,
            // what has been found says that it is about something else
            Some(lead) => lead.found(),
            None => {}
        }
        loop {
            if engine.flights.is_unshareable(&key) {
                return Collapsed::Inside(None);
            }
            // what could not be stored is nothing to wait for (RFC 9111 5.2.1.5, 9.3.2)
            let may_lead = !self.plan.head_only && !self.directives.no_store;
            let clear = |position: &_| engine.still_flies(route, &key.key, position);
            let joining = || route.joining(engine.store.log().position(), may_lead);
            let follower = match engine.flights.join(&key, joining(), clear) {
                Joined::Nobody => return Collapsed::Inside(None),
                Joined::Leads(lead) => {
                    // the last one landed between this request's lookup and now
                    if may_look && engine.flights.landed_since(&key, queue.landings) {
                        drop(lead);
                        return Collapsed::Again;
                    }
                    count(&engine.counters.flights);
                    return self.lease(status, queue, lead).await;
                }
                Joined::Follows(follower) => follower,
            };
            let began = follower.began;
            match follower.wait(self.until(queue)).await {
                Landing::Response(response) => {
                    let valid = match unasked(status) {
                        false => engine.shares(route, &key.key, &response, queue.arrived).await,
                        true => None,
                    };
                    let valid = match valid {
                        Some(valid) => valid,
                        // the handler was called after the request had arrived: as it would have been for it
                        None if queue.arrived <= began => true,
                        // the next one is: it begins after this one has landed
                        None if !queue.unjudged => {
                            queue.unjudged = true;
                            continue;
                        }
                        None => return Collapsed::Inside(None),
                    };
                    let again = may_look && !queue.unjudged;
                    return self.share(status, again, rule.as_deref(), response, valid);
                }
                Landing::Failed(cause) => match self.rescued(cause) {
                    Some(stale) => return Collapsed::Answer(stale),
                    None if cause == Cause::Error => {}
                    None if !queue.failed => queue.failed = true,
                    None => return self.released(),
                },
                Landing::Vacant => {}
                // one answer may be about its own request: one of those who wait leads
                Landing::Failing(_) if !queue.failed => queue.failed = true,
                Landing::Failing(Some(response)) if self.matches(&response) => {
                    return self.answer(status, response, Want::Whole);
                }
                // once more; where invalidations come quicker than responses, waiting has no end
                Landing::Outdated if !queue.outdated => queue.outdated = true,
                Landing::Outdated | Landing::Released | Landing::Failing(_) => {
                    return self.released();
                }
                Landing::Elsewhere if may_look => return Collapsed::Again,
                Landing::Elsewhere => return Collapsed::Inside(None),
                Landing::TooLong => {
                    // for who comes next; without the lease, which another may have
                    let lead = match engine.flights.join(&key, joining(), clear) {
                        Joined::Leads(lead) if !engine.flights.is_unshareable(&key) => Some(lead),
                        _ => None,
                    };
                    return self.give_up(status, lead);
                }
            }
        }
    }

    /// There is nothing to share.
    fn released<RB>(&self) -> Collapsed<RB> {
        count(&self.engine.counters.flights_released);
        Collapsed::Inside(None)
    }

    /// It has waited long enough.
    fn give_up<RB>(&self, status: &mut CacheStatus, lead: Option<Lead>) -> Collapsed<RB> {
        if let Some(stale) = self.rescued(Cause::Timeout) {
            return Collapsed::Answer(stale);
        }
        count(&self.engine.counters.collapse_timeouts);
        status.detail.get_or_insert("collapse-timeout");
        Collapsed::Inside(lead)
    }

    /// Leads in this process, and in the others if it gets the lease: then it looks once more, for who had
    /// it before has stored something perhaps. Where another process has it, this one looks again later.
    async fn lease<RB>(
        &self,
        status: &mut CacheStatus,
        queue: &mut Queue,
        mut lead: Lead,
    ) -> Collapsed<RB> {
        let Self { engine, route, .. } = *self;
        if lead.is_leased() || unasked(status) {
            return Collapsed::Inside(Some(lead));
        }
        match engine.lease(route, lead.key()).await {
            Leased::Here(None) => Collapsed::Inside(Some(lead)),
            Leased::Here(Some(held)) => {
                lead.leased(held);
                queue.lead = Some(lead);
                Collapsed::Again
            }
            Leased::Elsewhere => {
                let until = self.until(queue);
                if Instant::now() >= until {
                    return self.give_up(status, Some(lead));
                }
                lease::wait(queue.denials, until).await;
                queue.denials += 1;
                queue.lead = Some(lead);
                Collapsed::Again
            }
            Leased::Unshareable(left) => {
                count(&engine.counters.flights_released);
                lead.refuse_for(left);
                Collapsed::Inside(None)
            }
            Leased::Failed => {
                status.detail.get_or_insert("lease-error");
                Collapsed::Inside(Some(lead))
            }
        }
    }

    /// Whether the request is one of those that another's answer may be for.
    fn is_possible(&self, status: &CacheStatus) -> bool {
        let headers = &self.request.headers;
        let handlers = headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE);
        let obeyed = self.route.policy.mode == Mode::Strict;
        let anew = self.directives.no_cache || self.directives.max_age == Some(0);
        self.route.policy.collapse != Collapse::Off
            // it is what the flight of the layer around this one waits for
            && !self.plan.nested
            // the client wants an answer of its own (RFC 9111 5.2.1)
            && status.forward() != Some(Forward::Request)
            && !(obeyed && anew)
            && !handlers
            && Background::is_possible()
    }

    /// What the flight is about: the key, and what it goes by.
    fn key(&self) -> (FlightKey, Rule) {
        let Self { engine, route, plan, .. } = *self;
        let (base, rule) = engine.flies_by(route, plan);
        let key = match self.index.filter(|index| !index.names.is_empty()) {
            Some(index) => variant_of(&base, index, &self.request.headers),
            None => base.clone(),
        };
        (FlightKey { key, base, credentialed: plan.has_credentials() }, rule)
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

    /// Answers the request with the leader's response, if that answers it; else it looks once more, if it may.
    fn share<RB>(
        &self,
        status: &CacheStatus,
        again: bool,
        rule: Option<&crate::rfc9111::no_vary_search::NoVarySearch>,
        response: StoredResponse,
        valid: bool,
    ) -> Collapsed<RB> {
        let Self { engine, route, plan, request, directives, .. } = *self;
        // invalidated before this request arrived, and after the leader went inside
        if !valid {
            return if again { Collapsed::Again } else { Collapsed::Inside(None) };
        }
        let now_ms = engine.store.now_ms();
        let obeyed = (route.policy.mode == Mode::Strict).then_some(directives);
        let head = &response.head;
        match reuse(head, &request.headers, plan.credentials, obeyed, now_ms) {
            Reuse::Fresh => {}
            // another variant flies by itself, now that it is known what the target varies on; what is
            // stale may be served stale
            Reuse::VaryMiss | Reuse::Stale if again => return Collapsed::Again,
            _ => return Collapsed::Inside(None),
        }
        let want = Want::of(request, head, response.body.len(), now_ms);
        if want == Want::Inside || !plan.is_meant(rule, &response) {
            return Collapsed::Inside(None);
        }
        self.answer(status, response, want)
    }

    /// Whether the leader's answer is of the variant that the request selects.
    fn matches(&self, response: &StoredResponse) -> bool {
        crate::rfc9111::matches(&response.head.vary, &self.request.headers)
    }

    fn answer<RB>(
        &self,
        status: &CacheStatus,
        response: StoredResponse,
        want: Want,
    ) -> Collapsed<RB> {
        let Self { engine, route, plan, request, .. } = *self;
        count(&engine.counters.collapsed);
        let status = status.clone().collapsed();
        engine.explain(&status);
        let (base, now_ms) = (&plan.base, engine.store.now_ms());
        Collapsed::Answer(respond::serve(route, base, response, &want, request, status, now_ms))
    }
}

/// Whether the store could not be asked for the request.
fn unasked(status: &CacheStatus) -> bool {
    status.forward() == Some(Forward::Miss)
}

/// Whether the request may look once more: not where it has waited for the store in vain.
fn may_look(status: &CacheStatus, queue: &Queue) -> bool {
    !unasked(status) && queue.rounds < ROUNDS
}

/// A wait that is added to the time now.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
