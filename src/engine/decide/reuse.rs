//! Whether a stored response answers the request.

use http::request::Parts;

use super::super::find::{At, Found};
use super::super::request::{Cx, Want};
use super::translate::of_credentials;
use super::windows::chance;
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

/// What becomes of a request after its lookup.
pub(in crate::engine) enum Decision {
    /// It is a hit.
    Serve(Serve),
    /// It is a hit, and the response is refreshed: because it is stale, or early (`true`).
    ServeAndRefresh(Serve, At, bool),
    /// The handler is called, if there is a stored response to validate it.
    Call(CacheStatus, Option<At>),
}

/// A stored response that answers the request.
pub(in crate::engine) struct Serve {
    pub(in crate::engine) response: StoredResponse,
    pub(in crate::engine) want: Want,
    pub(in crate::engine) status: CacheStatus,
    /// The length of the body that was not read, of a response to `HEAD`.
    pub(in crate::engine) left_out: Option<u64>,
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

/// Why a stored response is of no use.
enum Useless {
    /// It can be validated.
    Validate(Forward, Option<Reason>),
    Forward(Forward, Option<Reason>),
}

/// Decides by what the lookup found.
pub(in crate::engine) fn decide<St: Store>(cx: &Cx<St>, request: &Parts, found: Found) -> Decision {
    let now_ms = cx.engine.store.now_ms();
    let at = match found {
        Found::Nothing(forward, detail) => return call(cx, forward, detail, None),
        Found::Head(at, want, bytes) => {
            let status = CacheStatus::hit(remaining_secs(&at.response.head, now_ms));
            let left_out = (want == Want::Whole).then_some(bytes);
            return Decision::Serve(Serve { response: at.response, want, status, left_out });
        }
        Found::Response(at) => at,
    };
    let of_use = match use_of(cx, request, &at, now_ms) {
        Ok(of_use) => of_use,
        Err(Useless::Validate(forward, why)) => return call(cx, forward, why, Some(at)),
        Err(Useless::Forward(forward, why)) => return call(cx, forward, why, None),
    };
    let head = &at.response.head;
    let want = Want::of(request, head, at.response.body.len(), now_ms);
    if want == Want::Handler {
        return call(cx, Forward::Request, Some(Reason::Precondition), None);
    }
    let ttl_secs = remaining_secs(head, now_ms);
    let status = match of_use {
        Use::Fresh | Use::Early => CacheStatus::hit(ttl_secs),
        Use::MaxStale => CacheStatus::stale(ttl_secs, Reason::MaxStale),
        Use::Revalidating => CacheStatus::stale(ttl_secs, Reason::StaleWhileRevalidate),
    };
    let serve = |response| Serve { response, want, status, left_out: None };
    match of_use {
        Use::Fresh | Use::MaxStale => Decision::Serve(serve(at.response)),
        Use::Early | Use::Revalidating => {
            let early = of_use == Use::Early;
            Decision::ServeAndRefresh(serve(at.response.clone()), at, early)
        }
    }
}

fn call<St>(cx: &Cx<St>, forward: Forward, detail: Option<Reason>, stale: Option<At>) -> Decision {
    // a request with credentials would have been served only what is for everyone
    let status = match of_credentials(cx.plan.credentials) {
        None => CacheStatus::forwarded(forward, detail),
        bypass => CacheStatus::forwarded(Forward::Bypass, bypass),
    };
    Decision::Call(status, stale)
}

fn use_of<St: Store>(cx: &Cx<St>, request: &Parts, at: &At, now_ms: u64) -> Result<Use, Useless> {
    let Cx { route, plan, .. } = cx;
    let head = &at.response.head;
    // RFC 9111 5.2.1 leaves it to the cache: in safe mode clients cannot drive load
    let obeyed = (route.policy.mode == Mode::Strict).then_some(&plan.directives);
    let reused = reuse(head, &request.headers, plan.credentials, obeyed, now_ms);
    // RFC 9111 4.4: what has been invalidated is not used without validation; softly, it counts as stale
    let (reused, why) = match (reused, at.validity) {
        (Reuse::VaryMiss | Reuse::NotShared, _) | (_, Validity::Valid) => (reused, None),
        (_, Validity::Outdated) => (Reuse::Stale, Some(Reason::Outdated)),
        (_, Validity::Invalid) => (Reuse::Stale, Some(Reason::Invalidated)),
    };
    match reused {
        Reuse::Fresh => {
            let early = route.policy.early_refresh.is_some_and(|beta| {
                runtime().is_some() && refreshes_early(head, beta.get(), chance(), now_ms)
            });
            Ok(if early { Use::Early } else { Use::Fresh })
        }
        Reuse::Stale => {
            let asking = route.asking(head, &plan.directives, at.validity);
            // RFC 5861 3: only where something validates it meanwhile
            if runtime().is_some() && may_serve_stale(head, &asking, Cause::Revalidating, now_ms) {
                return Ok(Use::Revalidating);
            }
            let taken = !asking.windows.forbidden
                && !asking.invalidated
                && obeyed.is_some_and(|wanted| request_takes_stale(head, wanted, now_ms));
            if taken { Ok(Use::MaxStale) } else { Err(Useless::Validate(Forward::Stale, why)) }
        }
        Reuse::RequestWants => Err(Useless::Validate(Forward::Request, None)),
        Reuse::VaryMiss => Err(Useless::Forward(Forward::VaryMiss, None)),
        Reuse::NotShared => Err(Useless::Forward(Forward::Bypass, None)),
    }
}
