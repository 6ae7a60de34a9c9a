//! Collapsing: requests that ask the same at the same time go inside once (RFC 9111 4), and each gets of the
//! answer what it would get of a stored one.

use std::time::Duration;

use http::header::{IF_MATCH, IF_UNMODIFIED_SINCE};
use http::request::Parts;
use tokio::time::Instant;

use super::super::Engine;
use super::super::decide::{Rescue, Serve};
use super::super::find::{collapse_key, variant_of};
use super::super::request::{Cx, Rule, Want};
use super::flight::{FlightKey, Joined, Landing, Lead};
use super::lease::{self, Leased};
use super::share::{self, is_still_valid};
use crate::policy::{Collapse, Mode};
use crate::reason::Reason;
use crate::rfc9111::no_vary_search::NoVarySearch;
use crate::rfc9111::stale::Cause;
use crate::rfc9111::{Reuse, reuse};
use crate::status::{CacheStatus, Forward};
use crate::store::{InvalidationLog as _, Store};
use crate::stored::{StoredResponse, VariantIndex};
use crate::sync::runtime;
use crate::telemetry::count;

/// How often a request looks again before it goes inside alone: a target whose `Vary` changes with every
/// response must not keep it.
const ROUNDS: u8 = 4;

/// What becomes of a request that nothing usable is stored for.
pub(in crate::engine) enum Collapsed<'a> {
    /// It is answered by another request's response.
    Share(Serve),
    /// It is answered by a stale response in place of an error.
    Rescue(&'a Rescue, Serve),
    /// Its handler is called: for others as well, or for itself alone.
    Call(CacheStatus, Option<Lead>),
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

/// A request that might be collapsed: nothing usable is stored for it.
pub(in crate::engine) struct Collapsing<'a, St> {
    pub(in crate::engine) cx: &'a Cx<St>,
    pub(in crate::engine) request: &'a Parts,
    /// What the target is known to vary on.
    pub(in crate::engine) index: Option<&'a VariantIndex>,
    /// A stale response in place of an error.
    pub(in crate::engine) rescue: Option<&'a Rescue>,
    pub(in crate::engine) status: CacheStatus,
    pub(in crate::engine) queue: &'a mut Queue,
}

impl<'a, St: Store> Collapsing<'a, St> {
    /// Joins the flight about what the request asks for, or leads one.
    pub(in crate::engine) async fn join(mut self) -> Collapsed<'a> {
        let leads = self.queue.lead.take();
        if !self.is_possible() {
            return Collapsed::Call(self.status, None);
        }
        let (key, rule) = self.key();
        match leads {
            Some(lead) if *lead.key() == key => return self.lease(lead).await,
            // what has been found says that it is about something else
            Some(lead) => lead.found(),
            None => {}
        }
        let flights = self.cx.engine.flights.clone();
        loop {
            if flights.is_unshareable(&key) {
                return Collapsed::Call(self.status, None);
            }
            let follower = match self.join_flight(&key) {
                Joined::Nobody => return Collapsed::Call(self.status, None),
                Joined::Leads(lead) => {
                    // the last one landed between this request's lookup and now
                    if self.may_look() && flights.landed_since(&key, self.queue.landings) {
                        drop(lead);
                        return Collapsed::Again;
                    }
                    count(&self.cx.engine.counters.flights);
                    return self.lease(lead).await;
                }
                Joined::Follows(follower) => follower,
            };
            let began = follower.began;
            match follower.wait(self.until()).await {
                Landing::TooLong => {
                    // for those who come next; without the lease, which another process may have
                    let lead = match self.join_flight(&key) {
                        Joined::Leads(lead) if !flights.is_unshareable(&key) => Some(lead),
                        _ => None,
                    };
                    return self.give_up(lead);
                }
                Landing::Response(response) => match self.is_valid(&key, &response, began).await {
                    Some(valid) => return self.share(rule.as_deref(), response, valid),
                    // the next one will be: it begins after this one has landed
                    None if !self.queue.unjudged => self.queue.unjudged = true,
                    None => return Collapsed::Call(self.status, None),
                },
                landing => {
                    if let Some(collapsed) = self.landed(landing) {
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
        let joining = route.joining(engine.store.log().position(), may_lead);
        let clear = |position: &_| is_still_valid(self.cx, &key.key, position);
        engine.flights.join(key, joining, clear)
    }

    /// What becomes of the request after a flight that brought no stored response; `None`: it joins the next one.
    fn landed(&mut self, landing: Landing) -> Option<Collapsed<'a>> {
        let joins_again = match landing {
            Landing::Vacant => true,
            Landing::Failed(cause) => match self.rescued(cause) {
                Some(stale) => return Some(stale),
                None => cause == Cause::Error || is_first(&mut self.queue.failed),
            },
            // one answer may be about its own request: one of those who wait leads
            Landing::Failing(Some(response)) if self.queue.failed && self.selects(&response) => {
                return Some(self.answer(response, Want::Whole));
            }
            Landing::Failing(_) => is_first(&mut self.queue.failed),
            // where invalidations come quicker than responses, waiting has no end
            Landing::Outdated => is_first(&mut self.queue.outdated),
            Landing::Elsewhere if self.may_look() => return Some(Collapsed::Again),
            Landing::Elsewhere => return Some(Collapsed::Call(self.status.clone(), None)),
            Landing::Released | Landing::Response(_) | Landing::TooLong => false,
        };
        (!joins_again).then(|| self.released())
    }

    /// Whether the leader's response is valid for this request; `None` where that cannot be known.
    async fn is_valid(
        &self,
        key: &FlightKey,
        response: &StoredResponse,
        began: std::time::Instant,
    ) -> Option<bool> {
        let arrived = self.queue.arrived;
        if !self.is_unasked()
            && let Some(valid) = share::is_valid(self.cx, &key.key, response, arrived).await
        {
            return Some(valid);
        }
        // the handler was called after the request had arrived: as it would have been for it
        (arrived <= began).then_some(true)
    }

    /// There is nothing to share.
    fn released(&self) -> Collapsed<'a> {
        count(&self.cx.engine.counters.flights_released);
        Collapsed::Call(self.status.clone(), None)
    }

    /// It has waited long enough.
    fn give_up(mut self, lead: Option<Lead>) -> Collapsed<'a> {
        if let Some(stale) = self.rescued(Cause::Timeout) {
            return stale;
        }
        count(&self.cx.engine.counters.collapse_timeouts);
        self.status.reason.get_or_insert(Reason::CollapseTimeout);
        Collapsed::Call(self.status, lead)
    }

