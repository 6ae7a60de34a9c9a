//! The fields that a gateway must touch (RFC 9110 7.6), and no others.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{Version, header::COOKIE};

/// The name of this gateway in `Via`: a pseudonym, because its host name is nobody's business.
const PSEUDONYM: &str = "tower-mysql-cache";

/// What concerns one connection whether or not `Connection` names it (RFC 9110 7.6.1), and what is
/// between a client and the proxy next to it (RFC 9110 11.7).
///
/// `Trailer` stays: trailers are passed on, and it is about the message.
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

/// Removes what concerns the connection that a message came by; the rest keeps its order.
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

/// Whether a field of list syntax has this member, in any case.
pub(crate) fn has_member(headers: &HeaderMap, name: &HeaderName, member: &str) -> bool {
    members(headers, name).any(|found| found.eq_ignore_ascii_case(member.as_bytes()))
}

/// Whether a message is framed by chunks alone; an error if by anything else that is not understood
/// here (RFC 9112 6.1).
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

/// Beside `Transfer-Encoding`, `Content-Length` says nothing and must not be passed on (RFC 9112 6.3).
pub(crate) fn drop_overridden_length(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
}

/// Says by whom a request was forwarded, and in which version it came (RFC 9110 7.6.3).
pub(crate) fn add_via(headers: &mut HeaderMap, received: Version) {
    let version = match received {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        _ => "1.1",
    };
    if let Ok(value) = HeaderValue::try_from(format!("{version} {PSEUDONYM}")) {
        headers.append(VIA, value);
    }
}

/// HTTP/2 may send cookies in several lines, earlier versions must not (RFC 9113 8.2.3).
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
