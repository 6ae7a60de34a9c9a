//! How a route is cached: a constant beside the route.

use std::time::Duration;

use http::{HeaderName, StatusCode};

use crate::cookies::{Authorization, Cookies};
use crate::error::ConfigError;
use crate::tag::Tag;

/// Ten years: longer lifetimes than this are a mistake in units.
const MAX_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Default limit of a stored body: 8 MiB.
const DEFAULT_MAX_BODY_BYTES: usize = 8 << 20;
/// The largest limit that can be set: 1 GiB, under what a `LONGBLOB` and a packet can hold.
const LARGEST_MAX_BODY_BYTES: usize = 1 << 30;
/// What a policy's `ttl` applies to unless the policy says otherwise: complete answers and permanent
/// redirects. An error page is stored only when it gives a lifetime itself, or by `statuses`.
const DEFAULT_STATUSES: &[u16] = &[200, 203, 204, 301, 308];

/// How far the cache goes by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// For application routes: nothing is stored that does not say so or that a policy does not allow;
    /// cookies and `Set-Cookie` are signs of a person.
    #[default]
    Safe,
    /// RFC 9111 to the letter.
    Strict,
}

/// How a route is cached. A plain value, made in a `const`:
///
/// ```
/// use std::time::Duration;
/// use tower_mysql_cache::{CachePolicy, Cookies};
///
/// const CATALOGUE: CachePolicy =
///     CachePolicy::new().ttl(Duration::from_secs(300)).cookies(Cookies::Key(&["theme"]));
/// ```
///
/// The setters check nothing; [`CacheLayer::with_policy`](crate::CacheLayer::with_policy) checks the
/// whole when the application starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachePolicy {
    pub(crate) mode: Mode,
    pub(crate) enabled: bool,
    pub(crate) ttl: Option<Duration>,
    pub(crate) statuses: &'static [u16],
    pub(crate) max_body_bytes: usize,
    pub(crate) cookies: Cookies,
    pub(crate) authorization: Authorization,
    pub(crate) stripped_cookies: &'static [&'static str],
    pub(crate) targeted: &'static [&'static str],
    pub(crate) tags: &'static [&'static str],
}

/// The cache's own targeted field (RFC 9213): what it says holds for this cache alone, and it is taken
/// off every response.
pub(crate) const OWN_FIELD: &str = "tower-mysql-cache-control";

