//! Which requests does a stored response answer (RFC 9111 4.1)?

use std::borrow::Cow;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CONTENT_ENCODING, COOKIE, FROM,
    HeaderMap, HeaderName, PROXY_AUTHORIZATION, REFERER, USER_AGENT, VARY,
};
use sha2::{Digest, Sha256};

use super::syntax::{argument, is_token_byte, members, split_unquoted};
use super::view::SelectingField;

/// The fields that `Vary` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Nominated {
    /// None: the response answers every request for the target.
    None,
    /// `Vary` is `*` or invalid: the response is never reused without validation.
    Any,
    /// These request fields, sorted, each once.
    Names(Vec<HeaderName>),
}

/// Reads all lines of `Vary` as one list. `*` as a member, or an invalid field name, means [`Nominated::Any`].
pub(crate) fn nominated(headers: &HeaderMap) -> Nominated {
    let mut names = Vec::new();
    for member in members(headers, VARY) {
        // RFC 9111 4.1: a stored response with a "*" member never matches
        match HeaderName::from_bytes(member) {
            Ok(name) if member != b"*" => names.push(name),
            _ => return Nominated::Any,
        }
    }
    if names.is_empty() {
        return Nominated::None;
    }
    // The order of names has no meaning.
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    Nominated::Names(names)
}

/// The fields that select a response: those that `Vary` names, and `Accept-Encoding` if the content has a coding. RFC
/// 9110 12.5.3: no client gets a coding that it did not ask for, even if the handler forgets to name the field.
pub(crate) fn selecting(headers: &HeaderMap) -> Nominated {
    let coded = |coding: &[u8]| !coding.eq_ignore_ascii_case(b"identity");
    let coded = members(headers, CONTENT_ENCODING).any(coded);
    match nominated(headers) {
        Nominated::None if coded => Nominated::Names(vec![ACCEPT_ENCODING]),
        Nominated::Names(mut names) if coded && !names.contains(&ACCEPT_ENCODING) => {
            names.push(ACCEPT_ENCODING);
            names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
            Nominated::Names(names)
        }
        nominated => nominated,
    }
}

/// The selecting header fields of a request: each of `names` with a hash of its normalised value.
pub(crate) fn select(names: &[HeaderName], request: &HeaderMap) -> Vec<SelectingField> {
    let field =
        |name: &HeaderName| SelectingField { name: name.clone(), value: hash(name, request) };
    names.iter().map(field).collect()
}

/// Whether `request` has the same selecting fields as the request that the response was stored for. Absent matches
/// only absent (RFC 9111 4.1).
pub(crate) fn matches(selecting: &[SelectingField], request: &HeaderMap) -> bool {
    selecting.iter().all(|field| hash(&field.name, request) == field.value)
}

/// One value for a set of selecting fields, whatever their order.
pub(crate) fn secondary_key(selecting: &[SelectingField]) -> [u8; 16] {
    let mut sorted: Vec<_> = selecting.iter().collect();
    sorted.sort_unstable_by_key(|field| (field.name.as_str(), field.value));
    let mut framed = Vec::with_capacity(sorted.len() * 48);
    for field in sorted {
        frame(&mut framed, field.name.as_str().as_bytes());
        match &field.value {
            None => frame(&mut framed, &[]),
            Some(hash) => frame(&mut framed, hash),
        }
    }
    hash128(&framed)
}

/// Appends the length of `part`, then `part`, so that different parts never give the same bytes.
fn frame(framed: &mut Vec<u8>, part: &[u8]) {
    framed.extend_from_slice(&(part.len() as u64).to_be_bytes());
    framed.extend_from_slice(part);
}

/// The first 128 bits of SHA-256.
fn hash128(bytes: &[u8]) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    digest.first_chunk().copied().unwrap_or_default()
}

fn hash(name: &HeaderName, request: &HeaderMap) -> Option<[u8; 16]> {
    let value = combined(name, request)?;
    let mut framed = Vec::new();
    frame(&mut framed, name.as_str().as_bytes());
    frame(&mut framed, &normalised(name, &value));
    Some(hash128(&framed))
}

/// All lines of a field as one value (RFC 9110 5.3); `None` if there are none.
fn combined<'a>(name: &HeaderName, request: &'a HeaderMap) -> Option<Cow<'a, [u8]>> {
    let mut lines = request.get_all(name).into_iter().map(|line| line.as_bytes().trim_ascii());
    let mut combined = Cow::Borrowed(lines.next()?);
    // RFC 9113 8.2.3: the lines of a Cookie field are joined by semicolons
    let separator: &[u8] = if *name == COOKIE { b"; " } else { b", " };
    for line in lines {
        let combined = combined.to_mut();
        combined.extend_from_slice(separator);
        combined.extend_from_slice(line);
    }
    // RFC 9110 5.5: if the last line is empty, the space after the last separator is not part of the value
    Some(match combined {
        Cow::Borrowed(value) => Cow::Borrowed(value),
        Cow::Owned(value) => Cow::Owned(value.trim_ascii_end().to_vec()),
    })
}

