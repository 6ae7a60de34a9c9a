//! Computes the key of a request, and the ranges and scopes that invalidations use.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Uri};

use super::builder::{KeyBuilder, Target, TargetKey};
use super::parts::{host, lower_case, normal_authority, normalised, without_default_port};
use super::query::QueryRules;
use super::search::SearchUse;
use super::shared::SharedRules;
use super::{CacheKey, KeyRange, SEPARATOR, hex, shorten};
use crate::error::{ConfigError, Value};
use crate::tag::Scope;

/// An invalidation by path uses at most this many bytes of the path. A shortened target keeps at least these bytes.
const PATH_BYTES: usize = 400;
const MAX_AUTHORITY_BYTES: usize = 160;
const MAX_PARTITION_BYTES: usize = 120;
const MAX_PREFIX_BYTES: usize = 64;

/// The settings by which a layer makes keys.
#[derive(Clone)]
pub(crate) struct KeyRules {
    pub(super) prefix: String,
    pub(super) version: u32,
    scheme: Option<String>,
    hosts: Option<Vec<String>>,
    pub(crate) query: QueryRules,
    builders: Vec<Arc<dyn KeyBuilder>>,
    /// Shared by the clones of a layer.
    shared: Arc<SharedRules>,
    /// For this prefix and version.
    pub(super) search_use: Arc<SearchUse>,
}

/// The target URI of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetUri<'a> {
    Known(&'a Uri),
    /// One of two URIs: the client's, or the shorter one that the request has inside `nest`. The second is the target
    /// if the application set it.
    #[cfg_attr(not(feature = "axum"), expect(dead_code, reason = "only axum cuts paths"))]
    Either(&'a Uri, &'a Uri),
}

/// Why a request has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// The target does not begin with a slash. HTTP/2 allows such targets, and a router might take one for a path.
    BadTarget,
    /// The `Host` field is repeated, is not an authority, or contradicts the request's URI.
    BadHost,
    /// The authority is not one of the layer's hosts.
    UnknownHost,
    /// A key builder returned `None`.
    Builder,
}

impl KeyRules {
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn set_prefix(&mut self, prefix: &str) -> Result<(), ConfigError> {
        self.check_no_handle("prefix", prefix)?;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if prefix.is_empty() || prefix.len() > MAX_PREFIX_BYTES || !prefix.bytes().all(allowed) {
            let rule = "it must have 1 to 64 of the characters A-Z a-z 0-9 . _ -";
            return Err(ConfigError::new("prefix", prefix, rule));
        }
        self.prefix = prefix.to_owned();
        self.search_use = Arc::default();
        Ok(())
    }

    pub(crate) fn set_version(&mut self, version: u32) -> Result<(), ConfigError> {
        self.check_no_handle("version", version)?;
        self.version = version;
        self.search_use = Arc::default();
        Ok(())
    }

    /// A handle that was made earlier would use the old prefix or version, so its invalidations would not reach new
    /// entries.
    fn check_no_handle(&self, setting: &'static str, value: impl Value) -> Result<(), ConfigError> {
        let rule = "it must be set before handle() is called on this layer or on a clone of it";
        if self.shared.has_handle() {
            return Err(ConfigError::new(setting, value, rule));
        }
        Ok(())
    }

    /// From now on, the prefix and the version cannot be changed.
    pub(crate) fn freeze_prefix(&self) {
        self.check_namespace(self.shared.add_handle(self.namespace()));
    }

    /// From now on, invalidations by every clone of the layer cover the entries that these rules store.
    pub(crate) fn share_query_rules(&self) {
        self.shared.add(&self.query);
        self.check_namespace(self.shared.add_service(self.namespace()));
    }

    fn namespace(&self) -> (String, u32) {
        (self.prefix.clone(), self.version)
    }

    /// An invalidation by a handle with another prefix would return `Ok` and reach nothing.
    fn check_namespace(&self, is_covered: bool) {
        if !is_covered {
            let (prefix, version) = (&self.prefix, self.version);
            tracing::warn!(
                prefix,
                version,
                "a handle and a service of this layer have different prefixes or versions, so the handle does not \
                 invalidate what the service stores: set prefix() and version() before with_policy() and clone()"
            );
        }
    }

