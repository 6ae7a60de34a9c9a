//! What happens to a request? Only the engine sees both HTTP rules and storage. Read `exchange` first: it is the life
//! of a request.

mod background;
mod collapse;
pub(crate) mod consent;
mod decide;
mod exchange;
mod find;
mod handler;
mod inspect;
mod invalidate;
mod keep;
mod request;
mod respond;
mod unsafe_methods;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::CACHE_CONTROL;

use background::Background;
use collapse::Flights;
pub(crate) use exchange::exchange;
use find::{Breaker, Breakers, Known, Pending};
pub(crate) use inspect::inspect;
#[cfg(feature = "mysql")]
pub(crate) use invalidate::append_on;
pub(crate) use invalidate::{erase, erase_uri, invalidate, invalidate_targets, log_records};
use keep::Fills;
pub(crate) use request::{Admission, admit, nesting};
pub(crate) use respond::Finish;
pub(crate) use unsafe_methods::write_through;

use crate::cookies::{Authorization, Cookies};
use crate::credentials::CredentialRules;
use crate::key::{KeyRules, Secret};
use crate::policy::CachePolicy;
use crate::reason::Reason;
use crate::rfc9111::ResponseDirectives;
use crate::rfc9111::targeted::targeted_directives;
use crate::status::{CacheStatus, StatusField};
use crate::store::{InvalidationLog as _, Store, StoreError};
use crate::telemetry::{Counters, Reasons, Throttle};

/// What all clones of a layer share. Each stage has its own state, which is private to it.
pub(crate) struct Engine<St> {
    pub(crate) store: St,
    pub(crate) counters: Arc<Counters>,
    pub(crate) reasons: Reasons,
    pub(crate) limits: Limits,
    /// Work after responses.
    background: Background,
    /// Of `find`: entries on their way to the store.
    pending: Pending,
    /// Of `find`: what lookups and fills have found.
    known: Known,
    /// Of `collapse`: handler calls that other requests wait for.
    flights: Flights,
    /// Of `keep`: what has been stored lately, and what was not storable.
    fills: Fills,
    secret_warning: Throttle,
}

/// Limits on memory and work, for all clones of a layer together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of bodies that are being recorded.
    pub(crate) recording_bytes: usize,
    /// Bytes of entries that wait to be written.
    pub(crate) queue_bytes: usize,
    /// Pieces of background work at the same time.
    pub(crate) max_refreshes: usize,
}

/// The settings of one clone of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) keys: KeyRules,
    pub(crate) policy: CachePolicy,
    /// Whether the application has switched the cache on.
    pub(crate) enabled: bool,
    /// Credentials other than cookies and `Authorization`.
    pub(crate) credentials: CredentialRules,
    /// The secret for hashes of credentials in keys.
    pub(crate) secret: Option<Secret>,
    /// How long a request waits for the store.
    pub(crate) store_timeout: Duration,
    /// Shared by the clones with the same `store_timeout`.
    breaker: Arc<Breaker>,
    breakers: Breakers,
    pub(crate) status_field: StatusField,
    pub(crate) age_field: bool,
}

impl<St: Store> Engine<St> {
    pub(crate) fn new(store: St) -> Self {
        Self {
            store,
            counters: Arc::default(),
            reasons: Reasons::default(),
            limits: Limits::default(),
            background: Background::default(),
            pending: Pending::default(),
            known: Known::default(),
            flights: Flights::default(),
            fills: Fills::default(),
            secret_warning: Throttle::new(),
        }
    }

    /// Counts and traces what happened to a request.
    pub(crate) fn explain(&self, status: &CacheStatus) {
        if let Some(forward) = status.forward() {
            let reason = status.reason().map_or(forward.as_str(), Reason::as_str);
            self.reasons.count(reason);
            let (fwd, stored) = (forward.as_str(), status.is_stored());
            let collapsed = status.is_collapsed();
            tracing::debug!(fwd, reason, stored, collapsed, "request forwarded");
        } else {
            let (ttl, reason) = (status.ttl_secs(), status.reason().map(Reason::as_str));
            if let Some(reason) = reason {
                self.reasons.count(reason);
            }
            tracing::trace!(ttl, reason, "request answered from the store");
        }
    }

    /// Warns if a table that others can read contains hashes of credentials without a secret.
    pub(crate) fn check_secret(&self, route: &Route) {
        let keys_credentials = matches!(route.policy.cookies, Cookies::Key(_))
            || route.policy.authorization == Authorization::Key;
        let is_in_a_table = !self.store.log().poll_interval().is_zero();
        if keys_credentials
            && route.secret.is_none()
            && is_in_a_table
            && self.secret_warning.pass().is_some()
        {
            tracing::warn!(
                "a policy adds cookies or Authorization to the key, and the layer has no secret: a reader of the \
                 table can test guesses of short values and passwords against the hashes in `cache_key`; set \
                 CacheLayer::key_secret"
            );
        }
    }

    /// The requests that wait for another request's response.
    pub(crate) fn followers(&self) -> usize {
        self.flights.followers()
    }

    /// Waits until all background work and writes that have begun so far have ended.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        self.background.settled().await;
        self.pending.settled().await;
        self.store.flush().await
    }
}

impl Route {
    pub(crate) fn set_policy(&mut self, policy: CachePolicy) {
        self.policy = policy;
    }

    fn is_enabled(&self) -> bool {
        self.enabled && self.policy.enabled
    }

    /// Sets the timeout, and takes the breaker of the routes with the same timeout.
    pub(crate) fn set_store_timeout(&mut self, store_timeout: Duration) {
        self.store_timeout = store_timeout;
        self.breaker = self.breakers.of(store_timeout);
    }

    /// What a response says about caching: in a targeted field, or else in `Cache-Control` (RFC 9213 2.2).
    fn directives(&self, response: &HeaderMap) -> ResponseDirectives {
        let targeted = targeted_directives(self.policy.targeted, response);
        targeted.unwrap_or_else(|| ResponseDirectives::parse(response))
    }

    /// Whether a response says anything about caching.
    fn has_directives(&self, response: &HeaderMap) -> bool {
        response.contains_key(CACHE_CONTROL)
            || self.policy.targeted.iter().any(|name| response.contains_key(name))
    }

    /// The cache's name in `Cache-Status`.
    pub(crate) fn name(&self) -> &str {
        match self.keys.prefix() {
            "" => "tower-mysql-cache",
            prefix => prefix,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { recording_bytes: 64 << 20, queue_bytes: 64 << 20, max_refreshes: 64 }
    }
}

impl Default for Route {
    fn default() -> Self {
        let (store_timeout, breakers) = (Duration::from_millis(250), Breakers::default());
        Self {
            keys: KeyRules::default(),
            policy: CachePolicy::new(),
            enabled: true,
            credentials: CredentialRules::default(),
            secret: None,
            store_timeout,
            breaker: breakers.of(store_timeout),
            breakers,
            status_field: StatusField::On,
            age_field: true,
        }
    }
}

impl<St> fmt::Debug for Engine<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("counts", &self.counters.snapshot()).finish_non_exhaustive()
    }
}
