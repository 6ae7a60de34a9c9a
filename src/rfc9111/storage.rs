//! Whether a response may be stored, and for how long it is fresh (RFC 9111 3).

use std::fmt;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Method, StatusCode};

use super::directives::{Qualified, RequestDirectives, ResponseDirectives};
use super::freshness::{
    explicit_lifetime, heuristic_lifetime, initial_age_ms, is_heuristically_cacheable,
};
use super::syntax::DELTA_MAX_MS;
use super::vary::{self, Nominated};
use crate::cookies::Credentials;
use crate::overrides::CacheOverride;
use crate::policy::Mode;

/// A response that might be stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) method: &'a Method,
    pub(crate) request: &'a RequestDirectives,
    pub(crate) credentials: Credentials,
    pub(crate) status: StatusCode,
    /// The response's fields as received.
    pub(crate) headers: &'a HeaderMap,
    pub(crate) directives: &'a ResponseDirectives,
    pub(crate) mode: Mode,
    /// The policy's lifetime for this status, if it has one.
    pub(crate) policy_ttl: Option<Duration>,
    pub(crate) overrides: Option<&'a CacheOverride>,
    /// There is a `Set-Cookie` that the policy does not strip.
    pub(crate) set_cookie_left: bool,
    /// The response can be validated, so that it is worth storing even when it is stale at once.
    pub(crate) validatable: bool,
    /// It may be served when it is stale, so that it is worth storing then.
    pub(crate) useful_stale: bool,
    pub(crate) requested_ms: u64,
    pub(crate) received_ms: u64,
    pub(crate) max_lifetime: Duration,
}

/// That a response may be stored, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Storable {
    /// The freshness lifetime, counted from the response's generation.
    pub(crate) lifetime: Duration,
    /// The lifetime is the application's own, and counts from when the response came back.
    pub(crate) given: bool,
    /// The response's age when it came back.
    pub(crate) initial_age_ms: u64,
    /// It may answer requests that carry credentials.
    pub(crate) shared: bool,
    /// The first moment at which it is stale; not after `received_ms` when it is stale at once.
    pub(crate) fresh_until_ms: u64,
}

impl Storable {
    /// The same for a response of this age when it came back.
    pub(crate) fn fresh_until_ms(&self, received_ms: u64, initial_age_ms: u64) -> u64 {
        fresh_until_ms(self.lifetime, self.given, received_ms, initial_age_ms)
    }
}

/// The first moment at which a response is stale. A lifetime of the application's own counts from when it came
/// back, however long its handler took.
fn fresh_until_ms(lifetime: Duration, given: bool, received_ms: u64, initial_age_ms: u64) -> u64 {
    let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(DELTA_MAX_MS);
    let spent_ms = if given { 0 } else { initial_age_ms };
    received_ms.saturating_add(lifetime_ms).saturating_sub(spent_ms)
}

