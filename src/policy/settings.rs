//! What can be set.

use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::{Beta, CachePolicy, Collapse};
use crate::cookies::{Authorization, Cookies};

impl CachePolicy {
    /// The lifetime of a response that does not give its own. `no-store`, `private`, `Set-Cookie` and credentials in
    /// the request still prevent storing. The layer does not see what outer layers add to a response: with a session
    /// layer outside, put a [`CacheGuard`](crate::CacheGuard) around both. From 1 ms to ten years. Default: none.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::CachePolicy;
    /// const NEWS: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(30));
    /// ```
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The status codes that `ttl` applies to. A response with another status is stored only if it gives its own
    /// lifetime. From 200 to 599, without 206 and 304. Default: 200, 203, 204, 301, 308.
    ///
    /// ```
    /// use http::StatusCode;
    /// use tower_mysql_cache::CachePolicy;
    /// const PAGE: CachePolicy = CachePolicy::new().statuses(&[StatusCode::OK, StatusCode::NOT_FOUND]);
    /// ```
    #[must_use]
    pub const fn statuses(mut self, statuses: &'static [StatusCode]) -> Self {
        self.statuses = statuses;
        self
    }

    /// The largest body that is stored, in bytes: 1 byte to 1 GiB. The client gets a larger body whole, and the body
    /// is not stored. Default: 8 MiB.
    ///
    /// ```
    /// # use tower_mysql_cache::CachePolicy;
    /// const THUMBNAIL: CachePolicy = CachePolicy::new().max_body_bytes(64 << 10);
    /// ```
    #[must_use]
    pub const fn max_body_bytes(mut self, max_body_bytes: usize) -> Self {
        self.max_body_bytes = max_body_bytes;
        self
    }

    /// What cookies in a request mean. Default: [`Cookies::Bypass`].
    ///
    /// ```
    /// use tower_mysql_cache::{CachePolicy, Cookies};
    /// const HOME: CachePolicy = CachePolicy::new().cookies(Cookies::BypassIf(&["sid"]));
    /// ```
    #[must_use]
    pub const fn cookies(mut self, cookies: Cookies) -> Self {
        self.cookies = cookies;
        self
    }

    /// What `Authorization` in a request means. Default: [`Authorization::Bypass`].
    ///
    /// ```
    /// use tower_mysql_cache::policy::Authorization;
    /// use tower_mysql_cache::CachePolicy;
    /// const ORDERS: CachePolicy = CachePolicy::new().authorization(Authorization::Key);
    /// ```
    #[must_use]
    pub const fn authorization(mut self, authorization: Authorization) -> Self {
        self.authorization = authorization;
        self
    }

