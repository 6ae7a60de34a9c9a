//! What happens to the handler's answer? It confirms a stored response, or is stored, or passes through.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http::{Response, StatusCode};
use http_body::Body;

use super::super::collapse::Leader;
use super::super::decide::{PreparedEntry, RequestSnapshot, Serve, is_gone};
use super::super::find::FoundEntry;
use super::super::keep::{Fill, Filled, remove_in_background};
use super::super::request::{Cx, ReplyKind, nesting};
use super::super::respond::{self, Finish};
use super::conditions::ClientConditions;
use super::failure::MAX_FAILURE_BYTES;
use super::validate;
use crate::body::{CacheBody, Recorded, Recorder};
use crate::key::KeyRange;
use crate::overrides::CacheOverride;
use crate::reason::Reason;
use crate::rfc9111::stale::Cause;
use crate::status::CacheStatus;
use crate::store::Store;
use crate::stored::VariantIndex;
use crate::telemetry::count;

/// What is known before the handler is called.
pub(in crate::engine) struct BeforeCall {
    /// The number of fills of this process so far.
    pub(super) fills: u64,
    pub(super) started: Instant,
    pub(in crate::engine) snapshot: RequestSnapshot,
    /// The client's conditions, if the handler does not see them.
    pub(in crate::engine) client: Option<ClientConditions>,
    /// The target's known variants.
    pub(super) index: Option<Arc<VariantIndex>>,
    /// A stored response to validate, or one that is stale.
    pub(in crate::engine) stale: Option<FoundEntry>,
}

impl BeforeCall {
    pub(in crate::engine) fn new<St: Store>(
        cx: &Cx<St>,
        request: &http::request::Parts,
        index: Option<Arc<VariantIndex>>,
        stale: Option<FoundEntry>,
    ) -> Self {
        let snapshot = RequestSnapshot::of(&cx.engine.store, &cx.plan, request);
        let (fills, started) = (cx.engine.fills.so_far(), Instant::now());
        Self { fills, started, snapshot, client: None, index, stale }
    }
}

/// A request whose handler is called.
pub(in crate::engine) struct Miss<St> {
    pub(in crate::engine) cx: Cx<St>,
    pub(in crate::engine) before: BeforeCall,
    pub(in crate::engine) status: CacheStatus,
    /// The flight, if other requests may wait for the response.
    pub(in crate::engine) leader: Option<Leader>,
}

impl<St: Store> Miss<St> {
    pub(super) fn fail(self, cause: Cause) {
        if let Some(leader) = self.leader {
            leader.fail(cause);
        }
    }

    /// Turns the handler's answer into the client's, and stores it if possible.
    pub(super) fn answer<RB>(
        mut self,
        response: Response<RB>,
        waker: &Waker,
    ) -> Response<CacheBody<RB>>
    where
        RB: Body<Error: Send> + Send + 'static,
    {
        let engine = &self.cx.engine;
        let received_ms = engine.store.now_ms();
        let validated = self.before.client.as_ref().is_some_and(|client| client.validating);
        let confirmed = validated && response.status() == StatusCode::NOT_MODIFIED;
        let (head_only, credentials) = (self.cx.plan.head_only, self.cx.plan.has_credentials());
        match self.before.stale.take() {
            // RFC 9110 15.5.5, 15.5.11: it does not exist for any client
            Some(entry) if is_gone(response.status()) && !credentials => {
                remove_in_background(engine, KeyRange::only(&entry.key));
            }
            Some(entry) if confirmed => {
                return validate::revalidated(self, entry, response, received_ms);
            }
            Some(entry)
                if head_only && !nesting::is_handled_inside(engine, response.extensions()) =>
            {
                validate::compare_head(&self, entry, &response, received_ms);
            }
            _ => {}
        }
        self.store_or_pass_on(response, received_ms, waker)
    }

    /// Stores the response while it is sent, or passes it on.
    pub(in crate::engine) fn store_or_pass_on<RB>(
        self,
        response: Response<RB>,
        received_ms: u64,
        waker: &Waker,
    ) -> Response<CacheBody<RB>>
    where
        RB: Body<Error: Send> + Send + 'static,
    {
        let (mut parts, body) = response.into_parts();
        let overrides = parts.extensions.remove::<CacheOverride>();
        let BeforeCall { snapshot, started, index, .. } = &self.before;
        let gen_ms = u32::try_from(started.elapsed().as_millis()).unwrap_or(u32::MAX);
        let prepared = if nesting::take_inside_mark(&self.cx.engine, &mut parts) {
            Err(Reason::InnerLayer)
        } else {
            let (route, index) = (&self.cx.route, index.as_ref());
            snapshot.prepare_entry(route, overrides.as_ref(), &parts, index, received_ms)
        };
        match prepared {
            Ok(mut prepared) => {
                prepared.head.gen_ms = gen_ms;
                self.store(prepared, (parts, body), received_ms, waker)
            }
            Err(reason) => self.pass_on(reason, (parts, body), received_ms, waker),
        }
    }