impl Candidate<'_> {
    /// Whether the response may be stored. `no-store`, `private`, `Set-Cookie` and credentials win
    /// over a policy's lifetime; only an override lifts them.
    pub(crate) fn decide(&self) -> Result<Storable, NotStored> {
        static NONE: CacheOverride = CacheOverride::NONE;
        let overrides = self.overrides.unwrap_or(&NONE);
        self.check_message()?;
        if overrides.no_store {
            return Err(NotStored::Override);
        }
        self.check_directives(overrides)?;
        if self.mode == Mode::Safe && self.set_cookie_left && !overrides.with_set_cookie {
            return Err(NotStored::SetCookie); // RFC 9111 7.3
        }
        let shared = self.is_shared(overrides);
        match self.credentials {
            // RFC 9111 3.5
            Credentials::Authorization if !shared => return Err(NotStored::Authorization),
            // RFC 9111 7.3: a request without cookies would be served what one with them has got
            Credentials::Cookie if !self.is_for_everyone(overrides) => {
                return Err(NotStored::Cookie);
            }
            // the same: the handler may answer by who asks
            Credentials::Header if !self.is_for_everyone(overrides) => {
                return Err(NotStored::CredentialHeader);
            }
            Credentials::Extension if !self.is_for_everyone(overrides) => {
                return Err(NotStored::CredentialExtension);
            }
            _ => {}
        }
        // RFC 9111 4.1: it would never be selected
        if vary::nominated(self.headers) == Nominated::Any {
            return Err(NotStored::VaryAny);
        }
        let lifetime = self.lifetime(overrides)?;
        let initial_age_ms = initial_age_ms(self.headers, self.requested_ms, self.received_ms);
        let given = self.is_given(overrides);
        let fresh_until_ms = fresh_until_ms(lifetime, given, self.received_ms, initial_age_ms);
        // RFC 9111 4.2: fresh while the lifetime is greater than the age
        if fresh_until_ms <= self.received_ms && !self.validatable && !self.useful_stale {
            return Err(NotStored::StaleOnArrival);
        }
        Ok(Storable { lifetime, given, initial_age_ms, shared, fresh_until_ms })
    }

    /// Whether the lifetime is an override's or the policy's.
    fn is_given(&self, overrides: &CacheOverride) -> bool {
        let explicit = || explicit_lifetime(self.directives, self.headers, self.received_ms);
        let own = || self.directives.no_cache == Qualified::All || explicit().is_some();
        overrides.ttl.is_some() || (self.policy_ttl.is_some() && !own())
    }

    /// Method and status.
    fn check_message(&self) -> Result<(), NotStored> {
        // RFC 9111 3: the method must be understood. A response to HEAD has no body to store.
        if self.method != Method::GET {
            return Err(NotStored::Method);
        }
        match self.status.as_u16() {
            101 => Err(NotStored::Upgrade),
            // RFC 9111 3: only final responses
            100..=199 => Err(NotStored::Status),
            // RFC 9111 3: 206 and 304 need an understanding of their own
            206 => Err(NotStored::Partial),
            304 => Err(NotStored::Status),
            // answers to conditions and ranges of one request, which are not in the key
            412 | 416 | 417 => Err(NotStored::Status),
            _ if is_endless(self.headers) => Err(NotStored::Streaming),
            _ => Ok(()),
        }
    }

    fn check_directives(&self, overrides: &CacheOverride) -> Result<(), NotStored> {
        if self.request.no_store {
            return Err(NotStored::RequestNoStore); // RFC 9111 5.2.1.5
        }
        // RFC 9111 5.2.2.3: an understood status makes a cache ignore no-store, another forbids storing
        if self.directives.must_understand && !is_understood(self.status) {
            return Err(NotStored::MustUnderstand);
        }
        let no_store = self.directives.no_store && !self.directives.must_understand;
        if no_store && !overrides.shared {
            return Err(NotStored::NoStore); // RFC 9111 5.2.2.5
        }
        // RFC 9111 5.2.2.7; a qualified "private" takes out fields, not the response
        if self.directives.private == Qualified::All && !overrides.shared {
            return Err(NotStored::Private);
        }
        Ok(())
    }

    /// Whether the response may be used for requests with credentials. RFC 9111 3.5 names `public`,
    /// `s-maxage` and `must-revalidate`; in safe mode the last of them is not enough.
    fn is_shared(&self, overrides: &CacheOverride) -> bool {
        self.is_for_everyone(overrides)
            || (self.mode == Mode::Strict && self.directives.must_revalidate)
    }

    /// Whether the response says that it is for everyone: `must-revalidate` says so in RFC 9111 3.5 only,
    /// which is about `Authorization`. An `s-maxage` of zero, or one that cannot be read, keeps a response
    /// out of shared caches and never lets it in.
    fn is_for_everyone(&self, overrides: &CacheOverride) -> bool {
        overrides.shared
            || self.directives.public
            || self.directives.s_maxage.is_some_and(|seconds| seconds > 0)
    }

    /// Override, then what the response says, then policy, then heuristics. Zero for a response that
    /// is to be validated before every use.
    fn lifetime(&self, overrides: &CacheOverride) -> Result<Duration, NotStored> {
        let cap = self.max_lifetime.min(Duration::from_millis(DELTA_MAX_MS));
        if let Some(ttl) = overrides.ttl {
            // A lifetime of zero is a wish not to be stored.
            return if ttl.is_zero() { Err(NotStored::Override) } else { Ok(ttl.min(cap)) };
        }
        if self.directives.no_cache == Qualified::All {
            // RFC 9111 5.2.2.4
            return if self.validatable { Ok(Duration::ZERO) } else { Err(NotStored::NoCache) };
        }
        explicit_lifetime(self.directives, self.headers, self.received_ms)
            .or(self.policy_ttl)
            .or_else(|| self.heuristic())
            .map(|lifetime| lifetime.min(cap))
            .ok_or(NotStored::NoFreshness)
    }

    /// Heuristics are for the strict mode only. There a response that may be stored for its status, but
    /// has nothing to calculate a lifetime from, is kept for validation.
    fn heuristic(&self) -> Option<Duration> {
        if self.mode != Mode::Strict {
            return None;
        }
        let Self { status, directives, headers, .. } = *self;
        heuristic_lifetime(status, directives, headers, self.received_ms).or_else(|| {
            let storable = directives.public || is_heuristically_cacheable(status);
            (storable && self.validatable).then_some(Duration::ZERO)
        })
    }
}

