//! What cookies and `Authorization` in a request mean.

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderValue};

use crate::error::{About, ConfigError};
use crate::key::{hash_values, matches_listed};

/// Cookies that analytics scripts set in the browser and no handler reads. Exact names wherever possible: the session
/// cookie `_gallery_session` begins like Google's cookies.
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

/// What cookies in a request mean for a route.
///
/// | variant | which cookies make a request skip the cache | for |
/// |---|---|---|
/// | [`Bypass`](Self::Bypass) | all, except analytics cookies | the default |
/// | [`Except`](Self::Except) | all, except analytics cookies and these | sites with a few harmless cookies: consent, theme |
/// | [`BypassIf`](Self::BypassIf) | only these | sites that know the cookies of their users' sessions |
/// | [`Key`](Self::Key) | none: these are part of the key, all others are ignored | one page for each value: theme, currency |
/// | [`Ignore`](Self::Ignore) | none | files, pages without anything personal |
///
/// A request that skips the cache is still answered with a stored response that says `public` or `s-maxage`.
///
/// If a `Cookie` field does not match the grammar (RFC 6265 4.2.1) or has a `%` in a name, the cache does not know
/// which cookies the handler sees in it. Then the request skips the cache, except with [`Ignore`](Self::Ignore).
///
/// ```
/// use std::time::Duration;
/// use tower_mysql_cache::{CachePolicy, Cookies};
///
/// const PAGE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
/// // logged-in users have one of these cookies
/// const HOME: CachePolicy = PAGE.cookies(Cookies::BypassIf(&["sid", "remember_*"]));
/// // every cookie may be personal, but these are not
/// const HELP: CachePolicy = PAGE.cookies(Cookies::Except(&["consent", "theme"]));
/// // one page for each theme
/// const GREETING: CachePolicy = PAGE.cookies(Cookies::Key(&["theme"]));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cookies {
    /// A request with any cookie skips the cache, except with analytics cookies that no handler reads (`_ga`, `_fbp`,
    /// ...). The default.
    #[default]
    Bypass,
    /// The route never looks at cookies.
    Ignore,
    /// These cookies are part of the key, as a hash ([`CacheLayer::key_secret`](crate::CacheLayer::key_secret)). All
    /// others are ignored, so each name must be whole: one with `*` is an error. A request with a cookie whose name
    /// differs from one of these only in letter case skips the cache, because some handlers ignore letter case.
    ///
    /// # Warning
    /// The key holds the cookie's value, not the user, and **a hit asks no session store**. With a session cookie, a page
    /// is served until its lifetime ends, even if the session has ended or has another user by then. Give such a page a
    /// tag of its user (`user:7`). Invalidate that tag at login, at logout, and when the user's rights change. Give
    /// the session a new id at login.
    Key(&'static [&'static str]),
    /// Only these cookies make a request skip the cache; all others are ignored. A name that ends with `*` matches
    /// every cookie whose name begins like that. Letter case does not matter.
    ///
    /// # Warning
    /// Name every cookie that a response can depend on. The layer takes a user whose session cookie is not listed for
    /// an anonymous one, and stores their page for everyone.
    BypassIf(&'static [&'static str]),
    /// As [`Bypass`](Self::Bypass), but these cookies do not count either. A name that ends with `*` matches every
    /// cookie whose name begins like that. Letter case matters.
    ///
    /// # Warning
    /// No response of the route may depend on one of these cookies: all their values get the same page.
    Except(&'static [&'static str]),
}

impl Cookies {
    /// Whether the listed names are names of cookies.
    pub(crate) fn check(self) -> Result<(), ConfigError> {
        let names = match self {
            Self::Bypass | Self::Ignore => return Ok(()),
            Self::Key(names) | Self::BypassIf(names) | Self::Except(names) => names,
        };
        if names.is_empty() {
            let rule = "it must name at least one cookie; there are also Cookies::Bypass and Cookies::Ignore";
            return Err(ConfigError::new("cookies", About("an empty list"), rule));
        }
        if let Self::Key(names) = self
            && let Some(name) = names.iter().find(|name| name.contains('*'))
        {
            let rule = "Cookies::Key needs whole names, because each value of each cookie has its own entries";
            return Err(ConfigError::new("cookies", *name, rule));
        }
        let is_cookie = |name: &&str| !name.is_empty() && name.bytes().all(is_name);
        if let Some(name) = names.iter().find(|name| !is_cookie(name) || **name == "*") {
            let rule = "each must be the name of a cookie (RFC 6265 4.1.1), or the beginning of one before `*`";
            return Err(ConfigError::new("cookies", *name, rule));
        }
        Ok(())
    }
}

/// What `Authorization` in a request means for a route. It is never ignored.
///
/// ```
/// use tower_mysql_cache::policy::Authorization;
/// use tower_mysql_cache::CachePolicy;
/// // each token has its own entries
/// const ORDERS: CachePolicy = CachePolicy::new().authorization(Authorization::Key);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Authorization {
    /// A request with `Authorization` skips the cache, except for stored responses that may be shared (RFC 9111 3.5).
    /// The default.
    #[default]
    Bypass,
    /// The field is part of the key, as a hash ([`CacheLayer::key_secret`](crate::CacheLayer::key_secret)). Each value
    /// has its own entries.
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
    /// The application knows the user.
    Extension,
}

