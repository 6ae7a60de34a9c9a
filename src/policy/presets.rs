//! Policies for common pages.

use std::time::Duration;

use http::StatusCode;

use super::CachePolicy;
use crate::cookies::{Authorization, Cookies};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Search results are small, and there are many of them.
const SEARCH_MAX_BODY_BYTES: usize = 1 << 20;

impl CachePolicy {
    /// A page that is the same for all anonymous visitors, such as a home page or an article. It is fresh for a minute.
    /// For ten minutes after that, visitors get the stale page while one request refreshes it. For a day, they get it
    /// instead of an error. Lifetimes are up to 10 % shorter, so that pages do not become stale together.
    ///
    /// A request with any cookie, except analytics cookies, skips the cache. If you know the cookies of your users'
    /// sessions, name them with [`Cookies::BypassIf`]. [The guide](crate::guide::storing#presets) compares the presets.
    ///
    /// ```
    /// use tower_mysql_cache::{CachePolicy, Cookies};
    /// const HOME: CachePolicy = CachePolicy::public_page().cookies(Cookies::BypassIf(&["sid"]));
    /// ```
    #[must_use]
    pub const fn public_page() -> Self {
        Self::new()
            .ttl(MINUTE)
            .stale_while_revalidate(Duration::from_secs(600))
            .stale_if_error(DAY)
            .ttl_jitter(10)
    }

    /// A file whose name changes with its content, such as `app.3f9a1c.js`. It is fresh for a year, for every request,
    /// whatever its cookies. Only a 200 takes this lifetime: a file that is not deployed yet is asked for again.
    ///
    /// ```
    /// use tower_mysql_cache::CachePolicy;
    /// const ASSET: CachePolicy = CachePolicy::hashed_asset();
    /// ```
    ///
    /// # Warning
    /// The same URI must always have the same content, for everyone.
    #[must_use]
    pub const fn hashed_asset() -> Self {
        Self::new().ttl(YEAR).statuses(&[StatusCode::OK]).cookies(Cookies::Ignore)
    }

    /// A page of search results: many different URIs, each asked for rarely, and results that may be a little old. It
    /// is fresh for 30 seconds. For another 30 seconds, visitors get the stale page while one request refreshes it. For
    /// ten minutes, they get it instead of an error. Results over 1 MiB are not stored. Only a 200 takes this lifetime.
    ///
    /// A request with any cookie, except analytics cookies, skips the cache. So that requests with the same meaning
    /// share an entry, use [`CacheLayer::sort_query`](crate::CacheLayer::sort_query) and
    /// [`CacheLayer::only_query`](crate::CacheLayer::only_query).
    ///
    /// ```
    /// use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore};
    /// const SEARCH: CachePolicy = CachePolicy::search();
    /// let cache = CacheLayer::new(MemoryStore::new());
    /// let search = cache.with_policy(SEARCH).only_query(["q", "page"]).sort_query();
    /// ```
    #[must_use]
    pub const fn search() -> Self {
        Self::new()
            .ttl(Duration::from_secs(30))
            .stale_while_revalidate(Duration::from_secs(30))
            .stale_if_error(Duration::from_secs(600))
            .statuses(&[StatusCode::OK])
            .max_body_bytes(SEARCH_MAX_BODY_BYTES)
    }

    /// An API whose responses belong to the user in `Authorization`. Each value of the field has its own entries, which
    /// are fresh for ten seconds and never served stale. Only a 200 takes this lifetime. Requests without the field
    /// have entries too. A request with a cookie skips the cache; if the API uses a cookie instead, name it with
    /// [`Cookies::Key`], and read its warning about ended sessions.
    ///
    /// For ten seconds, a hit does not check the token again. The key holds a hash of the field: set
    /// [`CacheLayer::key_secret`](crate::CacheLayer::key_secret).
    ///
    /// ```
    /// use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore};
    /// const ORDERS: CachePolicy = CachePolicy::user_api();
    /// # fn secret() -> String { "x".repeat(32) }
    /// let cache = CacheLayer::new(MemoryStore::new()).key_secret(secret()).with_policy(ORDERS);
    /// ```
    #[must_use]
    pub const fn user_api() -> Self {
        Self::new()
            .ttl(Duration::from_secs(10))
            .statuses(&[StatusCode::OK])
            .authorization(Authorization::Key)
    }
}
