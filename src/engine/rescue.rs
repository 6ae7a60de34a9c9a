//! A stale response in place of an error.

use std::pin::Pin;

use http::request::Parts;
use http::{Request, Response};

use super::background::Background;
use super::find::At;
use super::request::Plan;
use super::respond::{self, Want};
use super::{Engine, Route};
use crate::body::CacheBody;
use crate::key::CacheKey;
use crate::rfc9111::freshness::is_fresh;
use crate::rfc9111::stale::{Cause, may_serve_stale};
use crate::rfc9111::{RequestDirectives, remaining_secs};
use crate::status::CacheStatus;
use crate::store::Store;
use crate::stored::StoredResponse;
use crate::tag::Validity;
use crate::telemetry::count;

/// A stale response that might be served in place of an error.
pub(super) struct Rescue {
    key: CacheKey,
    response: StoredResponse,
    /// The client's request, its conditions included.
    request: Parts,
    directives: RequestDirectives,
    validity: Validity,
    /// The request is one that might be served it in any case, and refreshes it.
    refreshes: bool,
}

impl Rescue {
    pub(super) fn new(at: &At, asked: &Parts, directives: &RequestDirectives) -> Self {
        let mut request = Request::new(()).into_parts().0;
        request.method = asked.method.clone();
        request.headers = asked.headers.clone();
        let (key, response, validity) = (at.key.clone(), at.response.clone(), at.validity);
        let directives = directives.clone();
        Self { key, response, request, directives, validity, refreshes: false }
    }

    /// The same for a request that refreshes what it might be served: behind a guard.
    pub(super) fn refreshing(self) -> Self {
        Self { refreshes: true, ..self }
    }

    /// Whether it may be served for this cause now.
    pub(super) fn may_serve(&self, route: &Route, cause: Cause, now_ms: u64) -> bool {
        self.status(route, cause, now_ms).is_some()
    }

    /// As what it may be served, if it may.
    fn status(&self, route: &Route, cause: Cause, now_ms: u64) -> Option<CacheStatus> {
        let head = &self.response.head;
        // RFC 9111 4.3.2: some conditions are the inner service's to judge
        if Want::of(&self.request, head, self.response.body.len(), now_ms) == Want::Inside {
            return None;
        }
        let asking = route.asking(head, &self.directives, self.validity);
        let may = |cause| may_serve_stale(head, &asking, cause, now_ms);
        let because =
            |cause: Cause| CacheStatus::stale(remaining_secs(head, now_ms), cause.as_str());
        if may(cause) {
            return Some(because(cause));
        }
        if !self.refreshes || self.validity == Validity::Invalid {
            return None;
        }
        if may(Cause::Revalidating) {
            return Some(because(Cause::Revalidating));
        }
        let is_early = self.validity == Validity::Valid && is_fresh(head, now_ms);
        is_early.then(|| respond::hit(head, now_ms))
    }

    /// The stale response, if it may be served.
    pub(super) fn serve<St: Store, RB>(
        &self,
        engine: &Engine<St>,
        route: &Route,
        plan: &Plan,
        cause: Cause,
    ) -> Option<Response<CacheBody<RB>>> {
        let now_ms = engine.store.now_ms();
        let StoredResponse { head, body } = &self.response;
        // the inner service may have taken its time, and something may have been invalidated meanwhile
        // RFC 9211 2.1: an inner service that is not available makes it a hit
        let status = self.status(route, cause, now_ms)?;
        if engine.is_invalid_by_now(&self.key, head) {
            return None;
        }
        count(&engine.counters.stale_if_error);
        let want = Want::of(&self.request, head, body.len(), now_ms);
        engine.explain(&status);
        let response = self.response.clone();
        let request = &self.request;
        Some(respond::serve(route, &plan.base, response, &want, request, status, now_ms))
    }

    /// Whether the stored response has to be validated, so that an inner service that cannot be reached makes
    /// a 504 (RFC 9111 5.2.2.2).
    pub(super) fn must_be_validated(&self, route: &Route) -> bool {
        let directives = route.directives(&self.response.head.headers);
        crate::rfc9111::stale::must_be_validated(&directives)
    }
}

/// The handler's answer, or the call itself where it takes longer than it may while there is something
/// stale to serve.
pub(super) async fn in_time<St: Store, F: Future>(
    engine: &Engine<St>,
    route: &Route,
    rescue: &Rescue,
    call: F,
) -> Result<F::Output, Pin<Box<F>>> {
    let limit = route.policy.handler_timeout.filter(|_| {
        let now_ms = engine.store.now_ms();
        Background::is_possible() && rescue.may_serve(route, Cause::Timeout, now_ms)
    });
    let Some(limit) = limit else { return Ok(call.await) };
    let mut call = Box::pin(call);
    tokio::time::timeout(limit, &mut call).await.map_err(|_| call)
}
