//! How a route is cached: a constant beside the route.

mod validate;

use std::fmt;
use std::time::Duration;

use http::{HeaderName, StatusCode};

use crate::cookies::{Authorization, Cookies};

/// Default limit of a stored body: 8 MiB.
const DEFAULT_MAX_BODY_BYTES: usize = 8 << 20;
/// Longer than most handlers take, and shorter than most clients wait.
const DEFAULT_COLLAPSE_WAIT: Duration = Duration::from_secs(5);
const DEFAULT_LEASE: Duration = Duration::from_secs(10);
const DEFAULT_UNSHAREABLE_FOR: Duration = Duration::from_secs(120);
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

/// How far requests for the same thing at the same time go inside as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Collapse {
    /// Each goes inside.
    Off,
    /// One goes inside in each process, and the others wait for its response. The default.
    #[default]
    Process,
    /// One goes inside of all processes that share the store, as far as it has leases
    /// ([`Store::leases`](crate::Store::leases)): [`MySqlStore`](crate::MySqlStore) has. For routes whose
    /// handler costs so much more than a few statements that each process's own call is too many. It costs,
    /// when a target is cold and never on a hit: a statement for the lease, a second lookup, and a statement
    /// that gives it back; the others look again after 25 ms, then 50 ms, and so on up to every 400 ms. Where
    /// the lease cannot be had within `store_timeout` because of an error, it is as with
    /// [`Collapse::Process`].
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

    /// RFC 9111 to the letter, for gateways and for people who want the standard: no default lifetime;
    /// heuristic freshness (4.2.2); the request's own `Cache-Control` is obeyed (5.2.1); `Set-Cookie` is
    /// stored as the standard allows (7.3), but that of a 304 reaches its own client only, and cookies in requests mean nothing but what `Vary` makes
    /// of them.
    ///
    /// # Warning
    /// Behind applications that were not written with a shared cache in mind, this mode replays
    /// `Set-Cookie` and pages made for one session to others, as any standard HTTP cache would. The
    /// safe mode of [`CachePolicy::new`] does not.
    #[must_use]
    pub const fn rfc9111() -> Self {
        let targeted = &[OWN_FIELD, "cdn-cache-control"];
        let (mode, cookies) = (Mode::Strict, Cookies::Ignore);
        Self { mode, cookies, targeted, invalidates_location: true, ..Self::new() }
    }

    /// Nothing on the route is looked up, stored or invalidated. With
    /// [`invalidates_on_write(true)`](Self::invalidates_on_write) its unsafe requests invalidate all the same.
    #[must_use]
    pub const fn bypass() -> Self {
        Self { enabled: false, invalidates_on_write: false, ..Self::new() }
    }

    /// How long a response stays fresh that does not say so itself. `no-store`, `private`,
    /// `Set-Cookie` and credentials in the request still keep it from being stored. The layer does not see what
    /// layers around it add: if a session layer is outside, put a [`CacheGuard`](crate::CacheGuard) around both.
    /// Default: none.
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
    ///
    /// # Warning
    /// Name no cookie on which the page depends. With a session cookie here, the page that begins one visitor's session
    /// is served to everyone, and a guard does not prevent that.
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

    /// For how long after it has become stale a response that does not say so itself may still be served
    /// while one request validates it in the background (RFC 5861 3); behind a
    /// [`CacheGuard`](crate::CacheGuard), that one request waits. A response that says
    /// `must-revalidate`, `proxy-revalidate`, `no-cache` or `s-maxage` is never served stale (RFC 9111
    /// 4.2.4). At most ten years. Default: none.
    #[must_use]
    pub const fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = Some(window);
        self
    }

    /// For how long after it has become stale a response that does not say so itself may be served in place
    /// of a 500, 502, 503 or 504, of the inner service's error, and of a handler that takes longer than
    /// [`CachePolicy::handler_timeout`] (RFC 5861 4). The same responses as above are never served stale.
    /// At most ten years. Default: none.
    #[must_use]
    pub const fn stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = Some(window);
        self
    }

    /// How long a request waits for the handler where a stale response may be served in place of an error.
    /// Then it is served, and the handler goes on in the background to fill the cache; behind a
    /// [`CacheGuard`](crate::CacheGuard), the handler is dropped. No limit where there is nothing else to serve. Over
    /// zero. Default: none.
    #[must_use]
    pub const fn handler_timeout(mut self, limit: Duration) -> Self {
        self.handler_timeout = Some(limit);
        self
    }

    /// Validates a response in the background before it is stale, with a probability that grows as its end
    /// comes nearer, and the more the longer the handler took (XFetch): so that a busy target is never
    /// found stale. A request starts it when `handler time * beta * -ln(random)` reaches the end of the
    /// lifetime; 1 is the optimum of the paper, more is earlier. Behind a [`CacheGuard`](crate::CacheGuard), that
    /// request waits for the handler. Over 0 and at most 100. Default: off.
    #[must_use]
    pub const fn early_refresh(mut self, beta: f32) -> Self {
        self.early_refresh = Some(Beta(beta.to_bits()));
        self
    }

    /// Shortens each lifetime by a random share of at most so many percent, never lengthens it, so that
    /// responses that were stored together do not become stale together. At most 90. Default: 0.
    #[must_use]
    pub const fn ttl_jitter(mut self, percent: u8) -> Self {
        self.ttl_jitter_percent = percent;
        self
    }

    /// Whether requests for the same thing at the same time go inside as one. Default:
    /// [`Collapse::Process`].
    #[must_use]
    pub const fn collapse(mut self, collapse: Collapse) -> Self {
        self.collapse = collapse;
        self
    }

    /// The longest that a request waits for the response to another before it calls the handler itself, and
    /// the age up to which a request is waited for: its client may read slowly. At most an hour. Default: 5 s.
    #[must_use]
    pub const fn collapse_wait(mut self, limit: Duration) -> Self {
        self.collapse_wait = limit;
        self
    }

    /// For how long nobody waits for the responses to a key, once one of them was not to be shared: private
    /// pages never queue. At most a day. Default: 120 s.
    #[must_use]
    pub const fn unshareable_for(mut self, time: Duration) -> Self {
        self.unshareable_for = time;
        self
    }

    /// How long one process may be inside for the others with [`Collapse::Cluster`]: when it has died, they
    /// wait no longer than this, nor than `collapse_wait`. It is not renewed: choose more than the handler
    /// takes, or another process goes inside as well, and what the first brings late is not written over
    /// what the second has written. Over zero and at most an hour. Default: 10 s.
    #[must_use]
    pub const fn lease(mut self, time: Duration) -> Self {
        self.lease = time;
        self
    }

    /// Whether an unsafe request (`POST`, `PUT`, `DELETE`, `PATCH`, or an unknown method) invalidates its target,
    /// and the cache groups that its response names (RFC 9111 4.4, RFC 9875 3). Each such request appends one row to
    /// the invalidation log, or two where the layer has no [`scheme`](crate::CacheLayer::scheme), and waits for that
    /// before it is answered; rows are kept for `log_retention` (7 days). Turn it off for routes whose targets are
    /// never stored: GraphQL and JSON-RPC endpoints, form posts, uploads. Requests of gRPC never invalidate, but
    /// under [`CachePolicy::rfc9111`]. Default: `true`; [`CachePolicy::bypass`]: `false`.
    ///
    /// ```
    /// use tower_mysql_cache::CachePolicy;
    /// const GRAPHQL: CachePolicy = CachePolicy::new().invalidates_on_write(false);
    /// ```
    #[must_use]
    pub const fn invalidates_on_write(mut self, on: bool) -> Self {
        self.invalidates_on_write = on;
        self
    }

    /// Whether the success of an unsafe request also invalidates the URI in its `Location`, on the same origin (RFC
    /// 9111 4.4 allows it). Where a client chooses that URI (`POST /login?next=/home`), it can invalidate any page.
    /// `Content-Location` always counts. Default: `false`; [`CachePolicy::rfc9111`]: `true`.
    #[must_use]
    pub const fn invalidates_location(mut self, on: bool) -> Self {
        self.invalidates_location = on;
        self
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
            (NEW.ttl(Duration::ZERO), "ttl", "0 ns"),
            (NEW.ttl(Duration::MAX), "ttl", "18446744073709551615"),
            (NEW.max_body_bytes(0), "max_body_bytes", "is 0;"),
            (NEW.max_body_bytes(usize::MAX), "max_body_bytes", "18446744073709551615"),
            (NEW.statuses(&[200, 206]), "statuses", "206"),
            (NEW.statuses(&[99]), "statuses", "99"),
            (NEW.targeted(&["a b"]), "targeted", "a b"),
            (NEW.tags(&["a", ""]), "tag", "at least one byte"),
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
        assert!(policy.statuses(&[404]).ttl_for(StatusCode::NOT_FOUND).is_some());
    }
}