/// The credentials that the key does not contain, and hashes of those that it does.
pub(crate) fn examine(
    cookies: Cookies,
    authorization: Authorization,
    headers: &HeaderMap,
) -> (Credentials, Vec<(u8, [u8; 16])>) {
    let mut left = Credentials::None;
    let mut keyed = Vec::new();
    match cookies {
        Cookies::Ignore => {}
        Cookies::Bypass | Cookies::BypassIf(_) | Cookies::Except(_) => {
            if !pairs(headers).all(|pair| pair.is_some_and(|pair| !counts(cookies, pair.name))) {
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
            // the rules for cookies are stricter (RFC 9111 3.5, 7.3)
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

/// A hash of the names and their values. If it is not known which cookies there are, a hash of the names and of all
/// lines. The names are sorted, so that the order in a policy does not matter.
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
    /// HTTP/2 splits the field. A handler that reads only one line does not see the others (RFC 9113 8.2.3).
    in_first_line: bool,
}

impl<'a> Pair<'a> {
    /// RFC 6265 4.2.1. `None` if it does not match the grammar, or if some parsers decode the name: then handlers do not
    /// agree which cookie it is.
    fn parse(pair: &'a [u8], in_first_line: bool) -> Option<Self> {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (pair.get(..equals)?, pair.get(equals + 1..)?);
        let bare = match value {
            [b'"', inner @ .., b'"'] => inner,
            _ => value,
        };
        let is_octet = |&byte: &u8| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte);
        let sound =
            !name.is_empty() && name.iter().copied().all(is_name) && bare.iter().all(is_octet);
        sound.then_some(Self { name, value, in_first_line })
    }

    /// Whether the name differs from one of these only in letter case, which some handlers ignore.
    fn resembles(&self, names: &[&str]) -> bool {
        let alike = |name: &&str| self.name.eq_ignore_ascii_case(name.as_bytes());
        names.iter().any(alike) && !names.iter().any(|name| name.as_bytes() == self.name)
    }
}

/// The cookies of a request, from all its lines. `None` for a part that does not match the grammar.
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = Option<Pair<'_>>> {
    let lines = headers.get_all(COOKIE).iter().map(|line| line.as_bytes().trim_ascii());
    lines.enumerate().filter(|(_, line)| !line.is_empty()).flat_map(|(index, line)| {
        line.split(|&byte| byte == b';').enumerate().map(move |(place, pair)| {
            let pair = if place == 0 { pair } else { pair.strip_prefix(b" ")? };
            Pair::parse(pair, index == 0)
        })
    })
}

/// Whether a byte may be in a cookie's name. `%` may not, because some parsers decode it.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte)
}

/// Whether a cookie of this name makes a request skip the cache.
fn counts(cookies: Cookies, name: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(name) else { return true };
    match cookies {
        Cookies::Ignore | Cookies::Key(_) => false,
        Cookies::Bypass => !is_analytics(name),
        Cookies::Except(names) => {
            !is_analytics(name) && !names.iter().any(|listed| matches_listed(listed, text))
        }
        Cookies::BypassIf(names) => {
            let text = text.to_ascii_lowercase();
            names.iter().any(|listed| matches_listed(&listed.to_ascii_lowercase(), &text))
        }
    }
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

/// Whether a `Set-Cookie` line sets a cookie that the policy does not strip.
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

    #[test]
    fn only_listed_cookies_bypass() {
        let cookies = Cookies::BypassIf(&["sid", "remember_*", "__Host-*"]);
        let left = |lines: &[&str]| {
            let (left, keyed) = examine(cookies, Authorization::Bypass, &with_cookies(lines));
            assert!(keyed.is_empty());
            left == Credentials::Cookie
        };
        for others in [&[][..], &["theme=dark"], &["sid2=1; resid=1"], &["a=1", "remember=1"]] {
            assert!(!left(others), "{others:?}");
        }
        for listed in [
            &["sid=1"][..],
            &["a=1; sid="],
            &["a=1", "sid=1"],
            &["remember_me=1"],
            &["remember_=1"],
            // a handler may ignore letter case
            &["SID=1"],
            &["__host-id=1"],
            // and what it sees in these is not known
            &["a=1;sid=1"],
            &["s%69d=1"],
            &["theme"],
            &["a=caf\u{e9}"],
        ] {
            assert!(left(listed), "{listed:?}");
        }
    }

    #[test]
    fn excepted_cookies_do_not_bypass() {
        let cookies = Cookies::Except(&["consent", "ab_*"]);
        let left = |lines: &[&str]| {
            let (left, keyed) = examine(cookies, Authorization::Bypass, &with_cookies(lines));
            assert!(keyed.is_empty());
            left == Credentials::Cookie
        };
        assert!(!left(&["consent=1; ab_7=b; _ga=GA1.2", "ab_8=a"]));
        for others in
            [&["consent=1; sid=2"][..], &["consent=1", "x=1"], &["Consent=1"], &["ab=1"], &["ab"]]
        {
            assert!(left(others), "{others:?}");
        }
    }

    #[test]
    fn lists_name_cookies() {
        for good in [Cookies::Key(&["theme"]), Cookies::BypassIf(&["__Host-*", "sid"])] {
            assert_eq!(good.check(), Ok(()));
        }
        for bad in [
            Cookies::Key(&[]),
            Cookies::BypassIf(&[]),
            Cookies::BypassIf(&["sid", ""]),
            Cookies::Except(&["*"]),
            Cookies::Except(&["a b"]),
            Cookies::Key(&["th%65me"]),
            Cookies::Key(&["sess_*"]),
        ] {
            assert_eq!(bad.check().unwrap_err().setting(), "cookies", "{bad:?}");
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
