//! Does a stored response answer a request without validation (RFC 9111 4)?

use http::header::{HeaderMap, VARY};

use super::directives::{MaxStale, RequestDirectives};
use super::freshness::{current_age_ms, is_fresh, staleness_ms};
use super::options::Credentials;
use super::vary;
use super::view::StoredView;

/// The reuse decision for a stored response and a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// The response answers the request.
    Fresh,
    /// The response would answer the request if it were fresh.
    Stale,
    /// The request's selecting fields are different.
    VaryMiss,
    /// The request carries credentials, and the response is not for every client.
    NotShared,
    /// The request asks for a newer response.
    RequestWants,
}

/// Whether `stored` answers `request` now. `directives` are those of the request, or `None` if the cache ignores them
/// (RFC 9111 5.2.1 leaves this choice).
pub(crate) fn reuse<'a>(
    stored: impl Into<StoredView<'a>>,
    request: &HeaderMap,
    credentials: impl Into<Credentials>,
    directives: Option<&RequestDirectives>,
    now_ms: u64,
) -> Reuse {
    let stored = stored.into();
    // RFC 9111 3.5
    if credentials.into() != Credentials::None && !stored.shared {
        return Reuse::NotShared;
    }
    // RFC 9111 4.1; only an update can bring "*" into a stored response
    let star = stored.headers.get_all(VARY).into_iter().any(|line| line.as_bytes().contains(&b'*'));
    if star || !vary::matches(stored.vary, request) {
        return Reuse::VaryMiss;
    }
    if !is_fresh(stored, now_ms) {
        return Reuse::Stale;
    }
    match directives {
        Some(directives) if !satisfies(stored, directives, now_ms) => Reuse::RequestWants,
        _ => Reuse::Fresh,
    }
}

/// Whether a response is new enough for the request.
fn satisfies(stored: StoredView<'_>, directives: &RequestDirectives, now_ms: u64) -> bool {
    // RFC 9111 5.2.1.4
    if directives.no_cache {
        return false;
    }
    // RFC 9111 5.2.1.1; with 0, a client asks for validation, however young the response is
    let young = directives.max_age.is_none_or(|seconds| {
        seconds > 0 && current_age_ms(stored, now_ms) <= seconds.saturating_mul(1000)
    });
    // RFC 9111 5.2.1.3
    let lasting = directives.min_fresh.is_none_or(|seconds| {
        let remaining_ms = stored.fresh_until_ms.saturating_sub(now_ms.max(stored.received_ms));
        remaining_ms >= seconds.saturating_mul(1000)
    });
    young && lasting
}

/// Whether a response, fresh or stale, is as young as the request wants it.
pub(super) fn is_new_enough(
    stored: StoredView<'_>,
    directives: &RequestDirectives,
    now_ms: u64,
) -> bool {
    let any = RequestDirectives { min_fresh: None, ..directives.clone() };
    satisfies(stored, &any, now_ms)
}

/// Whether the request's `max-stale` accepts the response (RFC 9111 5.2.1.2). A request cannot permit what the
/// response forbids: see [`forbids_stale`](super::directives::ResponseDirectives::forbids_stale).
pub(crate) fn request_takes_stale<'a>(
    stored: impl Into<StoredView<'a>>,
    directives: &RequestDirectives,
    now_ms: u64,
) -> bool {
    let stored = stored.into();
    let Some(staleness_ms) = staleness_ms(stored, now_ms) else { return false };
    let taken = match directives.max_stale {
        None => false,
        Some(MaxStale::Any) => true,
        Some(MaxStale::Secs(seconds)) => staleness_ms <= seconds.saturating_mul(1000),
    };
    let as_fresh = directives.min_fresh.is_none_or(|seconds| seconds == 0);
    let young = RequestDirectives { min_fresh: None, ..*directives };
    taken && as_fresh && satisfies(stored, &young, now_ms)
}

#[cfg(test)]
mod tests;