    pub(crate) fn set_scheme(&mut self, scheme: &str) -> Result<(), ConfigError> {
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "http" && scheme != "https" {
            return Err(ConfigError::new("scheme", scheme, "it must be http or https"));
        }
        self.scheme = Some(scheme);
        Ok(())
    }

    pub(crate) fn set_hosts<I>(&mut self, hosts: I) -> Result<(), ConfigError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let check = |host: I::Item| match host.as_ref().parse::<Authority>() {
            Ok(authority) => Ok(authority.as_str().to_ascii_lowercase()),
            Err(_) => Err(ConfigError::new("host", host.as_ref(), "it must be host or host:port")),
        };
        self.hosts = Some(hosts.into_iter().map(check).collect::<Result<_, _>>()?);
        Ok(())
    }

    pub(crate) fn push_builder(&mut self, builder: Arc<dyn KeyBuilder>) {
        self.builders.push(builder);
    }

    /// The key of a request whose target URI is `uri`.
    pub(crate) fn target(&self, uri: &Uri, request: &Parts) -> Result<TargetKey, NoKey> {
        Ok(self.target_and_start(uri, request)?.0)
    }

    /// The same, and the beginning of the [`base_key`](Self::base_key) if it is the URI's: it has been made with the
    /// target, in one buffer.
    pub(crate) fn target_and_start(
        &self,
        uri: &Uri,
        request: &Parts,
    ) -> Result<(TargetKey, Option<Bytes>), NoKey> {
        let (default, start) = self.default_target(uri, &request.headers)?;
        if self.builders.is_empty() {
            return Ok((default, Some(start)));
        }
        let mut target = default.clone();
        for builder in &self.builders {
            target = builder.build(request, target).ok_or(NoKey::Builder)?;
        }
        Ok((target.with_request_uri(&default), None))
    }

    /// The targets that an unsafe request to `uri` invalidates:
    ///
    /// - its key if it has one, and the URI in the form in which each clone stores it,
    /// - if the layer has no fixed scheme, each of them under both schemes,
    /// - if the request has no valid key, the URI on all origins.
    pub(crate) fn targets_of_write(
        &self,
        uri: &Uri,
        request: &Parts,
        key: Option<&TargetKey>,
    ) -> Vec<TargetKey> {
        let path_and_query = rooted(uri);
        let on_all_origins = || {
            let path = self.query.apply(&path_and_query);
            uri.path_and_query().map(|_| TargetKey::uri(&path, String::new()))
        };
        let own = key.cloned();
        let own = own.or_else(|| Some(self.default_target(uri, &request.headers).ok()?.0));
        let Some(own) = own.or_else(on_all_origins) else { return Vec::new() };
        // if the key is a custom one, other entries may be stored under the URI
        let mut targets = self.on_same_origin(&own, &path_and_query);
        targets.retain(|other| other.target != own.target);
        targets.insert(0, own);
        targets.into_iter().flat_map(|target| self.under_both_schemes(target)).collect()
    }

    /// The target, and if the layer has no fixed scheme, the same target under the other scheme: a request does not
    /// always tell its scheme. A target without an origin covers both schemes already.
    pub(crate) fn under_both_schemes(&self, target: TargetKey) -> impl Iterator<Item = TargetKey> {
        let twin = self.scheme.is_none().then(|| target.with_other_scheme()).flatten();
        std::iter::once(target).chain(twin)
    }

    /// The target of a request by its URI, and the beginning of its key.
    fn default_target(&self, uri: &Uri, headers: &HeaderMap) -> Result<(TargetKey, Bytes), NoKey> {
        // an authority without a path is a target of CONNECT (RFC 9112 3.2.3)
        if uri.path_and_query().is_none() && uri.scheme().is_none() {
            return Err(NoKey::BadHost);
        }
        let (scheme, host) = self.origin(uri, headers)?;
        let path_and_query = uri.path_and_query().map_or("/", |target| target.as_str());
        if !path_and_query.starts_with('/') {
            return Err(NoKey::BadTarget);
        }
        let start = (&*self.prefix, self.version);
        Ok(TargetKey::in_key(start, &self.query.apply(path_and_query), (&scheme, &host)))
    }

    /// Scheme and authority in their normal form: lower case, without user information and default port.
    fn origin<'a>(
        &'a self,
        uri: &'a Uri,
        headers: &'a HeaderMap,
    ) -> Result<(Cow<'a, str>, Cow<'a, str>), NoKey> {
        let scheme = self.scheme.as_deref().or(uri.scheme_str()).unwrap_or("http");
        let scheme = lower_case(scheme);
        let plain = |authority: &'a str| normal_authority(&scheme, authority);
        let named = host(headers)?.map(plain);
        // a handler may read either of them, so they must agree (RFC 9112 3.2.2)
        let host = match (uri.authority().map(|authority| plain(authority.as_str())), named) {
            (Some(target), Some(host)) if target != host => return Err(NoKey::BadHost),
            (Some(host), _) | (None, Some(host)) => host,
            (None, None) => Cow::Borrowed(""),
        };
        let known = |known: &String| without_default_port(&scheme, known) == host;
        if self.hosts.as_ref().is_some_and(|hosts| !hosts.iter().any(known)) {
            return Err(NoKey::UnknownHost);
        }
        if host.len() < MAX_AUTHORITY_BYTES {
            return Ok((scheme, host));
        }
        let host = shorten(host.into_owned().into(), MAX_AUTHORITY_BYTES);
        Ok((scheme, String::from_utf8_lossy(&host).into_owned().into()))
    }

    /// The key of a target, without a variant. `credentials` are the hashed credentials that belong to the key, each
    /// with its kind.
    pub(crate) fn base_key(&self, target: &TargetKey, credentials: &[(u8, [u8; 16])]) -> CacheKey {
        let mut key = self.key_start(&target.target, true);
        push_partition(&mut key, target);
        if let Some(hash) = target.spelling() {
            push_hashed(&mut key, b's', &hash);
        }
        for (kind, hash) in credentials {
            push_hashed(&mut key, *kind, hash);
        }
        CacheKey::new(key)
    }

    /// The same. `start` is the beginning of the key, if it has been made with the target.
    pub(crate) fn base_key_from(
        &self,
        start: Option<Bytes>,
        target: &TargetKey,
        credentials: &[(u8, [u8; 16])],
    ) -> CacheKey {
        match start {
            Some(start) if target.is_plain() && credentials.is_empty() => CacheKey::new(start),
            _ => self.base_key(target, credentials),
        }
    }

    /// For a custom key: the beginning of the keys that the request would have under its URI.
    pub(crate) fn uri_key(&self, target: &TargetKey) -> Option<CacheKey> {
        Some(CacheKey::new(self.key_start(&target.request_uri()?.target, true)))
    }

    /// All custom keys.
    pub(crate) fn range_of_custom(&self) -> KeyRange {
        KeyRange::starting_with(format!("{}:{}:=", self.prefix, self.version))
    }

    /// Another path and query on the origin of `target`, in the form in which each clone of the layer stores it.
    pub(crate) fn on_same_origin(
        &self,
        target: &TargetKey,
        path_and_query: &str,
    ) -> Vec<TargetKey> {
        let Some(origin) = target.origin_bytes() else { return Vec::new() };
        let origin = String::from_utf8_lossy(origin);
        let applied = self.shared.applied(&self.query, path_and_query);
        applied.iter().map(|path| TargetKey::uri(path, origin.clone().into_owned())).collect()
    }

    /// The targets of `uri`, in the form in which each clone of the layer stores it. The flag says whether `uri` has
    /// an authority; without one, it means the path on all origins.
    pub(crate) fn targets_of_uri(&self, uri: &str) -> Result<(Vec<TargetKey>, bool), ConfigError> {
        let rule = "it must be an absolute URI, or a path that begins with a slash";
        let parsed: Uri = uri.parse().map_err(|_| ConfigError::new("uri", uri, rule))?;
        let with_origin = parsed.authority().is_some();
        let is_path = uri.starts_with('/') && !uri.starts_with("//");
        if !(with_origin || is_path) || !parsed.path().starts_with('/') {
            return Err(ConfigError::new("uri", uri, rule));
        }
        let path_and_query = rooted(&parsed);
        let origin = match with_origin {
            true => {
                let none = HeaderMap::new();
                let (scheme, host) = self.origin(&parsed, &none).map_err(|_| {
                    ConfigError::new("uri", uri, "its authority must be one of CacheLayer::hosts")
                })?;
                format!("{scheme}://{host}")
            }
            false => String::new(),
        };
        let applied = self.shared.applied(&self.query, &path_and_query);
        let targets = applied.iter().map(|path| TargetKey::uri(path, origin.clone()));
        Ok((targets.collect(), with_origin))
    }

    /// All keys of a target, on its own origin or on all origins.
    pub(crate) fn range(&self, target: &TargetKey, with_origin: bool) -> KeyRange {
        KeyRange::continuing(self.key_start(&target.target, with_origin))
    }

    /// The scope of a target, on its own origin or on all origins.
    pub(crate) fn scope(&self, target: &TargetKey, with_origin: bool) -> Scope {
        Scope::uri(self.key_start(&target.target, with_origin))
    }

    /// The scope of all entries with this prefix, whatever their version.
    pub(crate) fn scope_of_prefix(&self) -> Scope {
        Scope::Prefix(Bytes::copy_from_slice(self.prefix.as_bytes()))
    }

    /// The scope of all entries at and below a path.
    pub(crate) fn scope_of_path(&self, path: &str) -> Result<Scope, ConfigError> {
        let parsed = path.parse::<Uri>().ok().filter(|uri| uri.authority().is_none());
        if !path.starts_with('/') || path.contains('?') || parsed.is_none() {
            let rule = "it must be a path that begins with a slash, without a query";
            return Err(ConfigError::new("path", path, rule));
        }
        // a shortened target keeps only its first bytes, so a longer path is replaced by a path above it
        let path = normalised(path);
        let kept = path.get(..PATH_BYTES).and_then(|cut| cut.rsplit_once('/'));
        let path = kept.map_or(&*path, |(above, _)| above);
        Ok(Scope::path(format!("{}:{}:{path}", self.prefix, self.version).as_bytes()))
    }

    /// All keys with this prefix, whatever their version.
    pub(crate) fn range_of_prefix(&self) -> KeyRange {
        KeyRange::starting_with(format!("{}:", self.prefix))
    }

    fn key_start(&self, target: &Target, with_origin: bool) -> Vec<u8> {
        let mut key = format!("{}:{}:", self.prefix, self.version).into_bytes();
        match target {
            Target::Uri { path_and_query, origin } => {
                key.extend_from_slice(path_and_query);
                if with_origin && !origin.is_empty() {
                    key.push(SEPARATOR);
                    key.extend_from_slice(origin);
                }
            }
            Target::Custom(custom) => {
                key.push(b'=');
                key.extend_from_slice(custom);
            }
        }
        key
    }
}

