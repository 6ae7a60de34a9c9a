//! How long is a response fresh, and how old is it (RFC 9111 4.2)?

use std::time::Duration;

use http::StatusCode;
use http::header::{AGE, DATE, EXPIRES, HeaderMap, LAST_MODIFIED};

use super::date::{self, DateField};
use super::directives::ResponseDirectives;
use super::syntax::{DELTA_MAX_MS, DELTA_MAX_SECS, delta_seconds};
use super::view::StoredView;

/// The freshness lifetime that the response itself gives (RFC 9111 4.2.1): `s-maxage`, else `max-age`, else `Expires`
/// minus `Date`. At most 2^31 seconds.
pub(crate) fn explicit_lifetime(
    directives: &ResponseDirectives,
    headers: &HeaderMap,
    received_ms: u64,
) -> Option<Duration> {
    if let Some(seconds) = directives.s_maxage.or(directives.max_age) {
        return Some(Duration::from_secs(seconds));
    }
    if directives.targeted {
        return None; // RFC 9213 2.2: Expires is ignored too
    }
    let expires_ms = match date::single(headers, EXPIRES, received_ms) {
        DateField::Absent => return None,
        // RFC 9111 5.3: an invalid date, for example "0", is a time in the past
        DateField::Invalid => return Some(Duration::ZERO),
        DateField::At(ms) => ms,
    };
    // RFC 9111 5.3: compared with the response's own date, not with the cache's clock
    let lifetime_ms = expires_ms.saturating_sub(date_ms(headers, received_ms));
    Some(Duration::from_millis(lifetime_ms.min(DELTA_MAX_MS)))
}

/// The estimated lifetime of a response that gives none (RFC 9111 4.2.2): a tenth of the time since it was last
/// modified. Only for status codes that allow it, or with `public`. A `Date` in the future does not make that time
/// longer.
pub(crate) fn heuristic_lifetime(
    status: StatusCode,
    directives: &ResponseDirectives,
    headers: &HeaderMap,
    received_ms: u64,
) -> Option<Duration> {
    if explicit_lifetime(directives, headers, received_ms).is_some() {
        return None; // RFC 9111 4.2.2: not if the response gives an explicit expiration time
    }
    if !directives.public && !is_heuristically_cacheable(status) {
        return None;
    }
    let modified_ms = date::single(headers, LAST_MODIFIED, received_ms).at()?;
    let unchanged_ms = made_ms(headers, received_ms).checked_sub(modified_ms)?;
    Some(Duration::from_millis((unchanged_ms / 10).min(DELTA_MAX_MS)))
}

/// The status codes of RFC 9110 15.1, except 206, which is not stored.
pub(crate) fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// When the response was generated: its `Date`, or the time of receipt if `Date` is missing or invalid (RFC 9110
/// 6.6.1).
pub(crate) fn date_ms(headers: &HeaderMap, received_ms: u64) -> u64 {
    date::single(headers, DATE, received_ms).at().unwrap_or(received_ms)
}

/// The same, but not after the time of receipt: the origin's clock may be ahead.
pub(super) fn made_ms(headers: &HeaderMap, received_ms: u64) -> u64 {
    date_ms(headers, received_ms).min(received_ms)
}

/// The response's age on arrival (`corrected_initial_age` of RFC 9111 4.2.3), in milliseconds.
pub(crate) fn initial_age_ms(headers: &HeaderMap, requested_ms: u64, received_ms: u64) -> u64 {
    let apparent_age = received_ms.saturating_sub(date_ms(headers, received_ms));
    let response_delay = received_ms.saturating_sub(requested_ms);
    let corrected_age = age_secs(headers).saturating_mul(1000).saturating_add(response_delay);
    apparent_age.max(corrected_age)
}

/// The received `Age`. RFC 9111 5.1: the first member of a list counts, and an invalid value is ignored.
fn age_secs(headers: &HeaderMap) -> u64 {
    let first =
        headers.get(AGE).and_then(|line| line.as_bytes().split(|&byte| byte == b',').next());
    first.and_then(|member| delta_seconds(member.trim_ascii())).unwrap_or(0)
}

/// The response's age now (`current_age` of RFC 9111 4.2.3), in milliseconds.
pub(crate) fn current_age_ms<'a>(stored: impl Into<StoredView<'a>>, now_ms: u64) -> u64 {
    let stored = stored.into();
    let resident_time = now_ms.saturating_sub(stored.received_ms);
    stored.initial_age_ms.saturating_add(resident_time)
}

/// The `Age` of a stored response, in whole seconds (RFC 9111 5.1).
pub(crate) fn age_field<'a>(stored: impl Into<StoredView<'a>>, now_ms: u64) -> u64 {
    (current_age_ms(stored, now_ms) / 1000).min(DELTA_MAX_SECS)
}

/// How far in the future a response may have been received. Processes may notice a step of the clock at different
/// times.
const MAX_AHEAD_MS: u64 = 60_000;

/// Whether the response was received well after now: then the clock has stepped back, and the response's age is
/// unknown.
fn is_ahead(stored: StoredView<'_>, now_ms: u64) -> bool {
    stored.received_ms > now_ms.saturating_add(MAX_AHEAD_MS)
}

/// Whether the freshness lifetime is greater than the current age; if both are equal, the response is stale (RFC 9111
/// 4.2). A response of unknown age is stale.
pub(crate) fn is_fresh<'a>(stored: impl Into<StoredView<'a>>, now_ms: u64) -> bool {
    let stored = stored.into();
    // If the clock goes back, the response does not become younger than it was on arrival.
    !is_ahead(stored, now_ms) && now_ms.max(stored.received_ms) < stored.fresh_until_ms
}

/// How long the response is still fresh, in seconds; negative if it is stale. This is the `ttl` parameter of
/// `Cache-Status` (RFC 9211 2.4). -1 if the response's age is unknown.
pub(crate) fn remaining_secs<'a>(stored: impl Into<StoredView<'a>>, now_ms: u64) -> i64 {
    let stored = stored.into();
    if is_ahead(stored, now_ms) {
        return -1;
    }
    let until = i128::from(stored.fresh_until_ms);
    let remaining = (until - i128::from(now_ms.max(stored.received_ms))).div_euclid(1000);
    i64::try_from(remaining).unwrap_or(i64::MIN) // 2^64 ms are less than 2^63 s
}

/// How long the response has been stale, in milliseconds; `None` while it is fresh. A window of
/// `stale-while-revalidate` or `stale-if-error` ends when it is shorter than this time (RFC 5861). For a response of
/// unknown age, the time is longer than any window.
pub(crate) fn staleness_ms<'a>(stored: impl Into<StoredView<'a>>, now_ms: u64) -> Option<u64> {
    let stored = stored.into();
    if is_ahead(stored, now_ms) {
        return Some(u64::MAX);
    }
    now_ms.max(stored.received_ms).checked_sub(stored.fresh_until_ms)
}

#[cfg(test)]
mod tests;
