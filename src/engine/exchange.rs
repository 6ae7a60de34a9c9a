//! The life of one request: lookup, decision, and a hit; else collapsing, and a call of the handler.

use std::sync::Arc;

use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::collapse::{Collapsed, Collapsing, Lead, Queue};
use super::decide::{Decision, Rescue, Serve, decide};
use super::find::{At, Lookup, lookup};
use super::handler::{Before, Miss, Refresh, in_foreground};
use super::request::{Cx, Plan};
use super::respond;
use super::{Engine, Route};
use crate::body::CacheBody;
use crate::rfc9111::stale::Cause;
use crate::status::{CacheStatus, Forward};
use crate::store::Store;
use crate::stored::VariantIndex;
use crate::telemetry::count;

/// GET and HEAD: out of the store, or through it.
pub(crate) async fn exchange<St, S, B, RB>(
    engine: Arc<Engine<St>>,
    route: Arc<Route>,
    plan: Plan,
    request: Request<B>,
    inner: S,
) -> Result<Response<CacheBody<RB>>, S::Error>
where
    St: Store,
    S: Service<Request<B>, Response = Response<RB>> + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    RB: Body<Error: Send> + Send + 'static,
{
    let cx = Cx { engine, route, plan };
    let (parts, body) = request.into_parts();
    let mut queue = Queue::new();
    let to_call = loop {
        queue.looks(&cx.engine);
        let Lookup { found, index, .. } = lookup(&cx, &parts).await;
        let (status, stale) = match decide(&cx, &parts, found) {
            Decision::Serve(serve) => {
                queue.found();
                return Ok(hit(&cx, &parts, serve));
            }
            Decision::ServeAndRefresh(serve, at, early) => {
                queue.found();
                let landings = queue.landings();
                if !cx.plan.consent.is_guarded() && !cx.plan.nested {
                    let reply = hit(&cx, &parts, serve);
                    let refresh = Refresh { cx, at, index, early, landings };
                    refresh.begin(Request::from_parts(parts, body), inner);
                    return Ok(reply);
                }
                match refresh_in_foreground(&cx, &parts, at, index, landings).await {
                    Some(to_call) => break to_call,
                    None => return Ok(hit(&cx, &parts, serve)),
                }
            }
            Decision::Call(status, stale) => (status, stale),
        };
        // RFC 9111 5.2.1.7
        if cx.plan.directives.only_if_cached {
            cx.engine.explain(&status);
            return Ok(respond::gateway_timeout(status));
        }
        let rescue = stale.as_ref().map(|at| Rescue::new(at, &parts));
        let collapsing = Collapsing {
            cx: &cx,
            request: &parts,
            index: index.as_deref(),
            rescue: rescue.as_ref(),
            status,
            queue: &mut queue,
        };
        match collapsing.join().await {
            Collapsed::Share(serve) => return Ok(respond::serve(&cx, &parts, serve)),
            Collapsed::Rescue(rescue, stale) => return Ok(respond::rescued(&cx, rescue, stale)),
            Collapsed::Again => {}
            Collapsed::Call(status, lead) => break ToCall { status, stale, index, rescue, lead },
        }
    };
    let ToCall { status, stale, index, rescue, lead } = to_call;
    let before = Before::new(&cx, &parts, index, stale);
    let miss = Miss { cx, before, status, lead };
    miss.call(Request::from_parts(parts, body), rescue, inner).await
}

/// What is known of a request whose handler is called.
struct ToCall {
    status: CacheStatus,
    stale: Option<At>,
    index: Option<Arc<VariantIndex>>,
    rescue: Option<Rescue>,
    lead: Option<Lead>,
}

/// Answers with a stored response.
fn hit<St: Store, RB>(cx: &Cx<St>, request: &Parts, serve: Serve) -> Response<CacheBody<RB>> {
    let counters = &cx.engine.counters;
    count(&counters.hits);
    if serve.status.detail() == Some(Cause::Revalidating.as_str()) {
        count(&counters.stale_while_revalidate);
    }
    cx.engine.explain(&serve.status);
    respond::serve(cx, request, serve)
}

/// A refresh that a layer around this one has to see: behind a guard, or of two layers of one cache. The handler of one
/// request is called for it; the others get the stale response (`None`).
async fn refresh_in_foreground<St: Store>(
    cx: &Cx<St>,
    request: &Parts,
    at: At,
    index: Option<Arc<VariantIndex>>,
    landings: u64,
) -> Option<ToCall> {
    let lead = in_foreground(cx, &at, landings).await;
    // where there are two layers, the outer one leads
    if lead.is_none() && !cx.plan.nested {
        return None;
    }
    let why = cx.plan.consent.is_guarded().then_some("guarded");
    let status = CacheStatus::forwarded(Forward::Stale, why);
    let rescue = Some(Rescue::new(&at, request).refreshing());
    Some(ToCall { status, stale: Some(at), index, rescue, lead })
}
