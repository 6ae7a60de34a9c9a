//! What becomes of what a lookup found.

use http::Response;
use http::header::CONTENT_LENGTH;
use http::request::Parts;

use super::super::background::Background;
use super::super::find::{At, Found};
use super::super::request::Plan;
use super::super::respond;
use super::super::respond::Want;
use super::super::{Engine, Route};
use super::stale::chance;
use crate::body::CacheBody;
use crate::cookies::Credentials;
use crate::policy::Mode;
use crate::rfc9111::reuse::request_takes_stale;
use crate::rfc9111::stale::{Cause, may_serve_stale, refreshes_early};
use crate::rfc9111::{RequestDirectives, Reuse, remaining_secs, reuse};
use crate::status::{CacheStatus, Forward};
use crate::store::Store;
use crate::tag::Validity;
use crate::telemetry::count;

pub(in crate::engine) enum Verdict<RB> {
    Serve(Response<CacheBody<RB>>),
    /// To be served, and validated in the background: stale, or early (`true`).
    ServeAndRefresh(Response<CacheBody<RB>>, At, bool),
    /// With a stored response that may be validated.
    Inside(CacheStatus, Option<At>),
}

/// How a stored response is of use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Fresh,
    Early,
    /// The client takes it (RFC 9111 5.2.1.2).
    MaxStale,
    Revalidating,
}

pub(in crate::engine) fn judge_found<St: Store, RB>(
    engine: &Engine<St>,
    route: &Route,
    plan: &Plan,
    request: &Parts,
    directives: &RequestDirectives,
    found: Found,
) -> Verdict<RB> {
    let inside = |forward, detail, stale| {
        // whoever carries credentials would have been served only what is for everyone
        let status = match plan.credentials {
            Credentials::None => CacheStatus::forwarded(forward, detail),
            credentials => CacheStatus::forwarded(Forward::Bypass, Some(credentials.as_str())),
        };
        Verdict::Inside(status, stale)
    };
    let at = match found {
        Found::Nothing(forward, detail) => return inside(forward, detail, None),
        Found::Head(at, want, bytes) => {
            let now_ms = engine.store.now_ms();
            count(&engine.counters.hits);
            let status = respond::hit(&at.response.head, now_ms);
            engine.explain(&status);
            let (key, response) = (&plan.base, at.response);
            let mut reply = respond::serve(route, key, response, &want, request, status, now_ms);
            // RFC 9110 9.3.2: of the body that a GET would have
            if want == Want::Whole {
                reply.headers_mut().insert(CONTENT_LENGTH, bytes.into());
            }
            return Verdict::Serve(reply);
        }
        Found::Response(at) => at,
    };
    let now_ms = engine.store.now_ms();
    let head = &at.response.head;
    // RFC 9111 5.2.1 leaves it to the cache: in safe mode clients cannot drive load
    let obeyed = (route.policy.mode == Mode::Strict).then_some(directives);
    let reused = reuse(head, &request.headers, plan.credentials, obeyed, now_ms);
    // RFC 9111 4.4: what has been invalidated is not used without validation; softly, it counts as stale
    let (reused, why) = match (reused, at.validity) {
        (Reuse::VaryMiss | Reuse::NotShared, _) | (_, Validity::Valid) => (reused, None),
        (_, Validity::Outdated) => (Reuse::Stale, Some("outdated")),
        (_, Validity::Invalid) => (Reuse::Stale, Some("invalidated")),
    };
    let of_use = match reused {
        Reuse::Fresh => {
            let early = route.policy.early_refresh.is_some_and(|beta| {
                Background::is_possible() && refreshes_early(head, beta.get(), chance(), now_ms)
            });
            if early { Use::Early } else { Use::Fresh }
        }
        Reuse::Stale => {
            let asking = route.asking(head, directives, at.validity);
            let taken = !asking.windows.forbidden
                && asking.validity != Validity::Invalid
                && obeyed.is_some_and(|wanted| request_takes_stale(head, wanted, now_ms));
            // RFC 5861 3: only where something validates it meanwhile
            let revalidated = || {
                Background::is_possible()
                    && may_serve_stale(head, &asking, Cause::Revalidating, now_ms)
            };
            if revalidated() {
                Use::Revalidating
            } else if taken {
                Use::MaxStale
            } else {
                return inside(Forward::Stale, why, Some(at));
            }
        }
        Reuse::RequestWants => return inside(Forward::Request, None, Some(at)),
        Reuse::VaryMiss => return inside(Forward::VaryMiss, None, None),
        Reuse::NotShared => return inside(Forward::Bypass, None, None),
    };
    let want = Want::of(request, head, at.response.body.len(), now_ms);
    if want == Want::Inside {
        return inside(Forward::Request, Some("precondition"), None);
    }
    let status = match of_use {
        Use::Fresh | Use::Early => respond::hit(head, now_ms),
        Use::MaxStale => CacheStatus::stale(remaining_secs(head, now_ms), "max-stale"),
        Use::Revalidating => {
            CacheStatus::stale(remaining_secs(head, now_ms), Cause::Revalidating.as_str())
        }
    };
    let response = at.response.clone();
    let reply = respond::serve(route, &plan.base, response, &want, request, status, now_ms);
    match of_use {
        Use::Fresh | Use::MaxStale => {
            engine.serves(&reply);
            Verdict::Serve(reply)
        }
        Use::Early => Verdict::ServeAndRefresh(reply, at, true),
        Use::Revalidating => Verdict::ServeAndRefresh(reply, at, false),
    }
}

impl<St: Store> Engine<St> {
    /// Counts a response that is served out of the store.
    pub(in crate::engine) fn serves<RB>(&self, reply: &Response<CacheBody<RB>>) {
        count(&self.counters.hits);
        let Some(status) = reply.extensions().get::<CacheStatus>() else { return };
        if status.detail() == Some(Cause::Revalidating.as_str()) {
            count(&self.counters.stale_while_revalidate);
        }
        self.explain(status);
    }
}
