//! One response's word against its route's policy.

use std::time::Duration;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheOverride {
    pub(crate) ttl: Option<Duration>,
    pub(crate) no_store: bool,
    pub(crate) shared: bool,
    pub(crate) with_set_cookie: bool,
}

impl CacheOverride {
    /// The response is fresh for `ttl`, whatever its own fields say about lifetime. Zero stores
    /// nothing.
    #[must_use]
    pub const fn ttl(ttl: Duration) -> Self {
        Self { ttl: Some(ttl), no_store: false, shared: false, with_set_cookie: false }
    }

    /// The response is not stored.
    #[must_use]
    pub const fn no_store() -> Self {
        Self { ttl: None, no_store: true, shared: false, with_set_cookie: false }
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
}
