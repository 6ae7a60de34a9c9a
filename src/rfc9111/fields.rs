//! Which header fields are stored (RFC 9111 3.1), and how a 304 updates them (3.2).

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

/// The fields to store: all that were received, unknown ones too, in order, repeats as lines of their
/// own; without
///
/// - `Connection` and what it names (RFC 9110 7.6.1), and the other fields that concern a single
///   connection or hop (RFC 9111 3.1);
/// - what `no-cache="..."` and `private="..."` name (RFC 9111 3.1, 5.2.2.4, 5.2.2.7);
/// - `Age`, which is calculated anew for each answer (RFC 9111 5.1);
/// - `Content-Length`, because a stored body is complete and its length known;
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

/// The stored fields after a 304 (RFC 9111 3.2): each field that it carries replaces all lines of that
/// name, the others stay. What the policy strips from responses is to be stripped from the 304 before.
///
/// Besides what is never stored, `Content-Encoding` and `Content-Range` are left alone: they say how
/// the stored bytes are to be read, and those do not change (3.2 permits to omit them).
///
/// `directives` are those of the 304, or of the stored response where the 304 has none.
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

/// A map of these fields. One holds no more than 24,576 names and panics when it is to hold more: then
/// it is of those that fit, and is never reused.
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

/// The fields with a `Vary` that no request matches (RFC 9111 4.1), in place of one of them if need be:
/// what is not there might be what forbids reuse.
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

/// Whether the cache decides by a field, or hands it out with the content: then it is for all recipients, and
/// neither `Connection` (RFC 9110 7.6.1) nor a qualified directive takes it away.
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
    // targeted ones as well (RFC 9213 2)
    name.as_str().ends_with("cache-control") || decisive.contains(name)
}

/// The fields that `Connection` names (RFC 9110 7.6.1). No quoted strings here: its members are
/// tokens.
fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).into_iter().map(HeaderValue::as_bytes);
    lines
        .flat_map(|line| line.split(|&byte| byte == b','))
        .filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok())
        .filter(|name| !is_decisive(name))
        .collect()
}

/// RFC 9111 3.1, RFC 9110 7.6.1.
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
