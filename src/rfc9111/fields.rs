//! Which header fields are stored (RFC 9111 3.1), and how does a 304 update them (3.2)?

use http::HeaderValue;
use http::header::{
    AGE, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE,
    CONTENT_TYPE, DATE, ETAG, EXPIRES, HeaderMap, HeaderName, LAST_MODIFIED, PRAGMA,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VARY,
};

use super::date::{self, DateField};
use super::directives::ResponseDirectives;
use super::groups::CACHE_GROUPS;
use super::no_vary_search::NO_VARY_SEARCH;

/// The fields to store: all received fields, also unknown ones, in their order. Repeated lines stay separate. These
/// are left out:
///
/// - `Connection` and the fields that it names (RFC 9110 7.6.1), and other fields about one connection or hop (RFC
///   9111 3.1);
/// - fields that `no-cache="..."` and `private="..."` name (RFC 9111 3.1, 5.2.2.4, 5.2.2.7);
/// - `Age`, because it is calculated again for each response (RFC 9111 5.1);
/// - `Content-Length`, because a stored body is complete and its length is known;
/// - `Trailer`, because a body with trailers is not stored.
///
/// A missing or invalid `Date` becomes the time of receipt (RFC 9110 6.6.1).
pub(crate) fn stored_fields(
    headers: &HeaderMap,
    directives: &ResponseDirectives,
    received_ms: u64,
) -> HeaderMap {
    let dropped = connection_options(headers);
    let is_stored = |name: &HeaderName| {
        !is_never_stored(name) && !dropped.contains(name) && !is_withheld(name, directives)
    };
    let mut stored = collected(headers.iter().filter(|(name, _)| is_stored(name)));
    let dated = matches!(date::single(&stored, DATE, received_ms), DateField::At(_));
    if !dated && stored.try_insert(DATE, date::format(received_ms)).is_err() {
        return never_reused(&stored);
    }
    stored
}

/// The stored fields after a 304 (RFC 9111 3.2). Each field of the 304 replaces all stored lines of that name; the
/// other stored fields stay. The caller first removes from the 304 what the policy strips from responses.
///
/// `Content-Encoding` and `Content-Range` stay as they are stored, because they describe the stored bytes, which do
/// not change (RFC 9111 3.2 permits this).
///
/// `directives` are those of the 304, or those of the stored response if the 304 has none.
pub(crate) fn update_fields(
    stored: &HeaderMap,
    from_304: &HeaderMap,
    directives: &ResponseDirectives,
    received_ms: u64,
) -> HeaderMap {
    let mut new = stored_fields(from_304, directives, received_ms);
    new.remove(CONTENT_ENCODING);
    new.remove(CONTENT_RANGE);
    let stays = |name: &HeaderName| !new.contains_key(name) && !is_withheld(name, directives);
    collected(stored.iter().filter(|(name, _)| stays(name)).chain(&new))
}

/// A map of these fields. `HeaderMap` panics beyond 24,576 names. On overflow, the map holds those that fit and is
/// marked `Vary: *`.
pub(super) fn collected<'a>(
    fields: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        if map.try_append(name, value.clone()).is_err() {
            return never_reused(&map);
        }
    }
    map
}

/// The fields with `Vary: *`, which no request matches (RFC 9111 4.1), because a field that is missing might be the
/// one that forbids reuse. If there is no room, `Vary` takes the place of another field.
fn never_reused(fields: &HeaderMap) -> HeaderMap {
    let mut fewer = HeaderMap::new();
    fewer.insert(VARY, HeaderValue::from_static("*"));
    for (name, value) in fields.iter().filter(|(name, _)| *name != VARY) {
        if fewer.try_append(name, value.clone()).is_err() {
            break;
        }
    }
    fewer
}

/// Whether `no-cache` or `private` names the field (RFC 9111 5.2.2.4, 5.2.2.7).
fn is_withheld(name: &HeaderName, directives: &ResponseDirectives) -> bool {
    directives.no_cache.fields().contains(name) || directives.private.fields().contains(name)
}

/// Whether the cache needs the field for its decisions, or sends it as a description of the content. Then every
/// recipient needs the field, so neither `Connection` (RFC 9110 7.6.1) nor a qualified directive removes it.
pub(crate) fn is_decisive(name: &HeaderName) -> bool {
    let decisive = [
        AGE,
        CACHE_GROUPS,
        CONTENT_ENCODING,
        CONTENT_LOCATION,
        CONTENT_RANGE,
        CONTENT_TYPE,
        DATE,
        ETAG,
        EXPIRES,
        LAST_MODIFIED,
        NO_VARY_SEARCH,
        PRAGMA,
        VARY,
    ];
    // targeted fields too (RFC 9213 2)
    name.as_str().ends_with("cache-control") || decisive.contains(name)
}

/// The fields that `Connection` names (RFC 9110 7.6.1). Its members are tokens, so there are no quoted strings.
fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).into_iter().map(HeaderValue::as_bytes);
    lines
        .flat_map(|line| line.split(|&byte| byte == b','))
        .filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok())
        .filter(|name| !is_decisive(name))
        .collect()
}

/// Whether the field is about one connection or hop, or is not stored for another reason (RFC 9111 3.1, RFC 9110
/// 7.6.1).
fn is_never_stored(name: &HeaderName) -> bool {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_AUTHENTICATION_INFO: HeaderName =
        HeaderName::from_static("proxy-authentication-info");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    [
        AGE,
        CONNECTION,
        CONTENT_LENGTH,
        KEEP_ALIVE,
        PROXY_AUTHENTICATE,
        PROXY_AUTHENTICATION_INFO,
        PROXY_AUTHORIZATION,
        PROXY_CONNECTION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ]
    .contains(name)
}

#[cfg(test)]
mod tests;
