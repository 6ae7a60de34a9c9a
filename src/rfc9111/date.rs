//! HTTP dates (RFC 9110 5.6.7).
//!
//! All three forms are read; letter case does not matter in names; everything else has to be as the
//! grammar says. What is nearly a date is none, so that nothing is repaired into a longer life.

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;
use http::header::{AsHeaderName, HeaderMap};

const DAY_SECS: i64 = 86_400;
/// 9999-12-31 23:59:59, the last moment that the preferred form can express.
const LAST_SECS: u64 = 253_402_300_799;

/// A field that holds one date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DateField {
    /// The field is not there.
    Absent,
    /// The field is there, but it is not one date.
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

/// Milliseconds since the Unix epoch, for a date in any of the three forms. Moments before the epoch
/// count as the epoch. `now_ms` decides the century of a year with two digits.
pub(crate) fn parse(value: &HeaderValue, now_ms: u64) -> Option<u64> {
    let mut rest = Cursor(value.as_bytes().trim_ascii());
    let seconds = match (rest.word(&DAYS), rest.0.first()?) {
        // IMF-fixdate: Sun, 06 Nov 1994 08:49:37 GMT
        (Some(_), b',') => {
            rest.literal(b", ")?;
            let day = rest.digits(2)?;
            rest.literal(b" ")?;
            let month = rest.word(&MONTHS)?;
            rest.literal(b" ")?;
            let year = rest.digits(4)?;
            rest.literal(b" ")?;
            let time = rest.time()?;
            rest.zone()?;
            days(year, month, day)? * DAY_SECS + time
        }
        // asctime: Sun Nov  6 08:49:37 1994
        (Some(_), b' ') => {
            rest.literal(b" ")?;
            let month = rest.word(&MONTHS)?;
            rest.literal(b" ")?;
            let day = match rest.literal(b" ") {
                Some(()) => rest.digits(1)?,
                None => rest.digits(2)?,
            };
            rest.literal(b" ")?;
            let time = rest.time()?;
            rest.literal(b" ")?;
            days(rest.digits(4)?, month, day)? * DAY_SECS + time
        }
        // RFC 850: Sunday, 06-Nov-94 08:49:37 GMT
        (Some(weekday), _) => {
            rest.literal(LONG_DAYS.get(weekday)?)?;
            rest.literal(b", ")?;
            let day = rest.digits(2)?;
            rest.literal(b"-")?;
            let month = rest.word(&MONTHS)?;
            rest.literal(b"-")?;
            let year = rest.digits(2)?;
            rest.literal(b" ")?;
            let time = rest.time()?;
            rest.zone()?;
            in_century(year, month, day, time, now_ms)?
        }
        (None, _) => return None,
    };
    rest.0.is_empty().then(|| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

/// The moment in the preferred form, whole seconds.
pub(crate) fn format(ms: u64) -> HeaderValue {
    let at = UNIX_EPOCH + Duration::from_secs((ms / 1000).min(LAST_SECS));
    // A date is visible ASCII, so the empty value is never taken.
    HeaderValue::try_from(httpdate::fmt_http_date(at))
        .unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// RFC 9110 5.6.7: a year with two digits that appears to lie more than 50 years in the future is the
/// most recent year in the past with these digits. So the latest that is not so far ahead.
fn in_century(year: i64, month: usize, day: i64, time: i64, now_ms: u64) -> Option<i64> {
    let now = i64::try_from(now_ms / 1000).ok()?;
    let this_year = 1970 + now / (DAY_SECS * 146_097 / 400);
    // 50 years of 365.2425 days
    let horizon = now.checked_add(DAY_SECS * 146_097 / 8)?;
    let century = this_year.checked_div(100)?.checked_mul(100)?;
    [100, 0, -100].into_iter().find_map(|offset| {
        let year = century.checked_add(offset)?.checked_add(year)?;
        let seconds = days(year, month, day)?.checked_mul(DAY_SECS)?.checked_add(time)?;
        (seconds <= horizon).then_some(seconds)
    })
}

/// Days from the epoch to a date of the Gregorian calendar, `None` for days that do not exist.
/// `month` counts from 0.
fn days(year: i64, month: usize, day: i64) -> Option<i64> {
    const BEFORE_MONTH: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    const IN_MONTH: [i64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let last = IN_MONTH.get(month)? + i64::from(leap && month == 1);
    let past = year.checked_sub(1)?;
    let leap_days = past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400) - 477;
    let before = (year - 1970).checked_mul(365)?.checked_add(leap_days)?;
    (1..=last)
        .contains(&day)
        .then_some(before + BEFORE_MONTH.get(month)? + i64::from(leap && month > 1) + day - 1)
}

const DAYS: [&[u8]; 7] = [b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun"];
/// What follows the first three letters.
const LONG_DAYS: [&[u8]; 7] = [b"day", b"sday", b"nesday", b"rsday", b"day", b"urday", b"day"];
const MONTHS: [&[u8]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// What is left to read.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn literal(&mut self, text: &[u8]) -> Option<()> {
        let (start, rest) = self.0.split_at_checked(text.len())?;
        // RFC 9110 5.6.7: recipients should match names of days, months and the zone in any case
        start.eq_ignore_ascii_case(text).then(|| self.0 = rest)
    }

    /// The index of the word that comes next.
    fn word(&mut self, words: &[&[u8]]) -> Option<usize> {
        words.iter().position(|word| self.literal(word).is_some())
    }

    fn digits(&mut self, count: usize) -> Option<i64> {
        let (start, rest) = self.0.split_at_checked(count)?;
        let number = start.iter().try_fold(0, |sum, byte| {
            byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0'))
        })?;
        self.0 = rest;
        Some(number)
    }

    /// Seconds of the day. The 61st second of a minute is a leap second.
    fn time(&mut self) -> Option<i64> {
        let hour = self.digits(2)?;
        self.literal(b":")?;
        let minute = self.digits(2)?;
        self.literal(b":")?;
        let second = self.digits(2)?;
        (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
    }

    fn zone(&mut self) -> Option<()> {
        self.literal(b" GMT")
    }
}

#[cfg(test)]
mod tests;
