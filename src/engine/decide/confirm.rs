//! What does an answer that confirms a stored response change? That is a 304 (RFC 9111 3.2, 4.3.4), or a 200 to a
//! HEAD (4.3.5).
//!
//! A stored head takes fields only from an answer for everyone: one that would be stored if it were a 200 to the same
//! request. What the answer does not repeat is taken from the stored response, but only if the request had no
//! credentials and the answer sets no cookie. All other answers are for their own client only.

use std::sync::Arc;

use http::header::SET_COOKIE;
use http::{HeaderMap, Method};

use super::super::Route;
use super::super::find::FoundEntry;
use super::super::request::same_rule;
use super::snapshot::{RequestSnapshot, add_new};
use super::storable::Answer;
use super::windows;
use crate::cookies::{Credentials, set_cookies_left};
use crate::overrides::CacheOverride;
use crate::reason::Reason;
use crate::rfc9111::fields::update_fields;
use crate::rfc9111::freshness::initial_age_ms;
use crate::rfc9111::validation::is_strongly_the_same;
use crate::rfc9111::{Nominated, ResponseDirectives, Storable, select, selecting};
use crate::stored::StoredHead;
use crate::tag::{LogPosition, Validity};

pub(in crate::engine) struct Confirmation<'a> {
    route: &'a Route,
    snapshot: RequestSnapshot,
    overrides: Option<&'a CacheOverride>,
    fields: HeaderMap,
    received_ms: u64,
}

/// The stored head, with the answer's cookies, for the client of a 304 that names another validator.
pub(in crate::engine) fn with_cookies_of(answer: &HeaderMap, stored: &StoredHead) -> StoredHead {
    let mut own = stored.clone();
    if answer.contains_key(SET_COOKIE) {
        own.headers.remove(SET_COOKIE);
    }
    for cookie in answer.get_all(SET_COOKIE) {
        let _ = own.headers.try_append(SET_COOKIE, cookie.clone());
    }
    own
}

/// What happens to the stored response.
pub(in crate::engine) enum Change {
    /// It gets this head.
    Head(Arc<StoredHead>),
    /// It does not change.
    Keep,
    /// It must not be stored any longer.
    Remove,
}

impl<'a> Confirmation<'a> {
    pub(in crate::engine) fn new(
        route: &'a Route,
        snapshot: &RequestSnapshot,
        overrides: Option<&'a CacheOverride>,
        fields: HeaderMap,
        received_ms: u64,
    ) -> Self {
        let snapshot = RequestSnapshot { method: Method::GET, ..snapshot.clone() };
        Self { route, snapshot, overrides, fields, received_ms }
    }

    /// The head for the answer's own client: the stored head with all fields of the answer.
    pub(in crate::engine) fn for_own_client(&self, stored: &StoredHead) -> StoredHead {
        let mut own = self.confirmed(stored);
        // this client may see what `private` and `no-cache` withhold from others
        let withheld = ResponseDirectives::default();
        own.headers = update_fields(&stored.headers, &self.fields, &withheld, self.received_ms);
        own
    }

    pub(in crate::engine) fn change(&self, entry: &FoundEntry) -> Change {
        let stored = &entry.response.head;
        if !self.is_for_everyone(stored) {
            return self
                .with_new_lifetime(entry)
                .map_or(Change::Keep, |head| Change::Head(Arc::new(head)));
        }
        let headers = self.updated(stored, &self.without_cookies());
        let storable = match self.storability(&self.snapshot, self.overrides, stored, &headers) {
            Ok(storable) => storable,
            Err(Reason::NoStore | Reason::Private | Reason::VaryAny | Reason::Override) => {
                return Change::Remove;
            }
            Err(_) => return Change::Keep,
        };
        // it is stored under the key of its old rule, so the next request must fetch it again
        if !same_rule(&headers, &stored.headers) {
            return Change::Remove;
        }
        let Ok(tags) = self.snapshot.tags(self.route, self.overrides, &self.fields) else {
            return Change::Keep;
        };
        let mut head = self.confirmed(stored);
        add_new(&mut head.tags, tags);
        // RFC 9110 8.8.1: a weak validator does not distinguish two versions within one second
        if is_strongly_the_same(&stored.headers, &self.fields) {
            head.position = LogPosition::clone(&self.snapshot.position);
        }
        head.fresh_until_ms = self.fresh_until_ms(&head, &[storable]);
        head.shared = storable.shared;
        if let Nominated::Names(names) = selecting(&headers) {
            head.vary = select(&names, &self.snapshot.headers);
        }
        head.headers = headers;
        if let Some(windows) = windows::given(self.overrides) {
            windows::keep(&mut head, windows);
        }
        Change::Head(Arc::new(head))
    }

