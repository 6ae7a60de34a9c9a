//! The layer: one cache, and how this part of the application uses it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tower::Layer;

use crate::engine::{Engine, Route};
use crate::error::ConfigError;
use crate::guard::CacheGuard;
use crate::handle::CacheHandle;
use crate::key::{KeyBuilder, Secret, TargetKey};
use crate::policy::CachePolicy;
use crate::service::CacheService;
use crate::status::StatusField;
use crate::store::Store;

/// Caches the responses of the services it wraps.
///
/// A layer is cheap to clone. Clones share the store, the counters and what is on its way to the
/// store; the settings belong to each clone, so that a setting changed on one changes that one only:
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
pub struct CacheLayer<St> {
    engine: Arc<Engine<St>>,
    route: Arc<Route>,
}

impl<St: Store> CacheLayer<St> {
    /// A layer over a store, with the safe defaults: it stores responses that say how long they stay fresh.
    ///
    /// A response to a request with credentials is stored only if it says `public` or `s-maxage`, and so is the
    /// response that a request with credentials is served. Credentials are cookies, `Authorization`, and header
    /// fields such as `X-Api-Key` ([`CacheLayer::credential_headers`]). A user that an outer layer knows in another
    /// way, by a client certificate or a request extension, is no credential until the layer is told
    /// ([`CacheLayer::credentials_by`]).
    #[must_use]
    pub fn new(store: St) -> Self {
        Self { engine: Arc::new(Engine::new(store)), route: Arc::default() }
    }

    /// A handle to invalidate, cull, look at and flush this cache. Set the prefix and the version before: the
    /// handle keeps those of the layer. What it invalidates by URI it names as every clone of the layer in this
    /// process stores it, whatever their query rules.
    #[must_use]
    pub fn handle(&self) -> CacheHandle {
        self.route.keys.handle_is_made();
        CacheHandle::new(Arc::clone(&self.engine), Arc::clone(&self.route))
    }

    /// The first part of every key: what tells applications apart that share a table, and the name
    /// of this cache in `Cache-Status`. 1 to 64 of the characters `A-Z a-z 0-9 . _ -`. Default: none.
    ///
    /// # Panics
    /// If the prefix breaks that rule, or after [`CacheLayer::handle`]: that handle would invalidate nothing under
    /// the new prefix. [`CacheLayer::try_prefix`] returns an error instead.
    #[must_use]
    #[track_caller]
    pub fn prefix(self, prefix: &str) -> Self {
        at_start_up(self.try_prefix(prefix))
    }

    /// [`CacheLayer::prefix`] for prefixes that come from outside.
    ///
    /// # Errors
    /// [`ConfigError`] naming the prefix and the rule.
    pub fn try_prefix(mut self, prefix: &str) -> Result<Self, ConfigError> {
        self.edit().keys.set_prefix(prefix)?;
        Ok(self)
    }

    /// The second part of every key: a new version starts with an empty cache. Default: 1.
    ///
    /// # Panics
    /// After [`CacheLayer::handle`]: that handle would invalidate nothing of the new version.
    #[must_use]
    #[track_caller]
    pub fn version(mut self, version: u32) -> Self {
        at_start_up(self.edit().keys.set_version(version));
        self
    }

    /// This cache with a route's policy. Default: [`CachePolicy::new`].
    ///
    /// # Panics
    /// If the policy cannot work ([`CachePolicy::validate`]); [`CacheLayer::try_with_policy`] returns
    /// an error instead.
    #[must_use]
    #[track_caller]
    pub fn with_policy(&self, policy: CachePolicy) -> Self {
        at_start_up(self.try_with_policy(policy))
    }

    /// [`CacheLayer::with_policy`] for policies that come from outside.
    ///
    /// # Errors
    /// [`ConfigError`] naming the setting, its value and the rule.
    pub fn try_with_policy(&self, policy: CachePolicy) -> Result<Self, ConfigError> {
        policy.validate()?;
        let mut layer = self.clone();
        layer.edit().set_policy(policy);
        Ok(layer)
    }

    /// The longest that a request waits for the store before it goes inside; zero means not at all,
    /// which only a store in memory can meet. After three lookups in a row that failed or took longer (those under
    /// way together count as one), requests go inside without asking the store, until one that nobody waits for is
    /// answered in time. All clones of a layer with the same wait count together.
    /// Default: 250 ms.
    #[must_use]
    pub fn store_timeout(mut self, store_timeout: Duration) -> Self {
        self.edit().set_store_timeout(store_timeout);
        self
    }

