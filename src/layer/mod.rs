//! The layer: one cache, and how this part of the application uses it.

mod settings;

use std::fmt;
use std::sync::Arc;

use tower::Layer;

use crate::engine::{Engine, Route};
use crate::error::ConfigError;
use crate::guard::CacheGuard;
use crate::handle::CacheHandle;
use crate::policy::CachePolicy;
use crate::service::CacheService;
use crate::store::Store;

/// Caches the responses of the services that it wraps.
///
/// A layer is cheap to clone. All clones are one cache: they share the store, the counters, the
/// [limits](#limits-that-all-clones-share) and the responses on their way to the store. The other settings belong to
/// each clone:
///
/// ```
/// use axum::{Router, routing::get};
/// use std::time::Duration;
/// use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore};
///
/// const NEWS: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(30));
///
/// let cache = CacheLayer::new(MemoryStore::new()).prefix("shop");
/// let app: Router = Router::new()
///     .route("/news", get(|| async { "news" }).layer(cache.with_policy(NEWS)))
///     .route("/search", get(|| async { "found" }).layer(cache.clone().only_query(["q", "page"])));
/// ```
///
/// With another layer on the same axum route, put both into a tuple: the first is the outermost. With two calls of
/// `layer`, the compiler cannot infer the error type between them.
///
/// ```
/// use axum::middleware::{Next, from_fn};
/// use axum::{Router, extract::Request, routing::get};
/// use tower_mysql_cache::{CacheLayer, MemoryStore};
///
/// let cache = CacheLayer::new(MemoryStore::new());
/// let logging = from_fn(|request: Request, next: Next| next.run(request));
/// let app: Router = Router::new().route("/", get(|| async { "home" }).layer((logging, cache)));
/// ```
pub struct CacheLayer<St> {
    engine: Arc<Engine<St>>,
    route: Arc<Route>,
}

impl<St: Store> CacheLayer<St> {
    /// A layer over a store, with the safe defaults: it stores responses that give their own lifetime.
    ///
    /// A response to a request with credentials is stored only if it says `public` or `s-maxage`. A request with
    /// credentials gets only stored responses that say so. Credentials are cookies, `Authorization`, and header fields
    /// such as `X-Api-Key` ([`CacheLayer::credential_headers`]). If an outer layer knows the user in another way, by a
    /// client certificate or a request extension, tell the layer with [`CacheLayer::credentials_by`].
    ///
    /// ```
    /// use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new());
    /// ```
    #[must_use]
    pub fn new(store: St) -> Self {
        Self { engine: Arc::new(Engine::new(store)), route: Arc::default() }
    }

    /// A handle to invalidate, cull, inspect and flush this cache. It has the prefix and the version of this layer, and
    /// covers only entries under them. So set them first, before `with_policy` and `clone`: clones keep theirs. An
    /// invalidation of a URI covers the entries of every clone of the layer in this process, whatever their query
    /// rules.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).prefix("shop");
    /// let handle = cache.handle();
    /// ```
    #[must_use]
    pub fn handle(&self) -> CacheHandle {
        self.route.keys.freeze_prefix();
        CacheHandle::new(Arc::clone(&self.engine), Arc::clone(&self.route))
    }

    /// The name of this cache. It is the first part of every key, so that several applications can share a table, and
    /// the name of the cache in `Cache-Status`. 1 to 64 of the characters `A-Z a-z 0-9 . _ -`. Default: none. Set it
    /// first: clones that exist already, as those of `with_policy`, keep their prefix.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).prefix("shop");
    /// ```
    ///
    /// # Panics
    /// If the prefix has other characters or another length. Also after [`CacheLayer::handle`], because that handle would
    /// invalidate nothing under the new prefix. [`CacheLayer::try_prefix`] returns an error instead.
    #[must_use]
    #[track_caller]
    pub fn prefix(self, prefix: &str) -> Self {
        at_start_up(self.try_prefix(prefix))
    }

