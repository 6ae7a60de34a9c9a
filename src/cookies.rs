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
    /// A request with any cookie that is not a known analytics cookie, or with a `Cookie` field that is not of the
    /// grammar (RFC 6265 4.2.1), goes inside, unless a response
    /// is stored that says of itself that it may be shared (`public`, `s-maxage`). The default.
    #[default]
    Bypass,
    /// The route never looks at cookies.
    Ignore,
    /// These cookies join the key, as a hash ([`CacheLayer::key_secret`](crate::CacheLayer::key_secret)); all others
    /// are ignored. A request whose `Cookie` field is not of
    /// the grammar (RFC 6265 4.2.1), has a `%` in a name, or a name that differs from one of these in letter case
    /// only, is treated as with [`Bypass`](Self::Bypass): what a handler sees in it is not known.
    ///
    /// # Warning
    /// The key holds the cookie's value, not the user, and **a hit asks no session store**. With a session cookie, a page
    /// is served until its lifetime ends, even if the session has ended or has another user by then. Give such a page a
    /// tag of its user (`user:7`) and invalidate that tag at login, at logout, and when the user's rights change. Give
    /// the session a new id at login.
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
    /// The field joins the key, as a hash ([`CacheLayer::key_secret`](crate::CacheLayer::key_secret)): each value
    /// has entries of its own.
    Key,
}

/// Credentials of a request that its key does not account for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Credentials {
    #[default]
    None,
    Cookie,
    Authorization,
    /// A header field that is a credential.
    Header,
    /// The application knows who asks.
    Extension,
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
        Cookies::Bypass => {
            let is_harmless = |pair: Option<Pair<'_>>| pair.is_some_and(|p| is_analytics(p.name));
            if !pairs(headers).all(is_harmless) {
                left = Credentials::Cookie;
            }
        }
        Cookies::Key(names) => {
            let is_known = |pair: &Pair<'_>| !pair.resembles(names);
            let sent: Option<Vec<_>> = pairs(headers).map(|pair| pair.filter(is_known)).collect();
            if sent.is_none() {
                left = Credentials::Cookie;
            }
            keyed.push((b'c', keyed_cookies(names, sent.as_deref(), headers)));
        }
    }
    if headers.contains_key(AUTHORIZATION) {
        match authorization {
            // what is said of cookies is stricter (RFC 9111 3.5, 7.3)
            Authorization::Bypass if left == Credentials::Cookie => {}
            Authorization::Bypass => left = Credentials::Authorization,
            Authorization::Key => {
                let lines = headers.get_all(AUTHORIZATION).iter().map(|line| Some(line.as_bytes()));
                keyed.push((b'a', hash_values(lines)));
            }
        }
    }
    (left, keyed)
}

/// The names and what they say, or, where it is not known which cookies there are, the names and all lines as
/// they are. Sorted, so that the list of a policy may be in any order.
fn keyed_cookies(names: &[&str], sent: Option<&[Pair<'_>]>, headers: &HeaderMap) -> [u8; 16] {
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    let Some(sent) = sent else {
        let names = names.iter().map(|name| Some(name.as_bytes()));
        let lines = headers.get_all(COOKIE).iter().map(|line| Some(line.as_bytes()));
        return hash_values(std::iter::once(None).chain(names).chain([None]).chain(lines));
    };
    let named = names.iter().map(|name| {
        // several cookies of one name: all values, in the order sent
        let of_name = sent.iter().filter(|pair| pair.name == name.as_bytes());
        hash_values(of_name.flat_map(|pair| {
            let line: &[u8] = if pair.in_first_line { b"first" } else { b"later" };
            [Some(line), Some(pair.value)]
        }))
    });
    let hashes: Vec<_> = named.collect();
    let named = names.iter().zip(&hashes);
    hash_values(named.flat_map(|(name, hash)| [Some(name.as_bytes()), Some(&hash[..])]))
}

/// A cookie as it was sent.
struct Pair<'a> {
    name: &'a [u8],
    value: &'a [u8],
    /// HTTP/2 splits the field; a handler that reads one line only sees no others (RFC 9113 8.2.3).
    in_first_line: bool,
}

