//! The fields that a gateway must change (RFC 9110 7.6), and no others.

use std::sync::LazyLock;

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{Version, header::COOKIE};

/// The name of this gateway in `Via`: a pseudonym, so that clients do not learn its host name. It is random, so that this
/// gateway recognises its own requests when they come back.
static PSEUDONYM: LazyLock<String> =
    LazyLock::new(|| format!("tower-mysql-cache-{:08x}", rand::random::<u32>()));

/// Fields whose names begin like this say that the request was originally for another target.
const FAMILIES: [&str; 4] = ["x-forwarded-", "x-original-", "x-rewrite-", "x-envoy-original-"];

/// Fields with names of several words say the same if they end with one of these words: `X-Host`,
/// `X-HTTP-Method-Override`, `Front-End-Https`.
const LAST_WORDS: [&str; 14] = [
    "host", "https", "method", "override", "path", "port", "prefix", "proto", "protocol", "scheme",
    "ssl", "tls", "uri", "url",
];

/// Other fields that say the same.
const OTHERS: [&str; 6] =
    ["cf-visitor", "destination", "path-info", "script-name", "x-forwarded", "x-script-name"];

/// Fields for one connection only, even if `Connection` does not name them (RFC 9110 7.6.1), and fields between a client and
/// the next proxy (RFC 9110 11.7).
///
/// `Trailer` is not one of them: it belongs to the message, and the gateway passes trailers on.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes the fields that are only for the connection on which a message arrived. The other fields keep their order.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<_> = members(headers, &CONNECTION)
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .collect();
    let goes = |name: &HeaderName| named.contains(name) || HOP_BY_HOP.contains(name);
    if headers.keys().any(goes) {
        let kept = headers.iter().filter(|(name, _)| !goes(name));
        *headers = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    }
}

/// Whether a field with a list has this member, in any letter case.
pub(crate) fn has_member(headers: &HeaderMap, name: &HeaderName, member: &str) -> bool {
    members(headers, name).any(|found| found.eq_ignore_ascii_case(member.as_bytes()))
}

/// Whether `chunked` is the only transfer coding of a message. An error if there is any other transfer coding (RFC 9112 6.1).
pub(crate) fn is_chunked(headers: &HeaderMap) -> Result<bool, UnknownCoding> {
    let mut codings = members(headers, &TRANSFER_ENCODING);
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(UnknownCoding),
    }
}

/// A transfer coding other than `chunked`.
#[derive(Debug)]
pub(crate) struct UnknownCoding;

/// Removes `Content-Length` if there is `Transfer-Encoding`: then it means nothing and must not be passed on (RFC 9112 6.3).
pub(crate) fn drop_overridden_length(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
}

/// Removes fields with `_` in their names. Origins with an interface like CGI (WSGI, Rack, PHP) make variables of fields, and
/// treat `_` and `-` as the same. So `X_Forwarded_Host` would be `X-Forwarded-Host` for them, but not for the cache.
pub(crate) fn drop_underscores(headers: &mut HeaderMap) {
    let goes = |name: &HeaderName| name.as_str().contains('_');
    if headers.keys().any(goes) {
        let kept = headers.iter().filter(|(name, _)| !goes(name));
        *headers = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    }
}

/// Whether a field says that the request was originally for another host, path, method or scheme. Frameworks make links,
/// redirects and routes from such fields, so responses to different values may differ.
fn is_of_the_target(name: &str) -> bool {
    let family = FAMILIES.iter().any(|family| name.starts_with(family));
    let last = name.rsplit_once('-').map(|(_, last)| last);
    // `X-Forwarded-For` names the client, not the target
    (family && last != Some("for"))
        || last.is_some_and(|last| LAST_WORDS.contains(&last))
        || OTHERS.contains(&name)
}

/// All that other fields than `Host` say about the target of a request. Empty if there are none.
pub(crate) fn said_of_the_target(headers: &HeaderMap) -> Vec<u8> {
    let mut said = Vec::new();
    for (name, value) in headers {
        let name = name.as_str();
        let all = is_of_the_target(name);
        // from `Forwarded`, everything except addresses (RFC 7239 5)
        let parts = value.as_bytes().split(|byte| b",;".contains(byte)).map(<[u8]>::trim_ascii);
        for part in parts.filter(|part| all || name == "forwarded" && !is_address(part)) {
            said.extend_from_slice(name.as_bytes());
            said.push(b':');
            said.extend_from_slice(part);
            said.push(b'\n');
        }
    }
    said
}

fn is_address(part: &[u8]) -> bool {
    [&b"for="[..], b"by="]
        .iter()
        .any(|name| part.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)))
}

/// Whether this gateway has forwarded the request before (RFC 9110 7.6.3).
pub(crate) fn has_been_here(headers: &HeaderMap) -> bool {
    let by = |member: &[u8]| {
        let mut words = member.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.nth(1) == Some(PSEUDONYM.as_bytes())
    };
    members(headers, &VIA).any(by)
}

/// Adds `Via`: the version of the request that was received, and the name of this gateway (RFC 9110 7.6.3).
pub(crate) fn add_via(headers: &mut HeaderMap, received: Version) {
    let version = match received {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        _ => "1.1",
    };
    if let Ok(value) = HeaderValue::try_from(format!("{version} {}", *PSEUDONYM)) {
        headers.append(VIA, value);
    }
}

/// Joins the `Cookie` lines of a request. HTTP/2 may send several; earlier versions must not (RFC 9113 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// The members of a list of tokens.
fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}
