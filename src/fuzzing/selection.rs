//! The selection of a response or a part of it: `Vary`, entity tags, ranges.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, COOKIE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, VARY,
};
use http::{Method, StatusCode};

use super::{fields, lines, number, of, reference, sections, values};
use crate::rfc9111::range::{self, RangeOutcome, content_range};
use crate::rfc9111::testing::{NOW_MS, head};
use crate::rfc9111::validation::{Precondition, evaluate, single_etag};
use crate::rfc9111::{Nominated, matches, nominated, secondary_key, select};

/// All lines of a field as one text (RFC 9110 5.3).
fn joined(name: &HeaderName, request: &HeaderMap) -> Option<Vec<u8>> {
    let lines: Vec<_> = request.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    (!lines.is_empty()).then(|| lines.join(&b", "[..]))
}

/// Input: lines of `Vary`, then the fields of a request, then the fields of another request.
///
/// - The names in all lines are one list, and their order does not matter.
/// - Two requests match if and only if all their selecting fields match.
/// - An absent field matches only an absent field.
/// - Different preferences (`Accept-Encoding`, `Accept-Language`) never match.
pub fn vary(data: &[u8]) {
    let (vary, rest) = sections(data);
    let (one, other) = sections(rest);
    let vary = values(vary);
    let (one, other) = (fields(one), fields(other));
    let found = nominated(&of(&VARY, &vary));
    let members = vary.iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    let members = members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty());
    let names: Option<Vec<_>> =
        members.map(|name| HeaderName::from_bytes(name).ok().filter(|name| name != "*")).collect();
    let expected = match names {
        None => Nominated::Any,
        Some(names) if names.is_empty() => Nominated::None,
        Some(mut names) => {
            names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
            names.dedup();
            Nominated::Names(names)
        }
    };
    assert_eq!(found, expected);
    let Nominated::Names(mut names) = found else { return };
    names.truncate(32);
    let selected = select(&names, &one);
    assert!(matches(&selected, &one), "a request matches itself");
    let same = matches(&selected, &other);
    assert_eq!(same, matches(&select(&names, &other), &one), "both ways");
    let keys = [&one, &other].map(|request| secondary_key(&select(&names, request)));
    assert_eq!(same, keys[0] == keys[1], "requests match if their keys are equal");
    let mut alike = true;
    for name in &names {
        let field = select(std::slice::from_ref(name), &one);
        let agree = matches(&field, &other);
        alike &= agree;
        let (a, b) = (joined(name, &one), joined(name, &other));
        assert!(!agree || a.is_some() == b.is_some(), "absent matches only absent");
        let (Some(a), Some(b)) = (a, b) else { continue };
        // several lines are one list (RFC 9110 5.3); cookies are joined in another way (RFC 9113 8.2.3)
        assert!(
            matches(&field, &of(name, &[HeaderValue::from_bytes(&a).unwrap()])) || *name == COOKIE
        );
        if [ACCEPT_ENCODING, ACCEPT_LANGUAGE].contains(name)
            && let (Some(a), Some(b)) = (reference::preferences(&a), reference::preferences(&b))
        {
            assert_eq!(agree, a == b, "{name}: {a:?} {b:?}");
        }
        if ![ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, COOKIE].contains(name) {
            let plain = |text: &[u8]| {
                let text = text.iter().filter(|byte| !byte.is_ascii_whitespace());
                text.copied().collect::<Vec<_>>()
            };
            assert!(!agree || plain(&a) == plain(&b), "{name} differs in more than spaces");
        }
    }
    assert_eq!(same, alike, "every field counts");
}