impl CachePolicy {
    /// The safe defaults: only responses that give their own lifetime are stored.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            mode: Mode::Safe,
            enabled: true,
            ttl: None,
            statuses: DEFAULT_STATUSES,
            max_body_bytes: DEFAULT_MAX_BODY_BYTES,
            cookies: Cookies::Bypass,
            authorization: Authorization::Bypass,
            stripped_cookies: &[],
            targeted: &[OWN_FIELD],
            tags: &[],
        }
    }

    /// RFC 9111 to the letter, for gateways and for people who want the standard: no default lifetime;
    /// heuristic freshness (4.2.2); the request's own `Cache-Control` is obeyed (5.2.1); `Set-Cookie` is
    /// stored as the standard allows (7.3), and cookies in requests mean nothing but what `Vary` makes
    /// of them.
    ///
    /// # Warning
    /// Behind applications that were not written with a shared cache in mind, this mode replays
    /// `Set-Cookie` and pages made for one session to others, as any standard HTTP cache would. The
    /// safe mode of [`CachePolicy::new`] does not.
    #[must_use]
    pub const fn rfc9111() -> Self {
        let targeted = &[OWN_FIELD, "cdn-cache-control"];
        Self { mode: Mode::Strict, cookies: Cookies::Ignore, targeted, ..Self::new() }
    }

    /// Nothing on the route is looked up or stored. Unsafe methods still invalidate.
    #[must_use]
    pub const fn bypass() -> Self {
        Self { enabled: false, ..Self::new() }
    }

    /// How long a response stays fresh that does not say so itself. `no-store`, `private`,
    /// `Set-Cookie` and credentials in the request still keep it from being stored. Default: none.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The status codes that `ttl` applies to. Others are stored only when the response gives a
    /// lifetime itself. Default: 200, 203, 204, 301, 308.
    #[must_use]
    pub const fn statuses(mut self, statuses: &'static [u16]) -> Self {
        self.statuses = statuses;
        self
    }

    /// The largest body that is stored, in bytes. A larger one reaches the client whole and is not
    /// stored. Default: 8 MiB.
    #[must_use]
    pub const fn max_body_bytes(mut self, max_body_bytes: usize) -> Self {
        self.max_body_bytes = max_body_bytes;
        self
    }

    /// What cookies in a request do. Default: [`Cookies::Bypass`].
    #[must_use]
    pub const fn cookies(mut self, cookies: Cookies) -> Self {
        self.cookies = cookies;
        self
    }

    /// What `Authorization` in a request does. Default: [`Authorization::Bypass`].
    #[must_use]
    pub const fn authorization(mut self, authorization: Authorization) -> Self {
        self.authorization = authorization;
        self
    }

    /// Cookies that are removed from what is stored: a response that sets these and no others may be
    /// stored, without them. The client whose request filled the cache still gets them. Default:
    /// none, so that a response with `Set-Cookie` is not stored.
    #[must_use]
    pub const fn strip_set_cookies(mut self, names: &'static [&'static str]) -> Self {
        self.stripped_cookies = names;
        self
    }

    /// The targeted fields (RFC 9213) that this cache listens to, the first valid one before
    /// `Cache-Control` and `Expires`. `Tower-Mysql-Cache-Control` is this cache's own and is taken off
    /// every response; all others are passed on. Default: `Tower-Mysql-Cache-Control`, and in
    /// [`CachePolicy::rfc9111`] after it `CDN-Cache-Control`.
    #[must_use]
    pub const fn targeted(mut self, names: &'static [&'static str]) -> Self {
        self.targeted = names;
        self
    }

    /// Tags of every response of the route, beside those that a response gets by
    /// [`CacheOverride::tag`](crate::CacheOverride::tag) and by its `Cache-Groups` field (RFC 9875):
    /// what invalidates a tag invalidates all responses that have it. Default: none.
    #[must_use]
    pub const fn tags(mut self, tags: &'static [&'static str]) -> Self {
        self.tags = tags;
        self
    }

    /// Checks the policy.
    ///
    /// # Errors
    /// [`ConfigError`] naming the setting, its value and the rule:
    /// `ttl` over zero and at most ten years, `max_body_bytes` from 1 byte to 1 GiB, `statuses`
    /// final and neither 206 nor 304, `targeted` names of fields, `tags` of 1 to 255 bytes.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(ttl) = self.ttl {
            if ttl.is_zero() {
                let rule = "a lifetime is over zero; CachePolicy::bypass() turns the cache off";
                return Err(ConfigError::new("ttl", format!("{ttl:?}"), rule));
            }
            if ttl > MAX_TTL {
                return Err(ConfigError::new("ttl", format!("{ttl:?}"), "it is at most ten years"));
            }
        }
        if !(1..=LARGEST_MAX_BODY_BYTES).contains(&self.max_body_bytes) {
            let rule = "it is from 1 byte to 1 GiB";
            return Err(ConfigError::new("max_body_bytes", self.max_body_bytes, rule));
        }
        for &status in self.statuses {
            if !(200..600).contains(&status) || status == 206 || status == 304 {
                let rule = "statuses are from 200 to 599, without 206 and 304";
                return Err(ConfigError::new("statuses", status, rule));
            }
        }
        self.tags.iter().try_for_each(|tag| Tag::from(*tag).check())?;
        for name in self.targeted {
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(ConfigError::new("targeted", name, "it is the name of a header field"));
            }
        }
        Ok(())
    }

    /// The names in `targeted`.
    pub(crate) fn targeted_names(&self) -> Vec<HeaderName> {
        let names = self.targeted.iter();
        names.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect()
    }

    /// The policy's `ttl` for responses with this status.
    pub(crate) fn ttl_for(&self, status: StatusCode) -> Option<Duration> {
        self.ttl.filter(|_| self.statuses.contains(&status.as_u16()))
    }
}

impl Default for CachePolicy {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_settings_are_named_with_value_and_rule() {
        const NEW: CachePolicy = CachePolicy::new();
        let cases = [
            (NEW.ttl(Duration::ZERO), "ttl", "0ns"),
            (NEW.ttl(Duration::MAX), "ttl", "18446744073709551615"),
            (NEW.max_body_bytes(0), "max_body_bytes", "\"0\""),
            (NEW.max_body_bytes(usize::MAX), "max_body_bytes", "18446744073709551615"),
            (NEW.statuses(&[200, 206]), "statuses", "206"),
            (NEW.statuses(&[99]), "statuses", "99"),
            (NEW.targeted(&["a b"]), "targeted", "a b"),
            (NEW.tags(&["a", ""]), "tag", "at least one byte"),
        ];
        for (policy, setting, value) in cases {
            let error = policy.validate().unwrap_err();
            assert_eq!(error.setting(), setting);
            assert!(error.to_string().contains(value), "{error}");
        }
        assert_eq!(NEW.ttl(Duration::from_secs(1)).validate(), Ok(()));
    }

    #[test]
    fn the_ttl_applies_to_complete_answers_only() {
        let policy = CachePolicy::new().ttl(Duration::from_secs(9));
        assert!(policy.ttl_for(StatusCode::OK).is_some());
        for status in [StatusCode::NOT_FOUND, StatusCode::INTERNAL_SERVER_ERROR, StatusCode::FOUND]
        {
            assert!(policy.ttl_for(status).is_none());
        }
        assert!(policy.statuses(&[404]).ttl_for(StatusCode::NOT_FOUND).is_some());
    }
}
