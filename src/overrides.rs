//! One response's word against its route's policy.

use std::time::Duration;

use crate::tag::Tag;

/// Under this name the stored form of a response remembers what its override said of stale windows. It never
/// leaves the process.
pub(crate) const STALE_FIELD: &str = "tower-mysql-cache-stale";

/// What a handler says about one response, in place of its route's policy and of the response's own
/// `Cache-Control`. A response extension; with axum also part of a response:
///
/// ```
/// use std::time::Duration;
/// use tower_mysql_cache::CacheOverride;
///
/// // any tower service
/// let mut response = http::Response::new("rates");
/// response.extensions_mut().insert(CacheOverride::ttl(Duration::from_secs(30)));
///
/// // axum
/// # #[cfg(feature = "axum")]
/// async fn rates() -> impl axum::response::IntoResponse {
///     (CacheOverride::ttl(Duration::from_secs(30)), "rates")
/// }
/// ```
///
/// The override never leaves the process: the layer takes it off the response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheOverride {
    pub(crate) ttl: Option<Duration>,
    pub(crate) no_store: bool,
    pub(crate) shared: bool,
    pub(crate) with_set_cookie: bool,
    pub(crate) stale_while_revalidate: Option<Duration>,
    pub(crate) stale_if_error: Option<Duration>,
    pub(crate) tags: Vec<Tag>,
}

impl CacheOverride {
    /// Nothing is said.
    pub(crate) const NONE: Self = Self {
        ttl: None,
        no_store: false,
        shared: false,
        with_set_cookie: false,
        stale_while_revalidate: None,
        stale_if_error: None,
        tags: Vec::new(),
    };

    /// Says nothing yet: for an override without a lifetime.
    #[must_use]
    pub const fn new() -> Self {
        Self::NONE
    }

    /// The response is fresh for `ttl`, whatever its own fields say about lifetime. Zero stores
    /// nothing.
    #[must_use]
    pub const fn ttl(ttl: Duration) -> Self {
        let mut said = Self::NONE;
        said.ttl = Some(ttl);
        said
    }

    /// The response is not stored.
    #[must_use]
    pub const fn no_store() -> Self {
        let mut said = Self::NONE;
        said.no_store = true;
        said
    }

    /// The response has this tag as well: what invalidates the tag invalidates the response. A response
    /// may have any number of tags. One with a tag that is empty or has more than [`Tag::MAX_BYTES`] is
    /// not stored, and an error is logged.
    ///
    /// ```
    /// use tower_mysql_cache::CacheOverride;
    /// let product = CacheOverride::new().tag("product:7").tag(format!("shop:{}", 3));
    /// # let _ = product;
    /// ```
    #[must_use]
    pub fn tag(mut self, tag: impl Into<Tag>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// The response has these tags as well.
    #[must_use]
    pub fn tags(mut self, tags: impl IntoIterator<Item: Into<Tag>>) -> Self {
        self.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// The response may be shared although it says `no-store` or `private`, or although its request
    /// carried cookies or `Authorization`.
    ///
    /// # Warning
    /// **Everybody who asks for this target gets this response.** Use it only where the response
    /// does not depend on who asks.
    #[must_use]
    pub const fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// The response may be stored together with its `Set-Cookie` fields.
    ///
    /// # Warning
    /// **Everybody who asks for this target is sent these cookies.** A session's cookie stored like
    /// this hands one user's session to all others.
    #[must_use]
    pub const fn with_set_cookie(mut self) -> Self {
        self.with_set_cookie = true;
        self
    }
    /// For how long after it has become stale the response may still be served while one request validates
    /// it in the background, in place of its own directive and the policy's
    /// [`stale_while_revalidate`](crate::CachePolicy::stale_while_revalidate); zero forbids it. It does not
    /// lift what the response forbids by `must-revalidate`, `proxy-revalidate`, `no-cache` or `s-maxage`
    /// (RFC 9111 4.2.4). A longer one than a year counts as a year.
    #[must_use]
    pub const fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = Some(window);
        self
    }

    /// For how long after it has become stale the response may be served in place of an error, in place of
    /// its own directive and the policy's [`stale_if_error`](crate::CachePolicy::stale_if_error); zero
    /// forbids it. It lifts no more than [`CacheOverride::stale_while_revalidate`] does.
    #[must_use]
    pub const fn stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = Some(window);
        self
    }
}
