//! How a route is cached: a constant beside the route.

#[cfg(feature = "serde")]
mod config;
mod lists;
mod presets;
mod settings;
mod validate;

pub use crate::cookies::{Authorization, Cookies};
pub use crate::overrides::CacheOverride;

use std::fmt;
use std::time::Duration;

use http::{HeaderName, StatusCode};

/// Default limit of a stored body: 8 MiB.
const DEFAULT_MAX_BODY_BYTES: usize = 8 << 20;
/// Longer than most handlers take, and shorter than most clients wait.
const DEFAULT_COLLAPSE_WAIT: Duration = Duration::from_secs(5);
const DEFAULT_LEASE: Duration = Duration::from_secs(10);
const DEFAULT_UNSHAREABLE_FOR: Duration = Duration::from_secs(120);
/// The statuses that `ttl` applies to by default: complete answers and permanent redirects. An error page is stored
/// only if it gives its own lifetime, or if `statuses` has its status.
const DEFAULT_STATUSES: &[StatusCode] = &[
    StatusCode::OK,
    StatusCode::NON_AUTHORITATIVE_INFORMATION,
    StatusCode::NO_CONTENT,
    StatusCode::MOVED_PERMANENTLY,
    StatusCode::PERMANENT_REDIRECT,
];

/// Which rules count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// For application routes: a lifetime comes from the response or the policy, and a cookie or `Set-Cookie` is a sign
    /// of one user.
    #[default]
    Safe,
    /// RFC 9111 to the letter.
    Strict,
}

/// How a route is cached. A plain value that is cheap to copy, usually a `const`:
///
/// ```
/// use std::time::Duration;
/// use tower_mysql_cache::{CachePolicy, Cookies};
///
/// const CATALOGUE: CachePolicy =
///     CachePolicy::new().ttl(Duration::from_secs(300)).cookies(Cookies::Key(&["theme"]));
/// ```
///
/// There are presets for common pages: [`public_page`](Self::public_page), [`hashed_asset`](Self::hashed_asset),
/// [`search`](Self::search) and [`user_api`](Self::user_api). Every setting can be changed afterwards.
///
/// A policy can also come from a file, with the feature `serde` ([the guide](crate::guide::storing#policies-in-files)
/// has an example), or be made at run time, with [`CachePolicy::names`].
///
/// The setters check nothing. [`CacheLayer::with_policy`](crate::CacheLayer::with_policy) checks the policy when the
/// application starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachePolicy {
    pub(crate) mode: Mode,
    pub(crate) enabled: bool,
    pub(crate) ttl: Option<Duration>,
    pub(crate) statuses: &'static [StatusCode],
    pub(crate) max_body_bytes: usize,
    pub(crate) cookies: Cookies,
    pub(crate) authorization: Authorization,
    pub(crate) stripped_cookies: &'static [&'static str],
    pub(crate) targeted: &'static [HeaderName],
    pub(crate) tags: &'static [&'static str],
    pub(crate) invalidates: &'static [&'static str],
    pub(crate) stale_while_revalidate: Option<Duration>,
    pub(crate) stale_if_error: Option<Duration>,
    pub(crate) handler_timeout: Option<Duration>,
    pub(crate) early_refresh: Option<Beta>,
    pub(crate) ttl_jitter_percent: u8,
    pub(crate) collapse: Collapse,
    pub(crate) collapse_wait: Duration,
    pub(crate) unshareable_for: Duration,
    pub(crate) lease: Duration,
    pub(crate) invalidates_on_write: bool,
    pub(crate) invalidates_location: bool,
}

/// Whether requests for the same page at the same time share one call of the handler.
///
/// ```
/// use tower_mysql_cache::policy::Collapse;
/// use tower_mysql_cache::CachePolicy;
/// const REPORT: CachePolicy = CachePolicy::new().collapse(Collapse::Cluster);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Collapse {
    /// Each request calls the handler.
    Off,
    /// One request in each process calls the handler, and the others wait for its response. The default.
    #[default]
    Process,
    /// One request calls the handler for all processes that share the store, if the store has leases
    /// ([`Store::leases`](crate::store::Store::leases)), as [`MySqlStore`](crate::MySqlStore) has. For routes whose handler is so
    /// expensive that one call per process is too many.
    ///
    /// A hit costs nothing more. A miss costs three statements more: for the lease, for a second lookup, and for the end
    /// of the lease. The other processes look again after 25 ms, then after 50 ms, and so on, up to every 400 ms. If an
    /// error prevents the lease within `store_timeout`, the request acts as with [`Collapse::Process`].
    Cluster,
}

/// The factor of an early refresh, as the bits of an `f32`: a policy can be compared, floats cannot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beta(u32);

