//! What a policy does with credentials in a request: cookies and `Authorization`.

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderValue};

use crate::key::{hash_values, matches_listed};

/// Cookies that analytics scripts set in the browser and no handler reads. Exact names wherever possible:
/// `_gallery_session` is somebody's session, and begins like Google's.
const ANALYTICS: &[&str] = &[
    "_ga",
    "_ga_*",
    "_gali",
    "_gat",
    "_gat_*",
    "_gac_*",
    "_gid",
    "_gcl_au",
    "_gcl_aw",
    "_gcl_dc",
    "_gcl_gb",
    "_gcl_gf",
    "_gcl_ha",
    "_gcl_gs",
    "__utma",
    "__utmb",
    "__utmc",
    "__utmt",
    "__utmv",
    "__utmz",
    "_fbp",
    "_fbc",
    "_hjSession_*",
    "_hjSessionUser_*",
    "_hjid",
    "_hjFirstSeen",
    "_hjIncludedInSessionSample_*",
    "_hjAbsoluteSessionInProgress",
    "_hjTLDTest",
    "_pk_id.*",
    "_pk_ses.*",
    "_pk_ref.*",
    "_clck",
    "_clsk",
    "_uetsid",
    "_uetvid",
    "_ttp",
    "_pin_unauth",
    "_scid",
    "_rdt_uuid",
    "ajs_user_id",
    "ajs_anonymous_id",
    "ajs_group_id",
    "mp_*_mixpanel",
    "__hstc",
    "__hssc",
    "__hssrc",
    "hubspotutk",
];

/// What a route does with cookies in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cookies {
    /// A request with any cookie that is not a known analytics cookie goes inside, unless a response
    /// is stored that says of itself that it may be shared (`public`, `s-maxage`). The default.
    #[default]
    Bypass,
    /// The route never looks at cookies.
    Ignore,
    /// These cookies join the key, as a hash; all others are ignored.
    Key(&'static [&'static str]),
}

/// What a route does with `Authorization` in a request. It is never ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authorization {
    /// A request with `Authorization` goes inside, unless a response is stored that says of itself
    /// that it may be shared (RFC 9111 3.5). The default.
    #[default]
    Bypass,
    /// The field joins the key, as a hash: everybody has entries of their own.
    Key,
}

/// Credentials of a request that its key does not account for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Credentials {
    #[default]
    None,
    Cookie,
    Authorization,
}

impl Credentials {
    /// The name of what is in the way, for `Cache-Status` details.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cookie => "cookie",
            Self::Authorization => "authorization",
        }
    }
}

/// The credentials that are left over, and the hashed ones that join the key.
pub(crate) fn examine(
    cookies: Cookies,
    authorization: Authorization,
    headers: &HeaderMap,
) -> (Credentials, Vec<(u8, [u8; 16])>) {
    let mut left = Credentials::None;
    let mut keyed = Vec::new();
    match cookies {
        Cookies::Ignore => {}
        Cookies::Bypass if pairs(headers).all(|(name, _)| is_analytics(name)) => {}
        Cookies::Bypass => left = Credentials::Cookie,
        Cookies::Key(names) => {
            let named = names.iter().map(|name| {
                // several cookies of one name: all values, in the order sent
                let values =
                    pairs(headers).filter(|(n, _)| *n == name.as_bytes()).map(|(_, v)| Some(v));
                hash_values(values)
            });
            let hashes: Vec<_> = named.collect();
            keyed.push((b'c', hash_values(hashes.iter().map(|hash| Some(&hash[..])))));
        }
    }
    if headers.contains_key(AUTHORIZATION) {
        match authorization {
            Authorization::Bypass => left = Credentials::Authorization,
            Authorization::Key => {
                let lines = headers.get_all(AUTHORIZATION).iter().map(|line| Some(line.as_bytes()));
                keyed.push((b'a', hash_values(lines)));
            }
        }
    }
    (left, keyed)
}

