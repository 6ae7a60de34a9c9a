//! Dates, lifetimes and ages.

use std::time::Duration;

use http::header::{CACHE_CONTROL, ETAG, EXPIRES, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::{fields, lines, number};
use crate::rfc9111::directives::Qualified;
use crate::rfc9111::freshness::{
    current_age_ms, date_ms, explicit_lifetime, initial_age_ms, is_fresh, staleness_ms,
};
use crate::rfc9111::testing::{NOW_MS, head};
use crate::rfc9111::{
    Candidate, Credentials, Instructions, NotStorable, Options, RequestDirectives,
    ResponseDirectives, Storable, age_field, date, remaining_secs,
};

/// 2^31 s (RFC 9111 1.2.2).
const LONGEST: Duration = Duration::from_secs(1 << 31);
/// 9999-12-31 23:59:59.
const LAST_MS: u64 = 253_402_300_799_000;
/// 50 years and a day.
const HORIZON_MS: u64 = 18_264 * 86_400_000;

/// Input: a date, and on the second line the current time in milliseconds.
///
/// - A date that was read can be written and read again.
/// - Upper and lower case make no difference.
/// - Two lines of `Expires` are invalid.
/// - A year of two digits is at most 50 years in the future (RFC 9110 5.6.7).
/// - `httpdate` reads the same date.
pub fn dates(data: &[u8]) {
    let mut input = lines(data);
    let Some(Ok(value)) = input.next().map(HeaderValue::from_bytes) else { return };
    let now_ms = number(input.next()).min(LAST_MS);
    let found = date::parse(&value, now_ms);
    let lower = value.as_bytes().to_ascii_lowercase();
    let upper = value.as_bytes().to_ascii_uppercase();
    for other in [lower, upper] {
        let other = HeaderValue::from_bytes(&other).expect("letters");
        assert_eq!(date::parse(&other, now_ms), found);
    }
    let mut two = HeaderMap::new();
    for _ in 0..2 {
        two.append(EXPIRES, value.clone());
    }
    assert_eq!(date::single(&two, EXPIRES, now_ms), date::DateField::Invalid);
    let text = value.to_str().unwrap_or_default().trim();
    let theirs = httpdate::parse_http_date(text).ok().map(httpdate::fmt_http_date);
    let Some(ms) = found else {
        // every date that `httpdate` writes can be read
        assert!(theirs.as_deref() != Some(text), "httpdate writes {text:?}");
        return;
    };
    assert_eq!(ms % 1000, 0);
    let written = date::format(ms);
    // in the year 10000, a year of two digits can be read as a date that cannot be written
    assert!(date::parse(&written, now_ms) == Some(ms) || ms > LAST_MS);
    if text.contains('-') {
        assert!(ms <= now_ms.saturating_add(HORIZON_MS), "RFC 9110 5.6.7");
    } else {
        assert!(theirs.is_none_or(|theirs| theirs.as_str() == written), "httpdate reads another");
    }
}

struct Response {
    fields: HeaderMap,
    status: StatusCode,
    strict: bool,
    delay_ms: u64,
}

impl Response {
    fn directives(&self) -> ResponseDirectives {
        ResponseDirectives::parse(&self.fields)
    }

    fn with(&self, name: HeaderName, value: &'static str) -> Self {
        let mut fields = self.fields.clone();
        fields.append(name, HeaderValue::from_static(value));
        Self { fields, ..*self }
    }

    fn decide(&self) -> Result<Storable, NotStorable> {
        Candidate {
            method: &Method::GET,
            request: &RequestDirectives::default(),
            credentials: Credentials::None,
            status: self.status,
            headers: &self.fields,
            directives: &self.directives(),
            options: Options {
                heuristics: self.strict,
                must_revalidate_shares: self.strict,
                ..Options::default()
            },
            instructions: Instructions::default(),
            sets_cookie: false,
            useful_stale: false,
            requested_ms: NOW_MS - self.delay_ms,
            received_ms: NOW_MS,
        }
        .decide()
    }

    /// How long the response is fresh; 0 if it is not storable.
    fn fresh_ms(&self) -> u64 {
        self.decide().map_or(0, |storable| storable.fresh_until_ms.saturating_sub(NOW_MS))
    }
}

/// Input: the fields of a response, and `:status`, `:delay`, `:strict` and `:after` as numbers.
///
/// - The age is at least the delay, and at least the time since `Date`.
/// - The age only grows, and a stale response never becomes fresh again.
/// - A restriction never makes a response fresher.
pub fn freshness(data: &[u8]) {
    let control = |name: &str| {
        let found = lines(data).find_map(|line| line.strip_prefix(name.as_bytes()));
        number(found.map(<[u8]>::trim_ascii_start))
    };
    let status = u16::try_from(control(":status")).ok().and_then(|s| StatusCode::from_u16(s).ok());
    let mut fields = fields(data);
    fields.entry(ETAG).or_insert(HeaderValue::from_static("\"a\"")); // it can be validated
    let response = Response {
        fields,
        status: status.unwrap_or(StatusCode::OK),
        strict: control(":strict") != 0,
        delay_ms: control(":delay").min(NOW_MS),
    };
    let age_ms = age_is_at_least_the_delay_and_the_date(&response);
    restrictions_never_make_fresher(&response, age_ms);
    let later = NOW_MS.saturating_add(control(":after"));
    age_only_grows(&response, age_ms, later);
}

fn age_is_at_least_the_delay_and_the_date(response: &Response) -> u64 {
    let requested_ms = NOW_MS - response.delay_ms;
    let age_ms = initial_age_ms(&response.fields, requested_ms, NOW_MS);
    let date_ms = date_ms(&response.fields, NOW_MS);
    assert!(age_ms >= response.delay_ms, "RFC 9111 4.2.3: the response's delay counts");
    assert!(age_ms >= NOW_MS.saturating_sub(date_ms), "RFC 9111 4.2.3: so does its Date");
    assert!(initial_age_ms(&response.fields, 0, NOW_MS) >= age_ms);
    age_ms
}

fn restrictions_never_make_fresher(response: &Response, age_ms: u64) {
    let directives = response.directives();
    let explicit = explicit_lifetime(&directives, &response.fields, NOW_MS);
    assert!(explicit.is_none_or(|lifetime| lifetime <= LONGEST));
    let said = directives.s_maxage.or(directives.max_age);
    assert!(said.is_none() || explicit.map(|lifetime| lifetime.as_secs()) == said);
    let fresh_ms = response.fresh_ms();
    assert!(fresh_ms <= u64::try_from(LONGEST.as_millis()).unwrap());
    if let Some(lifetime) = explicit {
        let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap();
        assert!(fresh_ms <= lifetime_ms.saturating_sub(age_ms), "RFC 9111 4.2: lifetime less age");
    } else {
        assert!(fresh_ms == 0 || response.strict, "heuristics are for strict mode");
    }
    assert!(fresh_ms == 0 || directives.no_cache != Qualified::All);
    for restriction in ["no-store", "private", "no-cache", "max-age=0", "s-maxage=0"] {
        let more = response.with(CACHE_CONTROL, restriction);
        let ignored = restriction == "no-store" && directives.must_understand
            || restriction == "max-age=0" && directives.s_maxage.is_some();
        assert!(more.fresh_ms() <= fresh_ms, "{restriction} makes fresher");
        assert!(ignored || more.fresh_ms() == 0, "{restriction} is not seen");
    }
    if said.is_none() {
        assert_eq!(response.with(EXPIRES, "0").fresh_ms(), 0, "RFC 9111 5.3");
    }
    let vary = response.with(http::header::VARY, "a, *").decide();
    assert!(vary.is_err(), "RFC 9111 4.1");
}

fn age_only_grows(response: &Response, age_ms: u64, later: u64) {
    let decided = response.decide();
    let mut stored = head(&[]);
    stored.initial_age_ms = age_ms;
    stored.fresh_until_ms = decided.map_or(NOW_MS, |storable| storable.fresh_until_ms);
    for (earlier, later) in
        [(NOW_MS, later), (later, later.saturating_add(1)), (NOW_MS - 60_000, NOW_MS)]
    {
        assert!(current_age_ms(&stored, earlier) <= current_age_ms(&stored, later));
        assert!(current_age_ms(&stored, earlier) >= age_ms);
        assert!(is_fresh(&stored, earlier) || !is_fresh(&stored, later));
        assert!(remaining_secs(&stored, earlier) >= remaining_secs(&stored, later));
        assert_eq!(is_fresh(&stored, later), staleness_ms(&stored, later).is_none());
        assert!(age_field(&stored, later) <= 1 << 31, "RFC 9111 1.2.2");
    }
}
