//! Settings of a layer, and of all its clones together.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;

use super::{CacheLayer, at_start_up};
use crate::engine::Limits;
use crate::error::ConfigError;
use crate::key::{KeyBuilder, Secret, TargetKey};
use crate::status::StatusField;
use crate::store::Store;

/// # Limits that all clones share
///
/// A limit bounds memory or work that all clones of the layer share. So each limit has one value for all of them, and is
/// set before the layer is cloned: before `clone`, `with_policy`, `handle`, and before the layer wraps a service.
///
/// ```
/// # use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore};
/// let cache = CacheLayer::new(MemoryStore::new()).recording_bytes(128 << 20).queue_bytes(32 << 20);
/// let pages = cache.with_policy(CachePolicy::public_page());
/// ```
impl<St: Store> CacheLayer<St> {
    /// How many bytes of responses may wait to be written, with 4 KiB for each response in addition. If there is no
    /// room, a response is not stored, and counted (`shed`). Default: 64 MiB, which is some 15,000 small responses.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).queue_bytes(128 << 20);
    /// ```
    ///
    /// # Panics
    /// If the layer already has clones: [see above](#limits-that-all-clones-share).
    #[must_use]
    #[track_caller]
    pub fn queue_bytes(mut self, queue_bytes: usize) -> Self {
        at_start_up(self.limits("queue_bytes", queue_bytes)).queue_bytes = queue_bytes;
        self
    }

    /// How much memory bodies may take that are recorded while clients read them, with 2 KiB for each body in addition.
    /// If there is no room, the layer stops recording the response that needs more. The client gets the whole response,
    /// and it is not stored (`recording-budget`). Default: 64 MiB.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).recording_bytes(128 << 20);
    /// ```
    ///
    /// # Panics
    /// If the layer already has clones: [see above](#limits-that-all-clones-share).
    #[must_use]
    #[track_caller]
    pub fn recording_bytes(mut self, recording_bytes: usize) -> Self {
        at_start_up(self.limits("recording_bytes", recording_bytes)).recording_bytes =
            recording_bytes;
        self
    }

    /// How many background revalidations of stale and early responses may run at once. Further ones are not started, and
    /// counted (`refreshes_shed`). Default: 64.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).max_refreshes(16);
    /// ```
    ///
    /// # Panics
    /// If the layer already has clones: [see above](#limits-that-all-clones-share).
    #[must_use]
    #[track_caller]
    pub fn max_refreshes(mut self, max_refreshes: usize) -> Self {
        at_start_up(self.limits("max_refreshes", max_refreshes)).max_refreshes = max_refreshes;
        self
    }

    /// The limits, if the layer has no clone yet.
    fn limits(&mut self, setting: &'static str, value: usize) -> Result<&mut Limits, ConfigError> {
        let rule = "it must be set before the layer is cloned, because all clones share this limit; call it \
                    before clone(), with_policy() and handle()";
        let engine = Arc::get_mut(&mut self.engine);
        engine
            .map(|engine| &mut engine.limits)
            .ok_or_else(|| ConfigError::new(setting, value, rule))
    }
}

/// # Settings of each clone
impl<St: Store> CacheLayer<St> {
    /// How long a request waits for the store before it calls the handler. Zero means not at all, which only a store in
    /// memory can meet. After three lookups in a row that failed or took longer, requests call the handler without
    /// asking the store. Lookups that run at the same time count as one. The layer asks the store again when a probe,
    /// which no request waits for, is answered in time. Clones with the same limit count together. Default: 250 ms.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).store_timeout(Duration::from_millis(100));
    /// ```
    #[must_use]
    pub fn store_timeout(mut self, store_timeout: Duration) -> Self {
        self.edit().set_store_timeout(store_timeout);
        self
    }

    /// What the layer writes into `Cache-Status` (RFC 9211). Default: [`StatusField::On`].
    ///
    /// ```
    /// use tower_mysql_cache::status::StatusField;
    /// use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).status_field(StatusField::Off);
    /// ```
    #[must_use]
    pub fn status_field(mut self, status_field: StatusField) -> Self {
        self.edit().status_field = status_field;
        self
    }

    /// Whether hits have an `Age` field (RFC 9111 5.1, which requires it). Default: `true`.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).age_field(false);
    /// ```
    #[must_use]
    pub fn age_field(mut self, age_field: bool) -> Self {
        self.edit().age_field = age_field;
        self
    }

    /// The scheme of every key, `http` or `https`, for applications behind a proxy that ends TLS. Default: the scheme of
    /// the request target, or `http` if it has none.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).scheme("https");
    /// ```
    ///
    /// # Panics
    /// If it is another scheme.
    #[must_use]
    #[track_caller]
    pub fn scheme(mut self, scheme: &str) -> Self {
        at_start_up(self.edit().keys.set_scheme(scheme));
        self
    }

