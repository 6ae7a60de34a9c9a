//! Normal forms of the parts of a key, and their escaping.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::HeaderMap;
use http::header::HOST;
use http::uri::Authority;

use super::target::NoKey;
use super::{hash128, hex};

/// An authority in lower case, without user information, and without the default port of its scheme.
pub(super) fn normal_authority<'a>(scheme: &str, authority: &'a str) -> Cow<'a, str> {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    lower_case(without_default_port(scheme, host))
}

pub(super) fn lower_case(text: &str) -> Cow<'_, str> {
    match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => text.to_ascii_lowercase().into(),
        false => text.into(),
    }
}

/// An authority without the default port of its scheme (RFC 9110 4.2.3).
pub(super) fn without_default_port<'a>(scheme: &str, authority: &'a str) -> &'a str {
    let default = if scheme == "https" { ":443" } else { ":80" };
    authority.strip_suffix(default).unwrap_or(authority)
}

/// The authority in the `Host` field, `None` if the field is absent or empty. It is an error if the field occurs more
/// than once or is not an authority (RFC 9110 7.2).
pub(super) fn host(headers: &HeaderMap) -> Result<Option<&str>, NoKey> {
    let mut lines = headers.get_all(HOST).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) if line.is_empty() => Ok(None),
        (Some(line), None) => {
            let line = line.to_str().map_err(|_| NoKey::BadHost)?;
            // RFC 9110 7.2: no user information in Host
            let is_host =
                is_plain_host(line) || (!line.contains('@') && Authority::try_from(line).is_ok());
            if is_host { Ok(Some(line)) } else { Err(NoKey::BadHost) }
        }
        (Some(_), Some(_)) => Err(NoKey::BadHost),
    }
}

/// Whether an authority is a name or an IPv4 address, perhaps with a port of four digits: most are, and this is seen
/// without a copy.
fn is_plain_host(authority: &str) -> bool {
    let (host, port) = authority.split_once(':').unwrap_or((authority, "80"));
    let is_port = (1..=4).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_in_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    is_port && !host.is_empty() && host.bytes().all(is_in_name)
}

/// The normal spelling of a path and query (RFC 3986 6.2.2): unreserved characters are not percent-encoded,
/// characters that a URI cannot contain are, and hexadecimal digits are in upper case.
pub(super) fn normalised(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| is_unreserved(byte) || is_reserved(byte)) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = escaped(rest).unwrap_or((first, after));
        if is_unreserved(byte) || is_reserved(first) {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        rest = after;
    }
    out.into()
}

/// Decodes an escape at the beginning of `text`: the byte, and the text after the escape.
fn escaped(text: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match text {
        [b'%', high, low, after @ ..] => Some((digit(*high)? << 4 | digit(*low)?, after)),
        _ => None,
    }
}

/// RFC 3986 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// RFC 3986 2.2.
fn is_reserved(byte: u8) -> bool {
    b":/?#[]@!$&'()*+,;=".contains(&byte)
}

/// Percent-encodes every byte that could be confused with the syntax of a key: control characters, the space, the
/// comma between partitions, `%` itself, and everything outside ASCII.
pub(super) fn escape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_graphic() && byte != b'%' && byte != b',' {
            out.push(byte);
        } else {
            out.push(b'%');
            out.extend_from_slice(hex(&[byte]).as_bytes());
        }
    }
    out
}

/// A 128-bit hash of a list of values, some of which may be absent. Each value is preceded by its length, so
/// different lists are never hashed as the same bytes.
pub(crate) fn hash_values<'a>(values: impl IntoIterator<Item = Option<&'a [u8]>>) -> [u8; 16] {
    let mut framed = Vec::new();
    for value in values {
        match value {
            None => framed.push(0),
            Some(value) => {
                framed.push(1);
                framed.extend_from_slice(&(value.len() as u64).to_be_bytes());
                framed.extend_from_slice(value);
            }
        }
    }
    hash128(&framed)
}
