//! Which moment does a date name (RFC 9110 5.6.7)?
//!
//! `httpdate` reads and writes dates. This module adds what caches need beside it: any letter case (RFC 9111 4.2),
//! years with two digits, leap seconds, and years before 1970. A text that is almost a date is not a date: the cache
//! repairs nothing into a longer lifetime.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use http::header::{AsHeaderName, HeaderMap};

/// 50 years of 365.2425 days, in seconds.
const HORIZON_SECS: u64 = 1_577_847_600;
/// 9999-12-31 23:59:59, the last moment that a date can name.
const LAST_SECS: u64 = 253_402_300_799;

/// The value of a field that should hold one date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DateField {
    /// The field is absent.
    Absent,
    /// The field is not exactly one valid date.
    Invalid,
    /// Milliseconds since the Unix epoch.
    At(u64),
}

impl DateField {
    /// The moment, if there is one.
    pub(crate) fn at(self) -> Option<u64> {
        match self {
            Self::At(ms) => Some(ms),
            Self::Absent | Self::Invalid => None,
        }
    }
}

/// The date in the field `name`. Several lines are not a date.
pub(crate) fn single(headers: &HeaderMap, name: impl AsHeaderName, now_ms: u64) -> DateField {
    let mut lines = headers.get_all(name).into_iter();
    match (lines.next(), lines.next()) {
        (None, _) => DateField::Absent,
        (Some(value), None) => parse(value, now_ms).map_or(DateField::Invalid, DateField::At),
        (Some(_), Some(_)) => DateField::Invalid,
    }
}

/// The moment that a date in any of the three forms names, in milliseconds since the Unix epoch. A moment before the
/// epoch counts as the epoch. `now_ms` decides the century of a year with two digits.
pub(crate) fn parse(value: &HeaderValue, now_ms: u64) -> Option<u64> {
    let text = value.to_str().ok()?.trim();
    let at = match text.as_bytes().get(3) {
        Some(b',' | b' ') => httpdate::parse_http_date(text).ok().or_else(|| unusual(text)),
        _ => rfc850(&capitalised(text), now_ms),
    };
    let since_epoch = at?.duration_since(UNIX_EPOCH).ok()?;
    Some(since_epoch.as_secs().saturating_mul(1000))
}

/// A date with names in another case, with a leap second, or before 1970.
fn unusual(text: &str) -> Option<SystemTime> {
    let text = capitalised(text);
    let leap = text.contains(":60 ");
    let text = if leap { text.replace(":60 ", ":59 ") } else { text };
    match httpdate::parse_http_date(&text) {
        Ok(date) => Some(date + Duration::from_secs(leap.into())),
        Err(_) => before_1970(&text),
    }
}

/// The epoch, if this is a date before it. The calendar with its weekdays repeats every 400 years, so the same day
/// 2000 years later shows whether the date exists.
fn before_1970(text: &str) -> Option<SystemTime> {
    let at = if text.ends_with(" GMT") { 12..16 } else { 20..24 };
    let year = text.get(at.clone()).filter(|year| year.bytes().all(|b| b.is_ascii_digit()))?;
    let later = year.parse::<u16>().ok().filter(|year| *year < 1970)? + 2000;
    let (before, after) = (text.get(..at.start)?, text.get(at.end..)?);
    httpdate::parse_http_date(&format!("{before}{later}{after}")).ok().map(|_| UNIX_EPOCH)
}

/// A date with a year of two digits: `Sunday, 06-Nov-94 08:49:37 GMT`. RFC 9110 5.6.7: a year that appears to be more
/// than 50 years in the future is the most recent year in the past with these digits. So this is the latest year with
/// these digits and this weekday that is at most 50 years ahead.
fn rfc850(text: &str, now_ms: u64) -> Option<SystemTime> {
    let (weekday, rest) = text.split_once(", ").filter(|(day, _)| LONG_DAYS.contains(day))?;
    let (date, time) = rest.split_once(' ')?;
    let (day, year) = date.rsplit_once('-').filter(|(_, year)| year.len() == 2)?;
    let (weekday, day) = (weekday.get(..3)?, day.replacen('-', " ", 1));
    let now_secs = (now_ms / 1000).min(LAST_SECS);
    let horizon = UNIX_EPOCH + Duration::from_secs(now_secs + HORIZON_SECS);
    let century: u16 = format(now_ms).to_str().ok()?.get(12..14)?.parse().ok()?;
    [century.checked_add(1)?, century, century.checked_sub(1)?].into_iter().find_map(|century| {
        let text = format!("{weekday}, {day} {century}{year} {time}");
        unusual(&text).filter(|at| *at <= horizon)
    })
}

/// The text with names of days, months and the zone as `httpdate` expects them.
fn capitalised(text: &str) -> String {
    let mut inside = false;
    let letters = text.chars().map(|letter| {
        let first = !std::mem::replace(&mut inside, letter.is_ascii_alphabetic());
        if first { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() }
    });
    let text: String = letters.collect();
    match text.strip_suffix(" Gmt") {
        Some(date) => format!("{date} GMT"),
        None => text,
    }
}

const LONG_DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// The moment in the preferred form, in whole seconds.
pub(crate) fn format(ms: u64) -> HeaderValue {
    let at = UNIX_EPOCH + Duration::from_secs((ms / 1000).min(LAST_SECS));
    // The value is visible ASCII, so the empty value is never used.
    HeaderValue::try_from(httpdate::fmt_http_date(at))
        .unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests;