    /// The authorities (`host` or `host:port`) that are cached. Requests with another one skip the cache. Default: all
    /// authorities, each with its own entries.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).hosts(["shop.example", "www.shop.example"]);
    /// ```
    ///
    /// # Panics
    /// If one is not an authority.
    #[must_use]
    #[track_caller]
    pub fn hosts(mut self, hosts: impl IntoIterator<Item: AsRef<str>>) -> Self {
        at_start_up(self.edit().keys.set_hosts(hosts));
        self
    }

    /// Only these query parameters are part of the key. The handler still gets the others, so list every parameter that
    /// it reads. A pair with a semicolon is always part of the key, because some parsers see several parameters in it.
    /// Default: the whole query is part of the key.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).only_query(["q", "page"]);
    /// ```
    #[must_use]
    pub fn only_query(mut self, names: impl IntoIterator<Item: Into<String>>) -> Self {
        self.edit().keys.query.only(names);
        self
    }

    /// These query parameters are not part of the key, except pairs with a semicolon. Default: none.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).without_query(["session"]);
    /// ```
    #[must_use]
    pub fn without_query(mut self, names: impl IntoIterator<Item: Into<String>>) -> Self {
        self.edit().keys.query.without(names);
        self
    }

    /// Parameters that advertisers and mailers append (`utm_*`, `gclid`, `fbclid`, `msclkid`, ...) are not part of the
    /// key, except pairs with a semicolon. Default: they are.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).without_tracking_query();
    /// ```
    #[must_use]
    pub fn without_tracking_query(mut self) -> Self {
        self.edit().keys.query.without_tracking();
        self
    }

    /// The order of parameters with different names does not matter. The order of several values of one name still does.
    /// Default: the order matters.
    ///
    /// ```
    /// # use tower_mysql_cache::{CacheLayer, MemoryStore};
    /// let cache = CacheLayer::new(MemoryStore::new()).sort_query();
    /// ```
    #[must_use]
    pub fn sort_query(mut self) -> Self {
        self.edit().keys.query.sorted();
        self
    }

    /// Keeps separate entries for each value of something in the request: tenant, role, locale. The name says what the
    /// value means ([`TargetKey::partition`]). Name and value are part of the key and readable in the table. `None` skips
    /// the cache. An unsafe request invalidates its target in all partitions. Default: none.
    ///
    /// If the value comes from a cookie or field that is a credential, it stays a credential: requests with it still skip
    /// the cache. For a cookie, also set [`Cookies::Ignore`](crate::Cookies::Ignore), or use
    /// [`Cookies::Key`](crate::Cookies::Key) instead. For a field, name it in
    /// [`CacheLayer::without_credential_headers`].
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

    /// The secret for hashes of cookies and `Authorization` in keys ([`Cookies::Key`](crate::Cookies::Key),
    /// [`Authorization::Key`](crate::policy::Authorization::Key)). With it, a reader of the table cannot check guesses of
    /// passwords or short cookies against the hashes. At least 16 bytes, from a random source, and the same in all
    /// processes that share entries. With another secret, such routes start with an empty cache. Default: none, with a
    /// warning at the start if a policy needs one.
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

    /// These header fields are credentials too: a request with one of them is treated like one with a session cookie.
    /// Default, except under [`CachePolicy::rfc9111`](crate::CachePolicy::rfc9111): `Proxy-Authorization`, `X-Api-Key`,
    /// `X-Auth-Token` and similar fields, and the fields of authenticating proxies (`X-Forwarded-User`, `Remote-User`,
    /// `X-Forwarded-Client-Cert`, ...). [`guide::storing`](crate::guide::storing) has the whole list. The reason in
    /// `Cache-Status` is `credential-header`.
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
    /// // each API key has its own entries
    /// let cache = CacheLayer::new(MemoryStore::new())
    ///     .partition_by("key", |request| Some(hmac(request.headers.get("x-api-key")?.as_bytes())))
    ///     .without_credential_headers(["x-api-key"]);
    /// ```
    ///
    /// A partition is readable in the table and in the debug `Cache-Status`. [`CacheLayer::key_secret`] does not cover
    /// partitions, so the application hashes the API key with its own `hmac`. Default: none.
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

    /// Requests for which `carries` is true have credentials, as if they had a session cookie: for users that an outer
    /// layer knows by a client certificate, a token in the query, or a request extension. The reason in `Cache-Status`
    /// is `credential-extension`. This applies in every mode. Default: none.
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

    /// Changes the key of each request, or skips the cache. Builders run in the order in which they were added. Default:
    /// none.
    ///
    /// ```
    /// use http::request::Parts;
    /// use tower_mysql_cache::key::TargetKey;
    /// use tower_mysql_cache::{CacheLayer, MemoryStore};
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
}
