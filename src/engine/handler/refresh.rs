//! Which calls of the handler run in the background? Refreshes, and handlers that were too slow for their client.

use std::future::Future;
use std::sync::Arc;

use http::{Method, Request, Response};
use http_body::Body;
use tower::{Service, ServiceExt};
use tracing::Instrument;

use super::super::Engine;
use super::super::collapse::{Leader, lead_refresh, lease_refresh};
use super::super::find::FoundEntry;
use super::super::request::{Cx, nesting};
use super::conditions::{CONDITIONS, ClientConditions};
use super::miss::{BeforeCall, Miss};
use crate::rfc9111::stale::{Cause, is_failure};
use crate::status::{CacheStatus, Forward};
use crate::store::Store;
use crate::stored::VariantIndex;
use crate::sync::waker;
use crate::telemetry::{count, handler_span};

/// A refresh that may begin.
pub(in crate::engine) struct Refresh<St> {
    pub(in crate::engine) cx: Cx<St>,
    /// The response that has been served.
    pub(in crate::engine) entry: FoundEntry,
    pub(in crate::engine) index: Option<Arc<VariantIndex>>,
    /// Whether the response is still fresh.
    pub(in crate::engine) early: bool,
    /// The completed flights before the lookup.
    pub(in crate::engine) completions: u64,
}

impl<St: Store> Refresh<St> {
    /// Calls the handler in a task, unless another request does so, or too many tasks run. It does not change what
    /// the client gets.
    pub(in crate::engine) fn begin<S, B, RB>(mut self, request: Request<B>, inner: S)
    where
        S: Service<Request<B>, Response = Response<RB>> + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        B: Send + 'static,
        RB: Body<Error: Send> + Send + 'static,
    {
        // RFC 9111 5.2.1.5, 5.2.1.7: the response could not be stored, or the handler must not be called
        if self.cx.plan.directives.no_store || self.cx.plan.directives.only_if_cached {
            return;
        }
        let Some(leader) = lead_refresh(&self.cx, &self.entry, self.completions) else { return };
        let engine = Arc::clone(&self.cx.engine);
        let Some(slot) = engine.background.reserve(engine.limits.max_refreshes) else {
            return count(&engine.counters.refreshes_shed);
        };
        count(&engine.counters.refreshes);
        if self.early {
            count(&engine.counters.early_refreshes);
        }
        let (mut parts, body) = request.into_parts();
        // a refresh needs the complete response to a GET
        parts.method = Method::GET;
        for name in CONDITIONS {
            parts.headers.remove(name);
        }
        self.cx.plan.head_only = false;
        let mut before = BeforeCall::new(&self.cx, &parts, self.index, Some(self.entry));
        before.client = ClientConditions::take(&mut parts, before.stale.as_ref(), false);
        let status = CacheStatus::forwarded(Forward::Stale, None);
        let mut miss = Miss { cx: self.cx, before, status, leader: None };
        nesting::mark_request(&engine, &mut parts);
        let call = inner.oneshot(Request::from_parts(parts, body)).instrument(handler_span());
        let on_timeout = on_timeout(&engine);
        slot.run(
            async move {
                let Some(entry) = &miss.before.stale else { return };
                if let Some(leader) = lease_refresh(&miss.cx, leader, entry).await {
                    miss.leader = Some(leader);
                    finish(miss, call).await;
                }
            },
            on_timeout,
        );
    }
}

/// The flight of a request that refreshes a response in the foreground. Behind a guard this is necessary, because the
/// guard does not see a response to a task. `None` if another request refreshes, or if this one cannot.
pub(in crate::engine) async fn lead_foreground_refresh<St: Store>(
    cx: &Cx<St>,
    entry: &FoundEntry,
    completions: u64,
) -> Option<Leader> {
    let directives = &cx.plan.directives;
    if cx.plan.head_only || directives.no_store || directives.only_if_cached {
        return None;
    }
    lease_refresh(cx, lead_refresh(cx, entry, completions)?, entry).await
}

/// Lets a handler that was too slow for its client continue, to fill the cache.
pub(super) fn continue_in_background<St, F, RB, E>(mut miss: Miss<St>, call: F)
where
    St: Store,
    F: Future<Output = Result<Response<RB>, E>> + Send + 'static,
    E: Send + 'static,
    RB: Body<Error: Send> + Send + 'static,
{
    // the client has its answer, so the complete response is stored
    if let Some(client) = &mut miss.before.client {
        client.clear();
    }
    let engine = Arc::clone(&miss.cx.engine);
    let Some(slot) = engine.background.reserve(engine.limits.max_refreshes) else {
        return count(&engine.counters.refreshes_shed);
    };
    let on_timeout = on_timeout(&engine);
    slot.run(finish(miss, call), on_timeout);
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
        // the stored response is better than this error
        Ok(response) if is_failure(response.status()) => Cause::ErrorStatus,
        Err(_) => Cause::Error,
        Ok(response) => {
            let response = miss.answer(response, &waker().await);
            return response.into_body().record().await;
        }
    };
    count(&miss.cx.engine.counters.refresh_failures);
    miss.fail(cause);
}

/// Makes the function that counts a handler that took too long.
fn on_timeout<St: Store>(engine: &Arc<Engine<St>>) -> impl FnOnce() + Send + 'static + use<St> {
    let engine = Arc::clone(engine);
    move || count(&engine.counters.refresh_failures)
}
