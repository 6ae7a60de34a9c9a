//! How are policy, override and stored head expressed for `rfc9111`, which knows none of them, and its results in
//! this crate's types?

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::cookies::Credentials;
use crate::overrides::CacheOverride;
use crate::policy::{CachePolicy, Mode};
use crate::reason::Reason;
use crate::rfc9111::stale::Cause;
use crate::rfc9111::{self, Instructions, NotStorable, Options, StoredView};
use crate::stored::StoredHead;

/// Longer lifetimes are reduced to a year, because clocks change.
pub(in crate::engine) const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a policy chooses for responses with this status.
pub(super) fn options(policy: &CachePolicy, status: StatusCode) -> Options {
    let strict = policy.mode == Mode::Strict;
    Options {
        heuristics: strict,
        must_revalidate_shares: strict,
        set_cookie: strict,
        default_lifetime: policy.ttl_for(status),
        max_lifetime: MAX_LIFETIME,
    }
}

/// What a handler says about storing its response.
pub(super) fn instructions(overrides: Option<&CacheOverride>) -> Instructions {
    overrides.map_or_else(Instructions::default, |overrides| Instructions {
        lifetime: overrides.ttl,
        no_store: overrides.no_store,
        shared: overrides.shared,
        set_cookie: overrides.with_set_cookie,
    })
}

/// Why a response is not stored. `credentials` are those of the request.
pub(super) fn not_storable_reason(reason: NotStorable, credentials: Credentials) -> Reason {
    match reason {
        NotStorable::Method => Reason::Method,
        NotStorable::Status => Reason::Status,
        NotStorable::Partial => Reason::Partial,
        NotStorable::Upgrade => Reason::Upgrade,
        NotStorable::Streaming => Reason::Streaming,
        NotStorable::Instructed => Reason::Override,
        NotStorable::RequestNoStore => Reason::RequestNoStore,
        NotStorable::MustUnderstand => Reason::MustUnderstand,
        NotStorable::NoStore => Reason::NoStore,
        NotStorable::Private => Reason::Private,
        NotStorable::SetCookie => Reason::SetCookie,
        NotStorable::Credentials => {
            credentials_reason(credentials).unwrap_or(Reason::Authorization)
        }
        NotStorable::VaryAny => Reason::VaryAny,
        NotStorable::NoCache => Reason::NoCache,
        NotStorable::NoFreshness => Reason::NoFreshness,
        NotStorable::StaleOnArrival => Reason::StaleOnArrival,
    }
}

/// Why a request with these credentials bypasses the cache.
pub(super) fn credentials_reason(credentials: Credentials) -> Option<Reason> {
    match credentials {
        Credentials::None => None,
        Credentials::Authorization => Some(Reason::Authorization),
        Credentials::Cookie => Some(Reason::Cookie),
        Credentials::Header => Some(Reason::CredentialHeader),
        Credentials::Extension => Some(Reason::CredentialExtension),
    }
}

/// Why a stale response is served.
pub(super) fn stale_reason(cause: Cause) -> Reason {
    match cause {
        Cause::Revalidating => Reason::StaleWhileRevalidate,
        Cause::ErrorStatus => Reason::StaleIfError,
        Cause::Error => Reason::InnerError,
        Cause::Timeout => Reason::HandlerTimeout,
    }
}

impl From<Credentials> for rfc9111::Credentials {
    fn from(credentials: Credentials) -> Self {
        match credentials {
            Credentials::None => Self::None,
            Credentials::Authorization => Self::Authorization,
            Credentials::Cookie | Credentials::Header | Credentials::Extension => Self::Other,
        }
    }
}

impl<'a> From<&'a StoredHead> for StoredView<'a> {
    fn from(head: &'a StoredHead) -> Self {
        Self {
            status: head.status,
            headers: &head.headers,
            received_ms: head.received_ms,
            initial_age_ms: head.initial_age_ms,
            fresh_until_ms: head.fresh_until_ms,
            gen_ms: head.gen_ms,
            shared: head.shared,
            vary: &head.vary,
        }
    }
}

impl<'a> From<&'a Arc<StoredHead>> for StoredView<'a> {
    fn from(head: &'a Arc<StoredHead>) -> Self {
        Self::from(&**head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn safe_mode_gives_the_careful_options() {
        let safe = options(&CachePolicy::new().ttl(MINUTE), StatusCode::OK);
        let careful = Options {
            default_lifetime: Some(MINUTE),
            max_lifetime: MAX_LIFETIME,
            ..Options::default()
        };
        assert_eq!(safe, careful);
        let strict = options(&CachePolicy::rfc9111(), StatusCode::OK);
        assert!(strict.heuristics && strict.must_revalidate_shares && strict.set_cookie);
        assert_eq!(strict.default_lifetime, None);
    }

    #[test]
    fn each_override_becomes_its_instruction() {
        let nothing = Instructions::default();
        for (overrides, expected) in [
            (CacheOverride::new().tag("a").stale_if_error(MINUTE), nothing),
            (CacheOverride::new().ttl(MINUTE), Instructions { lifetime: Some(MINUTE), ..nothing }),
            (CacheOverride::new().no_store(), Instructions { no_store: true, ..nothing }),
            (CacheOverride::new().shared(), Instructions { shared: true, ..nothing }),
            (CacheOverride::new().with_set_cookie(), Instructions { set_cookie: true, ..nothing }),
        ] {
            assert_eq!(instructions(Some(&overrides)), expected, "{overrides:?}");
        }
        assert_eq!(instructions(None), nothing);
    }

    #[test]
    fn the_reason_names_the_credential() {
        for credentials in [
            Credentials::Authorization,
            Credentials::Cookie,
            Credentials::Header,
            Credentials::Extension,
        ] {
            let reason = not_storable_reason(NotStorable::Credentials, credentials);
            assert_eq!(Some(reason), credentials_reason(credentials));
        }
    }
}