impl Default for KeyRules {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            version: 1,
            scheme: None,
            hosts: None,
            query: QueryRules::default(),
            builders: Vec::new(),
            shared: Arc::default(),
            search_use: Arc::default(),
        }
    }
}

impl fmt::Debug for KeyRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRules")
            .field("prefix", &self.prefix)
            .field("version", &self.version)
            .field("scheme", &self.scheme)
            .field("hosts", &self.hosts)
            .field("query", &self.query)
            .field("builders", &self.builders.len())
            .finish()
    }
}

/// Path and query; an empty path is the root (RFC 9110 4.2.3).
fn rooted(uri: &Uri) -> Cow<'_, str> {
    match uri.path_and_query().map_or("/", |target| target.as_str()) {
        query if query.starts_with('?') => format!("/{query}").into(),
        target => target.into(),
    }
}

/// The key of the variant whose selecting header fields hash to `variant`.
pub(crate) fn variant_key(base: &CacheKey, variant: &[u8; 16]) -> CacheKey {
    let mut key = base.as_bytes().to_vec();
    push_hashed(&mut key, b'v', variant);
    CacheKey::new(key)
}

pub(super) fn push_partition(key: &mut Vec<u8>, target: &TargetKey) {
    if !target.partition.is_empty() {
        key.extend_from_slice(b" p:");
        let partition = Bytes::copy_from_slice(&target.partition);
        key.extend_from_slice(&shorten(partition, MAX_PARTITION_BYTES));
    }
}

fn push_hashed(key: &mut Vec<u8>, kind: u8, hash: &[u8; 16]) {
    key.extend_from_slice(&[SEPARATOR, kind, b'=']);
    key.extend_from_slice(hex(hash).as_bytes());
}

#[cfg(test)]
mod tests;
