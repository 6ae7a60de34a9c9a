//! `Cache-Control` of responses and of requests.

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, PRAGMA};

use super::reference::{self, Directive};
use super::{around, of, values};
use crate::rfc9111::directives::{MaxStale, Qualified};
use crate::rfc9111::reuse::request_takes_stale;
use crate::rfc9111::testing::{NOW_MS, head};
use crate::rfc9111::{Credentials, RequestDirectives, ResponseDirectives, Reuse, reuse};

fn read(lines: &[HeaderValue]) -> ResponseDirectives {
    ResponseDirectives::parse(&of(&CACHE_CONTROL, lines))
}

/// The directives of all lines by the grammar. `None` if a line does not follow the grammar.
fn strictly(lines: &[HeaderValue]) -> Option<Vec<Directive>> {
    let lines = lines.iter().map(|line| reference::directives(line.as_bytes()));
    Some(lines.collect::<Option<Vec<_>>>()?.concat())
}

fn qualified(found: &[Directive], name: &str) -> Qualified {
    let mut all = Vec::new();
    let mut some = false;
    for argument in reference::arguments(found, name) {
        some = true;
        match argument.and_then(reference::names) {
            Some(names) => all.extend(names),
            None => return Qualified::All,
        }
    }
    if some { Qualified::Fields(all) } else { Qualified::No }
}

/// The pieces between commas, without regard to quotes.
fn pieces(lines: &[HeaderValue]) -> Vec<String> {
    let pieces = lines.iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    pieces.map(|piece| String::from_utf8_lossy(piece.trim_ascii()).to_ascii_lowercase()).collect()
}

/// Whether a piece is `name=` with this number.
fn says(lines: &[HeaderValue], name: &str, seconds: u64) -> bool {
    pieces(lines).iter().any(|piece| {
        let value = piece.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
        let digits = value.map(|value| value.replace(['"', '\\'], ""));
        digits.is_some_and(|digits| reference::seconds(digits.as_bytes()) == Some(seconds))
    })
}

/// Input: lines of a response's `Cache-Control`.
///
/// - If the lines follow the grammar, the result is that of the grammar.
/// - Otherwise, each lifetime and each permission is contained in the lines.
/// - A restriction is found whatever text stands before or after it.
pub fn cache_control(data: &[u8]) {
    let lines = values(data);
    let found = read(&lines);
    assert_eq!(found.present, !lines.is_empty());
    if let Some(strict) = strictly(&lines) {
        let any = |name| reference::arguments(&strict, name).next().is_some();
        let bare = |name| reference::arguments(&strict, name).any(|argument| argument.is_none());
        let expected = ResponseDirectives {
            present: !lines.is_empty(),
            targeted: false,
            no_store: any("no-store"),
            no_cache: qualified(&strict, "no-cache"),
            private: qualified(&strict, "private"),
            public: bare("public"),
            must_revalidate: any("must-revalidate"),
            proxy_revalidate: any("proxy-revalidate"),
            must_understand: bare("must-understand"),
            no_transform: any("no-transform"),
            immutable: bare("immutable"),
            max_age: reference::lifetime(&strict, "max-age"),
            s_maxage: reference::lifetime(&strict, "s-maxage"),
            stale_while_revalidate: reference::shortest(&strict, "stale-while-revalidate"),
            stale_if_error: reference::shortest(&strict, "stale-if-error"),
        };
        assert_eq!(found, expected);
    }
    nothing_is_invented(&lines, &found);
    lines.iter().for_each(restrictions_are_found);
}

/// Each lifetime and each permission is contained in the lines.
fn nothing_is_invented(lines: &[HeaderValue], found: &ResponseDirectives) {
    for (name, value) in [
        ("max-age", found.max_age),
        ("s-maxage", found.s_maxage),
        ("stale-while-revalidate", found.stale_while_revalidate),
        ("stale-if-error", found.stale_if_error),
    ] {
        let seconds = value.unwrap_or(0);
        assert!(seconds == 0 || says(lines, name, seconds), "no line has {name}={seconds}");
    }
    for (name, permits) in [
        ("public", found.public),
        ("must-understand", found.must_understand),
        ("immutable", found.immutable),
    ] {
        assert!(!permits || pieces(lines).iter().any(|piece| piece == name), "no line has {name}");
    }
}

