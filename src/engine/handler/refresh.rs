//! Validation behind a response that has been served: one a key, with the request in hand.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, Request, Response};
use http_body::Body;
use tower::{Service, ServiceExt};
use tracing::Instrument;

use super::super::collapse::{FlightKey, Joined, Joining, Lead, Leased};
use super::super::decide::Asked;
use super::super::find::{At, bounded};
use super::super::request::{Plan, nesting};
use super::super::{Engine, Route};
use super::conditions::{CONDITIONS, Stripped};
use super::miss::Miss;
use crate::rfc9111::RequestDirectives;
use crate::rfc9111::stale::{Cause, is_failure};
use crate::status::{CacheStatus, Forward};
use crate::store::{InvalidationLog as _, Store};
use crate::stored::{Stored, VariantIndex};
use crate::telemetry::{count, inside_span};

/// A refresh that might begin.
pub(in crate::engine) struct Refresh<St> {
    pub(in crate::engine) engine: Arc<Engine<St>>,
    pub(in crate::engine) route: Arc<Route>,
    pub(in crate::engine) plan: Plan,
    /// What has been served.
    pub(in crate::engine) at: At,
    pub(in crate::engine) index: Option<Arc<VariantIndex>>,
    /// It is still fresh.
    pub(in crate::engine) early: bool,
    /// Flights landed before the lookup that found it.
    pub(in crate::engine) landings: u64,
}

impl<St: Store> Refresh<St> {
    /// Sends the request inside in a task of its own, unless somebody asks about the same already, or too
    /// much is under way. What the client has been served stays as it is.
    pub(in crate::engine) fn begin<S, B, RB>(
        mut self,
        request: Request<B>,
        directives: &RequestDirectives,
        inner: S,
    ) where
        S: Service<Request<B>, Response = Response<RB>> + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        B: Send + 'static,
        RB: Body<Error: Send> + Send + 'static,
    {
        // RFC 9111 5.2.1.5, 5.2.1.7: the response could not be stored, or is not to be asked for
        if directives.no_store || directives.only_if_cached {
            return;
        }
        let engine = Arc::clone(&self.engine);
        if engine.elsewhere.contains_key(&self.at.key.hash()) {
            return;
        }
        let lead = engine.lead_refresh(&self.route, &self.plan, &self.at, self.landings);
        let Some(lead) = lead else { return };
        let Some(place) = engine.background.begin(self.route.max_refreshes) else {
            return count(&engine.counters.refreshes_shed);
        };
        count(&engine.counters.refreshes);
        if self.early {
            count(&engine.counters.early_refreshes);
        }
        let (mut parts, body) = request.into_parts();
        // what is stored is the answer to a GET, to all of it
        parts.method = Method::GET;
        for name in CONDITIONS {
            parts.headers.remove(name);
        }
        self.plan.head_only = false;
        let asked = Asked::of(&engine.store, &self.plan, &parts);
        let client = Stripped::take(&mut parts, Some(&self.at), false);
        let mut miss = Miss {
            fills: engine.fills_so_far(),
            started: Instant::now(),
            asked,
            client,
            index: self.index,
            stale: Some(self.at),
            status: CacheStatus::forwarded(Forward::Stale, None),
            lead: None,
        };
        let Self { route, plan, .. } = self;
        nesting::enter(&engine, &mut parts);
        let call = inner.oneshot(Request::from_parts(parts, body)).instrument(inside_span());
        let late = late(&engine);
        place.run(
            async move {
                let Some(at) = &miss.stale else { return };
                if let Some(lead) = engine.lease_refresh(&route, lead, at).await {
                    miss.lead = Some(lead);
                    finish(engine, route, plan, miss, call).await;
                }
            },
            late,
        );
    }
}

