//! May a stale response be served (RFC 9111 4.2.4, RFC 5861), and should a fresh one be validated early?

use std::time::Duration;

use http::StatusCode;

use super::directives::{RequestDirectives, ResponseDirectives};
use super::freshness::staleness_ms;
use super::reuse::is_new_enough;
use super::view::StoredView;

/// For how long a stale response may be served, in milliseconds after it became stale. Zero: not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Windows {
    /// While the response is being validated (RFC 5861 3).
    pub(crate) while_revalidate_ms: u64,
    /// In place of an error (RFC 5861 4).
    pub(crate) if_error_ms: u64,
    /// The response forbids serving it stale, even if a client or the policy permits it (RFC 9111 4.2.4).
    pub(crate) forbidden: bool,
}

/// The windows that one source gives: the application for this response, or a default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) while_revalidate: Option<Duration>,
    pub(crate) if_error: Option<Duration>,
}

impl Windows {
    /// The windows of a response: those of the application, else its own, else the default. `must-revalidate`,
    /// `proxy-revalidate`, `no-cache` and `s-maxage` forbid all windows (`s-maxage` implies `proxy-revalidate`, RFC
    /// 9111 5.2.2.10).
    pub(crate) fn of(given: Given, directives: &ResponseDirectives, default: Given) -> Self {
        if directives.forbids_stale() {
            return Self { forbidden: true, ..Self::default() };
        }
        let window = |first: Option<Duration>, own: Option<u64>, last: Option<Duration>| {
            let own = own.map(Duration::from_secs);
            let ms = first.or(own).or(last).unwrap_or_default().as_millis();
            u64::try_from(ms).unwrap_or(u64::MAX)
        };
        Self {
            while_revalidate_ms: window(
                given.while_revalidate,
                directives.stale_while_revalidate,
                default.while_revalidate,
            ),
            if_error_ms: window(given.if_error, directives.stale_if_error, default.if_error),
            forbidden: false,
        }
    }

    /// The longer of the two.
    pub(crate) fn longest_ms(&self) -> u64 {
        self.while_revalidate_ms.max(self.if_error_ms)
    }
}

/// Why a stale response may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The response is being validated (RFC 5861 3).
    Revalidating,
    /// The handler answered 500, 502, 503 or 504 (RFC 5861 4).
    ErrorStatus,
    /// The inner service failed (RFC 5861 4).
    Error,
    /// The handler takes too long.
    Timeout,
}

/// The facts that decide whether a stale response may be served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    pub(crate) windows: Windows,
    /// The request's directives; `None` if the cache ignores them.
    pub(crate) request: Option<&'a RequestDirectives>,
    /// If the inner service fails, the cache counts as disconnected. RFC 9111 4.2.4 then permits stale responses
    /// without a window.
    pub(crate) disconnected: bool,
    /// The response has been invalidated (RFC 9111 4.4).
    pub(crate) invalidated: bool,
}

/// Whether a response may be served that is stale by its age or by a soft invalidation. Apart from a client's
/// `max-stale`, only this function permits it.
pub(crate) fn may_serve_stale<'a>(
    stored: impl Into<StoredView<'a>>,
    asking: &Asking<'_>,
    cause: Cause,
    now_ms: u64,
) -> bool {
    let stored = stored.into();
    let Windows { while_revalidate_ms, if_error_ms, forbidden } = asking.windows;
    // RFC 9111 4.2.4; 4.4: a window does not apply to an invalidated response
    if forbidden || asking.invalidated {
        return false;
    }
    // RFC 9111 5.2.1: the response is older than the client accepts, even in place of an error
    let taken = asking.request.is_none_or(|wanted| {
        let fresh = wanted.min_fresh.is_some_and(|seconds| seconds > 0);
        !fresh && is_new_enough(stored, wanted, now_ms)
    });
    if !taken {
        return false;
    }
    let staleness_ms = staleness_ms(stored, now_ms).unwrap_or(0);
    let within = |window_ms: u64| window_ms > 0 && staleness_ms <= window_ms;
    match cause {
        Cause::Revalidating => within(while_revalidate_ms),
        Cause::ErrorStatus | Cause::Timeout | Cause::Error => {
            // RFC 5861 4: the request may permit it too
            let requested = asking.request.and_then(|wanted| wanted.stale_if_error).unwrap_or(0);
            within(if_error_ms)
                || within(requested.saturating_mul(1000))
                || (cause == Cause::Error && asking.disconnected)
        }
    }
}

/// The statuses that `stale-if-error` is for (RFC 5861 4).
pub(crate) fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// Whether a failed validation must be answered with a 504 or the error itself, and never with the stored response
/// (RFC 9111 5.2.2.2, 5.2.2.8, 5.2.2.10).
pub(crate) fn must_be_validated(directives: &ResponseDirectives) -> bool {
    directives.must_revalidate || directives.proxy_revalidate || directives.s_maxage.is_some()
}

/// Whether to validate a response that is still fresh. This is more likely the sooner it becomes stale and the longer
/// its handler took, so that one of many requests does it in time. The method is XFetch: Vattani, Chierichetti and
/// Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015. `chance` is uniform between zero and one.
pub(crate) fn refreshes_early<'a>(
    stored: impl Into<StoredView<'a>>,
    beta: f32,
    chance: f64,
    now_ms: u64,
) -> bool {
    let stored = stored.into();
    let ahead_ms = f64::from(stored.gen_ms) * f64::from(beta) * -chance.max(f64::MIN_POSITIVE).ln();
    // a float that is too large saturates, and NaN becomes zero
    let ahead_ms = ahead_ms.max(0.0) as u64;
    now_ms.saturating_add(ahead_ms) >= stored.fresh_until_ms
}

#[cfg(test)]
mod tests;
