//! Collapsing: requests that ask the same at the same time go inside once (RFC 9111 4), and each gets of the
//! answer what it would get of a stored one.

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
use crate::rfc9111::no_vary_search::NoVarySearch;
use crate::rfc9111::stale::Cause;
use crate::rfc9111::{Reuse, reuse};
use crate::status::{CacheStatus, Forward};
use crate::store::Store;
use crate::stored::{StoredResponse, VariantIndex};
use crate::sync::runtime;
use crate::telemetry::count;

/// How often a request looks again before it goes inside alone: a target whose `Vary` changes with every
/// response must not keep it.
const MAX_LOOKUPS: u8 = 4;

/// What becomes of a request that nothing usable is stored for.
pub(in crate::engine) enum Collapsed<'a> {
    /// It is answered by another request's response.
    Share(Serve),
    /// It is answered by a stale response in place of an error.
    Rescue(&'a Rescue, Serve),
    /// Its handler is called: for others as well, or for itself alone.
    Call(CacheStatus, Option<Leader>),
    /// Something has been stored: it looks again.
    LookUpAgain,
}

/// How long a request has queued.
pub(in crate::engine) struct CollapseState {
    arrived: std::time::Instant,
    lookups: u8,
    /// Flights landed before its last lookup.
    completions: u64,
    /// When it has waited long enough.
    deadline: Option<Instant>,
    /// It leads, but for looking once more.
    leader: Option<Leader>,
    /// How often another process had the lease.
    lease_denials: u32,
    /// It has waited for a response that was invalidated before it was there.
    saw_invalidated: bool,
    /// It has waited for a response of which the log could not say whether it is valid.
    verdict_unknown: bool,
    /// It has waited for an answer that was about one request or one moment.
    saw_transient: bool,
}

impl CollapseState {
    /// A request that has just arrived.
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

    /// Something usable has been found: those who wait for this request look as well.
    pub(in crate::engine) fn found_response(&mut self) {
        if let Some(leader) = self.leader.take() {
            leader.look_up_again();
        }
    }

    /// Flights landed before its last lookup.
    pub(in crate::engine) fn completions(&self) -> u64 {
        self.completions
    }

    /// To be called before each lookup.
    pub(in crate::engine) fn begin_lookup<St: Store>(&mut self, engine: &Engine<St>) {
        self.completions = engine.flights.completions();
        self.lookups = self.lookups.saturating_add(1);
    }
}

/// A request that might be collapsed: nothing usable is stored for it.
pub(in crate::engine) struct Collapsing<'a, St> {
    pub(in crate::engine) cx: &'a Cx<St>,
    pub(in crate::engine) request: &'a Parts,
    /// What the target is known to vary on.
    pub(in crate::engine) index: Option<&'a VariantIndex>,
    /// A stale response in place of an error.
    pub(in crate::engine) rescue: Option<&'a Rescue>,
    pub(in crate::engine) status: CacheStatus,
    pub(in crate::engine) state: &'a mut CollapseState,
}

impl<'a, St: Store> Collapsing<'a, St> {
    /// Joins the flight about what the request asks for, or leads one.
    pub(in crate::engine) async fn join(mut self) -> Collapsed<'a> {
        let earlier_leader = self.state.leader.take();
        if !self.may_collapse() {
            return Collapsed::Call(self.status, None);
        }
        let (key, rule) = self.key();
        match earlier_leader {
            Some(leader) if *leader.key() == key => return self.lease(leader).await,
            // what has been found says that it is about something else
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
                    // the last one landed between this request's lookup and now
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
                    // for those who come next; without the lease, which another process may have
                    let leader = match self.join_flight(&key) {
                        Joined::Leads(leader) if !flights.is_unshareable(&key) => Some(leader),
                        _ => None,
                    };
                    return self.give_up(leader);
                }
                Outcome::Stored(response) => match self.is_valid(&key, &response, began).await {
                    Some(valid) => return self.share(rule.as_deref(), response, valid),
                    // the next one will be: it begins after this one has landed
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
        // what could not be stored is nothing to wait for (RFC 9111 5.2.1.5, 9.3.2)
        let may_lead = !plan.head_only && !plan.directives.no_store;
        let options = route.join_options(engine.store.position(), may_lead);
        let still_valid = |position: &_| is_still_valid(self.cx, &key.key, position);
        engine.flights.join(key, options, still_valid)
    }