    /// Cookies that are removed from the stored response. A response that sets only these cookies is stored without
    /// them. The client whose request filled the cache still gets them. Default: none, so a response with
    /// `Set-Cookie` is not stored.
    ///
    /// ```
    /// # use tower_mysql_cache::CachePolicy;
    /// const HOME: CachePolicy = CachePolicy::new().strip_set_cookies(&["last_visit"]);
    /// ```
    ///
    /// # Warning
    /// Do not name a cookie that the page depends on. With a session cookie here, everyone gets the page that began one
    /// visitor's session. A guard does not prevent that.
    #[must_use]
    pub const fn strip_set_cookies(mut self, names: &'static [&'static str]) -> Self {
        self.stripped_cookies = names;
        self
    }

    /// The targeted fields (RFC 9213) that this cache obeys. The first valid one counts instead of `Cache-Control` and
    /// `Expires`. `Tower-Mysql-Cache-Control` is this cache's own field, and the layer removes it from every response.
    /// All others stay in the response. Default: `Tower-Mysql-Cache-Control`; with [`CachePolicy::rfc9111`]
    /// `CDN-Cache-Control` as well, in second place.
    ///
    /// The names are in a `static`, because a `const` cannot hold a [`HeaderName`]:
    ///
    /// ```
    /// use http::HeaderName;
    /// use tower_mysql_cache::CachePolicy;
    /// static SURROGATE: [HeaderName; 1] = [HeaderName::from_static("surrogate-control")];
    /// const EDGE: CachePolicy = CachePolicy::new().targeted(&SURROGATE);
    /// ```
    #[must_use]
    pub const fn targeted(mut self, names: &'static [HeaderName]) -> Self {
        self.targeted = names;
        self
    }

    /// Tags of every response of the route. [`CacheOverride::tag`](crate::CacheOverride::tag) adds tags to one
    /// response. An invalidation of the tag covers all responses that have it. Default: none.
    ///
    /// A tag is a name of the application's. It is valid for all origins and prefixes that share the invalidation log,
    /// and never leaves the process. A *cache group* (RFC 9875) is a name in the response field `Cache-Groups`, valid
    /// for one origin. Clients and other caches see it. A tag and a group of the same name are two different things.
    ///
    /// ```
    /// # use tower_mysql_cache::CachePolicy;
    /// const CATALOGUE: CachePolicy = CachePolicy::new().tags(&["products"]);
    /// ```
    #[must_use]
    pub const fn tags(mut self, tags: &'static [&'static str]) -> Self {
        self.tags = tags;
        self
    }

    /// Tags that each successful unsafe request of the route invalidates (`POST`, `PUT`, `PATCH`, `DELETE`, or an
    /// unknown method), before its response is returned. [`CacheOverride::invalidates`](crate::CacheOverride::invalidates)
    /// adds tags in one response. Default: none.
    ///
    /// Success means the same as for the target: 2xx or 3xx. In safe mode, a request that may have changed data counts
    /// as well: a 408, a 5xx, and a handler that fails, panics or is aborted. The tags are invalidated even where the
    /// target is not: with [`invalidates_on_write(false)`](Self::invalidates_on_write), with
    /// [`CachePolicy::bypass`], and for gRPC calls. Tags, target and groups together cost one write to the log.
    ///
    /// These are tags, not the groups of `Cache-Group-Invalidation` (RFC 9875): see [`tags`](Self::tags).
    ///
    /// ```
    /// # use tower_mysql_cache::CachePolicy;
    /// const POSTS: CachePolicy = CachePolicy::new().tags(&["posts"]).invalidates(&["posts"]);
    /// ```
    #[must_use]
    pub const fn invalidates(mut self, tags: &'static [&'static str]) -> Self {
        self.invalidates = tags;
        self
    }

    /// How long a stale response may still be served while one request revalidates it in the background (RFC 5861 3),
    /// if the response does not say so itself. Behind a [`CacheGuard`](crate::CacheGuard), that one request waits. A
    /// response with `must-revalidate`, `proxy-revalidate`, `no-cache` or `s-maxage` is never served stale (RFC 9111
    /// 4.2.4). At most ten years. Default: none.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::CachePolicy;
    /// const NEWS: CachePolicy = CachePolicy::new()
    ///     .ttl(Duration::from_secs(30))
    ///     .stale_while_revalidate(Duration::from_secs(300));
    /// ```
    #[must_use]
    pub const fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = Some(window);
        self
    }

    /// How long a stale response may be served instead of an error (RFC 5861 4), if the response does not say so itself.
    /// Errors are a 500, 502, 503 or 504, an error of the inner service, and a handler that takes longer than
    /// [`CachePolicy::handler_timeout`]. The same responses as above are never served stale. At most ten years.
    /// Default: none.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::CachePolicy;
    /// const RATES: CachePolicy = CachePolicy::new().stale_if_error(Duration::from_secs(24 * 3600));
    /// ```
    #[must_use]
    pub const fn stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = Some(window);
        self
    }

    /// How long a request waits for the handler if a stale response may be served instead of an error. After that, the
    /// stale response is served, and the handler goes on in the background to fill the cache. Behind a
    /// [`CacheGuard`](crate::CacheGuard), the handler is dropped. There is no limit if there is nothing else to serve.
    /// Over zero. Default: none.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::CachePolicy;
    /// const RATES: CachePolicy = CachePolicy::new()
    ///     .stale_if_error(Duration::from_secs(3600))
    ///     .handler_timeout(Duration::from_secs(2));
    /// ```
    #[must_use]
    pub const fn handler_timeout(mut self, limit: Duration) -> Self {
        self.handler_timeout = Some(limit);
        self
    }

    /// Revalidates a response in the background before it is stale, so that a busy target never becomes stale (XFetch).
    /// The probability grows towards the end of the lifetime, and with the time that the handler took. A request starts
    /// the refresh when `handler time * beta * -ln(random)` reaches the end of the lifetime. The paper's optimum is 1; a
    /// larger value refreshes earlier. Behind a [`CacheGuard`](crate::CacheGuard), that request waits for the handler.
    /// Over 0 and at most 100. Default: off.
    ///
    /// ```
    /// # use tower_mysql_cache::CachePolicy;
    /// const HOME: CachePolicy = CachePolicy::new().early_refresh(1.0);
    /// ```
    #[must_use]
    pub const fn early_refresh(mut self, beta: f32) -> Self {
        self.early_refresh = Some(Beta(beta.to_bits()));
        self
    }

    /// Shortens each lifetime by a random share of at most this many percent, so that responses that were stored
    /// together do not become stale together. At most 90. Default: 0.
    ///
    /// ```
    /// # use tower_mysql_cache::CachePolicy;
    /// const PAGE: CachePolicy = CachePolicy::new().ttl_jitter(10);
    /// ```
    #[must_use]
    pub const fn ttl_jitter(mut self, percent: u8) -> Self {
        self.ttl_jitter_percent = percent;
        self
    }

    /// Whether requests for the same page at the same time share one call of the handler. Default:
    /// [`Collapse::Process`].
    ///
    /// ```
    /// use tower_mysql_cache::policy::Collapse;
    /// use tower_mysql_cache::CachePolicy;
    /// const REPORT: CachePolicy = CachePolicy::new().collapse(Collapse::Cluster);
    /// ```
    #[must_use]
    pub const fn collapse(mut self, collapse: Collapse) -> Self {
        self.collapse = collapse;
        self
    }

    /// How long a request waits for the response to another request before it calls the handler itself. It is also the
    /// age after which no request waits for another one, whose client may read slowly. At most an hour. Default: 5 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::CachePolicy;
    /// const REPORT: CachePolicy = CachePolicy::new().collapse_wait(Duration::from_secs(30));
    /// ```
    #[must_use]
    pub const fn collapse_wait(mut self, limit: Duration) -> Self {
        self.collapse_wait = limit;
        self
    }

    /// How long requests for a key skip collapsing after one of its responses could not be shared, so that private
    /// pages never queue. At most a day. Default: 120 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::CachePolicy;
    /// const INBOX: CachePolicy = CachePolicy::new().unshareable_for(Duration::from_secs(3600));
    /// ```
    #[must_use]
    pub const fn unshareable_for(mut self, time: Duration) -> Self {
        self.unshareable_for = time;
        self
    }

    /// With [`Collapse::Cluster`]: how long one process may call the handler for all others. If that process dies, the
    /// others wait this long, or `collapse_wait` if that is shorter. The lease is not renewed, so choose more than the
    /// handler takes. Otherwise a second process calls the handler too, and a late response of the first does not
    /// replace the response of the second. From 1 ms to an hour. Default: 10 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::policy::Collapse;
    /// # use tower_mysql_cache::CachePolicy;
    /// const REPORT: CachePolicy =
    ///     CachePolicy::new().collapse(Collapse::Cluster).lease(Duration::from_secs(60));
    /// ```
    #[must_use]
    pub const fn lease(mut self, time: Duration) -> Self {
        self.lease = time;
        self
    }

    /// Whether an unsafe request (`POST`, `PUT`, `DELETE`, `PATCH`, or an unknown method) invalidates its target and
    /// the cache groups that its response names (RFC 9111 4.4, RFC 9875 3). Each such request appends one row to the
    /// invalidation log, or two if the layer has no [`scheme`](crate::CacheLayer::scheme). It is answered when the rows
    /// are written. They are kept for `log_retention` (7 days). Turn this off for routes whose targets are never
    /// stored: GraphQL and JSON-RPC endpoints, form posts, uploads. gRPC calls never invalidate their target, except
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

    /// Whether a successful unsafe request also invalidates the URI in its `Location`, on the same origin (RFC 9111 4.4
    /// allows it). If a client chooses that URI (`POST /login?next=/home`), it can invalidate any page.
    /// `Content-Location` always counts. Default: `false`; [`CachePolicy::rfc9111`]: `true`.
    ///
    /// ```
    /// # use tower_mysql_cache::CachePolicy;
    /// const ARTICLES: CachePolicy = CachePolicy::new().invalidates_location(true);
    /// ```
    #[must_use]
    pub const fn invalidates_location(mut self, on: bool) -> Self {
        self.invalidates_location = on;
        self
    }
}
