//! Does a guard have to see the final head before anything is stored? If a request came through a guard, yes: outer
//! layers may add fields that forbid storing, such as cookies.
//!
//! An exchange behind a guard has two parts. The [`Consent`] stays in the exchange, and holds back what would be
//! stored. The [`Promise`] travels outwards in the response's extensions, and the guard decides about it. If the
//! promise is dropped on the way, because the response was dropped or replaced, nothing is stored.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use http::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL,
    ORIGIN, SET_COOKIE, VARY,
};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::cookies::set_cookies_left;
use crate::policy::CachePolicy;
use crate::reason::Reason;
use crate::rfc9111::{Nominated, Qualified, ResponseDirectives, nominated};
use crate::sync;

/// Fields that outer layers may add to `Vary`. Layers for compression and CORS change the response by these fields
/// themselves, so the stored response does not depend on them.
const VARY_OF_LAYERS: [HeaderName; 4] =
    [ACCEPT_ENCODING, ORIGIN, ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_REQUEST_HEADERS];

/// What the guard decides about an exchange.
pub(super) type GuardDecision = Result<(), Objection>;

/// Why nothing may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Objection {
    /// The guard refused it, for this reason.
    CalledOff(Reason),
    /// The guard saw no head: the request was dropped, or an outer layer panicked.
    Dropped,
}

/// In a request: a guard waits for its response. The flag is set when the guard has been dropped.
#[derive(Clone)]
struct Guarded(Arc<AtomicBool>);

/// A guard that waits for the head of a response. Dropping it sets the flag.
pub(crate) struct Watch(Arc<AtomicBool>);

impl Watch {
    /// `None` if an outer guard already waits.
    pub(crate) fn begin(request: &mut Extensions) -> Option<Self> {
        if request.get::<Guarded>().is_some() {
            return None;
        }
        let gone = Arc::new(AtomicBool::new(false));
        request.insert(Guarded(Arc::clone(&gone)));
        Some(Self(gone))
    }

    /// Takes the head that leaves the application, and decides whether the work that was held back is done.
    #[expect(clippy::unused_self, reason = "only a guard that waits may decide")]
    pub(crate) fn sees<B>(&self, response: &mut Response<B>) {
        let Marks(promises) = response.extensions_mut().remove().unwrap_or_default();
        for (status, promise) in promises {
            let replaced = status != response.status();
            promise.decide(match replaced {
                true => Err(Objection::CalledOff(Reason::ReplacedOutside)),
                false => promise.decision(response.headers()),
            });
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

type Work = Box<dyn FnOnce(GuardDecision) + Send>;

enum State {
    /// The work that has been held back so far.
    Open(Vec<Work>),
    Decided(GuardDecision),
}

#[derive(Clone)]
struct Shared(Arc<Mutex<State>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.0)
    }
}

/// Whether an exchange may store. Without a guard, it may.
#[derive(Clone, Default)]
pub(crate) struct Consent(Option<Shared>);

impl Consent {
    pub(super) fn is_guarded(&self) -> bool {
        self.0.is_some()
    }

    /// Calls `work` now, or when the guard has decided. Returns its result if it has been called.
    pub(super) fn then<T>(
        &self,
        work: impl FnOnce(GuardDecision) -> T + Send + 'static,
    ) -> Option<T> {
        let Some(shared) = &self.0 else { return Some(work(Ok(()))) };
        let decision = match &mut *shared.lock() {
            State::Open(held) => {
                held.push(Box::new(move |decision| drop(work(decision))));
                return None;
            }
            State::Decided(decision) => *decision,
        };
        Some(work(decision))
    }

    /// Why nothing will be stored, if the guard has already refused.
    pub(super) fn objection(&self) -> Option<Objection> {
        match &*self.0.as_ref()?.lock() {
            State::Open(_) => None,
            State::Decided(decision) => decision.err(),
        }
    }
}

impl fmt::Debug for Consent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_guarded() { "Consent::Asked" } else { "Consent::Given" })
    }
}

/// The two parts of an exchange. The promise must be attached to its response.
pub(crate) fn ask(request: &Extensions, policy: &CachePolicy) -> (Consent, Option<Promise>) {
    let Some(Guarded(gone)) = request.get() else { return Default::default() };
    let shared = Shared(Arc::new(Mutex::new(State::Open(Vec::new()))));
    let promise = Promise {
        shared: shared.clone(),
        gone: Arc::clone(gone),
        stripped: policy.stripped_cookies,
        targeted: policy.targeted,
        sent_fields: None,
    };
    (Consent(Some(shared)), Some(promise))
}

