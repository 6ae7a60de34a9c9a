//! Does a stored response answer the request?

use http::request::Parts;

use super::super::find::{Found, FoundEntry};
use super::super::request::{Cx, ReplyKind};
use super::translate::credentials_reason;
use super::windows::random_fraction;
use crate::policy::Mode;
use crate::reason::Reason;
use crate::rfc9111::reuse::request_takes_stale;
use crate::rfc9111::stale::{Cause, may_serve_stale, refreshes_early};
use crate::rfc9111::{Reuse, remaining_secs, reuse};
use crate::status::{CacheStatus, Forward};
use crate::store::Store;
use crate::stored::StoredResponse;
use crate::sync::runtime;
use crate::tag::Validity;

/// What happens to a request after its lookup.
pub(in crate::engine) enum Decision {
    /// A hit.
    Serve(Serve),
    /// A hit, and the response is refreshed. `true`: it is still fresh (early refresh).
    ServeAndRefresh(Serve, FoundEntry, bool),
    /// The handler is called. If there is a stored response, the handler validates it.
    Call(CacheStatus, Option<FoundEntry>),
}

/// A stored response that answers the request.
pub(in crate::engine) struct Serve {
    pub(in crate::engine) response: StoredResponse,
    pub(in crate::engine) kind: ReplyKind,
    pub(in crate::engine) status: CacheStatus,
    /// The length of the body, if it was not read because the request is a HEAD.
    pub(in crate::engine) left_out: Option<u64>,
}

/// Why a stored response is reusable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reusable {
    Fresh,
    Early,
    /// The client accepts it stale (RFC 9111 5.2.1.2).
    MaxStale,
    Revalidating,
}

/// Why the handler is called.
enum NotReusable {
    /// The stored response can be validated.
    Validate(Forward, Option<Reason>),
    Forward(Forward, Option<Reason>),
}

/// The decision after a lookup.
pub(in crate::engine) fn decide<St: Store>(cx: &Cx<St>, request: &Parts, found: Found) -> Decision {
    let now_ms = cx.engine.store.now_ms();
    let entry = match found {
        Found::Nothing(forward, detail) => return call(cx, forward, detail, None),
        Found::Head(entry, kind, bytes) => {
            let status = CacheStatus::hit(remaining_secs(&entry.response.head, now_ms));
            let left_out = (kind == ReplyKind::Full).then_some(bytes);
            return Decision::Serve(Serve { response: entry.response, kind, status, left_out });
        }
        Found::Response(entry) => entry,
    };
    let reusable = match reuse_decision(cx, request, &entry, now_ms) {
        Ok(reusable) => reusable,
        Err(NotReusable::Validate(forward, why)) => return call(cx, forward, why, Some(entry)),
        Err(NotReusable::Forward(forward, why)) => return call(cx, forward, why, None),
    };
    let head = &entry.response.head;
    let kind = ReplyKind::of(request, head, entry.response.body.len(), now_ms);
    if kind == ReplyKind::CallHandler {
        return call(cx, Forward::Request, Some(Reason::Precondition), None);
    }
    let ttl_secs = remaining_secs(head, now_ms);
    let status = match reusable {
        Reusable::Fresh | Reusable::Early => CacheStatus::hit(ttl_secs),
        Reusable::MaxStale => CacheStatus::stale(ttl_secs, Reason::MaxStale),
        Reusable::Revalidating => CacheStatus::stale(ttl_secs, Reason::StaleWhileRevalidate),
    };
    let serve = |response| Serve { response, kind, status, left_out: None };
    match reusable {
        Reusable::Fresh | Reusable::MaxStale => Decision::Serve(serve(entry.response)),
        Reusable::Early | Reusable::Revalidating => {
            let early = reusable == Reusable::Early;
            Decision::ServeAndRefresh(serve(entry.response.clone()), entry, early)
        }
    }
}

fn call<St>(
    cx: &Cx<St>,
    forward: Forward,
    detail: Option<Reason>,
    stale: Option<FoundEntry>,
) -> Decision {
    // a request with credentials is only served responses for everyone, so for it this is a bypass
    let status = match credentials_reason(cx.plan.credentials) {
        None => CacheStatus::forwarded(forward, detail),
        bypass => CacheStatus::forwarded(Forward::Bypass, bypass),
    };
    Decision::Call(status, stale)
}

fn reuse_decision<St: Store>(
    cx: &Cx<St>,
    request: &Parts,
    entry: &FoundEntry,
    now_ms: u64,
) -> Result<Reusable, NotReusable> {
    let Cx { route, plan, .. } = cx;
    let head = &entry.response.head;
    // RFC 9111 5.2.1 leaves this to the cache: in safe mode clients cannot cause load
    let request_directives = (route.policy.mode == Mode::Strict).then_some(&plan.directives);
    let reused = reuse(head, &request.headers, plan.credentials, request_directives, now_ms);
    // RFC 9111 4.4: an invalidated response must be validated; after a soft invalidation it counts as stale
    let (reused, why) = match (reused, entry.validity) {
        (Reuse::VaryMiss | Reuse::NotShared, _) | (_, Validity::Valid) => (reused, None),
        (_, Validity::Outdated) => (Reuse::Stale, Some(Reason::Outdated)),
        (_, Validity::Invalid) => (Reuse::Stale, Some(Reason::Invalidated)),
    };
    match reused {
        Reuse::Fresh => {
            let early = route.policy.early_refresh.is_some_and(|beta| {
                runtime().is_some() && refreshes_early(head, beta.get(), random_fraction(), now_ms)
            });
            Ok(if early { Reusable::Early } else { Reusable::Fresh })
        }
        Reuse::Stale => {
            let asking = route.asking(head, &plan.directives, entry.validity);
            // RFC 5861 3: only if a task can refresh it
            if runtime().is_some() && may_serve_stale(head, &asking, Cause::Revalidating, now_ms) {
                return Ok(Reusable::Revalidating);
            }
            let accepts_stale = !asking.windows.forbidden
                && !asking.invalidated
                && request_directives
                    .is_some_and(|wanted| request_takes_stale(head, wanted, now_ms));
            if accepts_stale {
                Ok(Reusable::MaxStale)
            } else {
                Err(NotReusable::Validate(Forward::Stale, why))
            }
        }
        Reuse::RequestWants => Err(NotReusable::Validate(Forward::Request, None)),
        Reuse::VaryMiss => Err(NotReusable::Forward(Forward::VaryMiss, None)),
        Reuse::NotShared => Err(NotReusable::Forward(Forward::Bypass, None)),
    }
}