    /// The most bytes of responses that may wait to be written, each counted with 4 KiB for what waiting
    /// costs; what goes over it is not stored, and counted (`shed`). Default: 64 MiB, which is some 15,000
    /// small responses.
    #[must_use]
    pub fn queue_bytes(mut self, queue_bytes: usize) -> Self {
        self.edit().queue_bytes = queue_bytes;
        self
    }

    /// The most memory for bodies that are being recorded while clients read them, all of this cache in the process
    /// together, with 2 KiB for each beside its body. When it is used up, the layer stops recording the response that
    /// needs more. The client gets the response whole, and it is not stored: the reason is `recording-budget`.
    /// Default: 64 MiB.
    #[must_use]
    pub fn recording_bytes(mut self, recording_bytes: usize) -> Self {
        self.edit().recording_bytes = recording_bytes;
        self
    }

    /// The most validations that may be under way in the background, behind stale and early responses;
    /// what goes over it is not begun, and counted. Default: 64.
    #[must_use]
    pub fn max_refreshes(mut self, max_refreshes: usize) -> Self {
        self.edit().max_refreshes = max_refreshes;
        self
    }

    /// What the layer says in `Cache-Status` (RFC 9211). Default: [`StatusField::On`].
    #[must_use]
    pub fn status_field(mut self, status_field: StatusField) -> Self {
        self.edit().status_field = status_field;
        self
    }

    /// Whether hits carry `Age` (RFC 9111 5.1, which requires it). Default: `true`.
    #[must_use]
    pub fn age_field(mut self, age_field: bool) -> Self {
        self.edit().age_field = age_field;
        self
    }

    /// The scheme of every key, for applications behind something that ends TLS for them: `http` or
    /// `https`. Default: that of the request target, `http` where it has none.
    ///
    /// # Panics
    /// If it is neither.
    #[must_use]
    #[track_caller]
    pub fn scheme(mut self, scheme: &str) -> Self {
        at_start_up(self.edit().keys.set_scheme(scheme));
        self
    }

    /// The authorities (`host` or `host:port`) that are cached; requests with others bypass the
    /// cache. Default: all, each with entries of its own.
    ///
    /// # Panics
    /// If one is not an authority.
    #[must_use]
    #[track_caller]
    pub fn hosts(mut self, hosts: impl IntoIterator<Item: AsRef<str>>) -> Self {
        at_start_up(self.edit().keys.set_hosts(hosts));
        self
    }

    /// Only these query parameters tell responses apart; the others are left out of the key. They
    /// still reach the handler, so a handler that reads one of them must have it listed. A pair with a semicolon
    /// always counts, because some parsers see several parameters in it. Default: the whole query counts.
    #[must_use]
    pub fn only_query(mut self, names: impl IntoIterator<Item: Into<String>>) -> Self {
        self.edit().keys.query.only(names);
        self
    }

    /// These query parameters are left out of the key, except pairs with a semicolon. Default: none.
    #[must_use]
    pub fn without_query(mut self, names: impl IntoIterator<Item: Into<String>>) -> Self {
        self.edit().keys.query.without(names);
        self
    }

    /// Parameters that advertisers and mailers append (`utm_*`, `gclid`, `fbclid`, `msclkid`, ...)
    /// are left out of the key, except pairs with a semicolon. Default: they count.
    #[must_use]
    pub fn without_tracking_query(mut self) -> Self {
        self.edit().keys.query.without_tracking();
        self
    }

    /// The order of parameters with different names does not count; the order of several values of
    /// one name still does. Default: the order counts.
    #[must_use]
    pub fn sort_query(mut self) -> Self {
        self.edit().keys.query.sorted();
        self
    }

