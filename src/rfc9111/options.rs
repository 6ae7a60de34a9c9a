//! Which choices does RFC 9111 leave to the cache, and what may an application decide?

use std::time::Duration;

use super::syntax::DELTA_MAX_SECS;

/// The choices that RFC 9111 leaves to a cache. The default is the careful choice everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Estimate a lifetime if neither the response nor the application gives one (RFC 9111 4.2.2). A response without
    /// any lifetime is then stored too, if it can be validated. Default: `false`.
    pub(crate) heuristics: bool,
    /// `must-revalidate` is enough for storing the response to a request with `Authorization` (RFC 9111 3.5).
    /// Default: `false`; only `public` and `s-maxage` are enough.
    pub(crate) must_revalidate_shares: bool,
    /// Store responses with `Set-Cookie`, and the field with them (RFC 9111 7.3). Default: `false`.
    pub(crate) set_cookie: bool,
    /// The freshness lifetime of a response that gives none. Default: `None`.
    pub(crate) default_lifetime: Option<Duration>,
    /// Longer lifetimes are cut to this one. Default: 2^31 s (RFC 9111 1.2.2).
    pub(crate) max_lifetime: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            heuristics: false,
            must_revalidate_shares: false,
            set_cookie: false,
            default_lifetime: None,
            max_lifetime: Duration::from_secs(DELTA_MAX_SECS),
        }
    }
}

/// What the application says about one response. It counts before the response's own fields. The default says
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Instructions {
    /// The freshness lifetime, counted from the response's arrival. Zero: the response is not stored.
    pub(crate) lifetime: Option<Duration>,
    /// The response is not stored.
    pub(crate) no_store: bool,
    /// The response is the same for every client: `no-store`, `private` and credentials do not keep it out.
    pub(crate) shared: bool,
    /// The response is stored with its `Set-Cookie`.
    pub(crate) set_cookie: bool,
}

/// What a request carries that tells who sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Nothing.
    #[default]
    None,
    /// An `Authorization` field (RFC 9111 3.5).
    Authorization,
    /// A cookie, an API key or the like. RFC 9111 has no rule for them, so only a response that is explicitly for
    /// every client is stored or reused.
    Other,
}
