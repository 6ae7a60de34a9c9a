//! May a response be stored, and for how long is it fresh (RFC 9111 3)?

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Method, StatusCode};

use super::directives::{Qualified, RequestDirectives, ResponseDirectives};
use super::freshness::{
    explicit_lifetime, heuristic_lifetime, initial_age_ms, is_heuristically_cacheable,
};
use super::options::{Credentials, Instructions, Options};
use super::syntax::DELTA_MAX_MS;
use super::validation::has_validator;
use super::vary::{self, Nominated};

/// A response that may be storable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) method: &'a Method,
    pub(crate) request: &'a RequestDirectives,
    pub(crate) credentials: Credentials,
    pub(crate) status: StatusCode,
    /// The response's fields as received.
    pub(crate) headers: &'a HeaderMap,
    pub(crate) directives: &'a ResponseDirectives,
    pub(crate) options: Options,
    pub(crate) instructions: Instructions,
    /// The response sets a cookie for its client.
    pub(crate) sets_cookie: bool,
    /// The response may be served when it is stale, so it is stored even if it is stale on arrival.
    pub(crate) useful_stale: bool,
    /// When the request was sent, in milliseconds since the Unix epoch.
    pub(crate) requested_ms: u64,
    /// When the response arrived.
    pub(crate) received_ms: u64,
}

/// How a storable response is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Storable {
    /// The freshness lifetime, counted from the response's generation.
    pub(crate) lifetime: Duration,
    /// The application gives the lifetime, and it counts from the response's arrival.
    pub(crate) given: bool,
    /// The response's age on arrival.
    pub(crate) initial_age_ms: u64,
    /// The response may answer requests with credentials.
    pub(crate) shared: bool,
    /// The first moment at which the response is stale; `received_ms` or earlier if it is stale on arrival.
    pub(crate) fresh_until_ms: u64,
}

impl Storable {
    /// The same for a response with this age on arrival.
    pub(crate) fn fresh_until_ms(&self, received_ms: u64, initial_age_ms: u64) -> u64 {
        fresh_until_ms(self.lifetime, self.given, received_ms, initial_age_ms)
    }
}

/// The first moment at which a response is stale. A lifetime that the application gives counts from the response's
/// arrival, however long the handler took.
fn fresh_until_ms(lifetime: Duration, given: bool, received_ms: u64, initial_age_ms: u64) -> u64 {
    let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(DELTA_MAX_MS);
    let spent_ms = if given { 0 } else { initial_age_ms };
    received_ms.saturating_add(lifetime_ms).saturating_sub(spent_ms)
}