impl<'a> Pair<'a> {
    /// RFC 6265 4.2.1. `None` for what is not of the grammar, and for a name that some decode: readers do not
    /// agree what cookie that is.
    fn parse(pair: &'a [u8], in_first_line: bool) -> Option<Self> {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (pair.get(..equals)?, pair.get(equals + 1..)?);
        let is_name =
            |&byte: &u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
        let bare = match value {
            [b'"', inner @ .., b'"'] => inner,
            _ => value,
        };
        let is_octet = |&byte: &u8| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte);
        let sound = !name.is_empty() && name.iter().all(is_name) && bare.iter().all(is_octet);
        sound.then_some(Self { name, value, in_first_line })
    }

    /// Whether it is one of these but for letter case, which some readers ignore.
    fn resembles(&self, names: &[&str]) -> bool {
        let alike = |name: &&str| self.name.eq_ignore_ascii_case(name.as_bytes());
        names.iter().any(alike) && !names.iter().any(|name| name.as_bytes() == self.name)
    }
}

/// The cookies of a request, over all its lines; `None` for what is not of the grammar.
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = Option<Pair<'_>>> {
    let lines = headers.get_all(COOKIE).iter().map(|line| line.as_bytes().trim_ascii());
    lines.enumerate().filter(|(_, line)| !line.is_empty()).flat_map(|(index, line)| {
        line.split(|&byte| byte == b';').enumerate().map(move |(place, pair)| {
            let pair = if place == 0 { pair } else { pair.strip_prefix(b" ")? };
            Pair::parse(pair, index == 0)
        })
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
        assert!(!bypassed(&["_ga=GA1.2; _ga_X1=2; _gid=1; _hjSession_1=x", "__utma=1"]));
        assert!(!bypassed(&["", " "]));
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

    // RFC 6265 4.2.1
    #[test]
    fn what_is_no_cookie_by_the_grammar_is_not_known_to_be_harmless() {
        for line in [
            "_ga",
            "_ga =1",
            "_ga= 1",
            "_g%61=1",
            "_ga_%73id=1",
            "_ga_a b=1",
            "_ga_\"=1",
            "_ga_caf\u{e9}=1",
            "_ga=caf\u{e9}",
            "_ga=1, sid=2",
            "_ga=1 sid=2",
            "_ga=\"1; _gid=2\"",
            "_ga=\"",
            "_ga=a\\b",
            "_ga=1\tsid=2",
        ] {
            assert!(bypassed(&[line]), "{line}");
            assert!(bypassed(&["_ga=1", line]), "{line}");
        }
        assert!(!bypassed(&["_ga=\"1\"; _gid=a=b:(c)|%20/+"]));
    }

    // RFC 6265 4.2.1
    #[test]
    fn a_keyed_cookie_cannot_hide_behind_its_spelling() {
        let key = |lines: &[&str]| {
            let cookies = Cookies::Key(&["theme"]);
            examine(cookies, Authorization::Bypass, &with_cookies(lines))
        };
        let lines = [
            "theme =evil",
            "theme\t=evil",
            "\"theme\"=evil",
            "th%65me=evil",
            "%74heme=evil",
            "Theme=evil",
            "theme= evil",
            "theme",
            "=theme=evil",
            "a=1;theme=evil",
            "a=1;\ttheme=evil",
            "a=1;  theme=evil",
            "a=1, theme=evil",
            "a=1 theme=evil",
            "a=\"1; theme=evil; b=\"",
            "theme=\"evil; a=1\"",
            "a=caf\u{e9}; theme=evil",
            "theme=evil; a=\\",
            "theme=evil;",
            "; theme=evil",
            "a=1;; theme=evil",
            "theme[]=evil",
        ];
        let plain =
            [key(&[]), key(&["theme=evil"]), key(&["theme="]), key(&["a=1"])].map(|(_, key)| key);
        for (index, line) in lines.iter().enumerate() {
            for sent in [&[*line][..], &["a=1", *line], &[*line, "theme=dark"]] {
                let (left, keyed) = key(sent);
                assert_eq!(left, Credentials::Cookie, "{sent:?}");
                // a response that says `public` is stored all the same: for this spelling only
                assert!(!plain.contains(&keyed), "{sent:?}");
            }
            let first = lines.iter().position(|other| key(&[*other]).1 == key(&[*line]).1);
            assert_eq!(first, Some(index), "{line}");
        }
        for lines in [&["theme=evil"][..], &["a=1; theme=evil"], &["a=\"1\"; b=a=b:(c)|%20/+", ""]]
        {
            assert_eq!(key(lines).0, Credentials::None, "{lines:?}");
        }
    }

    // RFC 9113 8.2.3
    #[test]
    fn a_keyed_cookie_in_a_later_line_is_told_from_one_in_the_first() {
        let key = |lines: &[&str]| {
            let cookies = Cookies::Key(&["theme"]);
            let (left, keyed) = examine(cookies, Authorization::Bypass, &with_cookies(lines));
            assert_eq!(left, Credentials::None);
            keyed
        };
        // who reads the first line only sees no theme in the second
        assert_ne!(key(&["a=1; theme=dark"]), key(&["a=1", "theme=dark"]));
        assert_ne!(key(&["theme=dark; theme=light"]), key(&["theme=dark", "theme=light"]));
        assert_ne!(key(&["theme=dark"]), key(&["", "theme=dark"]));
        // the crumbs of a browser are in no other way different
        assert_eq!(key(&["a=1", "theme=dark"]), key(&["a=1", "b=2", "theme=dark"]));
        assert_eq!(key(&["theme=dark; a=1"]), key(&["theme=dark", "a=1"]));
    }

    #[test]
    fn of_a_cookie_and_authorization_the_stricter_counts() {
        let mut headers = with_cookies(&["sid=1"]);
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        let left = |cookies| examine(cookies, Authorization::Bypass, &headers).0;
        assert_eq!(left(Cookies::Bypass), Credentials::Cookie);
        assert_eq!(left(Cookies::Ignore), Credentials::Authorization);
    }

    #[test]
    fn keyed_cookies_are_told_apart_and_others_ignored() {
        let key = |lines: &[&str]| {
            let cookies = Cookies::Key(&["theme", "lang"]);
            let (left, keyed) = examine(cookies, Authorization::Bypass, &with_cookies(lines));
            assert_eq!(left, Credentials::None);
            keyed
        };
        assert_eq!(key(&["theme=dark; sid=1"]), key(&["sid=2; theme=dark"]));
        assert_ne!(key(&["theme=dark"]), key(&["lang=dark"]));
        assert_ne!(key(&["theme="]), key(&[]));
        assert_ne!(key(&["theme=a; theme=b"]), key(&["theme=b; theme=a"]));
        assert_ne!(key(&["theme=a; theme=b"]), key(&["theme=a"]));
    }

    #[test]
    fn cookies_of_other_names_never_share_a_key() {
        let key = |names: &'static [&'static str], line: &str| {
            examine(Cookies::Key(names), Authorization::Bypass, &with_cookies(&[line])).1
        };
        assert_ne!(key(&["admin"], "admin=1"), key(&["dark"], "dark=1"));
        assert_ne!(key(&["admin"], ""), key(&["dark"], ""));
        assert_ne!(key(&["a"], "a=1"), key(&["a", "b"], "a=1"));
        assert_ne!(key(&["a", "b"], "a=1; b=2"), key(&["ab"], "ab=1"));
        assert_ne!(key(&["admin"], "not a cookie"), key(&["dark"], "not a cookie"));
        for line in ["user=3; theme=7", "user=7; theme=3", "theme=7", "not a cookie"] {
            assert_eq!(key(&["user", "theme"], line), key(&["theme", "user", "user"], line));
        }
        let swapped = key(&["theme", "user"], "user=7; theme=3");
        assert_ne!(key(&["user", "theme"], "user=3; theme=7"), swapped);
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
