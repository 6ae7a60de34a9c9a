//! The life of one request: look up, judge, serve; else call inside, decide, record.

use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response, StatusCode};
use http_body::Body;
use tower::{Service, ServiceExt};
use tracing::Instrument;

use super::collapse::{Collapsed, Collapsing, Queue};
use super::decide::{Asked, Verdict, judge_found};
use super::find::Lookup;
use super::handler::{Miss, Refresh, Stripped, go_on, in_foreground};
use super::request::{Plan, nesting};
use super::rescue::{Rescue, in_time};
use super::{Engine, Route};
use crate::body::CacheBody;
use crate::policy::Mode;
use crate::rfc9111::RequestDirectives;
use crate::rfc9111::stale::{Cause, is_failure};
use crate::status::{CacheStatus, Forward};
use crate::store::Store;
use crate::telemetry::{count, inside_span};

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
    let (mut parts, body) = request.into_parts();
    let directives = RequestDirectives::parse(&parts.headers);
    let mut queue = Queue::new();
    let (status, stale, index, rescue, lead) = loop {
        queue.looks(&engine);
        let looked = engine.lookup(&route, &plan, &parts, &directives).await;
        let Lookup { found, index, .. } = looked;
        let verdict = judge_found(&engine, &route, &plan, &parts, &directives, found);
        let (mut status, stale) = match verdict {
            Verdict::Serve(response) => {
                queue.found();
                return Ok(response);
            }
            Verdict::ServeAndRefresh(response, at, early) => {
                queue.found();
                let landings = queue.landings();
                let guarded = plan.consent.is_guarded();
                // the layer around this one waits for it, or refreshes behind its own response
                if guarded || plan.nested {
                    let lead = in_foreground(&engine, &route, &plan, &directives, &at, landings);
                    let lead = lead.await;
                    // the layer around this one leads already
                    if lead.is_some() || plan.nested {
                        let why = guarded.then_some("guarded");
                        let status = CacheStatus::forwarded(Forward::Stale, why);
                        let rescue = Rescue::new(&at, &parts, &directives).refreshing();
                        break (status, Some(at), index, Some(rescue), lead);
                    }
                    engine.serves(&response);
                    return Ok(response);
                }
                engine.serves(&response);
                let refresh = Refresh { engine, route, plan, at, index, early, landings };
                refresh.begin(Request::from_parts(parts, body), &directives, inner);
                return Ok(response);
            }
            Verdict::Inside(status, stale) => (status, stale),
        };
        // RFC 9111 5.2.1.7
        if directives.only_if_cached {
            return Ok(gateway_timeout(&engine, status));
        }
        let rescue = stale.as_ref().map(|at| Rescue::new(at, &parts, &directives));
        let collapsing = Collapsing {
            engine: &engine,
            route: &route,
            plan: &plan,
            request: &parts,
            directives: &directives,
            index: index.as_deref(),
            rescue: rescue.as_ref(),
        };
        match collapsing.join(&mut status, &mut queue).await {
            Collapsed::Answer(response) => return Ok(response),
            Collapsed::Again => {}
            Collapsed::Inside(lead) => break (status, stale, index, rescue, lead),
        }
    };
    let bypassed = status.forward() == Some(Forward::Bypass);
    count(if bypassed { &engine.counters.bypassed } else { &engine.counters.misses });

    let asked = Asked::of(&engine.store, &plan, &parts);
    // what could not be stored is the handler's to answer as it is asked
    let unstorable =
        plan.has_credentials() || directives.no_store || engine.is_unstorable(&plan.asker());
    let client = Stripped::take(&mut parts, stale.as_ref(), unstorable);
    let miss = Miss {
        fills: engine.fills_so_far(),
        started: Instant::now(),
        asked,
        client,
        index,
        stale,
        status,
        lead,
    };
    nesting::enter(&engine, &mut parts);
    let call = inner.oneshot(Request::from_parts(parts, body)).instrument(inside_span());
    let Some(rescue) = rescue else {
        return Ok(miss.answer(engine, route, plan, call.await?).await);
    };
    let outcome = match in_time(&engine, &route, &rescue, call).await {
        Ok(outcome) => outcome,
        Err(call) => match rescue.serve(&engine, &route, &plan, Cause::Timeout) {
            Some(response) => {
                match plan.consent.is_guarded() {
                    // no guard would see the head
                    true => miss.fail(Cause::Timeout),
                    false => go_on(engine, route, plan, miss, call),
                }
                return Ok(response);
            }
            None => call.await,
        },
    };
    match outcome {
        Ok(response) if is_failure(response.status()) => {
            match rescue.serve(&engine, &route, &plan, Cause::ErrorStatus) {
                Some(stale) => {
                    miss.fail(Cause::ErrorStatus);
                    Ok(stale)
                }
                None => Ok(miss.answer(engine, route, plan, response).await),
            }
        }
        Ok(response) => Ok(miss.answer(engine, route, plan, response).await),
        Err(error) => {
            miss.fail(Cause::Error);
            match rescue.serve(&engine, &route, &plan, Cause::Error) {
                Some(stale) => Ok(stale),
                // RFC 9111 5.2.2.2; in safe mode the error itself says more to the application
                None if route.policy.mode == Mode::Strict && rescue.must_be_validated(&route) => {
                    let status = CacheStatus::forwarded(Forward::Stale, Some("must-revalidate"));
                    Ok(gateway_timeout(&engine, status))
                }
                None => Err(error),
            }
        }
    }
}

/// A 504 of the cache's own making. RFC 9211 2: it does not say what the cache did.
fn gateway_timeout<St: Store, RB>(
    engine: &Engine<St>,
    status: CacheStatus,
) -> Response<CacheBody<RB>> {
    engine.explain(&status);
    let mut response = Response::new(CacheBody::stored(Default::default()));
    *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
    response.extensions_mut().insert(status);
    response
}
