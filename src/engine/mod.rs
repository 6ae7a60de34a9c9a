//! The only place that sees HTTP rules and storage together. Read `exchange` first.

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
mod rescue;
mod respond;
mod unsafe_methods;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName};
use moka::sync::Cache;

use collapse::Flights;
pub(crate) use exchange::exchange;
use find::{Breaker, Breakers, Pending, TABLE_BYTES, nothing, table};
pub use inspect::Inspected;
pub(crate) use request::{Admission, admit, nesting};
use request::{Asker, Rule};
pub(crate) use respond::Finish;
pub(crate) use unsafe_methods::write_through;

use crate::body::{Budget, Recorder, Sink};
use crate::cookies::{Authorization, Cookies};
use crate::credentials::CredentialRules;
use crate::key::{CacheKey, KeyRules, Secret};
use crate::policy::CachePolicy;
use crate::rfc9111::ResponseDirectives;
use crate::rfc9111::targeted::targeted_directives;
use crate::status::{CacheStatus, StatusField};
use crate::store::{InvalidationLog as _, Store, StoreError};
use crate::stored::VariantIndex;
use crate::telemetry::{Counters, Reasons, Throttle};

/// What the variant indexes that a process remembers may take: 8 MiB. Each saves one round trip.
const INDEX_BYTES: u64 = 8 << 20;

/// How long a target counts as one whose responses are not stored.
const UNSTORABLE_FOR: Duration = Duration::from_secs(120);

/// How long a process relies on what it knows of a path's `No-Vary-Search`.
const RULES_FOR: Duration = Duration::from_secs(60);

/// The number of the last fill of a key, and when the head of its response was there.
type LastFill = (u64, Instant);

/// What all clones of a layer share.
pub(crate) struct Engine<St> {
    pub(crate) store: St,
    pub(crate) counters: Arc<Counters>,
    pub(crate) reasons: Reasons,
    pending: Pending,
    /// What bodies that are being recorded hold.
    recordings: Budget,
    /// Requests inside, by what they ask about.
    flights: Flights,
    /// Work behind responses.
    background: background::Background,
    /// Variant indexes seen, by the hash of their target's key.
    indexes: Cache<[u8; 16], Arc<VariantIndex>>,
    /// What is known of paths' `No-Vary-Search`, by the hash of their index's key.
    searches: Cache<[u8; 16], Rule>,
    /// When a key was last filled, as the number of that fill: a validation that began before it came
    /// back is about an older response.
    fills: Cache<[u8; 16], LastFill>,
    fill_count: AtomicU64,
    /// Targets whose responses were not to be stored lately: their requests keep their conditions.
    unstorable: Cache<Asker, ()>,
    /// Refreshes that another process has the lease for.
    elsewhere: Cache<[u8; 16], ()>,
    lookup_warning: Throttle,
    write_warning: Throttle,
    secret_warning: Throttle,
}

/// How one clone of a layer treats its requests.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) keys: KeyRules,
    pub(crate) policy: CachePolicy,
    /// Credentials beside cookies and `Authorization`.
    pub(crate) credentials: CredentialRules,
    /// What credentials in keys are hashed with.
    pub(crate) secret: Option<Secret>,
    /// The names of the policy's targeted fields.
    targeted: Vec<HeaderName>,
    /// The longest that a request waits for the store.
    pub(crate) store_timeout: Duration,
    /// Shared by the clones that wait as long.
    breaker: Arc<Breaker>,
    breakers: Breakers,
    /// The most bytes of bodies that are being recorded.
    pub(crate) recording_bytes: usize,
    /// The most bytes of responses waiting to be written.
    pub(crate) queue_bytes: usize,
    /// The most validations under way in the background.
    pub(crate) max_refreshes: usize,
    pub(crate) status_field: StatusField,
    pub(crate) age_field: bool,
}

impl<St: Store> Engine<St> {
    pub(crate) fn new(store: St) -> Self {
        Self {
            store,
            counters: Arc::default(),
            reasons: Reasons::default(),
            pending: Pending::default(),
            recordings: Budget::default(),
            flights: Flights::default(),
            background: background::Background::default(),
            indexes: table(INDEX_BYTES, |_, index: &Arc<VariantIndex>| index.held_bytes()).build(),
            searches: table(TABLE_BYTES, |_, rule| request::held_bytes(rule))
                .time_to_live(RULES_FOR)
                .build(),
            fills: table(TABLE_BYTES, nothing).time_to_live(UNSTORABLE_FOR).build(),
            fill_count: AtomicU64::new(0),
            unstorable: table(TABLE_BYTES, nothing).time_to_live(UNSTORABLE_FOR).build(),
            elsewhere: table(TABLE_BYTES, nothing).time_to_live(collapse::LONGEST_WAIT).build(),
            lookup_warning: Throttle::new(),
            write_warning: Throttle::new(),
            secret_warning: Throttle::new(),
        }
    }