impl Beta {
    pub(crate) fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

impl fmt::Debug for Beta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// The cache's own targeted field (RFC 9213). Only this cache obeys it, and it is removed from every response.
pub(crate) const OWN_FIELD: &str = "tower-mysql-cache-control";
static OWN_TARGETED: [HeaderName; 1] = [HeaderName::from_static(OWN_FIELD)];
static CDN_TARGETED: [HeaderName; 2] =
    [HeaderName::from_static(OWN_FIELD), HeaderName::from_static("cdn-cache-control")];

impl CachePolicy {
    /// The safe defaults: the layer stores only responses that give their own lifetime.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::CachePolicy;
    /// const NEWS: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(30));
    /// ```
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
            targeted: &OWN_TARGETED,
            tags: &[],
            invalidates: &[],
            stale_while_revalidate: None,
            stale_if_error: None,
            handler_timeout: None,
            early_refresh: None,
            ttl_jitter_percent: 0,
            collapse: Collapse::Process,
            collapse_wait: DEFAULT_COLLAPSE_WAIT,
            unshareable_for: DEFAULT_UNSHAREABLE_FOR,
            lease: DEFAULT_LEASE,
            invalidates_on_write: true,
            invalidates_location: false,
        }
    }

    /// RFC 9111 to the letter, for gateways and for people who want the standard:
    ///
    /// - heuristic freshness (4.2.2), if a response gives no lifetime;
    /// - the request's own `Cache-Control` is obeyed (5.2.1);
    /// - `Set-Cookie` is stored as the standard allows (7.3), but the `Set-Cookie` of a 304 reaches only its own client;
    /// - cookies in requests have no meaning, except what `Vary` gives them.
    ///
    /// ```
    /// use tower_mysql_cache::CachePolicy;
    /// const UPSTREAM: CachePolicy = CachePolicy::rfc9111();
    /// ```
    ///
    /// # Warning
    /// If an application was not written for a shared cache, this mode sends `Set-Cookie` and one session's pages to
    /// other clients, as any standard HTTP cache would. The safe mode of [`CachePolicy::new`] does not.
    #[must_use]
    pub const fn rfc9111() -> Self {
        let (mode, cookies) = (Mode::Strict, Cookies::Ignore);
        Self { mode, cookies, targeted: &CDN_TARGETED, invalidates_location: true, ..Self::new() }
    }

    /// The layer looks up, stores and invalidates nothing on the route. With
    /// [`invalidates_on_write(true)`](Self::invalidates_on_write), unsafe requests still invalidate their targets, and
    /// with [`invalidates`](Self::invalidates) tags. To switch a cache off by configuration, see
    /// [`CacheLayer::enabled`](crate::CacheLayer::enabled).
    ///
    /// ```
    /// use tower_mysql_cache::CachePolicy;
    /// const CHECKOUT: CachePolicy = CachePolicy::bypass();
    /// ```
    #[must_use]
    pub const fn bypass() -> Self {
        Self { enabled: false, invalidates_on_write: false, ..Self::new() }
    }

    /// The policy's `ttl` for responses with this status.
    pub(crate) fn ttl_for(&self, status: StatusCode) -> Option<Duration> {
        self.ttl.filter(|_| self.statuses.contains(&status))
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
            (NEW.ttl(Duration::ZERO), "ttl", "0 ns"),
            (NEW.ttl(Duration::MAX), "ttl", "18446744073709551615"),
            (NEW.max_body_bytes(0), "max_body_bytes", "is 0;"),
            (NEW.max_body_bytes(usize::MAX), "max_body_bytes", "18446744073709551615"),
            (NEW.statuses(&[StatusCode::OK, StatusCode::PARTIAL_CONTENT]), "statuses", "206"),
            (NEW.statuses(&[StatusCode::CONTINUE]), "statuses", "100"),
            (NEW.tags(&["a", ""]), "tag", "byte"),
            (
                NEW.stale_while_revalidate(Duration::MAX),
                "stale_while_revalidate",
                "18446744073709551615",
            ),
            (NEW.stale_if_error(Duration::MAX), "stale_if_error", "18446744073709551615"),
            (NEW.handler_timeout(Duration::ZERO), "handler_timeout", "0 ns"),
            (NEW.early_refresh(0.0), "early_refresh", "0"),
            (NEW.early_refresh(f32::NAN), "early_refresh", "NaN"),
            (NEW.early_refresh(f32::INFINITY), "early_refresh", "inf"),
            (NEW.ttl_jitter(91), "ttl_jitter", "91"),
            (NEW.collapse_wait(Duration::MAX), "collapse_wait", "18446744073709551615"),
            (NEW.lease(Duration::ZERO), "lease", "0 ns"),
            (NEW.lease(Duration::MAX), "lease", "18446744073709551615"),
            (NEW.unshareable_for(Duration::MAX), "unshareable_for", "18446744073709551615"),
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
        assert!(policy.statuses(&[StatusCode::NOT_FOUND]).ttl_for(StatusCode::NOT_FOUND).is_some());
    }
}
