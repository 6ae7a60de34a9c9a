//! What does a client get while its handler runs, fails, or is slow?

use std::future::Future;
use std::pin::Pin;

use http::{Request, Response};
use http_body::Body;
use tower::{Service, ServiceExt};
use tracing::Instrument;

use super::super::decide::Rescue;
use super::super::request::{Cx, nesting};
use super::super::respond;
use super::conditions::ClientConditions;
use super::miss::Miss;
use super::refresh::continue_in_background;
use crate::body::CacheBody;
use crate::policy::Mode;
use crate::reason::Reason;
use crate::rfc9111::stale::{Cause, is_failure};
use crate::status::{CacheStatus, Forward};
use crate::store::Store;
use crate::sync::{runtime, waker};
use crate::telemetry::{count, handler_span};

impl<St: Store> Miss<St> {
    /// Calls the handler and answers the client.
    ///
    /// Not an `async fn`: its future would hold the arguments twice.
    pub(in crate::engine) fn call<S, B, RB>(
        mut self,
        request: Request<B>,
        rescue: Option<Rescue>,
        inner: S,
    ) -> impl Future<Output = Result<Response<CacheBody<RB>>, S::Error>> + Send
    where
        S: Service<Request<B>, Response = Response<RB>> + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        B: Send + 'static,
        RB: Body<Error: Send> + Send + 'static,
    {
        let Cx { engine, plan, .. } = &self.cx;
        let counters = &engine.counters;
        let bypassed = self.status.forward() == Some(Forward::Bypass);
        count(if bypassed { &counters.bypassed } else { &counters.misses });
        let (mut parts, body) = request.into_parts();
        // if the response could not be stored, the handler evaluates the request's conditions
        let unstorable = plan.has_credentials()
            || plan.directives.no_store
            || engine.fills.is_unstorable(&plan.storability_key());
        let stale = self.before.stale.as_ref();
        self.before.client = ClientConditions::take(&mut parts, stale, unstorable);
        nesting::mark_request(engine, &mut parts);
        let call = inner.oneshot(Request::from_parts(parts, body)).instrument(handler_span());
        async move {
            match rescue {
                None => {
                    let response = call.await?;
                    Ok(self.answer(response, &waker().await))
                }
                Some(rescue) => Box::pin(self.call_with_rescue(rescue, call)).await,
            }
        }
    }

    /// Waits for the handler. If a stale response can be served, it waits for `handler_timeout` at most.
    async fn call_with_rescue<F, RB, E>(
        self,
        rescue: Rescue,
        call: F,
    ) -> Result<Response<CacheBody<RB>>, E>
    where
        F: Future<Output = Result<Response<RB>, E>> + Send + 'static,
        E: Send + 'static,
        RB: Body<Error: Send> + Send + 'static,
    {
        let outcome = match in_time(&self.cx, &rescue, call).await {
            Ok(outcome) => outcome,
            Err(call) => match respond::rescue(&self.cx, &rescue, Cause::Timeout) {
                Some(stale) => {
                    match self.cx.plan.consent.is_guarded() {
                        // the guard would not see the head
                        true => self.fail(Cause::Timeout),
                        false => continue_in_background(self, call),
                    }
                    return Ok(stale);
                }
                None => call.await,
            },
        };
        match outcome {
            Ok(response) if is_failure(response.status()) => {
                match respond::rescue(&self.cx, &rescue, Cause::ErrorStatus) {
                    Some(stale) => {
                        self.fail(Cause::ErrorStatus);
                        Ok(stale)
                    }
                    None => Ok(self.answer(response, &waker().await)),
                }
            }
            Ok(response) => Ok(self.answer(response, &waker().await)),
            Err(error) => self.failed(&rescue, error),
        }
    }

    /// The inner service failed. Its client gets a stale response, or the error.
    fn failed<RB, E>(mut self, rescue: &Rescue, error: E) -> Result<Response<CacheBody<RB>>, E> {
        // first: each follower may have its own stale response
        if let Some(leader) = self.leader.take() {
            leader.fail(Cause::Error);
        }
        let route = &self.cx.route;
        match respond::rescue(&self.cx, rescue, Cause::Error) {
            Some(stale) => Ok(stale),
            // RFC 9111 5.2.2.2; in safe mode the error is returned, because it tells the application more
            None if route.policy.mode == Mode::Strict && rescue.must_be_validated(route) => {
                let status = CacheStatus::forwarded(Forward::Stale, Some(Reason::MustRevalidate));
                self.cx.engine.explain(&status);
                Ok(respond::gateway_timeout(status))
            }
            None => Err(error),
        }
    }
}

/// The handler's answer. If the handler takes too long and a stale response can be served, the call itself.
async fn in_time<St: Store, F: Future>(
    cx: &Cx<St>,
    rescue: &Rescue,
    call: F,
) -> Result<F::Output, Pin<Box<F>>> {
    let limit = cx
        .route
        .policy
        .handler_timeout
        .filter(|_| runtime().is_some() && rescue.may_serve(cx, Cause::Timeout));
    let Some(limit) = limit else { return Ok(call.await) };
    let mut call = Box::pin(call);
    tokio::time::timeout(limit, &mut call).await.map_err(|_| call)
}