    /// Says what became of a request, in a counter and in the trace.
    pub(crate) fn explain(&self, status: &CacheStatus) {
        if let Some(forward) = status.forward() {
            let reason = status.detail().unwrap_or(forward.as_str());
            self.reasons.count(reason);
            let stored = status.is_stored();
            let collapsed = status.is_collapsed();
            tracing::debug!(
                fwd = forward.as_str(),
                reason,
                stored,
                collapsed,
                "request went inside"
            );
        } else {
            let (ttl, reason) = (status.ttl_secs(), status.detail());
            if let Some(reason) = reason {
                self.reasons.count(reason);
            }
            tracing::trace!(ttl, reason, "request answered out of the store");
        }
    }

    /// Warns where a table that others may read holds hashes of credentials made without a secret.
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
                "a policy keys on cookies or Authorization without a secret: who reads the table can check guesses of \
                 short values and passwords against the hashes in `cache_key`; set CacheLayer::key_secret"
            );
        }
    }

    /// Records a body of at most `limit` bytes within the memory that all recordings share.
    fn recorder(
        &self,
        route: &Route,
        sink: impl Sink + 'static,
        limit: usize,
        declared: Option<u64>,
    ) -> Recorder {
        let share = self.recordings.share(route.recording_bytes);
        Recorder::new(Box::new(sink), limit, declared, share)
    }

    /// The number of the last fill so far.
    fn fills_so_far(&self) -> u64 {
        self.fill_count.load(Ordering::Acquire)
    }

    fn filled(&self, key: &CacheKey, answered: Instant) {
        let number = self.fill_count.fetch_add(1, Ordering::AcqRel) + 1;
        self.fills.insert(key.hash(), (number, answered));
    }

    /// Whether the last fill of `key` is of a response that was there after this moment.
    fn is_filled_after(&self, key: &CacheKey, answered: Instant) -> bool {
        self.fills.get(&key.hash()).is_some_and(|(_, last)| last > answered)
    }

    /// Whether nothing has filled `key` since there were `fills` fills.
    fn is_unfilled_since(&self, key: &CacheKey, fills: u64) -> bool {
        self.fills.get(&key.hash()).is_none_or(|(last, _)| last <= fills)
    }

    fn is_unstorable(&self, asker: &Asker) -> bool {
        self.unstorable.contains_key(asker)
    }

    fn remember_unstorable(&self, asker: Asker) {
        self.unstorable.insert(asker, ());
    }

    fn forget_unstorable(&self, asker: &Asker) {
        self.unstorable.invalidate(asker);
    }

    /// Waits until everything that has begun in the background and was handed to the store before has been
    /// written or has failed.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        self.background.settled().await;
        self.pending.settled().await;
        self.store.flush().await
    }
}

impl Route {
    pub(crate) fn set_policy(&mut self, policy: CachePolicy) {
        self.targeted = policy.targeted_names();
        self.policy = policy;
    }

    /// A wait of its own, with the breaker of all routes that wait as long.
    pub(crate) fn set_store_timeout(&mut self, store_timeout: Duration) {
        self.store_timeout = store_timeout;
        self.breaker = self.breakers.of(store_timeout);
    }

    /// What a response says about caching: a targeted field, else `Cache-Control` (RFC 9213 2.2).
    fn directives(&self, response: &HeaderMap) -> ResponseDirectives {
        let targeted = targeted_directives(&self.targeted, response);
        targeted.unwrap_or_else(|| ResponseDirectives::parse(response))
    }

    /// Whether a response says anything about caching at all.
    fn has_directives(&self, response: &HeaderMap) -> bool {
        response.contains_key(CACHE_CONTROL)
            || self.targeted.iter().any(|name| response.contains_key(name))
    }

    /// The cache's name in `Cache-Status`.
    pub(crate) fn name(&self) -> &str {
        match self.keys.prefix() {
            "" => "tower-mysql-cache",
            prefix => prefix,
        }
    }
}

impl Default for Route {
    fn default() -> Self {
        let (store_timeout, breakers) = (Duration::from_millis(250), Breakers::default());
        Self {
            keys: KeyRules::default(),
            policy: CachePolicy::new(),
            credentials: CredentialRules::default(),
            secret: None,
            targeted: CachePolicy::new().targeted_names(),
            store_timeout,
            breaker: breakers.of(store_timeout),
            breakers,
            recording_bytes: 64 << 20,
            queue_bytes: 64 << 20,
            max_refreshes: 64,
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
