//! Keys, query rules, and the targets in `Location` and `Content-Location`.

use http::header::{CONTENT_LOCATION, HOST, HeaderValue, LOCATION};
use http::uri::PathAndQuery;
use http::{Request, Uri};

use super::{lines, number, of, values};
use crate::key::{CacheKey, KeyRules, QueryRules, TargetKey};
use crate::rfc9111::{Target, same_origin_targets};

/// The query rules that the bits of a number enable.
fn rules(bits: u64) -> QueryRules {
    let mut rules = QueryRules::default();
    if bits & 1 != 0 {
        rules.sorted();
    }
    if bits & 2 != 0 {
        rules.without_tracking();
    }
    if bits & 4 != 0 {
        rules.without(["s", "a b", "x%"]);
    }
    if bits & 8 != 0 {
        rules.only(["a", "b", "a b", "utm_source"]);
    }
    rules
}

fn pairs(target: &str) -> Vec<&str> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter(|pair| !pair.is_empty()).collect()
}

/// Input: rules as a number, then a path with its query.
///
/// - Applying the rules a second time changes nothing.
/// - The path does not change, and no parameter is added.
/// - Without rules, the query does not change.
pub fn queries(data: &[u8]) {
    let mut input = lines(data);
    let bits = number(input.next());
    let Some(target) = input.next().and_then(|line| std::str::from_utf8(line).ok()) else { return };
    let rules = rules(bits);
    let once = rules.apply(target);
    assert_eq!(rules.apply(&once), once, "a second time changes nothing");
    assert_eq!(once.split('?').next(), target.split('?').next(), "the path does not change");
    if bits & 15 == 0 {
        assert_eq!(once, target);
        return;
    }
    let (mut left, mut all) = (pairs(&once), pairs(target));
    if bits & 1 == 0 {
        let mut rest = all.iter();
        assert!(left.iter().all(|pair| rest.any(|other| other == pair)), "in the same order");
    }
    if bits & 14 == 0 {
        all.sort_unstable();
        left.sort_unstable();
        assert_eq!(left, all, "sorting drops nothing");
    }
    assert!(left.iter().all(|pair| all.contains(pair)));
}

struct Asked {
    target: TargetKey,
    uri: Uri,
    host: Option<HeaderValue>,
}

/// Input: host and target of two requests, then rules as a number.
///
/// - Keys are equal if and only if the targets are equal.
/// - A key is in the range of its own target, in any spelling, and in the range of no other target.
/// - Custom keys and partitions never equal the key of a URI.
pub fn keys(data: &[u8]) {
    let mut input = lines(data);
    let mut asked = Vec::new();
    let mut rules = KeyRules::default();
    rules.set_prefix("fuzz").expect("a prefix");
    let texts: Vec<_> = input.by_ref().take(4).collect();
    rules.query = self::rules(number(input.next()));
    for pair in texts.chunks(2) {
        let [host, uri] = pair else { return };
        let Ok(uri) = Uri::try_from(*uri) else { continue };
        let mut request = Request::new(()).into_parts().0;
        let host = HeaderValue::from_bytes(host).ok().filter(|host| !host.is_empty());
        host.clone().map(|host| request.headers.insert(HOST, host));
        if let Ok(target) = rules.target(&uri, &request) {
            asked.push(Asked { target, uri, host });
        }
    }
    for one in &asked {
        let key = rules.base_key(&one.target, &[]);
        assert!(key.as_bytes().len() <= CacheKey::MAX_BYTES);
        assert_eq!(key.prefix(), b"fuzz");
        assert!(rules.range_of_prefix().contains(key.as_bytes()));
        let custom = rules.base_key(&TargetKey::custom(one.uri.to_string()), &[]);
        assert_ne!(custom, key, "a custom key never equals the key of a URI");
        let partition =
            rules.base_key(&one.target.clone().partition("name", one.uri.to_string()), &[]);
        assert_ne!(partition, key);
        for other in &asked {
            let same = one.target == other.target;
            let theirs = rules.base_key(&other.target, &[]);
            assert_eq!(same, key == theirs, "{:?} {:?}", one.uri, other.uri);
            assert_eq!(key == theirs, key.hash() == theirs.hash());
            let named = rules.scope(&one.target, true) == rules.scope(&other.target, true);
            assert!(!same || named, "equal targets have equal scopes");
            for key in [&theirs, &rules.base_key(&other.target.clone().partition("name", "p"), &[])]
            {
                let contained = rules.range(&one.target, true).contains(key.as_bytes());
                assert_eq!(contained, named, "{:?} {:?}", one.uri, other.uri);
                assert!(!named || rules.range(&one.target, false).contains(key.as_bytes()));
            }
            let identical = one.uri == other.uri && one.host == other.host;
            assert!(!identical || same, "identical requests have one key");
        }
    }
}

/// Input: the path of an unsafe request, then references.
///
/// - A reference invalidates at most one target, which is a path without `.` and `..`.
/// - A reference to another scheme, host or port invalidates nothing (RFC 9111 4.4).
pub fn locations(data: &[u8]) {
    let mut input = values(data).into_iter();
    let path = input.next().and_then(|path| path.to_str().map(str::to_owned).ok());
    let Some(path) = path.filter(|path| path.starts_with('/') && !path.contains(['?', '#', ' ']))
    else {
        return;
    };
    let target = Target { scheme: "https", authority: "shop.example", path: &path };
    for reference in input {
        for name in [LOCATION, CONTENT_LOCATION] {
            let found = same_origin_targets(
                target,
                &of(&name, std::slice::from_ref(&reference)),
                std::slice::from_ref(&name),
            );
            assert!(found.len() <= 1);
            let text = reference.to_str().unwrap_or_default();
            let odd = text.contains(|c| "\"<>\\^`{|}".contains(c))
                || path.parse::<PathAndQuery>().is_err();
            for found in found {
                assert!(found.starts_with('/') && !found.contains(['#', ' ']));
                let of_path = found.split('?').next().unwrap_or_default();
                assert!(
                    of_path.split('/').all(|part| part != "." && part != ".."),
                    "RFC 3986 5.2.4"
                );
                assert!(
                    odd || text.is_empty()
                        || !text.is_ascii()
                        || found.parse::<PathAndQuery>().is_ok()
                );
                // only references to the same origin (RFC 9111 4.4)
                let lower = text.trim().to_ascii_lowercase();
                let rest = lower.strip_prefix("https:").unwrap_or(&lower);
                if let Some(authority) = rest.strip_prefix("//") {
                    let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
                    let (host, port) =
                        authority[..end].split_once(':').unwrap_or((&authority[..end], ""));
                    assert_eq!(host, "shop.example", "{text:?}");
                    assert!(port.is_empty() || port.parse() == Ok(443), "{text:?}");
                } else {
                    let scheme = rest.split(['/', '?', '#']).next().unwrap_or_default();
                    assert!(!scheme.contains(':'), "{text:?}");
                }
            }
        }
    }
}