/// The part of an exchange that travels outwards.
pub(crate) struct Promise {
    shared: Shared,
    gone: Arc<AtomicBool>,
    /// Cookies that do not belong to one client.
    stripped: &'static [&'static str],
    /// The policy's targeted fields.
    targeted: &'static [HeaderName],
    /// The fields of the cache's own answer that the guard compares. `None` before the answer.
    sent_fields: Option<HeaderMap>,
}

/// In a response: the promises of the caches that it has passed, with the status that the outermost cache has sent.
#[derive(Clone, Default)]
struct Marks(Vec<(StatusCode, Arc<Promise>)>);

impl Promise {
    /// Must be called for the cache's own answer.
    pub(crate) fn attach<B>(mut self, response: &mut Response<B>) {
        let status = response.status();
        if let Some(Marks(inner)) = response.extensions_mut().get_mut() {
            // an outer cache may turn the 200 of an inner one into a 304, or a 304 into a 200
            inner.iter_mut().for_each(|mark| mark.0 = status);
        }
        // no work waits, and no other owner can add work later
        let waits = matches!(&*self.shared.lock(), State::Open(held) if !held.is_empty());
        if !waits && Arc::strong_count(&self.shared.0) == 1 {
            return;
        }
        let mut sent_fields = HeaderMap::new();
        for (name, value) in response.headers() {
            if *name == SET_COOKIE || *name == VARY || self.is_about_caching(name) {
                sent_fields.append(name.clone(), value.clone());
            }
        }
        self.sent_fields = Some(sent_fields);
        let marks: &mut Marks = response.extensions_mut().get_or_insert_default();
        marks.0.push((status, Arc::new(self)));
    }

    fn decision(&self, headers: &HeaderMap) -> GuardDecision {
        let Some(sent_fields) = &self.sent_fields else { return Err(Objection::Dropped) };
        let was_sent =
            |cookie: &HeaderValue| sent_fields.get_all(SET_COOKIE).iter().any(|one| one == cookie);
        let added: Vec<_> =
            headers.get_all(SET_COOKIE).iter().filter(|one| !was_sent(one)).cloned().collect();
        if set_cookies_left(&added, self.stripped) {
            return Err(Objection::CalledOff(Reason::SetCookieOutside));
        }
        for name in headers.keys().filter(|name| self.is_about_caching(name)) {
            let (before, after) = (directives(sent_fields, name), directives(headers, name));
            if after.no_store && !before.no_store {
                return Err(Objection::CalledOff(Reason::NoStoreOutside));
            }
            // also if it names fields: they were not known when the response was stored
            if after.private != Qualified::No && after.private != before.private {
                return Err(Objection::CalledOff(Reason::PrivateOutside));
            }
        }
        if varies_outside(sent_fields, headers) {
            return Err(Objection::CalledOff(Reason::VaryOutside));
        }
        Ok(())
    }

    /// `Cache-Control`, and the targeted fields (RFC 9213).
    fn is_about_caching(&self, name: &HeaderName) -> bool {
        name.as_str().ends_with("cache-control") || self.targeted.contains(name)
    }

    /// Does the work that was held back. Only the first call has an effect.
    fn decide(&self, decision: GuardDecision) {
        let held = match &mut *self.shared.lock() {
            State::Decided(_) => return,
            open => std::mem::replace(open, State::Decided(decision)),
        };
        if let State::Open(held) = held {
            held.into_iter().for_each(|work| work(decision));
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let gone = self.gone.load(Ordering::Acquire) || std::thread::panicking();
        let dropped = self.sent_fields.is_none() || gone;
        let replaced = Objection::CalledOff(Reason::ReplacedOutside);
        self.decide(Err(if dropped { Objection::Dropped } else { replaced }));
    }
}

/// Moves the promises of inner caches to the response that an outer cache sends instead.
pub(super) fn pass_on<A, B>(from: &mut Response<A>, to: &mut Response<B>) {
    if let Some(marks) = from.extensions_mut().remove::<Marks>() {
        to.extensions_mut().insert(marks);
    }
}

/// Whether outer layers have added names to `Vary` that may have changed the content.
fn varies_outside(sent_fields: &HeaderMap, headers: &HeaderMap) -> bool {
    let before = match nominated(sent_fields) {
        Nominated::Any => return false, // nothing was stored
        Nominated::None => Vec::new(),
        Nominated::Names(names) => names,
    };
    match nominated(headers) {
        Nominated::None => false,
        Nominated::Any => true,
        Nominated::Names(names) => {
            names.iter().any(|name| !before.contains(name) && !VARY_OF_LAYERS.contains(name))
        }
    }
}

/// Parses one field as `Cache-Control`. Restrictions count even if the syntax is invalid.
fn directives(headers: &HeaderMap, name: &HeaderName) -> ResponseDirectives {
    let lines = headers.get_all(name).iter();
    ResponseDirectives::parse(&lines.map(|line| (CACHE_CONTROL, line.clone())).collect())
}