    /// [`CacheLayer::prefix`], for prefixes from a configuration.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new());
    /// let error = cache.try_prefix("my shop").unwrap_err();
    /// assert_eq!(error.setting(), "prefix");
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] with the prefix and the rule.
    pub fn try_prefix(mut self, prefix: &str) -> Result<Self, ConfigError> {
        self.edit().keys.set_prefix(prefix)?;
        Ok(self)
    }

    /// The second part of every key. A new version starts with an empty cache. Default: 1.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).version(2);
    /// ```
    ///
    /// # Panics
    /// After [`CacheLayer::handle`], because that handle would invalidate nothing of the new version.
    #[must_use]
    #[track_caller]
    pub fn version(mut self, version: u32) -> Self {
        at_start_up(self.edit().keys.set_version(version));
        self
    }

    /// This cache with a route's policy. Default: [`CachePolicy::new`].
    ///
    /// ```
    /// use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new());
    /// let pages = cache.with_policy(CachePolicy::public_page());
    /// ```
    ///
    /// # Panics
    /// If the policy is not valid ([`CachePolicy::validate`]). [`CacheLayer::try_with_policy`] returns an error instead.
    #[must_use]
    #[track_caller]
    pub fn with_policy(&self, policy: CachePolicy) -> Self {
        at_start_up(self.try_with_policy(policy))
    }

    /// [`CacheLayer::with_policy`], for policies from a configuration.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new());
    /// let error = cache.try_with_policy(CachePolicy::new().ttl(Duration::ZERO)).unwrap_err();
    /// assert_eq!(error.setting(), "ttl");
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] with the setting, its value and the rule.
    pub fn try_with_policy(&self, policy: CachePolicy) -> Result<Self, ConfigError> {
        policy.validate()?;
        let mut layer = self.clone();
        layer.edit().set_policy(policy);
        Ok(layer)
    }

    /// Whether the layer looks up and stores responses, for example by a setting of the environment. If not, every
    /// request calls the handler (`detail=policy`). Unsafe requests and the handle still invalidate, because other
    /// processes may serve what this process changes. Default: `true`.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let is_on = std::env::var_os("NO_CACHE").is_none();
    /// let cache = CacheLayer::new(MemoryStore::new()).enabled(is_on);
    /// ```
    ///
    /// To leave the layer out altogether, use tower's `option_layer`. It needs the same type of response with and
    /// without the layer. In axum, a `map_response` outside of the layer gives it:
    ///
    /// ```
    /// use axum::{Router, body::Body, response::Response, routing::get};
    /// use tower::ServiceBuilder;
    /// use tower_mysql_cache::service::CacheBody;
    /// use tower_mysql_cache::{CacheLayer, MemoryStore};
    ///
    /// let cache = Some(CacheLayer::new(MemoryStore::new())).map(|cache| {
    ///     let body = |response: Response<CacheBody<Body>>| response.map(Body::new);
    ///     ServiceBuilder::new().map_response(body).layer(cache).into_inner()
    /// });
    /// let app: Router = Router::new()
    ///     .route("/", get(|| async { "home" }))
    ///     .layer(ServiceBuilder::new().option_layer(cache));
    /// ```
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.edit().enabled = enabled;
        self
    }

    /// The outermost layer of an application in which layers outside the cache add `Set-Cookie`: sessions, CSRF tokens.
    /// Nothing is stored before the guard has seen what they add. One guard serves all caches inside of it.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new());
    /// let app: Router = Router::new()
    ///     .route("/", get(|| async { "home" }).layer(cache.clone()))
    ///     // .layer(sessions)
    ///     .layer(cache.guard());
    /// ```
    #[must_use]
    pub fn guard(&self) -> CacheGuard {
        CacheGuard::new()
    }

    fn edit(&mut self) -> &mut Route {
        Arc::make_mut(&mut self.route)
    }
}

/// A wrong setting ends the start of the application, with a message that says what is wrong.
#[expect(clippy::panic, reason = "documented, and only while the application is put together")]
#[track_caller]
fn at_start_up<T>(result: Result<T, ConfigError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

impl<S, St: Store> Layer<S> for CacheLayer<St> {
    type Service = CacheService<S, St>;

    fn layer(&self, inner: S) -> Self::Service {
        self.route.keys.share_query_rules();
        self.engine.check_secret(&self.route);
        CacheService::new(inner, Arc::clone(&self.engine), Arc::clone(&self.route))
    }
}

impl<St> Clone for CacheLayer<St> {
    fn clone(&self) -> Self {
        Self { engine: Arc::clone(&self.engine), route: Arc::clone(&self.route) }
    }
}

impl<St> fmt::Debug for CacheLayer<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLayer")
            .field("engine", &self.engine)
            .field("route", &self.route)
            .finish()
    }
}