    /// Leads in this process, and in the others if it gets the lease: then it looks once more, for the process that had
    /// it before may have stored something. Where another process has it, this one looks again later.
    async fn lease(mut self, mut lead: Lead) -> Collapsed<'a> {
        if lead.is_leased() || self.is_unasked() {
            return Collapsed::Call(self.status, Some(lead));
        }
        match lease::ask(self.cx, lead.key()).await {
            Leased::Here(None) => Collapsed::Call(self.status, Some(lead)),
            Leased::Here(Some(held)) => {
                lead.leased(held);
                self.queue.lead = Some(lead);
                Collapsed::Again
            }
            Leased::Elsewhere => {
                let until = self.until();
                if Instant::now() >= until {
                    return self.give_up(Some(lead));
                }
                lease::wait(self.queue.denials, until).await;
                self.queue.denials += 1;
                self.queue.lead = Some(lead);
                Collapsed::Again
            }
            Leased::Unshareable(left) => {
                lead.refuse_for(left);
                self.released()
            }
            Leased::Failed => {
                self.status.reason.get_or_insert(Reason::LeaseError);
                Collapsed::Call(self.status, Some(lead))
            }
        }
    }

    /// Whether the request may look once more: not where it has waited for the store in vain.
    fn may_look(&self) -> bool {
        !self.is_unasked() && self.queue.rounds < ROUNDS
    }

    /// Whether the store could not be asked for the request.
    fn is_unasked(&self) -> bool {
        self.status.forward() == Some(Forward::Miss)
    }

    /// Whether the request is one of those that another's answer may be for.
    fn is_possible(&self) -> bool {
        let Cx { route, plan, .. } = self.cx;
        let headers = &self.request.headers;
        let handlers = headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE);
        let obeyed = route.policy.mode == Mode::Strict;
        let wants_new = plan.directives.no_cache || plan.directives.max_age == Some(0);
        route.policy.collapse != Collapse::Off
            // it is what the flight of the layer around this one waits for
            && !plan.nested
            // the client wants an answer of its own (RFC 9111 5.2.1)
            && self.status.forward() != Some(Forward::Request)
            && !(obeyed && wants_new)
            && !handlers
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
    fn until(&mut self) -> Instant {
        let Self { cx, rescue, .. } = *self;
        *self.queue.until.get_or_insert_with(|| {
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
    fn rescued(&self, cause: Cause) -> Option<Collapsed<'a>> {
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
        let again = self.may_look() && !self.queue.unjudged;
        // invalidated before this request arrived, and after the leader's handler was called
        if !valid {
            return if again { Collapsed::Again } else { Collapsed::Call(self.status, None) };
        }
        let now_ms = engine.store.now_ms();
        let obeyed = (route.policy.mode == Mode::Strict).then_some(&plan.directives);
        let head = &response.head;
        match reuse(head, &self.request.headers, plan.credentials, obeyed, now_ms) {
            Reuse::Fresh => {}
            // another variant flies by itself, now that it is known what the target varies on; what is
            // stale may be served stale
            Reuse::VaryMiss | Reuse::Stale if again => return Collapsed::Again,
            _ => return Collapsed::Call(self.status, None),
        }
        let want = Want::of(self.request, head, response.body.len(), now_ms);
        if want == Want::Handler || !plan.is_meant(route, rule, &response) {
            return Collapsed::Call(self.status, None);
        }
        self.answer(response, want)
    }

    /// Whether the leader's answer is of the variant that the request selects.
    fn selects(&self, response: &StoredResponse) -> bool {
        crate::rfc9111::matches(&response.head.vary, &self.request.headers)
    }

    fn answer(&self, response: StoredResponse, want: Want) -> Collapsed<'a> {
        count(&self.cx.engine.counters.collapsed);
        let status = self.status.clone().collapsed();
        self.cx.engine.explain(&status);
        Collapsed::Share(Serve { response, want, status, left_out: None })
    }
}

/// Whether this happens for the first time.
fn is_first(happened: &mut bool) -> bool {
    !std::mem::replace(happened, true)
}

/// A wait that is added to the time now.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