    /// Keeps entries apart by something about the request beside its target: tenant, role, locale. The name
    /// says what the value means, and joins the key with it ([`TargetKey::partition`]): both are readable in
    /// the table. `None` bypasses the cache. An unsafe request invalidates its target in all partitions.
    /// Default: none.
    ///
    /// A cookie or field stays a credential when a partition is made of it: requests that carry it still skip the
    /// cache. For a cookie, set [`Cookies::Ignore`](crate::Cookies::Ignore) as well, or use
    /// [`Cookies::Key`](crate::Cookies::Key) instead; for a field, name it in [`CacheLayer::without_credential_headers`].
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new())
    ///     .partition_by("tenant", |request| Some(request.headers.get("x-tenant")?.as_bytes().to_vec()));
    /// ```
    #[must_use]
    pub fn partition_by<F, K>(self, name: &str, partition: F) -> Self
    where
        F: Fn(&Parts) -> Option<K> + Send + Sync + 'static,
        K: AsRef<[u8]>,
    {
        let name = name.to_owned();
        self.key_builder(move |request: &Parts, default: TargetKey| {
            Some(default.partition(&name, partition(request)?))
        })
    }

    /// What hashes of cookies and `Authorization` in keys are made with, where a policy adds them to the key
    /// ([`Cookies::Key`](crate::Cookies::Key), [`Authorization::Key`](crate::Authorization::Key)). With it, a reader of
    /// the table cannot check guesses of passwords or short cookies against the hashes. At least 16 bytes, from a random
    /// source, the same in all processes that share entries; another secret starts with an empty cache for such
    /// routes. Default: none, with a warning at the start where a policy needs one.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # fn secret() -> String { "x".repeat(32) }
    /// let secret = secret(); // such as std::env::var("CACHE_KEY_SECRET")?
    /// let cache = CacheLayer::new(MemoryStore::new()).key_secret(secret);
    /// ```
    ///
    /// # Panics
    /// If it is shorter.
    #[must_use]
    #[track_caller]
    pub fn key_secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.edit().secret = Some(at_start_up(Secret::new(secret.as_ref())));
        self
    }

    /// These header fields are credentials too: a request with one of them is treated as one with a session cookie.
    /// Default, but not under [`CachePolicy::rfc9111`]: `Proxy-Authorization`, `X-Api-Key`, `X-Auth-Token` and the like,
    /// and what authenticating proxies add (`X-Forwarded-User`, `Remote-User`, `X-Forwarded-Client-Cert`, ...); the whole
    /// list is in [`guide::storing`](crate::guide::storing). The reason in `Cache-Status` is `credential-header`.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).credential_headers(["x-partner-key"]);
    /// ```
    ///
    /// # Panics
    /// If one is not the name of a header field.
    #[must_use]
    #[track_caller]
    pub fn credential_headers(mut self, names: impl IntoIterator<Item: AsRef<str>>) -> Self {
        at_start_up(self.edit().credentials.add(names));
        self
    }

    /// These header fields are not credentials: because no response depends on them, or because they are in the key.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # fn hmac(key: &[u8]) -> Vec<u8> { key.to_vec() }
    /// // each API key has entries of its own
    /// let cache = CacheLayer::new(MemoryStore::new())
    ///     .partition_by("key", |request| Some(hmac(request.headers.get("x-api-key")?.as_bytes())))
    ///     .without_credential_headers(["x-api-key"]);
    /// ```
    ///
    /// A partition is readable in the table and in the debug `Cache-Status`: here `hmac` is a keyed hash of the
    /// application's own. [`CacheLayer::key_secret`] does not cover partitions. Default: none.
    ///
    /// # Panics
    /// If one is not the name of a header field.
    #[must_use]
    #[track_caller]
    pub fn without_credential_headers(
        mut self,
        names: impl IntoIterator<Item: AsRef<str>>,
    ) -> Self {
        at_start_up(self.edit().credentials.leave_out(names));
        self
    }

    /// Requests for which `carries` is true have credentials, as if they had a session cookie: for users that an
    /// outer layer knows by a client certificate, a token in the query, or a request extension. The reason in
    /// `Cache-Status` is `credential-extension`. It holds in every mode. Default: none.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// # #[derive(Clone)] struct User;
    /// let cache = CacheLayer::new(MemoryStore::new())
    ///     .credentials_by(|request| request.extensions.get::<User>().is_some());
    /// ```
    #[must_use]
    pub fn credentials_by<F>(mut self, carries: F) -> Self
    where
        F: Fn(&Parts) -> bool + Send + Sync + 'static,
    {
        self.edit().credentials.push(carries);
        self
    }

    /// Changes the key of each request, or bypasses the cache. Builders run in the order in which
    /// they were added. Default: none.
    ///
    /// ```
    /// use http::request::Parts;
    /// use tower_mysql_cache::{CacheLayer, MemoryStore, TargetKey};
    /// // previews are never cached
    /// let cache = CacheLayer::new(MemoryStore::new()).key_builder(|request: &Parts, key: TargetKey| {
    ///     (!request.headers.contains_key("x-preview")).then_some(key)
    /// });
    /// ```
    #[must_use]
    pub fn key_builder(mut self, builder: impl KeyBuilder) -> Self {
        self.edit().keys.push_builder(Arc::new(builder));
        self
    }

    /// The outermost layer of an application in which layers outside the cache add `Set-Cookie`: sessions, CSRF
    /// tokens. Nothing is stored before it has seen what they add. One serves all caches inside of it.
    #[must_use]
    pub fn guard(&self) -> CacheGuard {
        CacheGuard::new()
    }

    fn edit(&mut self) -> &mut Route {
        Arc::make_mut(&mut self.route)
    }
}

/// Bad configuration ends the start of the application, with a message that says what is wrong.
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
        self.route.keys.make_known();
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
