//! The parts of a key, made safe to stand next to each other.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::HeaderMap;
use http::header::HOST;
use http::uri::Authority;

use super::target::NoKey;
use super::{hash128, hex};

/// Lower case, without a user.
pub(super) fn normal(authority: &str) -> String {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.to_ascii_lowercase()
}

/// An authority without the port that its scheme has anyway (RFC 9110 4.2.3).
pub(super) fn without_default_port<'a>(scheme: &str, authority: &'a str) -> &'a str {
    let default = if scheme == "https" { ":443" } else { ":80" };
    authority.strip_suffix(default).unwrap_or(authority)
}

/// The Host field, if it is there; it must be there once and be an authority (RFC 9110 7.2).
pub(super) fn host(headers: &HeaderMap) -> Result<Option<Authority>, NoKey> {
    let mut lines = headers.get_all(HOST).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) if line.is_empty() => Ok(None),
        (Some(line), None) => {
            let authority = Authority::try_from(line.as_bytes()).map_err(|_| NoKey::BadHost)?;
            if authority.as_str().contains('@') {
                return Err(NoKey::BadHost); // RFC 9110 7.2: a Host has no user
            }
            Ok(Some(authority))
        }
        (Some(_), Some(_)) => Err(NoKey::BadHost),
    }
}

/// A path and query in one spelling of the many that RFC 3986 6.2.2 makes equivalent: unreserved characters as
/// they are, everything that a URI cannot hold percent-encoded, hexadecimal digits in upper case.
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

/// The byte that an escape at the beginning stands for, and what follows.
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

/// Percent-encodes what could be taken for the framing of a key: control characters, the space, the
/// comma between partitions, `%` itself and everything outside ASCII.
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

/// 128 bits of hash over a list of values that may be absent, framed so that no two lists agree.
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
