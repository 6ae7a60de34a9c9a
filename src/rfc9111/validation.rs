//! Does the client already have the stored response (RFC 9111 4.3.2, RFC 9110 13)?

use http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE,
    LAST_MODIFIED, TRAILER, TRANSFER_ENCODING,
};

use super::date::{self, DateField};
use super::fields::collected;
use super::freshness::date_ms;
use super::view::StoredView;

/// The response that the preconditions of a request ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// The stored response, in full or in part.
    None,
    /// A 304: the client has the response already.
    NotModified,
    /// The handler's response: caches must not evaluate these preconditions.
    Forward,
}

/// Evaluates the preconditions of a GET or HEAD request, in the order of RFC 9110 13.2.2. `If-Range` is evaluated in
/// [`range`](super::range).
pub(crate) fn evaluate<'a>(
    request: &HeaderMap,
    stored: impl Into<StoredView<'a>>,
    now_ms: u64,
) -> Precondition {
    let stored = stored.into();
    // RFC 9111 4.3.2: a cache must not evaluate these
    if request.contains_key(IF_MATCH) || request.contains_key(IF_UNMODIFIED_SINCE) {
        return Precondition::Forward;
    }
    // RFC 9110 13.2.1: ignored unless the response without them is a success
    if !stored.status.is_success() {
        return Precondition::None;
    }
    let not_modified = if request.contains_key(IF_NONE_MATCH) {
        // RFC 9110 13.1.3: If-Modified-Since is ignored then
        if_none_match(request, stored.headers)
    } else {
        if_modified_since(request, stored, now_ms)
    };
    if not_modified { Precondition::NotModified } else { Precondition::None }
}

/// Whether one of the request's entity tags is the stored one, by weak comparison, or the request says `*` (RFC 9110
/// 13.1.2).
fn if_none_match(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let etag = stored_etag(stored);
    request.get_all(IF_NONE_MATCH).into_iter().any(|line| {
        let line = line.as_bytes().trim_ascii();
        line == b"*"
            || etag.is_some_and(|etag| EntityTags(line).any(|tag| tag.opaque == etag.opaque))
    })
}

/// Whether the response has not been modified since the request's date. RFC 9110 13.1.3: an invalid date is ignored.
/// Without `Last-Modified`, the response's `Date` is compared (RFC 9111 4.3.2).
fn if_modified_since(request: &HeaderMap, stored: StoredView<'_>, now_ms: u64) -> bool {
    let DateField::At(since_ms) = date::single(request, IF_MODIFIED_SINCE, now_ms) else {
        return false;
    };
    let modified_ms = date::single(stored.headers, LAST_MODIFIED, stored.received_ms)
        .at()
        .unwrap_or_else(|| date_ms(stored.headers, stored.received_ms));
    // A date has whole seconds; the time of receipt has not.
    modified_ms / 1000 <= since_ms / 1000
}

/// Whether a response can be validated (RFC 9111 4.3.1).
pub(crate) fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED)
}

/// An entity tag: the text between the quotes, and whether it is weak (RFC 9110 8.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntityTag<'a> {
    pub(crate) weak: bool,
    pub(crate) opaque: &'a [u8],
}

impl EntityTag<'_> {
    /// Strong comparison (RFC 9110 8.8.3.2).
    pub(crate) fn is_strongly(self, other: EntityTag<'_>) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }
}

/// The entity tag of a response, if it has a valid one.
pub(crate) fn stored_etag(headers: &HeaderMap) -> Option<EntityTag<'_>> {
    single_etag(headers.get(ETAG)?.as_bytes())
}

/// Whether both have the same strong entity tag. Then they have the same content (RFC 9110 8.8.1).
pub(crate) fn is_strongly_the_same(one: &HeaderMap, other: &HeaderMap) -> bool {
    matches!((stored_etag(one), stored_etag(other)), (Some(one), Some(other)) if one.is_strongly(other))
}

/// The entity tag of a field value that is only one entity tag.
pub(crate) fn single_etag(value: &[u8]) -> Option<EntityTag<'_>> {
    let (tag, rest) = split_etag(value.trim_ascii())?;
    rest.is_empty().then_some(tag)
}

/// The entity tags of a list. They may contain commas, so only the quotes show where a tag ends. Anything else is
/// skipped.
struct EntityTags<'a>(&'a [u8]);

impl<'a> Iterator for EntityTags<'a> {
    type Item = EntityTag<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let start = self.0.iter().position(|byte| !matches!(byte, b',' | b' ' | b'\t'))?;
            self.0 = self.0.get(start..)?;
            let tag = split_etag(self.0);
            let rest = tag.map_or(self.0, |(_, rest)| rest);
            let end = rest.iter().position(|&byte| byte == b',').unwrap_or(rest.len());
            let (tail, next) = rest.split_at_checked(end)?;
            self.0 = next;
            match tag {
                Some((tag, _)) if tail.trim_ascii().is_empty() => return Some(tag),
                _ => {}
            }
        }
    }
}

/// Splits `text` after the entity tag at its start.
fn split_etag(text: &[u8]) -> Option<(EntityTag<'_>, &[u8])> {
    // RFC 9110 8.8.3: `W/` is case-sensitive
    let (weak, text) = text.strip_prefix(b"W/").map_or((false, text), |rest| (true, rest));
    let text = text.strip_prefix(b"\"")?;
    let end = text.iter().position(|&byte| byte == b'"')?;
    let (opaque, rest) = text.split_at_checked(end)?;
    let valid = opaque.iter().all(|&byte| byte > b' ' && byte != 0x7f);
    valid.then_some((EntityTag { weak, opaque }, rest.get(1..)?))
}

/// The fields of a 304 for a stored response. RFC 9110 15.4.5 asks for `Cache-Control`, `Content-Location`, `Date`,
/// `ETag`, `Expires` and `Vary`. The 304 has all other stored fields too, except those that describe the content,
/// because it has no content. `Last-Modified` is only there if there is no `ETag`.
pub(crate) fn not_modified_fields(stored: &HeaderMap) -> HeaderMap {
    const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
    const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
    const CONTENT: [HeaderName; 9] = [
        CONTENT_DIGEST,
        CONTENT_ENCODING,
        CONTENT_LANGUAGE,
        CONTENT_LENGTH,
        CONTENT_MD5,
        CONTENT_RANGE,
        CONTENT_TYPE,
        TRAILER,
        TRANSFER_ENCODING,
    ];
    let implied = |name: &HeaderName| *name == LAST_MODIFIED && stored.contains_key(ETAG);
    collected(stored.iter().filter(|(name, _)| !CONTENT.contains(name) && !implied(name)))
}

#[cfg(test)]
mod tests;