/// Input: the entity tag of a stored response, then lines of `If-None-Match`.
///
/// - If the lines follow the grammar, the result is that of the grammar.
/// - There is no 304 for a tag that is not in the lines.
pub fn etags(data: &[u8]) {
    let mut input = values(data).into_iter();
    let Some(etag) = input.next() else { return };
    let lines: Vec<_> = input.collect();
    let mut stored = head(&[]);
    stored.headers = of(&ETAG, std::slice::from_ref(&etag));
    let request = of(&IF_NONE_MATCH, &lines);
    let found = evaluate(&request, &stored, NOW_MS);
    assert_ne!(found, Precondition::Forward);
    let not_modified = found == Precondition::NotModified;
    let tag = single_etag(etag.as_bytes());
    let lists: Option<Vec<_>> = lines
        .iter()
        .map(|line| match line.as_bytes().trim_ascii() {
            b"*" => Some(Vec::new()),
            line => reference::entity_tags(line),
        })
        .collect();
    let star = lines.iter().any(|line| line.as_bytes().trim_ascii() == b"*");
    let quoted = tag.map(|tag| [b"\"", tag.opaque, b"\""].concat());
    let named = |line: &HeaderValue| {
        quoted.as_deref().is_some_and(|quoted| {
            line.as_bytes().windows(quoted.len()).any(|window| window == quoted)
        })
    };
    assert!(!not_modified || star || lines.iter().any(named), "no line has {etag:?}");
    if let Some(lists) = lists {
        let listed = tag.is_some_and(|tag| lists.concat().iter().any(|other| other == tag.opaque));
        assert_eq!(not_modified, star || listed);
    }
    if let Some(tag) = tag {
        assert_eq!(tag.is_strongly(tag), !tag.weak, "RFC 9110 8.8.3.2");
        assert_eq!(tag.weak, etag.as_bytes().trim_ascii().starts_with(b"W/"));
        let own = evaluate(&of(&IF_NONE_MATCH, &[etag]), &stored, NOW_MS);
        assert_eq!(own, Precondition::NotModified, "a tag matches itself");
    }
    if !lines.is_empty() {
        // with If-None-Match, a date is ignored (RFC 9110 13.1.3)
        let mut both = request.clone();
        both.insert(IF_MODIFIED_SINCE, HeaderValue::from_static("Fri, 01 Jan 2100 00:00:00 GMT"));
        assert_eq!(evaluate(&both, &stored, NOW_MS), found);
    }
    let mut with_if_match = request;
    with_if_match.insert(IF_MATCH, HeaderValue::from_static("*"));
    assert_eq!(evaluate(&with_if_match, &stored, NOW_MS), Precondition::Forward);
    stored.status = StatusCode::NOT_FOUND;
    let no_success = evaluate(&of(&IF_NONE_MATCH, &lines), &stored, NOW_MS);
    assert_eq!(no_success, Precondition::None, "RFC 9110 13.2.1");
}

/// Input, one line each: `Range`, the length of the stored body, `If-Range`, the stored `ETag`, and `Last-Modified`.
///
/// The result is the ranges that a strict reader of the grammar finds, or else the whole body.
pub fn ranges(data: &[u8]) {
    let mut input = lines(data);
    let Some(Ok(range)) = input.next().map(HeaderValue::from_bytes) else { return };
    let len = number(input.next());
    let mut value = || {
        let line = input.next().filter(|line| !line.is_empty());
        line.and_then(|line| HeaderValue::from_bytes(line).ok())
    };
    let (condition, etag, modified) = (value(), value(), value());
    let mut stored = head(&[]);
    etag.clone().map(|etag| stored.headers.insert(ETAG, etag));
    modified.map(|modified| stored.headers.insert(LAST_MODIFIED, modified));
    let mut request = of(&RANGE, std::slice::from_ref(&range));
    let cut = |request: &HeaderMap, method| range::evaluate(&method, request, &stored, len, NOW_MS);
    let unconditional = cut(&request, Method::GET);
    let parts = match &unconditional {
        RangeOutcome::Whole => None,
        RangeOutcome::Unsatisfiable => Some(Vec::new()),
        RangeOutcome::Single(part) => Some(vec![part.clone()]),
        RangeOutcome::Multi(parts) => {
            assert!(parts.len() > 1, "RFC 9110 15.3.7.2");
            Some(parts.clone())
        }
    };
    let strict = range.to_str().ok().and_then(|range| reference::byte_ranges(range, len));
    if let Some(parts) = &parts {
        let strict = strict.expect("an invalid set of ranges is ignored");
        let found: Vec<_> = parts.iter().map(|part| (part.start, part.end - 1)).collect();
        // the reference reads a missing last position as 2^64 - 1, which matters only for bodies of this length
        assert!(found == strict || len == u64::MAX, "{found:?} {strict:?}");
        let sent: u128 = parts.iter().map(|part| u128::from(part.end - part.start)).sum();
        assert!(sent <= u128::from(len), "RFC 9110 14.2: never more than the whole");
        for part in parts {
            assert!(part.start < part.end && part.end <= len);
            let field = content_range(Some(part), len);
            assert_eq!(field, format!("bytes {}-{}/{len}", part.start, part.end - 1));
        }
    }
    for method in [Method::HEAD, Method::POST, Method::PUT] {
        assert_eq!(cut(&request, method), RangeOutcome::Whole, "RFC 9110 14.2");
    }
    let Some(condition) = condition else { return };
    request.insert(IF_RANGE, condition.clone());
    let conditional = cut(&request, Method::GET);
    assert!(conditional == RangeOutcome::Whole || conditional == unconditional);
    let tag = |value: &HeaderValue| {
        let text = value.as_bytes().trim_ascii();
        text.starts_with(b"\"").then(|| text.to_vec())
    };
    if conditional != RangeOutcome::Whole && condition.as_bytes().contains(&b'"') {
        // RFC 9110 13.1.5
        let same = etag.as_ref().and_then(tag).is_some_and(|etag| tag(&condition) == Some(etag));
        assert!(same, "If-Range compares strongly");
    }
}
