//! Calls of the handler behind a response: refreshes, and handlers that were too slow for their client.

use std::future::Future;
use std::sync::Arc;

use http::{Method, Request, Response};
use http_body::Body;
use tower::{Service, ServiceExt};
use tracing::Instrument;

use super::super::Engine;
use super::super::collapse::{Lead, lead_refresh, lease_refresh};
use super::super::find::At;
use super::super::request::{Cx, nesting};
use super::conditions::{CONDITIONS, Stripped};
use super::miss::{Before, Miss};
use crate::rfc9111::stale::{Cause, is_failure};
use crate::status::{CacheStatus, Forward};
use crate::store::Store;
use crate::stored::VariantIndex;
use crate::telemetry::{count, handler_span};

/// A refresh that might begin.
pub(in crate::engine) struct Refresh<St> {
    pub(in crate::engine) cx: Cx<St>,
    /// What has been served.
    pub(in crate::engine) at: At,
    pub(in crate::engine) index: Option<Arc<VariantIndex>>,
    /// It is still fresh.
    pub(in crate::engine) early: bool,
    /// Flights landed before the lookup that found it.
    pub(in crate::engine) landings: u64,
}

impl<St: Store> Refresh<St> {
    /// Calls the handler in a task of its own, unless another request asks for the same already, or too much is under
    /// way. What the client has been served stays as it is.
    pub(in crate::engine) fn begin<S, B, RB>(mut self, request: Request<B>, inner: S)
    where
        S: Service<Request<B>, Response = Response<RB>> + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        B: Send + 'static,
        RB: Body<Error: Send> + Send + 'static,
    {
        // RFC 9111 5.2.1.5, 5.2.1.7: the response could not be stored, or is not to be asked for
        if self.cx.plan.directives.no_store || self.cx.plan.directives.only_if_cached {
            return;
        }
        let Some(lead) = lead_refresh(&self.cx, &self.at, self.landings) else { return };
        let engine = Arc::clone(&self.cx.engine);
        let Some(place) = engine.background.begin(engine.limits.max_refreshes) else {
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
        self.cx.plan.head_only = false;
        let mut before = Before::new(&self.cx, &parts, self.index, Some(self.at));
        before.client = Stripped::take(&mut parts, before.stale.as_ref(), false);
        let status = CacheStatus::forwarded(Forward::Stale, None);
        let mut miss = Miss { cx: self.cx, before, status, lead: None };
        nesting::enter(&engine, &mut parts);
        let call = inner.oneshot(Request::from_parts(parts, body)).instrument(handler_span());
        let late = late(&engine);
        place.run(
            async move {
                let Some(at) = &miss.before.stale else { return };
                if let Some(lead) = lease_refresh(&miss.cx, lead, at).await {
                    miss.lead = Some(lead);
                    finish(miss, call).await;
                }
            },
            late,
        );
    }
}

/// The flight of a request whose own handler refreshes what it might be served: behind a guard, which would not see the
/// response to a refresh in the background. `None` where another request does, or this one cannot.
pub(in crate::engine) async fn in_foreground<St: Store>(
    cx: &Cx<St>,
    at: &At,
    landings: u64,
) -> Option<Lead> {
    let directives = &cx.plan.directives;
    if cx.plan.head_only || directives.no_store || directives.only_if_cached {
        return None;
    }
    lease_refresh(cx, lead_refresh(cx, at, landings)?, at).await
}

/// Lets a handler that has taken too long for its client go on, to fill the cache.
pub(super) fn go_on<St, F, RB, E>(mut miss: Miss<St>, call: F)
where
    St: Store,
    F: Future<Output = Result<Response<RB>, E>> + Send + 'static,
    E: Send + 'static,
    RB: Body<Error: Send> + Send + 'static,
{
    // the client has its answer: all of this one is for the store
    if let Some(client) = &mut miss.before.client {
        client.waive();
    }
    let engine = Arc::clone(&miss.cx.engine);
    let Some(place) = engine.background.begin(engine.limits.max_refreshes) else {
        return count(&engine.counters.refreshes_shed);
    };
    let late = late(&engine);
    place.run(finish(miss, call), late);
}

/// Waits for the handler and records its response, which no client reads.
async fn finish<St, F, RB, E>(miss: Miss<St>, call: F)
where
    St: Store,
    F: Future<Output = Result<Response<RB>, E>> + Send,
    E: Send,
    RB: Body<Error: Send> + Send + 'static,
{
    let cause = match call.await {
        // what is stored is better than this
        Ok(response) if is_failure(response.status()) => Cause::ErrorStatus,
        Err(_) => Cause::Error,
        Ok(response) => return miss.answer(response).await.into_body().record().await,
    };
    count(&miss.cx.engine.counters.refresh_failures);
    miss.fail(cause);
}

/// Counts a handler that did not answer in time.
fn late<St: Store>(engine: &Arc<Engine<St>>) -> impl FnOnce() + Send + 'static + use<St> {
    let engine = Arc::clone(engine);
    move || count(&engine.counters.refresh_failures)
}
