//! What is the life of a GET or HEAD request? A lookup and a decision; then a hit, or collapsing and a call of the
//! handler.

use std::ops::ControlFlow;
use std::sync::Arc;

use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::collapse::{CollapseState, Collapsed, Collapsing, Leader};
use super::decide::{Decision, Rescue, Serve, decide};
use super::find::{FoundEntry, Lookup, lookup};
use super::handler::{BeforeCall, Miss, Refresh, lead_foreground_refresh};
use super::request::{Cx, Plan};
use super::respond;
use super::{Engine, Route};
use crate::body::CacheBody;
use crate::reason::Reason;
use crate::status::{CacheStatus, Forward};
use crate::store::Store;
use crate::stored::VariantIndex;
use crate::telemetry::count;

/// Answers a GET or HEAD from the store, or by calling the handler.
///
/// Not an `async fn`: its future would hold the arguments twice.
pub(crate) fn exchange<St, S, B, RB>(
    engine: Arc<Engine<St>>,
    route: Arc<Route>,
    plan: Plan,
    (parts, body): (Parts, B),
    inner: S,
) -> impl Future<Output = Result<Response<CacheBody<RB>>, S::Error>> + Send + 'static
where
    St: Store,
    S: Service<Request<B>, Response = Response<RB>> + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    RB: Body<Error: Send> + Send + 'static,
{
    let cx = Cx { engine, route, plan };
    async move {
        let mut state = CollapseState::new();
        match look_up(&cx, &parts, &mut state).await {
            (Decision::Serve(serve), _) => Ok(hit(&cx, &parts, serve)),
            // boxed, so that the future of a hit stays small
            other => Box::pin(go_on(cx, (parts, body), inner, state, other)).await,
        }
    }
}

/// One lookup, and what to do with its result. Also the target's variant index.
async fn look_up<St: Store>(
    cx: &Cx<St>,
    request: &Parts,
    state: &mut CollapseState,
) -> (Decision, Option<Arc<VariantIndex>>) {
    state.begin_lookup(&cx.engine);
    let Lookup { found, index, .. } = lookup(cx, request).await;
    (decide(cx, request, found), index)
}

/// Answers a request that the first lookup has not answered.
#[allow(
    clippy::manual_async_fn,
    reason = "the future of an async fn would hold the arguments twice"
)]
fn go_on<St, S, B, RB>(
    cx: Cx<St>,
    (parts, body): (Parts, B),
    inner: S,
    mut collapse_state: CollapseState,
    mut next: (Decision, Option<Arc<VariantIndex>>),
) -> impl Future<Output = Result<Response<CacheBody<RB>>, S::Error>> + Send
where
    St: Store,
    S: Service<Request<B>, Response = Response<RB>> + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    RB: Body<Error: Send> + Send + 'static,
{
    async move {
        let to_call = loop {
            let (decision, index) = next;
            match decision {
                Decision::Serve(serve) => {
                    collapse_state.found_response();
                    return Ok(hit(&cx, &parts, serve));
                }
                Decision::ServeAndRefresh(serve, entry, early) => {
                    collapse_state.found_response();
                    let completions = collapse_state.completions();
                    if !cx.plan.consent.is_guarded() && !cx.plan.nested {
                        let reply = hit(&cx, &parts, serve);
                        let refresh = Refresh { cx, entry, index, early, completions };
                        refresh.begin(Request::from_parts(parts, body), inner);
                        return Ok(reply);
                    }
                    match refresh_in_foreground(&cx, &parts, entry, index, completions).await {
                        Some(to_call) => break to_call,
                        None => return Ok(hit(&cx, &parts, serve)),
                    }
                }
                Decision::Call(status, stale) => {
                    let to_call = ToCall::new(&parts, status, stale, index);
                    match collapse(&cx, &parts, to_call, &mut collapse_state).await {
                        ControlFlow::Continue(Some(to_call)) => break to_call,
                        ControlFlow::Break(reply) => return Ok(reply),
                        ControlFlow::Continue(None) => {}
                    }
                }
            }
            next = look_up(&cx, &parts, &mut collapse_state).await;
        };
        let ToCall { status, stale, index, rescue, leader } = to_call;
        let before = BeforeCall::new(&cx, &parts, index, stale);
        let miss = Miss { cx, before, status, leader };
        miss.call(Request::from_parts(parts, body), rescue, inner).await
    }
}

/// Waits for another request's response (`Break`), or leads: then the handler is called. `Continue(None)`: the
/// request looks up again.
async fn collapse<St: Store, RB>(
    cx: &Cx<St>,
    request: &Parts,
    to_call: ToCall,
    state: &mut CollapseState,
) -> ControlFlow<Response<CacheBody<RB>>, Option<ToCall>> {
    let ToCall { status, index, rescue, .. } = &to_call;
    // RFC 9111 5.2.1.7
    if cx.plan.directives.only_if_cached {
        cx.engine.explain(status);
        return ControlFlow::Break(respond::gateway_timeout(status.clone()));
    }
    let (index, rescue, status) = (index.as_deref(), rescue.as_ref(), status.clone());
    let collapsing = Collapsing { cx, request, index, rescue, status, state };
    match collapsing.join().await {
        Collapsed::Share(serve) => ControlFlow::Break(respond::serve(cx, request, serve)),
        Collapsed::Rescue(rescue, stale) => ControlFlow::Break(respond::rescued(cx, rescue, stale)),
        Collapsed::LookUpAgain => ControlFlow::Continue(None),
        Collapsed::Call(status, leader) => {
            ControlFlow::Continue(Some(ToCall { status, leader, ..to_call }))
        }
    }
}

struct ToCall {
    status: CacheStatus,
    stale: Option<FoundEntry>,
    index: Option<Arc<VariantIndex>>,
    rescue: Option<Rescue>,
    leader: Option<Leader>,
}

impl ToCall {
    fn new(
        request: &Parts,
        status: CacheStatus,
        stale: Option<FoundEntry>,
        index: Option<Arc<VariantIndex>>,
    ) -> Self {
        let rescue = stale.as_ref().map(|entry| Rescue::new(entry, request));
        Self { status, stale, index, rescue, leader: None }
    }
}

fn hit<St: Store, RB>(cx: &Cx<St>, request: &Parts, serve: Serve) -> Response<CacheBody<RB>> {
    let counters = &cx.engine.counters;
    count(&counters.hits);
    if serve.status.reason() == Some(Reason::StaleWhileRevalidate) {
        count(&counters.stale_while_revalidate);
    }
    cx.engine.explain(&serve.status);
    respond::serve(cx, request, serve)
}

/// Decides which request refreshes a response if an outer layer must see the result: a guard, or the outer layer of
/// the same cache. That request calls its handler. The others get the stale response (`None`).
async fn refresh_in_foreground<St: Store>(
    cx: &Cx<St>,
    request: &Parts,
    entry: FoundEntry,
    index: Option<Arc<VariantIndex>>,
    completions: u64,
) -> Option<ToCall> {
    let leader = lead_foreground_refresh(cx, &entry, completions).await;
    // for a nested request, the outer layer leads
    if leader.is_none() && !cx.plan.nested {
        return None;
    }
    let why = cx.plan.consent.is_guarded().then_some(Reason::Guarded);
    let status = CacheStatus::forwarded(Forward::Stale, why);
    let to_call = ToCall::new(request, status, Some(entry), index);
    let rescue = to_call.rescue.map(Rescue::refreshing);
    Some(ToCall { rescue, leader, ..to_call })
}