/// The flight of a request that goes inside itself to refresh what it might be served: behind a guard, which would
/// not see the response to a refresh in the background. `None` where somebody else does, or it cannot.
pub(in crate::engine) async fn in_foreground<St: Store>(
    engine: &Arc<Engine<St>>,
    route: &Route,
    plan: &Plan,
    directives: &RequestDirectives,
    at: &At,
    landings: u64,
) -> Option<Lead> {
    let cannot = plan.head_only || directives.no_store || directives.only_if_cached;
    if cannot || engine.elsewhere.contains_key(&at.key.hash()) {
        return None;
    }
    let lead = engine.lead_refresh(route, plan, at, landings)?;
    engine.lease_refresh(route, lead, at).await
}

impl<St: Store> Engine<St> {
    /// The flight of a refresh, unless one is on its way.
    fn lead_refresh(&self, route: &Route, plan: &Plan, at: &At, landings: u64) -> Option<Lead> {
        let (base, _) = self.flies_by(route, plan);
        let credentialed = plan.has_credentials();
        let key = FlightKey { key: at.key.clone(), base, credentialed };
        let clear = |position: &_| self.still_flies(route, &key.key, position);
        let joining = Joining { behind: true, ..route.joining(self.store.log().position(), true) };
        match self.flights.join(&key, joining, clear) {
            // the last one landed between the lookup and now
            Joined::Leads(_) if self.flights.landed_since(&key, landings) => None,
            Joined::Leads(lead) => Some(lead),
            Joined::Follows(_) | Joined::Nobody => None,
        }
    }

    /// The same, where no other process is inside for the same, nor has been, if that matters.
    async fn lease_refresh(
        self: &Arc<Self>,
        route: &Route,
        mut lead: Lead,
        at: &At,
    ) -> Option<Lead> {
        match self.lease(route, lead.key()).await {
            Leased::Here(Some(held)) => lead.leased(held),
            Leased::Elsewhere => {
                self.elsewhere.insert(at.key.hash(), ());
                return None;
            }
            // with nothing to share between them, each process does it for itself
            Leased::Here(None) | Leased::Unshareable(_) | Leased::Failed => return Some(lead),
        }
        // who had the lease before has stored something, perhaps
        let found = bounded(route.store_timeout, self.store.get(at.key.clone())).await;
        let is_newer = matches!(
            found,
            Ok(Some(Stored::Response(found))) if found.head.received_ms > at.response.head.received_ms
        );
        if is_newer {
            lead.found();
            return None;
        }
        Some(lead)
    }
}

/// Lets a handler that has taken too long for its client go on, to fill the cache.
pub(in crate::engine) fn go_on<St, F, RB, E>(
    engine: Arc<Engine<St>>,
    route: Arc<Route>,
    plan: Plan,
    mut miss: Miss,
    call: F,
) where
    St: Store,
    F: Future<Output = Result<Response<RB>, E>> + Send + 'static,
    E: Send + 'static,
    RB: Body<Error: Send> + Send + 'static,
{
    // the client has its answer: all of this one is for the store
    if let Some(client) = &mut miss.client {
        client.waive();
    }
    let Some(place) = engine.background.begin(route.max_refreshes) else {
        return count(&engine.counters.refreshes_shed);
    };
    let late = late(&engine);
    place.run(finish(engine, route, plan, miss, call), late);
}

/// Waits for the handler and records its response, which nobody else reads.
async fn finish<St, F, RB, E>(
    engine: Arc<Engine<St>>,
    route: Arc<Route>,
    plan: Plan,
    miss: Miss,
    call: F,
) where
    St: Store,
    F: Future<Output = Result<Response<RB>, E>> + Send + 'static,
    E: Send + 'static,
    RB: Body<Error: Send> + Send + 'static,
{
    let cause = match call.await {
        // what is stored is better than this
        Ok(response) if is_failure(response.status()) => Cause::ErrorStatus,
        Err(_) => Cause::Error,
        Ok(response) => {
            return miss.answer(engine, route, plan, response).await.into_body().record().await;
        }
    };
    count(&engine.counters.refresh_failures);
    miss.fail(cause);
}

/// Counts a handler that did not answer in time.
fn late<St: Store>(engine: &Arc<Engine<St>>) -> impl FnOnce() + Send + 'static + use<St> {
    let engine = Arc::clone(engine);
    move || count(&engine.counters.refresh_failures)
}