impl Candidate<'_> {
    /// Whether the response may be stored. `no-store`, `private`, `Set-Cookie` and credentials count before a default
    /// lifetime; only instructions for this response lift them.
    pub(crate) fn decide(&self) -> Result<Storable, NotStorable> {
        self.check_message()?;
        if self.instructions.no_store {
            return Err(NotStorable::Instructed);
        }
        self.check_directives()?;
        if self.sets_cookie && !self.options.set_cookie && !self.instructions.set_cookie {
            return Err(NotStorable::SetCookie); // RFC 9111 7.3
        }
        let shared = self.is_shared();
        let for_credentials = match self.credentials {
            Credentials::None => true,
            Credentials::Authorization => shared, // RFC 9111 3.5
            // RFC 9111 7.3: clients without these credentials would get this client's response
            Credentials::Other => self.is_for_everyone(),
        };
        if !for_credentials {
            return Err(NotStorable::Credentials);
        }
        // RFC 9111 4.1: no request would ever select it
        if vary::nominated(self.headers) == Nominated::Any {
            return Err(NotStorable::VaryAny);
        }
        let lifetime = self.lifetime()?;
        let initial_age_ms = initial_age_ms(self.headers, self.requested_ms, self.received_ms);
        let given = self.is_given();
        let fresh_until_ms = fresh_until_ms(lifetime, given, self.received_ms, initial_age_ms);
        // RFC 9111 4.2: fresh while the lifetime is greater than the age
        let fresh = fresh_until_ms > self.received_ms;
        if !fresh && !self.useful_stale && !has_validator(self.headers) {
            return Err(NotStorable::StaleOnArrival);
        }
        Ok(Storable { lifetime, given, initial_age_ms, shared, fresh_until_ms })
    }

    /// Whether the application gives the lifetime: the instructions or the default.
    fn is_given(&self) -> bool {
        let explicit = || explicit_lifetime(self.directives, self.headers, self.received_ms);
        let own = || self.directives.no_cache == Qualified::All || explicit().is_some();
        self.instructions.lifetime.is_some() || (self.options.default_lifetime.is_some() && !own())
    }

    /// Method and status.
    fn check_message(&self) -> Result<(), NotStorable> {
        // RFC 9111 3: the method must be understood. A response to HEAD has no body to store.
        if self.method != Method::GET {
            return Err(NotStorable::Method);
        }
        match self.status.as_u16() {
            101 => Err(NotStorable::Upgrade),
            // RFC 9111 3: only final responses
            100..=199 => Err(NotStorable::Status),
            // RFC 9111 3: 206 and 304 have rules of their own
            206 => Err(NotStorable::Partial),
            304 => Err(NotStorable::Status),
            // they answer conditions and ranges of one request, which are not part of the key
            412 | 416 | 417 => Err(NotStorable::Status),
            _ if is_endless(self.headers) => Err(NotStorable::Streaming),
            _ => Ok(()),
        }
    }

    fn check_directives(&self) -> Result<(), NotStorable> {
        if self.request.no_store {
            return Err(NotStorable::RequestNoStore); // RFC 9111 5.2.1.5
        }
        // RFC 9111 5.2.2.3: with a known status, must-understand lifts no-store; with another, it forbids storing
        if self.directives.must_understand && !is_understood(self.status) {
            return Err(NotStorable::MustUnderstand);
        }
        let no_store = self.directives.no_store && !self.directives.must_understand;
        if no_store && !self.instructions.shared {
            return Err(NotStorable::NoStore); // RFC 9111 5.2.2.5
        }
        // RFC 9111 5.2.2.7; a qualified "private" is about fields, not about the response
        if self.directives.private == Qualified::All && !self.instructions.shared {
            return Err(NotStorable::Private);
        }
        Ok(())
    }

    /// Whether the response may be used for requests with credentials. RFC 9111 3.5 names `public`,
    /// `s-maxage` and `must-revalidate`.
    fn is_shared(&self) -> bool {
        self.is_for_everyone()
            || (self.options.must_revalidate_shares && self.directives.must_revalidate)
    }

    /// Whether the response says that it is for every client. `must-revalidate` says so only in RFC 9111 3.5,
    /// which is about `Authorization`. An `s-maxage` of zero, or an invalid one, keeps a response out of shared
    /// caches and never lets it in.
    fn is_for_everyone(&self) -> bool {
        self.instructions.shared
            || self.directives.public
            || self.directives.s_maxage.is_some_and(|seconds| seconds > 0)
    }

    /// The first that is given: by the instructions, by the response, as a default, by heuristics. Zero for a
    /// response that must be validated before every use.
    fn lifetime(&self) -> Result<Duration, NotStorable> {
        let cap = self.options.max_lifetime.min(Duration::from_millis(DELTA_MAX_MS));
        if let Some(lifetime) = self.instructions.lifetime {
            let forbidden = lifetime.is_zero();
            return if forbidden { Err(NotStorable::Instructed) } else { Ok(lifetime.min(cap)) };
        }
        if self.directives.no_cache == Qualified::All {
            // RFC 9111 5.2.2.4
            let useful = has_validator(self.headers);
            return if useful { Ok(Duration::ZERO) } else { Err(NotStorable::NoCache) };
        }
        explicit_lifetime(self.directives, self.headers, self.received_ms)
            .or(self.options.default_lifetime)
            .or_else(|| self.heuristic())
            .map(|lifetime| lifetime.min(cap))
            .ok_or(NotStorable::NoFreshness)
    }

    /// A response whose status allows heuristics, but that gives nothing to calculate a lifetime from, is kept for
    /// validation.
    fn heuristic(&self) -> Option<Duration> {
        if !self.options.heuristics {
            return None;
        }
        let Self { status, directives, headers, .. } = *self;
        heuristic_lifetime(status, directives, headers, self.received_ms).or_else(|| {
            let storable = directives.public || is_heuristically_cacheable(status);
            (storable && has_validator(headers)).then_some(Duration::ZERO)
        })
    }
}

/// Whether the media type is that of an endless stream: server-sent events, replaced images, gRPC with its subtypes.
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

/// The status codes whose caching rules this cache follows: those of RFC 9110 15, except 206 and 304 (RFC 9111
/// 5.2.2.3).
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=205 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505
    )
}

/// Why a response may not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotStorable {
    /// The method is not GET.
    Method,
    /// The status is not final, or has rules of its own.
    Status,
    /// The response is only a part (206).
    Partial,
    /// The connection changes its protocol (101).
    Upgrade,
    /// The body is a stream without an end.
    Streaming,
    /// The application's instructions forbid it.
    Instructed,
    /// The request says `no-store`.
    RequestNoStore,
    /// The response says `must-understand`, and its status is unknown.
    MustUnderstand,
    /// The response says `no-store`.
    NoStore,
    /// The response says `private`.
    Private,
    /// The response sets a cookie.
    SetCookie,
    /// The request carries credentials, and the response does not say that it is for every client.
    Credentials,
    /// `Vary` is `*`, or invalid.
    VaryAny,
    /// The response says `no-cache` and has no validator.
    NoCache,
    /// Nothing gives a freshness lifetime.
    NoFreshness,
    /// The response was stale on arrival, and it is of no use stale.
    StaleOnArrival,
}

#[cfg(test)]
mod tests;
