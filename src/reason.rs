//! Why is a response not stored?

use std::fmt;

/// Why a response is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotStored {
    /// Responses to this method are not stored.
    Method,
    /// The status is not final (1xx), or has rules of its own (304, 412, 416, 417).
    Status,
    /// The response is only a part (206).
    Partial,
    /// The connection changes its protocol (101).
    Upgrade,
    /// The response says `no-store`.
    NoStore,
    /// The request says `no-store`.
    RequestNoStore,
    /// The response says `private`.
    Private,
    /// The response says `no-cache` and cannot be validated.
    NoCache,
    /// The response says `must-understand`, and its status is unknown.
    MustUnderstand,
    /// The response sets a cookie.
    SetCookie,
    /// The request carries `Authorization`, and the response does not say that it may be shared.
    Authorization,
    /// The request carries a cookie, and the response does not say that it may be shared.
    Cookie,
    /// The request carries a header field that is a credential (`X-Api-Key` and the like), and the response does not
    /// say that it may be shared.
    CredentialHeader,
    /// The application says that the request carries credentials
    /// ([`CacheLayer::credentials_by`](crate::CacheLayer::credentials_by)), and the response does not say that it may be
    /// shared.
    CredentialExtension,
    /// `Access-Control-Allow-Origin` repeats the request's `Origin`, and `Vary` does not name `Origin`. Other sites
    /// would get a response that only this site may read.
    CorsOrigin,
    /// The response redirects to the request's own target, by the same scheme or the other one.
    SelfRedirect,
    /// `Vary` is `*`, or invalid.
    VaryAny,
    /// Neither the response nor the policy gives a freshness lifetime.
    NoFreshness,
    /// The response was already stale when it arrived.
    StaleOnArrival,
    /// The handler's override forbids it.
    Override,
    /// The response is a stream without an end.
    Streaming,
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
            Self::Streaming => "streaming",
        }
    }
}

impl fmt::Display for NotStored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_name_of_its_own() {
        use NotStored::*;
        let all = [
            Method,
            Status,
            Partial,
            Upgrade,
            NoStore,
            RequestNoStore,
            Private,
            NoCache,
            MustUnderstand,
            SetCookie,
            Authorization,
            Cookie,
            CredentialHeader,
            CredentialExtension,
            CorsOrigin,
            SelfRedirect,
            VaryAny,
            NoFreshness,
            StaleOnArrival,
            Override,
            Streaming,
        ];
        for (index, reason) in all.iter().enumerate() {
            let name = reason.as_str();
            assert_eq!(all.iter().position(|other| other.as_str() == name), Some(index));
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
            assert_eq!(reason.to_string(), name);
        }
    }
}
