//! Is a stale response served in place of an error?

use http::Request;
use http::request::Parts;

use super::super::Route;
use super::super::find::{FoundEntry, is_known_invalid};
use super::super::request::{Cx, ReplyKind};
use super::reuse::Serve;
use super::translate::stale_reason;
use crate::key::CacheKey;
use crate::rfc9111::freshness::is_fresh;
use crate::rfc9111::remaining_secs;
use crate::rfc9111::stale::{Cause, may_serve_stale};
use crate::status::CacheStatus;
use crate::store::Store;
use crate::stored::StoredResponse;
use crate::tag::Validity;

/// A stale response that may be served in place of an error.
pub(in crate::engine) struct Rescue {
    key: CacheKey,
    response: StoredResponse,
    /// The client's request, with its conditions.
    request: Parts,
    validity: Validity,
    /// Whether the request refreshes the response in the foreground. Then it may also be served without an error.
    refreshes: bool,
}

impl Rescue {
    pub(in crate::engine) fn new(entry: &FoundEntry, client: &Parts) -> Self {
        let mut request = Request::new(()).into_parts().0;
        request.method = client.method.clone();
        request.headers = client.headers.clone();
        let (key, response, validity) = (entry.key.clone(), entry.response.clone(), entry.validity);
        Self { key, response, request, validity, refreshes: false }
    }

    /// The same, for a request that refreshes the response in the foreground (behind a guard).
    pub(in crate::engine) fn refreshing(self) -> Self {
        Self { refreshes: true, ..self }
    }

    /// Whether the response may be served for this cause now.
    pub(in crate::engine) fn may_serve<St: Store>(&self, cx: &Cx<St>, cause: Cause) -> bool {
        self.status(cx, cause).is_some()
    }

    /// The status with which the response may be served, if it may be.
    fn status<St: Store>(&self, cx: &Cx<St>, cause: Cause) -> Option<CacheStatus> {
        let (head, now_ms) = (&self.response.head, cx.engine.store.now_ms());
        // RFC 9111 4.3.2: the handler evaluates some conditions
        if ReplyKind::of(&self.request, head, self.response.body.len(), now_ms)
            == ReplyKind::CallHandler
        {
            return None;
        }
        let asking = cx.route.asking(head, &cx.plan.directives, self.validity);
        let may = |cause| may_serve_stale(head, &asking, cause, now_ms);
        let stale_status =
            |cause: Cause| CacheStatus::stale(remaining_secs(head, now_ms), stale_reason(cause));
        if may(cause) {
            return Some(stale_status(cause));
        }
        if !self.refreshes || self.validity == Validity::Invalid {
            return None;
        }
        if may(Cause::Revalidating) {
            return Some(stale_status(Cause::Revalidating));
        }
        let is_early = self.validity == Validity::Valid && is_fresh(head, now_ms);
        is_early.then(|| CacheStatus::hit(remaining_secs(head, now_ms)))
    }

    /// The stale response, if it may be served.
    pub(in crate::engine) fn decide<St: Store>(&self, cx: &Cx<St>, cause: Cause) -> Option<Serve> {
        let store = &cx.engine.store;
        let StoredResponse { head, body, .. } = &self.response;
        // RFC 9211 2.1: if the handler is not available, it is a hit
        let status = self.status(cx, cause)?;
        // it may have been invalidated while the handler ran
        if is_known_invalid(store, &self.key, head) {
            return None;
        }
        let kind = ReplyKind::of(&self.request, head, body.len(), store.now_ms());
        Some(Serve { response: self.response.clone(), kind, status, left_out: None })
    }

    pub(in crate::engine) fn request(&self) -> &Parts {
        &self.request
    }

    /// Whether the response must be validated before use. Then an inner service that cannot be reached causes a 504
    /// (RFC 9111 5.2.2.2).
    pub(in crate::engine) fn must_be_validated(&self, route: &Route) -> bool {
        let directives = route.directives(&self.response.head.headers);
        crate::rfc9111::stale::must_be_validated(&directives)
    }
}
