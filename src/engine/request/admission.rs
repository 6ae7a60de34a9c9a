//! Which requests does the cache handle, and under which key?

use std::sync::OnceLock;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Uri};

use super::super::Route;
use super::super::consent::Consent;
use crate::cookies::{Credentials, examine};
use crate::key::{CacheKey, NoKey, Search, TargetKey, TargetUri};
use crate::policy::Mode;
use crate::reason::Reason;
use crate::rfc9111::{RequestDirectives, is_safe};

/// The beginning of gRPC's media types.
const GRPC: &[u8] = b"application/grpc";

/// What happens to a request.
pub(crate) enum Admission {
    /// The cache does nothing (CONNECT).
    Untouched,
    /// The handler is called, for this reason.
    Bypass(Reason),
    /// A GET or HEAD: a stored response may answer it.
    Exchange(Plan),
    /// An unsafe method: the handler is called. With a `Write`, its success invalidates.
    WriteThrough(Option<Write>),
    /// A safe method other than GET and HEAD: the handler is called.
    Forward,
}

/// How a request is looked up, and how its response is stored.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The target's key, without the variant.
    pub(crate) base: CacheKey,
    pub(in crate::engine) target: TargetKey,
    /// The key of the request's URI, if the application gives the target a custom key.
    pub(in crate::engine) uri_key: Option<CacheKey>,
    /// Path and query as the client sent them.
    pub(in crate::engine) path_and_query: Option<PathAndQuery>,
    /// Hashed credentials that are part of the key.
    pub(in crate::engine) credential_hashes: Vec<(u8, [u8; 16])>,
    /// The keys of the path's `No-Vary-Search` rule. Computed when first needed.
    pub(super) search: OnceLock<Option<Search>>,
    pub(crate) credentials: Credentials,
    /// The request's `Cache-Control`.
    pub(in crate::engine) directives: RequestDirectives,
    pub(crate) head_only: bool,
    /// Whether the request comes through another layer of the same cache.
    pub(crate) nested: bool,
    /// Whether the response may be stored.
    pub(crate) consent: Consent,
}

/// By what a process remembers that a response was not storable: the hash of the target's key, and whether the
/// request had credentials. A response to one user says nothing about anonymous requests.
pub(in crate::engine) type StorabilityKey = ([u8; 16], bool);

/// What a request invalidates when it succeeds.
#[derive(Debug)]
pub(crate) struct Write {
    /// The request's own target comes first.
    pub(in crate::engine) targets: Vec<TargetKey>,
    /// The path of the request's URI. References in the response are relative to it.
    pub(in crate::engine) path: String,
    pub(in crate::engine) path_and_query: String,
    /// How later requests would look up the response to a POST.
    pub(crate) plan: Option<Plan>,
}

impl Write {
    fn new(route: &Route, target_uri: TargetUri<'_>, request: &Parts) -> Option<Self> {
        let (uri, other) = match target_uri {
            TargetUri::Known(uri) => (uri, None),
            TargetUri::Either(uri, other) => (uri, Some(other)),
        };
        let key = route.keys.target(uri, request).ok();
        let mut targets = route.keys.targets_of_write(uri, request, key.as_ref());
        if let Some(other) = other {
            let key = route.keys.target(other, request).ok();
            targets.extend(route.keys.targets_of_write(other, request, key.as_ref()));
        }
        if targets.is_empty() {
            return None;
        }
        // a response without a key is not stored
        let key = key.filter(|key| key.is_uri() && other.is_none());
        let key = key.filter(|_| request.method == Method::POST && route.is_enabled());
        let plan = key.map(|key| Plan::new(route, uri, request, (key, None), false));
        let path = uri.path().to_owned();
        let path_and_query = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        Some(Self { targets, path, path_and_query, plan })
    }
}