    /// What becomes of the request after a flight that brought no stored response; `None`: it joins the next one.
    fn after(&mut self, outcome: Outcome) -> Option<Collapsed<'a>> {
        let joins_again = match outcome {
            Outcome::LeaderLost => true,
            Outcome::Failed(cause) => match self.stale_instead_of(cause) {
                Some(stale) => return Some(stale),
                None => cause == Cause::Error || is_first(&mut self.state.saw_transient),
            },
            // one answer may be about its own request: one of those who wait leads
            Outcome::Transient(Some(response))
                if self.state.saw_transient && self.selects(&response) =>
            {
                return Some(self.answer(response, ReplyKind::Full));
            }
            Outcome::Transient(_) => is_first(&mut self.state.saw_transient),
            // where invalidations come quicker than responses, waiting has no end
            Outcome::Invalidated => is_first(&mut self.state.saw_invalidated),
            Outcome::LookUpAgain if self.may_look_up_again() => {
                return Some(Collapsed::LookUpAgain);
            }
            Outcome::LookUpAgain => return Some(Collapsed::Call(self.status.clone(), None)),
            Outcome::NotShared | Outcome::Stored(_) | Outcome::TimedOut => false,
        };
        (!joins_again).then(|| self.call_alone())
    }

    /// Whether the leader's response is valid for this request; `None` where that cannot be known.
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
        // the handler was called after the request had arrived: as it would have been for it
        (arrived <= began).then_some(true)
    }

    /// There is nothing to share.
    fn call_alone(&self) -> Collapsed<'a> {
        count(&self.cx.engine.counters.flights_released);
        Collapsed::Call(self.status.clone(), None)
    }

    /// It has waited long enough.
    fn give_up(mut self, leader: Option<Leader>) -> Collapsed<'a> {
        if let Some(stale) = self.stale_instead_of(Cause::Timeout) {
            return stale;
        }
        count(&self.cx.engine.counters.collapse_timeouts);
        self.status.reason.get_or_insert(Reason::CollapseTimeout);
        Collapsed::Call(self.status, leader)
    }

    /// Leads in this process, and in the others if it gets the lease: then it looks once more, for the process that had
    /// it before may have stored something. Where another process has it, this one looks again later.
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

    /// Whether the request may look once more: not where it has waited for the store in vain.
    fn may_look_up_again(&self) -> bool {
        !self.lookup_failed() && self.state.lookups < MAX_LOOKUPS
    }

    /// Whether the store could not be asked for the request.
    fn lookup_failed(&self) -> bool {
        self.status.forward() == Some(Forward::Miss)
    }

    /// Whether the request is one of those that another's answer may be for.
    fn may_collapse(&self) -> bool {
        let Cx { route, plan, .. } = self.cx;
        let headers = &self.request.headers;
        let has_handler_conditions =
            headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE);
        let request_directives = route.policy.mode == Mode::Strict;
        let wants_new = plan.directives.no_cache || plan.directives.max_age == Some(0);
        route.policy.collapse != Collapse::Off
            // it is what the flight of the layer around this one waits for
            && !plan.nested
            // the client wants an answer of its own (RFC 9111 5.2.1)
            && self.status.forward() != Some(Forward::Request)
            && !(request_directives && wants_new)
            && !has_handler_conditions
            && runtime().is_some()
    }

    /// What the flight is about: the key, and the rule that it comes from.
    fn key(&self) -> (FlightKey, Rule) {
        let (base, rule) = collapse_key(self.cx);
        let key = match self.index.filter(|index| !index.names.is_empty()) {
            Some(index) => variant_of(&base, index, &self.request.headers),
            None => base.clone(),
        };
        (FlightKey { key, base, credentialed: self.cx.plan.has_credentials() }, rule)
    }

    /// When the request has waited long enough: sooner where there is something stale to serve.
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

    /// The stale response in place of an error.
    fn stale_instead_of(&self, cause: Cause) -> Option<Collapsed<'a>> {
        if cause == Cause::Timeout && self.cx.route.policy.handler_timeout.is_none() {
            return None;
        }
        let rescue = self.rescue?;
        Some(Collapsed::Rescue(rescue, rescue.decide(self.cx, cause)?))
    }

    /// Answers the request with the leader's response, if that answers it; else it looks once more, if it may.
    fn share(
        self,
        rule: Option<&NoVarySearch>,
        response: StoredResponse,
        valid: bool,
    ) -> Collapsed<'a> {
        let Cx { engine, route, plan } = self.cx;
        let may_look_up = self.may_look_up_again() && !self.state.verdict_unknown;
        // invalidated before this request arrived, and after the leader's handler was called
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
            // another variant flies by itself, now that it is known what the target varies on; what is
            // stale may be served stale
            Reuse::VaryMiss | Reuse::Stale if may_look_up => return Collapsed::LookUpAgain,
            _ => return Collapsed::Call(self.status, None),
        }
        let kind = ReplyKind::of(self.request, head, response.body.len(), now_ms);
        if kind == ReplyKind::CallHandler || !plan.rule_matches(route, rule, &response) {
            return Collapsed::Call(self.status, None);
        }
        self.answer(response, kind)
    }

    /// Whether the leader's answer is of the variant that the request selects.
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

/// Whether this happens for the first time.
fn is_first(happened: &mut bool) -> bool {
    !std::mem::replace(happened, true)
}

/// A wait that is added to the time now.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