    /// Whether fields of the answer may be stored for everyone.
    pub(in crate::engine) fn is_for_everyone(&self, stored: &StoredHead) -> bool {
        let keeps_cookies = self.overrides.is_some_and(|overrides| overrides.with_set_cookie);
        let cookies: Vec<_> = self.fields.get_all(SET_COOKIE).iter().cloned().collect();
        let sets_cookie =
            set_cookies_left(&cookies, self.route.policy.stripped_cookies) && !keeps_cookies;
        // RFC 9111 3.2: fields that the answer does not repeat stay
        (self.snapshot.credentials == Credentials::None && !sets_cookie)
            || self.storability(&self.snapshot, self.overrides, stored, &self.fields).is_ok()
    }

    /// The stored head with a new lifetime, if the answer is for its own client but a strong validator shows that the
    /// content is unchanged. The lifetime is the shorter one of the stored fields and of the answer. Fields and log
    /// position stay.
    fn with_new_lifetime(&self, entry: &FoundEntry) -> Option<StoredHead> {
        let stored = &entry.response.head;
        let strongly = is_strongly_the_same(&stored.headers, &self.fields);
        if entry.validity != Validity::Valid || !strongly {
            return None;
        }
        let updated = self.updated(stored, &self.without_cookies());
        if selecting(&updated) != selecting(&stored.headers) {
            return None;
        }
        let anyone = RequestSnapshot { credentials: Credentials::None, ..self.snapshot.clone() };
        let by_stored = self.storability(&anyone, None, stored, &stored.headers).ok()?;
        let by_answer = self.storability(&anyone, self.overrides, stored, &updated).ok()?;
        let mut head = self.confirmed(stored);
        head.fresh_until_ms = self.fresh_until_ms(&head, &[by_stored, by_answer]);
        (head.fresh_until_ms > self.received_ms).then_some(head)
    }

    fn storability(
        &self,
        snapshot: &RequestSnapshot,
        overrides: Option<&CacheOverride>,
        stored: &StoredHead,
        headers: &HeaderMap,
    ) -> Result<Storable, Reason> {
        let Self { route, received_ms, .. } = *self;
        let answer = Answer {
            status: stored.status,
            headers,
            directives: route.directives(headers),
            overrides,
            windows: windows::given(overrides).unwrap_or_else(|| windows::overridden(stored)),
            received_ms,
        };
        snapshot.storability(route, &answer)
    }

    /// The stored fields, replaced by those in `fields`.
    fn updated(&self, stored: &StoredHead, fields: &HeaderMap) -> HeaderMap {
        let source = if self.route.has_directives(fields) { fields } else { &stored.headers };
        update_fields(&stored.headers, fields, &self.route.directives(source), self.received_ms)
    }

    /// Cookies of the answer are for its own client, in both modes.
    fn without_cookies(&self) -> HeaderMap {
        let mut fields = self.fields.clone();
        fields.remove(SET_COOKIE);
        fields
    }

    /// The stored head, received now. Its age is that of the answer.
    fn confirmed(&self, stored: &StoredHead) -> StoredHead {
        let requested_ms = self.snapshot.requested_ms;
        StoredHead {
            requested_ms,
            received_ms: self.received_ms,
            initial_age_ms: initial_age_ms(&self.fields, requested_ms, self.received_ms),
            fresh_until_ms: self.received_ms,
            ..stored.clone()
        }
    }

    /// The first moment at which a confirmed head is stale, by the shortest of the lifetimes.
    fn fresh_until_ms(&self, head: &StoredHead, lifetimes: &[Storable]) -> u64 {
        let until =
            |storable: &Storable| storable.fresh_until_ms(self.received_ms, head.initial_age_ms);
        let until_ms = lifetimes.iter().map(until).min().unwrap_or(self.received_ms);
        self.route.jittered(until_ms, self.received_ms)
    }
}