impl Plan {
    fn new(
        route: &Route,
        uri: &Uri,
        request: &Parts,
        (target, start): (TargetKey, Option<Bytes>),
        head_only: bool,
    ) -> Self {
        let policy = &route.policy;
        let (credentials, mut credential_hashes) =
            examine(policy.cookies, policy.authorization, &request.headers);
        let credentials = match credentials {
            Credentials::Cookie => Credentials::Cookie,
            // they come before `Authorization`, whose rules are less strict (RFC 9111 3.5)
            found => match route.credentials.examine(request, policy.mode == Mode::Safe) {
                Credentials::None => found,
                other => other,
            },
        };
        if let Some(secret) = &route.secret {
            for (kind, hash) in &mut credential_hashes {
                *hash = secret.hash(*kind, hash);
            }
        }
        let base = route.keys.base_key_from(start, &target, &credential_hashes);
        let uri_key = route.keys.uri_key(&target);
        let path_and_query = uri.path_and_query().cloned();
        Self {
            base,
            target,
            uri_key,
            path_and_query,
            credential_hashes,
            search: OnceLock::new(),
            credentials,
            directives: RequestDirectives::parse(&request.headers),
            head_only,
            nested: false,
            consent: Consent::default(),
        }
    }

    pub(in crate::engine) fn has_credentials(&self) -> bool {
        self.credentials != Credentials::None
    }

    pub(in crate::engine) fn storability_key(&self) -> StorabilityKey {
        (self.base.hash(), self.has_credentials())
    }
}

/// Decides about a request to `target_uri`. `body_follows` is only known for some body types; for the others, the
/// header fields decide.
pub(crate) fn admit(
    route: &Route,
    target_uri: TargetUri<'_>,
    request: &Parts,
    body_follows: bool,
) -> Admission {
    if request.method == Method::CONNECT {
        return Admission::Untouched; // RFC 9110 9.3.6
    }
    let is_get = request.method == Method::GET;
    if !is_get && request.method != Method::HEAD {
        if is_safe(&request.method) {
            return Admission::Forward;
        }
        let may_invalidate = may_invalidate(route, request);
        let write = may_invalidate.then(|| Write::new(route, target_uri, request)).flatten();
        return Admission::WriteThrough(write);
    }
    if !route.is_enabled() {
        return Admission::Bypass(Reason::Policy);
    }
    if asks_for_upgrade(&request.headers) {
        return Admission::Bypass(Reason::Upgrade); // RFC 9110 7.8
    }
    if body_follows || has_body(&request.headers) {
        // RFC 9110 9.3.1: the key does not contain the body, which may change the handler's response
        return Admission::Bypass(Reason::RequestBody);
    }
    let TargetUri::Known(uri) = target_uri else {
        // the client's URI is not known: the key might be that of another resource, or shared by several tenants
        return Admission::Bypass(Reason::RewrittenUri);
    };
    let target = match route.keys.target_and_start(uri, request) {
        Ok(target) => target,
        Err(NoKey::BadTarget) => return Admission::Bypass(Reason::BadTarget),
        Err(NoKey::BadHost) => return Admission::Bypass(Reason::BadHost),
        Err(NoKey::UnknownHost) => return Admission::Bypass(Reason::UnknownHost),
        Err(NoKey::Builder) => return Admission::Bypass(Reason::KeyBuilder),
    };
    Admission::Exchange(Plan::new(route, uri, request, target, !is_get))
}

/// Whether the route's unsafe requests invalidate. In safe mode, gRPC calls do not: each is a POST, no page has their
/// target, and most log rows would be theirs.
fn may_invalidate(route: &Route, request: &Parts) -> bool {
    let is_grpc = || {
        let content = request.headers.get(CONTENT_TYPE).map(|content| content.as_bytes());
        request.method == Method::POST
            && content
                .and_then(|c| c.get(..GRPC.len()))
                .is_some_and(|c| c.eq_ignore_ascii_case(GRPC))
    };
    route.policy.invalidates_on_write && !(route.policy.mode == Mode::Safe && is_grpc())
}

/// Whether the client wants to change the protocol. An offer of HTTP/2 without TLS does not count: some clients send
/// it with every first request, and accept a normal answer.
fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.get_all(UPGRADE).iter().any(|offer| !offer.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    length || headers.contains_key(TRANSFER_ENCODING)
}
