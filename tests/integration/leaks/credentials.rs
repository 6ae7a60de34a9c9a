//! The kinds of credentials that clients send.

use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};

use super::Route;

/// One kind of credentials.
pub(crate) struct Credential {
    pub(crate) name: &'static str,
    /// The field that contains them.
    pub(crate) field: &'static str,
    /// Adds a user's credentials to a request.
    pub(crate) add: fn(&mut HeaderMap, u64),
    /// The user whose credentials a request has.
    read: fn(&HeaderMap) -> Option<u64>,
}

pub(crate) const KINDS: &[Credential] = &[
    Credential { name: "sid", field: "cookie", add: |h, user| cookie(h, "sid", user), read: sid },
    Credential { name: "who", field: "cookie", add: |h, user| cookie(h, "who", user), read: who },
    Credential { name: "basic", field: "authorization", add: basic, read: of_basic },
    Credential { name: "bearer", field: "authorization", add: bearer, read: of_bearer },
    Credential { name: "api-key", field: "x-api-key", add: api_key, read: of_api_key },
    Credential { name: "proxied", field: "x-forwarded-user", add: proxied, read: of_proxied },
];

/// The user, as a handler on this route sees it.
pub(crate) fn identity(route: &Route, headers: &HeaderMap) -> Option<String> {
    let read = KINDS.iter().filter(|kind| !route.ignored.contains(&kind.name));
    read.filter_map(|kind| (kind.read)(headers)).next().map(|user| format!("u{user}"))
}

/// Whether the request has credentials that are not in the key.
pub(crate) fn are_left(route: &Route, headers: &HeaderMap) -> bool {
    let left = |kind: &&Credential| {
        !route.ignored.contains(&kind.name) && !route.keyed.contains(&kind.name)
    };
    KINDS.iter().filter(left).any(|kind| (kind.read)(headers).is_some())
}

fn cookie(headers: &mut HeaderMap, name: &str, user: u64) {
    headers.append(COOKIE, format!("{name}=u{user}").parse().unwrap());
}

fn of_cookie(headers: &HeaderMap, name: &str) -> Option<u64> {
    let lines = headers.get_all(COOKIE).iter().map(|line| line.to_str().unwrap());
    let mut values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix("=u"));
    values.next()?.parse().ok()
}

fn sid(headers: &HeaderMap) -> Option<u64> {
    of_cookie(headers, "sid")
}

fn who(headers: &HeaderMap) -> Option<u64> {
    of_cookie(headers, "who")
}

// "Basic " and user "0" to "9" with password "x": `0:x` in base 64
fn basic(headers: &mut HeaderMap, user: u64) {
    let encoded = ["MDp4", "MTp4", "Mjp4", "Mzp4", "NDp4"][user as usize];
    headers.insert(AUTHORIZATION, format!("Basic {encoded}").parse().unwrap());
}

fn of_basic(headers: &HeaderMap) -> Option<u64> {
    let encoded = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    ["MDp4", "MTp4", "Mjp4", "Mzp4", "NDp4"].iter().position(|e| *e == encoded).map(|n| n as u64)
}

fn bearer(headers: &mut HeaderMap, user: u64) {
    headers.insert(AUTHORIZATION, format!("Bearer u{user}").parse().unwrap());
}

fn of_bearer(headers: &HeaderMap) -> Option<u64> {
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer u")?.parse().ok()
}

fn api_key(headers: &mut HeaderMap, user: u64) {
    headers.insert("x-api-key", format!("u{user}").parse().unwrap());
}

fn of_api_key(headers: &HeaderMap) -> Option<u64> {
    headers.get("x-api-key")?.to_str().ok()?.strip_prefix('u')?.parse().ok()
}

fn proxied(headers: &mut HeaderMap, user: u64) {
    headers.insert("x-forwarded-user", format!("u{user}").parse().unwrap());
}

fn of_proxied(headers: &HeaderMap) -> Option<u64> {
    headers.get("x-forwarded-user")?.to_str().ok()?.strip_prefix('u')?.parse().ok()
}