/// Media types of streams that go on for as long as someone listens: server-sent events, replaced
/// images, gRPC with its subtypes.
fn is_endless(headers: &HeaderMap) -> bool {
    let Some(media_type) = headers.get(CONTENT_TYPE) else { return false };
    let starts = |with: &[u8]| {
        let start = media_type.as_bytes().get(..with.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    starts(b"text/event-stream")
        || starts(b"multipart/x-mixed-replace")
        || starts(b"application/grpc")
}

/// The status codes whose caching rules are known and obeyed: those of RFC 9110 15 but for 206 and
/// 304 (RFC 9111 5.2.2.3).
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=205 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505
    )
}

/// Why a response is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotStored {
    /// Responses to this method are not stored.
    Method,
    /// The status is not a final one, or one with rules of its own (304).
    Status,
    /// The response is a part of one (206).
    Partial,
    /// The connection turns into something else (101, or CONNECT).
    Upgrade,
    /// The response says `no-store`.
    NoStore,
    /// The request says `no-store`.
    RequestNoStore,
    /// The response says `private`.
    Private,
    /// The response says `no-cache` and cannot be validated.
    NoCache,
    /// The response says `must-understand`, and its status is not understood.
    MustUnderstand,
    /// The response sets a cookie.
    SetCookie,
    /// The request carries `Authorization`, and the response does not say that it is for everyone.
    Authorization,
    /// The request carries a cookie, and the response does not say that it is for everyone.
    Cookie,
    /// The request carries a header field that is a credential (`X-Api-Key` and the like), and the response does not
    /// say that it may be shared.
    CredentialHeader,
    /// The application says that the request carries credentials
    /// ([`CacheLayer::credentials_by`](crate::CacheLayer::credentials_by)), and the response does not say that it may be
    /// shared.
    CredentialExtension,
    /// `Access-Control-Allow-Origin` repeats the request's `Origin`, and `Vary` does not name it: other sites
    /// would get a response that lets only this one read it.
    CorsOrigin,
    /// A redirect to the request's own target, by the same scheme or the other one.
    SelfRedirect,
    /// `Vary` is `*`, or not to be understood.
    VaryAny,
    /// Neither response nor policy give a freshness lifetime.
    NoFreshness,
    /// The freshness lifetime was over before the response came back.
    StaleOnArrival,
    /// The application's override says so.
    Override,
    /// The request bypassed the cache.
    Bypass,
    /// The body is larger than the limit.
    TooLarge,
    /// The body is not as long as `Content-Length` says, or has trailers.
    Incomplete,
    /// The client, or the handler, went away before the end of the body.
    Aborted,
    /// The body failed.
    BodyError,
    /// The response is a stream without an end.
    Streaming,
    /// The store has no room left for it, or its queue has not.
    StoreFull,
    /// The store failed.
    StoreError,
}

impl NotStored {
    /// The reason's name in logs, metrics and `Cache-Status`.
    ///
    /// ```
    /// use tower_mysql_cache::NotStored;
    /// assert_eq!(NotStored::SetCookie.as_str(), "set-cookie");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Status => "status",
            Self::Partial => "partial",
            Self::Upgrade => "upgrade",
            Self::NoStore => "no-store",
            Self::RequestNoStore => "request-no-store",
            Self::Private => "private",
            Self::NoCache => "no-cache",
            Self::MustUnderstand => "must-understand",
            Self::SetCookie => "set-cookie",
            Self::Authorization => "authorization",
            Self::Cookie => "cookie",
            Self::CredentialHeader => "credential-header",
            Self::CredentialExtension => "credential-extension",
            Self::CorsOrigin => "cors-origin",
            Self::SelfRedirect => "self-redirect",
            Self::VaryAny => "vary-any",
            Self::NoFreshness => "no-freshness",
            Self::StaleOnArrival => "stale-on-arrival",
            Self::Override => "override",
            Self::Bypass => "bypass",
            Self::TooLarge => "too-large",
            Self::Incomplete => "incomplete",
            Self::Aborted => "aborted",
            Self::BodyError => "body-error",
            Self::Streaming => "streaming",
            Self::StoreFull => "store-full",
            Self::StoreError => "store-error",
        }
    }
}

impl fmt::Display for NotStored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
