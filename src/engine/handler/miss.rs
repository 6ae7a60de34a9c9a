//! What becomes of the handler's answer: it confirms a stored response, or is stored, or passes through.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode};
use http_body::Body;

use super::super::collapse::Lead;
use super::super::decide::{Asked, UNSTORABLE, is_gone};
use super::super::find::At;
use super::super::keep::{Filled, Storing};
use super::super::request::{Plan, nesting};
use super::super::respond::{self, Finish, Want};
use super::super::{Engine, Route};
use super::conditions::Stripped;
use super::failure::MAX_FAILURE_BYTES;
use super::validate;
use crate::body::{CacheBody, Recorded, Recorder};
use crate::key::KeyRange;
use crate::overrides::CacheOverride;
use crate::rfc9111::stale::Cause;
use crate::status::CacheStatus;
use crate::store::Store;
use crate::stored::VariantIndex;
use crate::telemetry::count;

/// A request that has gone inside, and what was known before it did.
pub(in crate::engine) struct Miss {
    /// Fills of this process so far.
    pub(in crate::engine) fills: u64,
    pub(in crate::engine) started: Instant,
    pub(in crate::engine) asked: Asked,
    /// The client's own conditions, where the handler did not see them.
    pub(in crate::engine) client: Option<Stripped>,
    pub(in crate::engine) index: Option<Arc<VariantIndex>>,
    /// The stored response that the handler was asked to validate, or that is simply out of date.
    pub(in crate::engine) stale: Option<At>,
    pub(in crate::engine) status: CacheStatus,
    /// Others wait for the response.
    pub(in crate::engine) lead: Option<Lead>,
}

impl Miss {
    /// The inner service failed, in this way.
    pub(in crate::engine) fn fail(self, cause: Cause) {
        if let Some(lead) = self.lead {
            lead.fail(cause);
        }
    }

    pub(in crate::engine) async fn answer<St, RB>(
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
    pub(in crate::engine) async fn keep<St, RB>(
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
                    return finish.wrap(respond::not_modified(parts));
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
        let storing = Storing {
            engine: Arc::clone(&engine),
            route: &route,
            plan: &plan,
            request: &self.asked.headers,
            index: self.index.as_ref(),
        };
        let fill = storing.fill(kept, filled.clone(), lead);
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
                        respond::serve(&route, key, stored, &want, &asked, status, received_ms);
                    return respond::with_what_is_this_clients(reply, parts);
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
