//! Which part of a stored response does a request want (RFC 9110 14)?

use std::ops::Range;

use http::header::{HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE};
use http::{HeaderValue, Method, StatusCode};

use super::date::{self, DateField};
use super::freshness::made_ms;
use super::validation::{single_etag, stored_etag};
use super::view::StoredView;

/// The most parts that are served (RFC 9110 14.2 allows a server to ignore many small ranges).
const MAX_PARTS: usize = 16;

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RangeOutcome {
    /// A 200 with the whole body.
    Whole,
    /// A 206 with one part.
    Single(Range<u64>),
    /// A 206 with at least two parts, in the order of the request. They do not overlap.
    Multi(Vec<Range<u64>>),
    /// A 416.
    Unsatisfiable,
}

/// What the request wants of a stored body of `len` bytes. A range that is invalid, or not worth serving, is ignored.
pub(crate) fn evaluate<'a>(
    method: &Method,
    request: &HeaderMap,
    stored: impl Into<StoredView<'a>>,
    len: u64,
    now_ms: u64,
) -> RangeOutcome {
    let stored = stored.into();
    // RFC 9110 14.2: only for GET, and only if the response without the range would be a 200
    if method != Method::GET || stored.status != StatusCode::OK {
        return RangeOutcome::Whole;
    }
    let mut lines = request.get_all(RANGE).into_iter();
    let (Some(range), None) = (lines.next(), lines.next()) else {
        return RangeOutcome::Whole; // without Range, If-Range has no effect (RFC 9110 13.1.5)
    };
    if !if_range(request, stored, now_ms) {
        return RangeOutcome::Whole;
    }
    parse(range.as_bytes()).map_or(RangeOutcome::Whole, |specs| select(&specs, len))
}

/// RFC 9110 13.1.5: strong comparison of an entity tag or a date; `true` if the field is absent.
fn if_range(request: &HeaderMap, stored: StoredView<'_>, now_ms: u64) -> bool {
    let mut lines = request.get_all(IF_RANGE).into_iter();
    let value = match (lines.next(), lines.next()) {
        (None, _) => return true,
        (Some(value), None) => value,
        (Some(_), Some(_)) => return false,
    };
    if let Some(tag) = single_etag(value.as_bytes()) {
        return stored_etag(stored.headers).is_some_and(|etag| etag.is_strongly(tag));
    }
    let modified = date::single(stored.headers, LAST_MODIFIED, stored.received_ms);
    let (Some(since_ms), DateField::At(modified_ms)) = (date::parse(value, now_ms), modified)
    else {
        return false;
    };
    // RFC 9110 8.8.2.2: strong only if it is at least a second before the response's own date
    let strong = modified_ms.saturating_add(1000) <= made_ms(stored.headers, stored.received_ms);
    strong && since_ms == modified_ms
}

/// One member of a range set (RFC 9110 14.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    /// From the first position to the last, both included.
    FromTo(u64, u64),
    /// This many bytes at the end.
    Suffix(u64),
}

/// The members of a set of byte ranges; `None` if the unit is another one, or if a member is invalid.
fn parse(value: &[u8]) -> Option<Vec<Spec>> {
    let equals = value.iter().position(|&byte| byte == b'=')?;
    let (unit, set) = value.split_at_checked(equals)?;
    if !unit.trim_ascii_start().eq_ignore_ascii_case(b"bytes") {
        return None; // RFC 9110 14.2: a range in an unknown unit is ignored
    }
    let members = set.get(1..)?.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let mut specs = Vec::new();
    for member in members.filter(|member| !member.is_empty()) {
        if specs.len() >= MAX_PARTS {
            return None;
        }
        let dash = member.iter().position(|&byte| byte == b'-')?;
        let (first, last) = member.split_at_checked(dash)?;
        let last = last.get(1..)?;
        specs.push(match (first.is_empty(), last.is_empty()) {
            (true, _) => Spec::Suffix(position(last)?),
            (false, true) => Spec::FromTo(position(first)?, u64::MAX),
            (false, false) => {
                let (first, last) = (position(first)?, position(last)?);
                // RFC 9110 14.1.1: invalid if the last position is smaller than the first
                (first <= last).then_some(Spec::FromTo(first, last))?
            }
        });
    }
    (!specs.is_empty()).then_some(specs)
}

/// Only digits. RFC 9110 14.1.2: recipients expect large numbers; here they saturate.
fn position(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0, |sum: u64, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        Some(sum.saturating_mul(10).saturating_add(digit))
    })
}

fn select(specs: &[Spec], len: u64) -> RangeOutcome {
    let mut parts: Vec<Range<u64>> = Vec::new();
    for spec in specs {
        let part = match *spec {
            // RFC 9110 14.1.2: satisfiable if the first position is inside the body
            Spec::FromTo(first, last) => first..last.saturating_add(1).min(len),
            Spec::Suffix(0) => continue,
            // RFC 9110 14.1.2: satisfiable, but no Content-Range can express it
            Spec::Suffix(_) if len == 0 => return RangeOutcome::Whole,
            Spec::Suffix(bytes) => len.saturating_sub(bytes)..len,
        };
        if part.is_empty() {
            continue;
        }
        // RFC 9110 14.2: overlapping ranges may be ignored
        if parts.iter().any(|other| part.start < other.end && other.start < part.end) {
            return RangeOutcome::Whole;
        }
        parts.push(part);
    }
    match parts.as_slice() {
        [] => RangeOutcome::Unsatisfiable,
        [single] => RangeOutcome::Single(single.clone()),
        _ => RangeOutcome::Multi(parts),
    }
}

/// The `Content-Range` of a 206 with one part, or of a 416 without one (RFC 9110 14.4).
pub(crate) fn content_range(part: Option<&Range<u64>>, len: u64) -> HeaderValue {
    let value = match part {
        Some(part) => format!("bytes {}-{}/{len}", part.start, part.end.saturating_sub(1)),
        None => format!("bytes */{len}"),
    };
    // The value is visible ASCII, so the empty value is never used.
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests;
