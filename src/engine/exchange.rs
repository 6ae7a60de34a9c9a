//! The life of one request: look up, judge, serve; else call inside, decide, record.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::header::CONTENT_LENGTH;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tower::{Service, ServiceExt};
use tracing::Instrument;

use super::admission::Plan;
use super::collapse::{Collapsed, Collapsing, Queue};
use super::failure::MAX_FAILURE_BYTES;
use super::fill::Filled;
use super::flight::Lead;
use super::judge::{Asked, UNSTORABLE, is_gone};
use super::lookup::{At, Lookup};
use super::nesting;
use super::refresh::{self, Refresh};
use super::reply::{self, Finish, Want};
use super::stale::{Rescue, in_time};
use super::validate::{self, Stripped};
use super::verdict::{Verdict, judge_found};
use super::{Engine, Route};
use crate::body::{CacheBody, Recorded, Recorder};
use crate::key::KeyRange;
use crate::overrides::CacheOverride;
use crate::policy::Mode;
use crate::rfc9111::RequestDirectives;
use crate::rfc9111::stale::{Cause, is_failure};
use crate::status::{CacheStatus, Forward};
use crate::store::Store;
use crate::stored::VariantIndex;
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
                if plan.consent.is_guarded() {
                    let lead =
                        refresh::in_foreground(&engine, &route, &plan, &directives, &at, landings);
                    let lead = lead.await;
                    // the layer around this one leads already
                    if lead.is_some() || plan.nested {
                        let status = CacheStatus::forwarded(Forward::Stale, Some("guarded"));
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
                    false => refresh::go_on(engine, route, plan, miss, call),
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

/// A request that has gone inside, and what was known before it did.
pub(super) struct Miss {
    /// Fills of this process so far.
    pub(super) fills: u64,
    pub(super) started: Instant,
    pub(super) asked: Asked,
    /// The client's own conditions, where the handler did not see them.
    pub(super) client: Option<Stripped>,
    pub(super) index: Option<Arc<VariantIndex>>,
    /// The stored response that the handler was asked to validate, or that is simply out of date.
    pub(super) stale: Option<At>,
    pub(super) status: CacheStatus,
    /// Others wait for the response.
    pub(super) lead: Option<Lead>,
}

impl Miss {
    /// The inner service failed, in this way.
    pub(super) fn fail(self, cause: Cause) {
        if let Some(lead) = self.lead {
            lead.fail(cause);
        }
    }

    pub(super) async fn answer<St, RB>(
        mut self,
        engine: Arc<Engine<St>>,
        route: Arc<Route>,
        plan: Plan,
        response: Response<RB>,
    ) -> Response<CacheBody<RB>>
    where
        St: Store,
        RB: Body<Error: Send> + Send + 'static,
    {
        let received_ms = engine.store.now_ms();
        let validated = self.client.as_ref().is_some_and(|client| client.validating);
        let confirmed = validated && response.status() == StatusCode::NOT_MODIFIED;
        match self.stale.take() {
            // RFC 9110 15.5.5, 15.5.11: gone for everybody
            Some(at) if is_gone(response.status()) && !plan.has_credentials() => {
                engine.forget(KeyRange::only(&at.key));
            }
            Some(at) if confirmed => {
                return validate::revalidated(
                    &engine,
                    &route,
                    &plan,
                    self,
                    at,
                    response,
                    received_ms,
                );
            }
            Some(at) if plan.head_only && !nesting::is_answered(&engine, response.extensions()) => {
                validate::compare_head(&engine, &route, &plan, &self, at, &response, received_ms);
            }
            _ => {}
        }
        self.keep(engine, route, plan, response, received_ms).await
    }

    /// Records the response on its way to the client, if it may be stored.
    pub(super) async fn keep<St, RB>(
        mut self,
        engine: Arc<Engine<St>>,
        route: Arc<Route>,
        plan: Plan,
        response: Response<RB>,
        received_ms: u64,
    ) -> Response<CacheBody<RB>>
    where
        St: Store,
        RB: Body<Error: Send> + Send + 'static,
    {
        let (mut parts, body) = response.into_parts();
        let overrides = parts.extensions.remove::<CacheOverride>();
        let gen_ms = u32::try_from(self.started.elapsed().as_millis()).unwrap_or(u32::MAX);
        let index = self.index.as_ref();
        let kept = if nesting::is_answered_by(&engine, &mut parts) {
            Err(nesting::INNER_LAYER)
        } else {
            self.asked.judge(&route, overrides.as_ref(), &parts, index, received_ms, gen_ms)
        };
        let kept = match kept {
            Ok(kept) => kept,
            Err(reason) => {
                count(&engine.counters.not_stored);
                if parts.status.is_success() && UNSTORABLE.contains(&reason) {
                    engine.remember_unstorable(plan.asker());
                }
                // it has been stored, if it may be
                if reason == nesting::INNER_LAYER
                    && let Some(lead) = self.lead.take()
                {
                    plan.consent.then(move |verdict| match verdict {
                        Ok(()) => lead.found(),
                        Err(objection) => lead.object(objection),
                    });
                }
                let failure = self.not_stored(&route, &plan, &parts, reason, received_ms);
                self.status.detail.get_or_insert(reason);
                engine.explain(&self.status);
                let unchanged = self.client.as_ref().is_some_and(|c| c.has(&parts, received_ms));
                if unchanged {
                    let status = self.status.with_fwd_status(parts.status);
                    let finish = Finish::keyed(&route, &plan.base, status);
                    return finish.wrap(reply::not_modified(parts));
                }
                let finish = Finish::keyed(&route, &plan.base, self.status);
                let Some(failure) = failure else {
                    return finish.apply(Response::from_parts(parts, body));
                };
                let declared = declared_length(&parts, &body);
                let recorder = engine.recorder(&route, failure, MAX_FAILURE_BYTES, declared);
                let (body, _) = record(body, recorder).await;
                return finish.wrap(Response::from_parts(parts, body));
            }
        };
        let declared = declared_length(&parts, &body);
        let limit = route.policy.max_body_bytes;
        if declared.is_some_and(|declared: u64| declared > limit as u64) {
            engine.remember_unstorable(plan.asker());
        }
        let lead = self.lead.take();
        let lead = lead.and_then(|lead| lead.if_shareable(&route, &kept.head, received_ms));
        if declared.is_none()
            && let Some(lead) = &lead
        {
            lead.streams();
        }
        let filled = Filled::default();
        let fill = self.fill(Arc::clone(&engine), &route, &plan, kept, filled.clone(), lead);
        let recorder = engine.recorder(&route, fill, limit, declared);
        let (body, recorded) = record(body, recorder).await;
        if let Some(reason) = recorded.reason() {
            self.status.detail.get_or_insert(reason);
            engine.explain(&self.status);
            let inside = parts.status;
            let reply = match &self.client {
                Some(client) => client.answer(&engine, &route, parts, body, declared, received_ms),
                None => Response::from_parts(parts, body),
            };
            let status = match reply.status() {
                same if same == inside => self.status,
                _ => self.status.with_fwd_status(inside),
            };
            return Finish::keyed(&route, &plan.base, status).wrap(reply);
        }
        self.status.set_stored();
        engine.explain(&self.status);
        // the client's own conditions, which the handler did not see, hold against what is stored now
        if let (Some(client), Some(response)) = (&self.client, filled.get()) {
            let asked = client.request();
            match Want::of(&asked, &response.head, response.body.len(), received_ms) {
                Want::Whole | Want::Inside => {}
                want => {
                    let (key, status) = (&plan.base, self.status.with_fwd_status(parts.status));
                    let stored = response.clone();
                    let reply =
                        reply::serve(&route, key, stored, &want, &asked, status, received_ms);
                    return reply::with_what_is_this_clients(reply, parts);
                }
            }
        }
        let finish = Finish::keyed(&route, &plan.base, self.status);
        finish.wrap(Response::from_parts(parts, body))
    }
}

/// The length of a body, if it is known.
fn declared_length<RB: Body>(response: &http::response::Parts, body: &RB) -> Option<u64> {
    let declared = response.headers.get(CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse().ok());
    // hyper stops at an exact length as well
    declared.or(body.size_hint().exact())
}

/// Records a body on its way. Polls it once, with the waker of whoever waits for this response.
async fn record<RB>(body: RB, recorder: Recorder) -> (CacheBody<RB>, Recorded)
where
    RB: Body<Error: Send> + Send + 'static,
{
    let mut waiting = Some((body, recorder));
    let recorded = poll_fn(|cx| match waiting.take() {
        Some((body, recorder)) => Poll::Ready(CacheBody::recording(body, recorder, cx)),
        None => Poll::Pending,
    });
    recorded.await
}
