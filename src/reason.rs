//! Why a request was not answered from the store, or its response not stored.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A reason of the cache: why a request bypassed it, why a stored response was not used or was served stale, why a
        /// response was not stored.
        ///
        /// The name ([`as_str`](Self::as_str)) is the same in [`CacheStatus`](crate::CacheStatus), in the `detail` of the
        /// `Cache-Status` field, in [`CacheHandle::reasons`](crate::CacheHandle::reasons), in metrics and in events.
        ///
        /// ```
        /// use tower_mysql_cache::status::Reason;
        /// assert_eq!(Reason::SetCookie.as_str(), "set-cookie");
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Its name: lower-case words with hyphens.
            ///
            /// ```
            /// use tower_mysql_cache::status::Reason;
            /// assert_eq!(Reason::NoFreshness.as_str(), "no-freshness");
            /// ```
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

reasons! {
    // -- a request that bypassed the cache --
    /// The route's policy is off ([`CachePolicy::bypass`](crate::CachePolicy::bypass)), or the layer is
    /// ([`CacheLayer::enabled`](crate::CacheLayer::enabled)).
    Policy = "policy",
    /// The request carries a cookie, and no response says that it may be shared.
    Cookie = "cookie",
    /// The request carries `Authorization`, and no response says that it may be shared.
    Authorization = "authorization",
    /// The request carries a header field that is a credential (`X-Api-Key` and the like), and no response says that it
    /// may be shared.
    CredentialHeader = "credential-header",
    /// The application says that the request carries credentials
    /// ([`CacheLayer::credentials_by`](crate::CacheLayer::credentials_by)), and no response says that it may be shared.
    CredentialExtension = "credential-extension",
    /// The request has a body.
    RequestBody = "request-body",
    /// A key builder says that the request has no key.
    KeyBuilder = "key-builder",
    /// The authority is not one of the layer's hosts ([`CacheLayer::hosts`](crate::CacheLayer::hosts)).
    UnknownHost = "unknown-host",
    /// The `Host` field is missing, repeated or not an authority, or differs from the target's authority.
    BadHost = "bad-host",
    /// The target does not begin with a slash.
    BadTarget = "bad-target",
    /// Middleware may have cut the path, or the application may have set another URI.
    RewrittenUri = "rewritten-uri",
    /// The connection is to change its protocol.
    Upgrade = "upgrade",
    /// The handler has to evaluate a condition (`If-Match`, `If-Unmodified-Since`).
    Precondition = "precondition",

    // -- a stored response that was found and not used --
    /// It was invalidated.
    Invalidated = "invalidated",
    /// It was softly invalidated: it counts as stale.
    Outdated = "outdated",

    // -- the store, and requests that wait --
    /// The store could not be asked, or did not answer in time.
    StoreError = "store-error",
    /// The store is not asked, because the lookups before have failed.
    BreakerOpen = "breaker-open",
    /// The request waited too long for the response to another one.
    CollapseTimeout = "collapse-timeout",
    /// The store could not be asked for a lease.
    LeaseError = "lease-error",
    /// A 504 in strict mode: the stored response must be validated, and the handler failed (RFC 9111 5.2.2.2).
    MustRevalidate = "must-revalidate",

    // -- a stale response that was served --
    /// While another request refreshes it (RFC 5861 3).
    StaleWhileRevalidate = "stale-while-revalidate",
    /// In place of a 500, 502, 503 or 504 (RFC 5861 4).
    StaleIfError = "stale-if-error",
    /// In place of an error of the inner service.
    InnerError = "inner-error",
    /// The handler took longer than [`CachePolicy::handler_timeout`](crate::CachePolicy::handler_timeout).
    HandlerTimeout = "handler-timeout",
    /// The client accepts it (`max-stale`, RFC 9111 5.2.1.2; strict mode).
    MaxStale = "max-stale",

    // -- a response that is not stored --
    /// Responses to this method are not stored.
    Method = "method",
    /// The status is not final (1xx), or has rules of its own (304, 412, 416, 417).
    Status = "status",
    /// The response is only a part (206).
    Partial = "partial",
    /// The response says `no-store`.
    NoStore = "no-store",
    /// The request says `no-store`.
    RequestNoStore = "request-no-store",
    /// The response says `private`.
    Private = "private",
    /// The response says `no-cache` and cannot be validated.
    NoCache = "no-cache",
    /// The response says `must-understand`, and its status is unknown.
    MustUnderstand = "must-understand",
    /// The response sets a cookie.
    SetCookie = "set-cookie",
    /// `Access-Control-Allow-Origin` repeats the request's `Origin`, and `Vary` does not name `Origin`. Other sites
    /// would get a response that only this site may read.
    CorsOrigin = "cors-origin",
    /// The response redirects to the request's own target, by the same scheme or the other one.
    SelfRedirect = "self-redirect",
    /// `Vary` is `*`, or invalid.
    VaryAny = "vary-any",
    /// The target's responses vary on more than 32 fields.
    VaryTooLong = "vary-too-long",
    /// Neither the response nor the policy gives a freshness lifetime.
    NoFreshness = "no-freshness",
    /// The response was already stale when it arrived.
    StaleOnArrival = "stale-on-arrival",
    /// The handler's override forbids it.
    Override = "override",
    /// The response is a stream without an end.
    Streaming = "streaming",
    /// The response is coded as `dcb` or `dcz`, and `Vary` does not say so (RFC 9842 6).
    Dictionary = "dictionary",
    /// The handler's override has a tag that is empty or too long.
    BadTag = "bad-tag",
    /// Another layer of the same cache, nearer to the handler, has decided about it.
    InnerLayer = "inner-layer",

    // -- a response whose body was recorded --
    /// The body was not complete when the head was sent. It is stored when the body ends.
    Streamed = "streamed",
    /// The body is larger than [`CachePolicy::max_body_bytes`](crate::CachePolicy::max_body_bytes).
    TooLarge = "too-large",
    /// The body has trailers.
    Trailers = "trailers",
    /// The body is not as long as its `Content-Length` says.
    Incomplete = "incomplete",
    /// The body ended with an error.
    BodyError = "body-error",
    /// All recordings together hold too many bytes.
    RecordingBudget = "recording-budget",
    /// The client has gone, or the handler was aborted.
    Aborted = "aborted",
    /// The response waits for the guard.
    Guarded = "guarded",
    /// The guard has objected while the body was recorded.
    CalledOff = "called-off",
    /// The body is complete, and the response was not accepted by the store.
    Refused = "refused",
    /// A newer response has been stored.
    Overtaken = "overtaken",
    /// The lease ended before the response was written.
    LeaseLost = "lease-lost",

    // -- the guard --
    /// A layer outside the cache has added a cookie.
    SetCookieOutside = "set-cookie-outside",
    /// A layer outside says that the response belongs to one client.
    PrivateOutside = "private-outside",
    /// A layer outside says that the response must not be stored.
    NoStoreOutside = "no-store-outside",
    /// A layer outside has added a field to `Vary`.
    VaryOutside = "vary-outside",
    /// Another response leaves the application, or another status.
    ReplacedOutside = "replaced-outside",
}

impl Reason {
    /// Whether the next response to the same target will most likely not be stored either.
    pub(crate) fn is_lasting(self) -> bool {
        matches!(
            self,
            Self::NoStore
                | Self::Private
                | Self::SetCookie
                | Self::VaryAny
                | Self::NoFreshness
                | Self::NoCache
                | Self::Streaming
                | Self::Override
                | Self::MustUnderstand
                | Self::Dictionary
                | Self::StaleOnArrival
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_reason_has_its_own_name() {
        let mut seen = HashSet::new();
        for reason in Reason::ALL {
            let name = reason.as_str();
            assert!(seen.insert(name), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
            assert_eq!(reason.to_string(), name);
        }
    }

    #[test]
    fn each_reason_is_in_the_guide() {
        let guide = [include_str!("docs/storing.md"), include_str!("docs/stale.md")].concat();
        for reason in Reason::ALL {
            assert!(guide.contains(&format!("`{reason}`")), "{reason}");
        }
    }
}