/// A restriction is found whatever text stands before or after it (RFC 9111 4.2.1).
fn restrictions_are_found(line: &HeaderValue) {
    for (before, behind) in [("", ", "), (", ", "")] {
        let with = |directive: &str| {
            let line = match before {
                "" => around(&format!("{directive}{behind}"), line, ""),
                _ => around("", line, &format!("{before}{directive}")),
            };
            read(&[line])
        };
        assert!(with("no-store").no_store);
        assert!(with("must-revalidate").must_revalidate);
        assert!(with("proxy-revalidate").proxy_revalidate);
        assert_eq!(with("private").private, Qualified::All);
        assert_eq!(with("no-cache").no_cache, Qualified::All);
        assert_eq!(with("max-age=0").max_age, Some(0));
        assert_eq!(with("s-maxage=0").s_maxage, Some(0));
        assert!(with("max-age=7").max_age.is_some());
    }
    assert!(read(&[around("max-age=7, ", line, "")]).max_age.unwrap() <= 7);
}

/// Input: lines of a request's `Cache-Control`.
///
/// - If the lines follow the grammar, the result is that of the grammar.
/// - A restriction of the client is never lost.
/// - No directive makes a stored response fresh that is not.
pub fn request_directives(data: &[u8]) {
    let lines = values(data);
    let request = of(&CACHE_CONTROL, &lines);
    let found = RequestDirectives::parse(&request);
    if let Some(strict) = strictly(&lines) {
        let any = |name| reference::arguments(&strict, name).next().is_some();
        let stale = reference::arguments(&strict, "max-stale").map(|argument| match argument {
            None => MaxStale::Any,
            Some(text) => MaxStale::Secs(reference::seconds(text).unwrap_or(0)),
        });
        let max_stale = stale.reduce(|one, other| match (one, other) {
            (MaxStale::Secs(a), MaxStale::Secs(b)) => MaxStale::Secs(a.min(b)),
            (MaxStale::Any, limit) | (limit, MaxStale::Any) => limit,
        });
        let secs = |argument: Option<&[u8]>| argument.and_then(reference::seconds).unwrap_or(0);
        let expected = RequestDirectives {
            no_store: any("no-store"),
            no_cache: any("no-cache"),
            only_if_cached: any("only-if-cached"),
            max_age: reference::shortest(&strict, "max-age"),
            min_fresh: reference::arguments(&strict, "min-fresh").map(secs).max(),
            max_stale,
            stale_if_error: reference::shortest(&strict, "stale-if-error"),
        };
        assert_eq!(found, expected);
    }
    let stored = head(&[]);
    for after_ms in [0, 1, 59_999, 60_000, 61_000, 1 << 50] {
        let now_ms = NOW_MS + after_ms;
        let anonymous = Credentials::None;
        let with = reuse(&stored, &HeaderMap::new(), anonymous, Some(&found), now_ms);
        let without = reuse(&stored, &HeaderMap::new(), anonymous, None, now_ms);
        let wants = without == Reuse::Fresh && with == Reuse::RequestWants;
        assert!(with == without || wants, "{with:?}");
        let takes = request_takes_stale(&stored, &found, now_ms);
        assert!(!takes || (without == Reuse::Stale && found.max_stale.is_some()));
    }
    for line in &lines {
        let with = |line| RequestDirectives::parse(&of(&CACHE_CONTROL, &[line]));
        let found = with(around("no-store, no-cache, only-if-cached, max-age=0, ", line, ""));
        assert!(found.no_store && found.no_cache && found.only_if_cached);
        assert_eq!(found.max_age, Some(0));
        let found = with(around("", line, ", no-store"));
        assert!(found.no_store);
        // Pragma counts only without Cache-Control (RFC 9111 5.4)
        let pragma = RequestDirectives::parse(&of(&PRAGMA, std::slice::from_ref(line)));
        let only = RequestDirectives { no_cache: pragma.no_cache, ..RequestDirectives::default() };
        assert_eq!(pragma, only);
        let mut both = of(&CACHE_CONTROL, &[HeaderValue::from_static("max-age=60")]);
        both.append(HeaderName::from_static("pragma"), line.clone());
        assert!(!RequestDirectives::parse(&both).no_cache);
    }
}