/// A form of a field's value that is the same for values with the same meaning, as far as the field's syntax is known
/// (RFC 9111 4.1).
fn normalised<'a>(name: &HeaderName, value: &'a [u8]) -> Cow<'a, [u8]> {
    // these are single values, in which a comma is no separator
    const OPAQUE: [HeaderName; 6] =
        [AUTHORIZATION, COOKIE, FROM, PROXY_AUTHORIZATION, REFERER, USER_AGENT];
    if OPAQUE.contains(name) {
        return Cow::Borrowed(value);
    }
    // RFC 9110 12.5: only the weights make an order, and letter case has no meaning
    if [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE].contains(name) {
        return preferences(value).map_or_else(|| opaque(value), Cow::Owned);
    }
    // RFC 9110 5.6.1: white space around the commas of a list has no meaning
    let list: Vec<_> = split_unquoted(value, b',').map(<[u8]>::trim_ascii).collect();
    Cow::Owned(list.join(&b','))
}

/// A value with invalid syntax: handlers may read it in different ways, so it equals no other value. No normal form
/// begins with this byte.
fn opaque(value: &[u8]) -> Cow<'_, [u8]> {
    Cow::Owned([b"\0", value].concat())
}

/// An `Accept` field with its members in a fixed order. `None` if a member is invalid, or if one is there with two
/// weights: some handlers take the first weight, others the last.
fn preferences(value: &[u8]) -> Option<Vec<u8>> {
    let members = split_unquoted(value, b',').map(<[u8]>::trim_ascii);
    let members = members.filter(|member| !member.is_empty()).map(preference);
    let mut list: Vec<(Vec<u8>, u32)> = members.collect::<Option<_>>()?;
    list.sort_unstable();
    list.dedup();
    if list.windows(2).any(|two| matches!(two, [(a, _), (b, _)] if a == b)) {
        return None;
    }
    let mut plain = Vec::with_capacity(value.len());
    for (index, (what, weight)) in list.iter().enumerate() {
        if index > 0 {
            plain.push(b',');
        }
        plain.extend_from_slice(what);
        if *weight < 1000 {
            plain.extend_from_slice(format!(";q=0.{weight:03}").as_bytes());
        }
    }
    Some(plain)
}

/// One member of an `Accept` field, and its weight in thousandths. The member is in lower case, except the values of
/// parameters, and has no white space around semicolons.
fn preference(member: &[u8]) -> Option<(Vec<u8>, u32)> {
    let mut parts = split_unquoted(member, b';').map(<[u8]>::trim_ascii);
    let what = parts.next().filter(|what| !what.is_empty())?;
    let mut names = what.splitn(2, |&byte| byte == b'/');
    if !names.all(|name| !name.is_empty() && name.iter().all(|&byte| is_token_byte(byte))) {
        return None;
    }
    let mut plain = what.to_ascii_lowercase();
    let mut weight = None;
    for part in parts {
        let equals = part.iter().position(|&byte| byte == b'=')?;
        let (name, value) = part.split_at_checked(equals)?;
        // RFC 9110 12.4.2: the weight comes last
        if weight.is_some() || name.is_empty() || !name.iter().all(|&byte| is_token_byte(byte)) {
            return None;
        }
        if name.eq_ignore_ascii_case(b"q") {
            weight = Some(thousandths(value)?);
            continue;
        }
        argument(value.get(1..)?)?;
        plain.push(b';');
        plain.extend(name.iter().map(u8::to_ascii_lowercase));
        plain.extend_from_slice(value);
    }
    Some((plain, weight.unwrap_or(1000)))
}

/// A weight, with its "=", in thousandths (RFC 9110 12.4.2).
fn thousandths(value: &[u8]) -> Option<u32> {
    let (whole, fraction) = match value {
        [b'=', whole @ b'0'..=b'1'] => (whole, &[][..]),
        [b'=', whole @ b'0'..=b'1', b'.', fraction @ ..] if fraction.len() <= 3 => {
            (whole, fraction)
        }
        _ => return None,
    };
    let mut sum = u32::from(whole - b'0');
    for index in 0..3 {
        let digit = fraction.get(index).copied().unwrap_or(b'0');
        sum = sum * 10 + digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
    }
    (sum <= 1000).then_some(sum)
}

#[cfg(test)]
mod tests;
