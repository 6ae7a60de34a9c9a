//! Does a request lead or follow, and what does a follower get? Requests for the same key at the same time call the
//! handler once (RFC 9111 4). From the leader's response, each follower gets what it would get from a stored one.

use std::time::Duration;

use http::header::{IF_MATCH, IF_UNMODIFIED_SINCE};
use http::request::Parts;
use tokio::time::Instant;

use super::super::Engine;
use super::super::decide::{Rescue, Serve};
use super::super::find::{collapse_key, variant_of};
use super::super::request::{Cx, ReplyKind, Rule};
use super::flight::{FlightKey, Joined, Leader, Outcome};
use super::lease::{self, LeaseOutcome};
use super::share::{self, is_still_valid};
use crate::policy::{Collapse, Mode};
use crate::reason::Reason;
use crate::rfc9111::stale::Cause;
use crate::rfc9111::{Reuse, reuse};
use crate::status::{CacheStatus, Forward};
use crate::store::{InvalidationLog as _, Store};
use crate::stored::{StoredResponse, VariantIndex};
use crate::sync::runtime;
use crate::telemetry::count;

/// How many lookups a request makes before it calls its handler alone. Otherwise a target whose `Vary` changes with
/// every response would delay it forever.
const MAX_LOOKUPS: u8 = 4;

/// What becomes of a request for which the lookup found no reusable response.
pub(in crate::engine) enum Collapsed<'a> {
    /// The leader's response answers it.
    Share(Serve),
    /// A stale response answers it, in place of an error.
    Rescue(&'a Rescue, Serve),
    /// Its handler is called. With a leader, other requests wait for the response.
    Call(CacheStatus, Option<Leader>),
    /// A response may have been stored: the request looks it up.
    LookUpAgain,
}

/// What a request remembers between its lookups.
pub(in crate::engine) struct CollapseState {
    arrived: std::time::Instant,
    lookups: u8,
    /// The completed flights before its last lookup.
    completions: u64,
    /// When the request stops waiting.
    deadline: Option<Instant>,
    /// The flight that the request leads, while it looks up once more.
    leader: Option<Leader>,
    /// How many times another process held the lease.
    lease_denials: u32,
    /// The request has waited for a response that was invalidated while its handler ran.
    saw_invalidated: bool,
    /// The request has waited for a response, and then the log could not be read for the log verdict.
    verdict_unknown: bool,
    /// The request has waited for an answer that says little about the next one.
    saw_transient: bool,
}

impl CollapseState {
    pub(in crate::engine) fn new() -> Self {
        let arrived = std::time::Instant::now();
        Self {
            arrived,
            lookups: 0,
            completions: 0,
            deadline: None,
            leader: None,
            lease_denials: 0,
            saw_invalidated: false,
            verdict_unknown: false,
            saw_transient: false,
        }
    }

    /// The lookup found a reusable response. The followers of this request look it up too.
    pub(in crate::engine) fn found_response(&mut self) {
        if let Some(leader) = self.leader.take() {
            leader.look_up_again();
        }
    }

    /// The completed flights before the last lookup.
    pub(in crate::engine) fn completions(&self) -> u64 {
        self.completions
    }

    /// Must be called before each lookup.
    pub(in crate::engine) fn begin_lookup<St: Store>(&mut self, engine: &Engine<St>) {
        self.completions = engine.flights.completions();
        self.lookups = self.lookups.saturating_add(1);
    }
}

/// A request that may be collapsed: the lookup found no reusable response.
pub(in crate::engine) struct Collapsing<'a, St> {
    pub(in crate::engine) cx: &'a Cx<St>,
    pub(in crate::engine) request: &'a Parts,
    /// The target's known variants.
    pub(in crate::engine) index: Option<&'a VariantIndex>,
    /// A stale response to serve in place of an error.
    pub(in crate::engine) rescue: Option<&'a Rescue>,
    pub(in crate::engine) status: CacheStatus,
    pub(in crate::engine) state: &'a mut CollapseState,
}