/// The cookies of a request, over all its lines (HTTP/2 splits them), as name and value.
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let pairs = lines.flat_map(|line| line.split(|&b| b == b';')).map(<[u8]>::trim_ascii);
    pairs.filter(|pair| !pair.is_empty()).map(|pair| {
        let mut halves = pair.splitn(2, |&b| b == b'=');
        (halves.next().unwrap_or_default(), halves.next().unwrap_or_default())
    })
}

fn is_analytics(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    ANALYTICS.iter().any(|listed| match listed.split_once('*') {
        Some((start, end)) if !end.is_empty() => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
        _ => matches_listed(listed, name),
    })
}

/// `Set-Cookie` lines whose cookie is not on the list of those that a policy strips.
pub(crate) fn set_cookies_left(lines: &[HeaderValue], stripped: &[&str]) -> bool {
    lines.iter().any(|line| {
        let name = line.as_bytes().split(|&b| b == b'=' || b == b';').next().unwrap_or_default();
        let name = name.trim_ascii();
        !stripped.iter().any(|listed| listed.as_bytes() == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_cookies(lines: &[&str]) -> HeaderMap {
        let line = |line: &&str| (COOKIE, HeaderValue::from_str(line).unwrap());
        lines.iter().map(line).collect()
    }

    fn bypassed(lines: &[&str]) -> bool {
        let headers = with_cookies(lines);
        examine(Cookies::Bypass, Authorization::Bypass, &headers).0 == Credentials::Cookie
    }

    #[test]
    fn only_analytics_cookies_are_known_to_be_harmless() {
        assert!(!bypassed(&[]));
        assert!(!bypassed(&["_ga=GA1.2; _ga_X1=2; _gid=1;_hjSession_1=x", "__utma=1"]));
        assert!(!bypassed(&["", ";;  ;"]));
        assert!(!bypassed(&["mp_abc_mixpanel=1"]));
        for cookies in [
            &["_ga=1; sid=2"][..],
            &["_ga=1", "sid=2"],
            &["sid"],
            &["=x"],
            &["_GA=1"],
            &["_gallery_session=1"],
            &["_hjem_session=1"],
        ] {
            assert!(bypassed(cookies), "{cookies:?}");
        }
    }

    #[test]
    fn keyed_cookies_are_told_apart_and_others_ignored() {
        let key = |lines: &[&str]| {
            let cookies = Cookies::Key(&["theme", "lang"]);
            let (left, keyed) = examine(cookies, Authorization::Bypass, &with_cookies(lines));
            assert_eq!(left, Credentials::None);
            keyed
        };
        assert_eq!(key(&["theme=dark; sid=1"]), key(&["sid=2", "theme=dark"]));
        assert_ne!(key(&["theme=dark"]), key(&["lang=dark"]));
        assert_ne!(key(&["theme="]), key(&[]));
        assert_ne!(key(&["theme=a; theme=b"]), key(&["theme=b; theme=a"]));
        assert_ne!(key(&["theme=a; theme=b"]), key(&["theme=a"]));
    }

    #[test]
    fn authorization_bypasses_or_joins_the_key_and_is_never_ignored() {
        let with = |token: &str| HeaderMap::from_iter([(AUTHORIZATION, token.parse().unwrap())]);
        let (left, keyed) = examine(Cookies::Ignore, Authorization::Bypass, &with("Bearer a"));
        assert_eq!((left, keyed.len()), (Credentials::Authorization, 0));
        let key = |token| examine(Cookies::Ignore, Authorization::Key, &with(token)).1;
        assert_ne!(key("Bearer a"), key("Bearer b"));
        assert_eq!(key("Bearer a"), key("Bearer a"));
    }

    #[test]
    fn stripped_cookies_are_named_exactly() {
        let lines = |lines: &[&str]| -> Vec<HeaderValue> {
            lines.iter().map(|line| line.parse().unwrap()).collect()
        };
        assert!(!set_cookies_left(&lines(&["seen=1; Path=/", " seen =2"]), &["seen"]));
        assert!(set_cookies_left(&lines(&["seen=1", "seen2=1"]), &["seen"]));
        assert!(set_cookies_left(&lines(&["sid=seen=1"]), &["seen"]));
    }
}
