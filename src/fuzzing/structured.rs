//! Structured fields: targeted fields, cache groups, `No-Vary-Search`.

use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::{lines, of, reference, sections, values};
use crate::rfc9111::ResponseDirectives;
use crate::rfc9111::groups::{MAX_GROUP_CHARS, MAX_GROUPS, cache_groups, invalidated_groups};
use crate::rfc9111::no_vary_search::{NoVarySearch, canonical, equivalent};
use crate::rfc9111::targeted::targeted_directives;

const FIRST: HeaderName = HeaderName::from_static("tower-mysql-cache-control");
const SECOND: HeaderName = HeaderName::from_static("cdn-cache-control");
const GROUPS: HeaderName = HeaderName::from_static("cache-groups");
const INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");
const SEARCH: HeaderName = HeaderName::from_static("no-vary-search");

/// Input: lines of a targeted field.
///
/// - An invalid member makes the whole field invalid (RFC 9213 2.1).
/// - The first field of the list decides.
/// - If the text is also a valid `Cache-Control`, both are read the same.
pub fn targeted(data: &[u8]) {
    let lines = values(data);
    let read = |lines: &[HeaderValue]| targeted_directives(&[FIRST, SECOND], &of(&FIRST, lines));
    let found = read(&lines);
    let mut invalid = lines.clone();
    invalid.push(HeaderValue::from_static("&"));
    assert_eq!(read(&invalid), None, "RFC 9213 2.1");
    let Some(found) = found else { return };
    assert!(found.targeted && found.present && !lines.is_empty());
    for seconds in [found.max_age, found.s_maxage, found.stale_while_revalidate] {
        assert!(seconds.is_none_or(|seconds| seconds <= 1 << 31), "RFC 9111 1.2.2");
    }
    let mut two = of(&FIRST, &lines);
    two.append(SECOND, HeaderValue::from_static("max-age=1, no-store"));
    assert_eq!(targeted_directives(&[FIRST, SECOND], &two).as_ref(), Some(&found));
    let restricted =
        [lines.clone(), vec![HeaderValue::from_static("no-store, max-age=0")]].concat();
    let restricted = read(&restricted).expect("one more valid line");
    assert!(restricted.no_store && restricted.max_age == Some(0), "the last of a name counts");
    // text that is valid in both grammars is read like Cache-Control (RFC 9213 2.1)
    let texts: Option<Vec<_>> =
        lines.iter().map(|line| reference::directives(line.as_bytes())).collect();
    let Some(members) = texts.map(|texts| texts.concat()) else { return };
    let mut names: Vec<_> = members.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    let plain =
        lines.iter().all(|line| !line.as_bytes().iter().any(|byte| b"\"=?;".contains(byte)))
            && names.len() == members.len();
    if plain {
        let other = ResponseDirectives::parse(&of(&CACHE_CONTROL, &lines));
        // lifetimes are compared below: without a value they are a boolean here, but missing in Cache-Control
        let other = ResponseDirectives {
            targeted: true,
            max_age: None,
            s_maxage: None,
            stale_while_revalidate: None,
            stale_if_error: None,
            ..other
        };
        assert_eq!(found, other);
    }
    for (name, (here, there)) in [
        ("max-age", (found.max_age, reference::lifetime(&members, "max-age"))),
        ("s-maxage", (found.s_maxage, reference::lifetime(&members, "s-maxage"))),
    ] {
        let once = members.iter().filter(|(member, _)| member == name).count() == 1;
        let one_form = !lines.iter().any(|line| line.as_bytes().contains(&b';'));
        assert!(
            here.is_none() || !once || !one_form || here == there,
            "{name}: {here:?} {there:?}"
        );
    }
}

fn quoted(groups: &[String]) -> HeaderValue {
    let quoted = groups
        .iter()
        .map(|group| format!("\"{}\"", group.replace('\\', "\\\\").replace('"', "\\\"")));
    HeaderValue::try_from(quoted.collect::<Vec<_>>().join(", ")).expect("strings are ASCII")
}

/// Input: lines of `Cache-Groups`.
///
/// - A list of strings is read as the reference reads it; groups are never joined and never truncated.
/// - Groups that were read can be written and read again.
/// - Safe methods and errors invalidate no groups.
pub fn groups(data: &[u8]) {
    let lines = values(data);
    let found = cache_groups(&of(&GROUPS, &lines));
    assert!(found.len() <= MAX_GROUPS);
    for (at, group) in found.iter().enumerate() {
        assert!(group.len() <= MAX_GROUP_CHARS);
        assert_eq!(found.iter().position(|other| other == group), Some(at), "each once");
    }
    assert_eq!(cache_groups(&of(&GROUPS, &[quoted(&found)])), found, "read, written and read");
    let plain: Option<Vec<_>> = lines
        .iter()
        .map(|line| {
            let text = line.to_str().ok()?;
            // an empty line among others would make two commas in a row
            let strings = reference::strings(text)?;
            (lines.len() == 1 || !strings.is_empty()).then_some(strings)
        })
        .collect();
    if let Some(plain) = plain {
        let mut expected: Vec<String> = Vec::new();
        for group in plain.concat() {
            let room = expected.len() < MAX_GROUPS && group.len() <= MAX_GROUP_CHARS;
            if room && !expected.contains(&group) {
                expected.push(group);
            }
        }
        assert_eq!(found, expected);
    }
    let fields = of(&INVALIDATION, &lines);
    let invalidated = |method, status| invalidated_groups(&method, status, &fields);
    assert_eq!(invalidated(Method::POST, StatusCode::OK), found);
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE] {
        assert!(invalidated(method, StatusCode::OK).is_empty(), "RFC 9875 3");
    }
    assert!(invalidated(Method::POST, StatusCode::INTERNAL_SERVER_ERROR).is_empty());
}

/// Input: lines of `No-Vary-Search`, then two queries, one line each.
///
/// - Queries are equivalent if and only if their canonical forms are equal.
/// - The canonical form of a canonical query is the query itself.
/// - An invalid field is ignored, so queries must be identical.
pub fn no_vary_search(data: &[u8]) {
    let (field, queries) = sections(data);
    let field = values(field);
    let rules = NoVarySearch::parse(&of(&SEARCH, &field));
    let mut invalid = field;
    invalid.push(HeaderValue::from_static("params"));
    let invalid = NoVarySearch::parse(&of(&SEARCH, &invalid));
    assert!(invalid.is_default(), "a boolean `params` makes the field invalid");
    let queries: Vec<_> =
        lines(queries).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    let mut asked = vec![None];
    asked.extend(queries.into_iter().take(2).map(Some));
    for &a in &asked {
        let once = canonical(&rules, a);
        let again = once.strip_prefix('?');
        assert_eq!(once.is_empty(), again.is_none());
        assert_eq!(canonical(&rules, again), once, "a canonical query does not change");
        assert!(equivalent(&rules, a, again));
        for &b in &asked {
            let same = equivalent(&rules, a, b);
            assert_eq!(same, canonical(&rules, a) == canonical(&rules, b));
            assert_eq!(same, equivalent(&rules, b, a));
            assert!(
                !rules.is_default() || same == (a == b),
                "without rules, queries must be identical"
            );
        }
    }
}