impl<'a, St: Store> Collapsing<'a, St> {
    /// Joins the flight for the request's key, or leads one.
    pub(in crate::engine) async fn join(mut self) -> Collapsed<'a> {
        let earlier_leader = self.state.leader.take();
        if !self.may_collapse() {
            return Collapsed::Call(self.status, None);
        }
        let (key, rule) = self.key();
        match earlier_leader {
            Some(leader) if *leader.key() == key => return self.lease(leader).await,
            // after the lookup the request selects another variant
            Some(leader) => leader.look_up_again(),
            None => {}
        }
        let flights = self.cx.engine.flights.clone();
        loop {
            if flights.is_unshareable(&key) {
                return Collapsed::Call(self.status, None);
            }
            let follower = match self.join_flight(&key) {
                Joined::Alone => return Collapsed::Call(self.status, None),
                Joined::Leads(leader) => {
                    // a flight completed between the lookup and now
                    if self.may_look_up_again()
                        && flights.completed_since(&key, self.state.completions)
                    {
                        drop(leader);
                        return Collapsed::LookUpAgain;
                    }
                    count(&self.cx.engine.counters.flights);
                    return self.lease(leader).await;
                }
                Joined::Follows(follower) => follower,
            };
            let began = follower.began;
            match follower.wait(self.deadline()).await {
                Outcome::TimedOut => {
                    // lead for later requests, without the lease, which another process may hold
                    let leader = match self.join_flight(&key) {
                        Joined::Leads(leader) if !flights.is_unshareable(&key) => Some(leader),
                        _ => None,
                    };
                    return self.give_up(leader);
                }
                Outcome::Stored(response) => match self.is_valid(&key, &response, began).await {
                    Some(valid) => return self.share(&rule, response, valid),
                    // wait for one more flight: it begins after this request has arrived, so its response needs no
                    // log verdict
                    None if !self.state.verdict_unknown => self.state.verdict_unknown = true,
                    None => return Collapsed::Call(self.status, None),
                },
                outcome => {
                    if let Some(collapsed) = self.after(outcome) {
                        return collapsed;
                    }
                }
            }
        }
    }

    fn join_flight(&self, key: &FlightKey) -> Joined {
        let Cx { engine, route, plan } = self.cx;
        // the response could not be stored, so no request waits for it (RFC 9111 5.2.1.5, 9.3.2)
        let may_lead = !plan.head_only && !plan.directives.no_store;
        let options = route.join_options(engine.store.log().position(), may_lead);
        let still_valid = |position: &_| is_still_valid(self.cx, &key.key, position);
        engine.flights.join(key, options, still_valid)
    }

    /// What becomes of the request after a flight without a stored response. `None`: it joins the next flight.
    fn after(&mut self, outcome: Outcome) -> Option<Collapsed<'a>> {
        let joins_again = match outcome {
            Outcome::LeaderLost => true,
            Outcome::Failed(cause) => match self.stale_instead_of(cause) {
                Some(stale) => return Some(stale),
                None => cause == Cause::Error || is_first(&mut self.state.saw_transient),
            },
            // the first such answer may concern only the leader's request; the second one is served
            Outcome::Transient(Some(response))
                if self.state.saw_transient && self.selects(&response) =>
            {
                return Some(self.answer(response, ReplyKind::Full));
            }
            Outcome::Transient(_) => is_first(&mut self.state.saw_transient),
            // if invalidations come faster than responses, waiting would never end
            Outcome::Invalidated => is_first(&mut self.state.saw_invalidated),
            Outcome::LookUpAgain if self.may_look_up_again() => {
                return Some(Collapsed::LookUpAgain);
            }
            Outcome::LookUpAgain => return Some(Collapsed::Call(self.status.clone(), None)),
            Outcome::NotShared | Outcome::Stored(_) | Outcome::TimedOut => false,
        };
        (!joins_again).then(|| self.call_alone())
    }

    /// Whether the leader's response is valid for this request. `None` if the log cannot be read.
    async fn is_valid(
        &self,
        key: &FlightKey,
        response: &StoredResponse,
        began: std::time::Instant,
    ) -> Option<bool> {
        let arrived = self.state.arrived;
        if !self.lookup_failed()
            && let Some(valid) = share::is_valid(self.cx, &key.key, response, arrived).await
        {
            return Some(valid);
        }
        // the leader's handler was called after this request arrived, as the request's own would have been
        (arrived <= began).then_some(true)
    }

    /// The response cannot be shared, so the request calls its handler.
    fn call_alone(&self) -> Collapsed<'a> {
        count(&self.cx.engine.counters.flights_released);
        Collapsed::Call(self.status.clone(), None)
    }

    /// The request has waited long enough.
    fn give_up(mut self, leader: Option<Leader>) -> Collapsed<'a> {
        if let Some(stale) = self.stale_instead_of(Cause::Timeout) {
            return stale;
        }
        count(&self.cx.engine.counters.collapse_timeouts);
        self.status.reason.get_or_insert(Reason::CollapseTimeout);
        Collapsed::Call(self.status, leader)
    }

    /// Leads in this process, and in all processes if it gets the lease. With the lease it looks up once more,
    /// because the process that held the lease before may have stored a response. Without the lease it waits, and
    /// looks up again.
    async fn lease(mut self, mut leader: Leader) -> Collapsed<'a> {
        if leader.is_leased() || self.lookup_failed() {
            return Collapsed::Call(self.status, Some(leader));
        }
        match lease::acquire(self.cx, leader.key()).await {
            LeaseOutcome::Granted(None) => Collapsed::Call(self.status, Some(leader)),
            LeaseOutcome::Granted(Some(held)) => {
                leader.hold_lease(held);
                self.state.leader = Some(leader);
                Collapsed::LookUpAgain
            }
            LeaseOutcome::Denied => {
                let until = self.deadline();
                if Instant::now() >= until {
                    return self.give_up(Some(leader));
                }
                lease::wait(self.state.lease_denials, until).await;
                self.state.lease_denials += 1;
                self.state.leader = Some(leader);
                Collapsed::LookUpAgain
            }
            LeaseOutcome::Unshareable(left) => {
                leader.mark_unshareable_for(left);
                self.call_alone()
            }
            LeaseOutcome::Failed => {
                self.status.reason.get_or_insert(Reason::LeaseError);
                Collapsed::Call(self.status, Some(leader))
            }
        }
    }

    /// Whether the request may look up once more: not after a lookup that failed, and not too often.
    fn may_look_up_again(&self) -> bool {
        !self.lookup_failed() && self.state.lookups < MAX_LOOKUPS
    }

    /// Whether the lookup failed, or the store was not asked.
    fn lookup_failed(&self) -> bool {
        self.status.forward() == Some(Forward::Miss)
    }

    /// Whether another request's response may answer this one.
    fn may_collapse(&self) -> bool {
        let Cx { route, plan, .. } = self.cx;
        let headers = &self.request.headers;
        let has_handler_conditions =
            headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE);
        let request_directives = route.policy.mode == Mode::Strict;
        let wants_new = plan.directives.no_cache || plan.directives.max_age == Some(0);
        route.policy.collapse != Collapse::Off
            // the flight of the outer layer waits for this request
            && !plan.nested
            // the client wants a new response (RFC 9111 5.2.1)
            && self.status.forward() != Some(Forward::Request)
            && !(request_directives && wants_new)
            && !has_handler_conditions
            && runtime().is_some()
    }

    /// The key of the flight, and the `No-Vary-Search` rule that it comes from.
    fn key(&self) -> (FlightKey, Rule) {
        let (base, rule) = collapse_key(self.cx);
        let key = match self.index.filter(|index| !index.names.is_empty()) {
            Some(index) => variant_of(&base, index, &self.request.headers),
            None => base.clone(),
        };
        (FlightKey { key, base, credentialed: self.cx.plan.has_credentials() }, rule)
    }

    /// When the request stops waiting. It is earlier if a stale response can be served then.
    fn deadline(&mut self) -> Instant {
        let Self { cx, rescue, .. } = *self;
        *self.state.deadline.get_or_insert_with(|| {
            let stale = rescue.is_some_and(|rescue| rescue.may_serve(cx, Cause::Timeout));
            let wait = cx.route.policy.collapse_wait;
            let wait = match cx.route.policy.handler_timeout {
                Some(limit) if stale => wait.min(limit),
                _ => wait,
            };
            Instant::now() + wait.min(LONGEST_WAIT)
        })
    }

    fn stale_instead_of(&self, cause: Cause) -> Option<Collapsed<'a>> {
        if cause == Cause::Timeout && self.cx.route.policy.handler_timeout.is_none() {
            return None;
        }
        let rescue = self.rescue?;
        Some(Collapsed::Rescue(rescue, rescue.decide(self.cx, cause)?))
    }

    /// Answers the request with the leader's response, if that is reusable. Otherwise the request looks up again, or
    /// calls its handler.
    fn share(self, rule: &Rule, response: StoredResponse, valid: bool) -> Collapsed<'a> {
        let Cx { engine, route, plan } = self.cx;
        let may_look_up = self.may_look_up_again() && !self.state.verdict_unknown;
        // a log row that names the response was written after the leader's handler was called
        if !valid {
            return if may_look_up {
                Collapsed::LookUpAgain
            } else {
                Collapsed::Call(self.status, None)
            };
        }
        let now_ms = engine.store.now_ms();
        let request_directives = (route.policy.mode == Mode::Strict).then_some(&plan.directives);
        let head = &response.head;
        match reuse(head, &self.request.headers, plan.credentials, request_directives, now_ms) {
            Reuse::Fresh => {}
            // another variant has its own flight, now that the target's `Vary` is known; a stale response may be
            // servable after a lookup
            Reuse::VaryMiss | Reuse::Stale if may_look_up => return Collapsed::LookUpAgain,
            _ => return Collapsed::Call(self.status, None),
        }
        let kind = ReplyKind::of(self.request, head, response.body.len(), now_ms);
        if kind == ReplyKind::CallHandler || !plan.rule_matches(route, rule, &response) {
            return Collapsed::Call(self.status, None);
        }
        self.answer(response, kind)
    }

    /// Whether the request selects the variant of the leader's answer.
    fn selects(&self, response: &StoredResponse) -> bool {
        crate::rfc9111::matches(&response.head.vary, &self.request.headers)
    }

    fn answer(&self, response: StoredResponse, kind: ReplyKind) -> Collapsed<'a> {
        count(&self.cx.engine.counters.collapsed);
        let status = self.status.clone().collapsed();
        self.cx.engine.explain(&status);
        Collapsed::Share(Serve { response, kind, status, left_out: None })
    }
}

fn is_first(happened: &mut bool) -> bool {
    !std::mem::replace(happened, true)
}

/// A limit for waits, because a very long one cannot be added to the time.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