    /// Passes on a response that is not stored.
    fn pass_on<RB>(
        mut self,
        reason: Reason,
        (parts, body): (Parts, RB),
        received_ms: u64,
        waker: &Waker,
    ) -> Response<CacheBody<RB>>
    where
        RB: Body<Error: Send> + Send + 'static,
    {
        let engine = Arc::clone(&self.cx.engine);
        count(&engine.counters.not_stored);
        if parts.status.is_success() && reason.is_lasting() {
            engine.fills.remember_unstorable(self.cx.plan.storability_key());
        }
        // the inner layer may have stored it
        if reason == Reason::InnerLayer
            && let Some(leader) = self.leader.take()
        {
            self.cx.plan.consent.then(move |decision| match decision {
                Ok(()) => leader.look_up_again(),
                Err(objection) => leader.end_unstored(objection),
            });
        }
        let failure = self.not_stored(&parts, reason, received_ms);
        self.status.reason.get_or_insert(reason);
        engine.explain(&self.status);
        let Cx { route, plan, .. } = &self.cx;
        if self.before.client.as_ref().is_some_and(|client| client.has(&parts, received_ms)) {
            let status = self.status.with_fwd_status(parts.status);
            return Finish::keyed(route, &plan.base, status).wrap(respond::not_modified(parts));
        }
        let finish = Finish::keyed(route, &plan.base, self.status);
        let Some(failure) = failure else {
            return finish.apply(Response::from_parts(parts, body));
        };
        let declared = declared_length(&parts, &body);
        let recorder = engine.fills.recorder(
            engine.limits.recording_bytes,
            failure,
            MAX_FAILURE_BYTES,
            declared,
        );
        let (body, _) = record(body, recorder, waker);
        finish.wrap(Response::from_parts(parts, body))
    }

    /// Records the body while it is sent. The response is stored when the body is complete.
    fn store<RB>(
        mut self,
        prepared: PreparedEntry,
        (parts, body): (Parts, RB),
        received_ms: u64,
        waker: &Waker,
    ) -> Response<CacheBody<RB>>
    where
        RB: Body<Error: Send> + Send + 'static,
    {
        let Cx { engine, route, plan } = &self.cx;
        let declared = declared_length(&parts, &body);
        let limit = route.policy.max_body_bytes;
        if declared.is_some_and(|declared: u64| declared > limit as u64) {
            engine.fills.remember_unstorable(plan.storability_key());
        }
        let leader = self.leader.take();
        let leader =
            leader.and_then(|leader| leader.if_shareable(route, &prepared.head, received_ms));
        if declared.is_none()
            && let Some(leader) = &leader
        {
            leader.streams();
        }
        let BeforeCall { snapshot, index, .. } = &self.before;
        let fill = Fill::new(&self.cx, &snapshot.headers, index.as_ref(), prepared, leader);
        let filled = fill.filled();
        let recorder = engine.fills.recorder(engine.limits.recording_bytes, fill, limit, declared);
        let (body, recorded) = record(body, recorder, waker);
        match recorded.reason() {
            Some(reason) => self.not_yet_stored(reason, parts, body, declared, received_ms),
            None => self.stored(&filled, parts, body, received_ms),
        }
    }

    /// Answers with a response that is not stored, or not yet: often its body is still streaming.
    fn not_yet_stored<RB>(
        mut self,
        reason: Reason,
        parts: Parts,
        body: CacheBody<RB>,
        declared: Option<u64>,
        received_ms: u64,
    ) -> Response<CacheBody<RB>>
    where
        RB: Body<Error: Send> + Send + 'static,
    {
        self.status.reason.get_or_insert(reason);
        self.cx.engine.explain(&self.status);
        let handler_status = parts.status;
        let reply = match &self.before.client {
            Some(client) => client.answer(&self.cx, parts, body, declared, received_ms),
            None => Response::from_parts(parts, body),
        };
        let status = match reply.status() {
            same if same == handler_status => self.status,
            _ => self.status.with_fwd_status(handler_status),
        };
        Finish::keyed(&self.cx.route, &self.cx.plan.base, status).wrap(reply)
    }

    /// Answers with a response that has been stored. The client's conditions, which the handler did not see, are
    /// evaluated against it.
    fn stored<RB>(
        mut self,
        filled: &Filled,
        parts: Parts,
        body: CacheBody<RB>,
        received_ms: u64,
    ) -> Response<CacheBody<RB>> {
        self.status.set_stored();
        self.cx.engine.explain(&self.status);
        if let (Some(client), Some(response)) = (&self.before.client, filled.get()) {
            let client = client.request();
            match ReplyKind::of(&client, &response.head, response.body.len(), received_ms) {
                ReplyKind::Full | ReplyKind::CallHandler => {}
                kind => {
                    let status = self.status.with_fwd_status(parts.status);
                    let response = response.clone();
                    let serve = Serve { response, kind, status, left_out: None };
                    let reply = respond::serve(&self.cx, &client, serve);
                    return respond::with_cookies_and_extensions(reply, parts);
                }
            }
        }
        let finish = Finish::keyed(&self.cx.route, &self.cx.plan.base, self.status);
        finish.wrap(Response::from_parts(parts, body))
    }
}

fn declared_length<RB: Body>(response: &Parts, body: &RB) -> Option<u64> {
    let declared = response.headers.get(CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse().ok());
    // like hyper, which sends no more than an exact length
    declared.or(body.size_hint().exact())
}

/// Begins to record a body. Polls it once, with the waker of the task that waits for this response.
fn record<RB>(body: RB, recorder: Recorder, waker: &Waker) -> (CacheBody<RB>, Recorded)
where
    RB: Body<Error: Send> + Send + 'static,
{
    CacheBody::recording(body, recorder, &mut Context::from_waker(waker))
}
