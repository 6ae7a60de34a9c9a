//! A complete body on its way into the store.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use tracing::Instrument;

use super::super::collapse::{FlightKey, Lead};
use super::super::consent::{Consent, Objection};
use super::super::decide::Kept;
use super::super::find::{Refused, Ticket, bounded, selected};
use super::super::request::{Asker, Plan, rule_of};
use super::super::{Engine, Route};
use crate::body::{Abandoned, Completed, Sink};
use crate::key::{CacheKey, KeyRange, variant_key};
use crate::rfc9111::freshness::is_fresh;
use crate::store::{InvalidationLog as _, Store, StoreError};
use crate::stored::{Entry, HeadUpdate, Stored, StoredHead, StoredResponse, VariantIndex};
use crate::tag::Validity;
use crate::telemetry::{count, write_span};

/// How long a write may take before its memory is given up. No request waits for it.
pub(in crate::engine) const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Variants of one target at the most; one more, and the oldest goes. Requests choose the values of the
/// fields that select them.
const MAX_VARIANTS: usize = 64;
/// A body that takes longer than this to be read may be older than what another process has stored.
const LATE: Duration = Duration::from_secs(1);
/// How much longer than its youngest variant an index is kept, so that storing a short-lived variant
/// does not hide a long-lived one: a day.
const INDEX_SLACK_MS: u64 = 24 * 3600 * 1000;

/// What waits to be written under a key.
type Waits<'a> = dyn Fn(&CacheKey) -> Option<Stored> + 'a;

/// Stores a response once its body is complete.
pub(in crate::engine) struct Fill<St> {
    pub(in crate::engine) engine: Arc<Engine<St>>,
    pub(in crate::engine) asker: Asker,
    pub(in crate::engine) key: CacheKey,
    /// The key without the variant.
    pub(in crate::engine) base: CacheKey,
    pub(in crate::engine) head: StoredHead,
    /// When the head was there.
    pub(in crate::engine) answered: Instant,
    /// What lookups have to know to find it: the target's index, where the response is one of several
    /// variants, and the path's.
    pub(in crate::engine) indexes: Vec<(CacheKey, VariantIndex)>,
    /// When the entry may be removed.
    pub(in crate::engine) expires_ms: u64,
    pub(in crate::engine) queue_bytes: usize,
    /// Filled in when the response is stored.
    pub(in crate::engine) filled: Filled,
    /// Others wait for it.
    pub(in crate::engine) lead: Option<Lead>,
    /// Whether it may be stored.
    pub(in crate::engine) consent: Consent,
}

/// A response that has just been stored, for whoever recorded it.
#[derive(Clone, Default)]
pub(in crate::engine) struct Filled(Arc<OnceLock<StoredResponse>>);

impl Filled {
    pub(in crate::engine) fn get(&self) -> Option<&StoredResponse> {
        self.0.get()
    }
}

/// A request whose response is stored once its body is complete.
pub(in crate::engine) struct Storing<'a, St> {
    pub(in crate::engine) engine: Arc<Engine<St>>,
    pub(in crate::engine) route: &'a Route,
    pub(in crate::engine) plan: &'a Plan,
    /// The request's fields, as the handler saw them.
    pub(in crate::engine) request: &'a HeaderMap,
    /// What the target was known to vary on.
    pub(in crate::engine) index: Option<&'a Arc<VariantIndex>>,
}

impl<St: Store> Storing<'_, St> {
    /// What stores the response.
    pub(in crate::engine) fn fill(
        self,
        kept: Kept,
        filled: Filled,
        lead: Option<Lead>,
    ) -> Fill<St> {
        let Self { engine, route, plan, request, index } = self;
        let Kept { head, expires_ms, names } = kept;
        let (base, mut indexes) = plan.place(route, &head.headers);
        let lead = lead.and_then(|lead| lead.if_meant(&base, plan));
        let key = if names.is_empty() {
            base.clone()
        } else {
            let variant = selected(&names, request);
            let seen = index.filter(|index| index.names == names);
            let variants = seen.map(|index| index.variants.clone()).unwrap_or_default();
            let index = VariantIndex { names, variants, search: None };
            let key = variant_key(&base, &variant);
            indexes.push((base.clone(), with_variant(index, variant)));
            key
        };
        let (asker, queue_bytes, answered) = (plan.asker(), route.queue_bytes, Instant::now());
        let consent = plan.consent.clone();
        Fill {
            engine,
            asker,
            key,
            base,
            head,
            answered,
            indexes,
            expires_ms,
            queue_bytes,
            filled,
            lead,
            consent,
        }
    }
}

/// The index with this variant as its newest.
fn with_variant(mut index: VariantIndex, variant: [u8; 16]) -> VariantIndex {
    index.variants.retain(|known| *known != variant);
    index.variants.push(variant);
    index
}

impl<St: Store> Sink for Fill<St> {
    fn complete(self: Box<Self>, body: Bytes) -> Completed {
        let consent = self.consent.clone();
        let stored = consent.then(move |verdict| match verdict {
            Ok(()) => self.store(body),
            Err(objection) => {
                self.engine.called_off(objection, self.lead);
                false
            }
        });
        match stored {
            Some(true) => Completed::Accepted,
            Some(false) => Completed::Refused,
            None => Completed::Held,
        }
    }

    fn is_wanted(&self) -> bool {
        self.consent.objection().is_none()
    }

    fn abandon(self: Box<Self>, why: Abandoned) {
        if let Some(objection) = self.consent.objection() {
            return self.engine.called_off(objection, self.lead);
        }
        count(&self.engine.counters.abandoned);
        if why == Abandoned::TooLarge {
            self.engine.remember_unstorable(self.asker);
        }
        match why {
            Abandoned::TooLarge | Abandoned::Trailers => {
                if let Some(lead) = self.lead {
                    lead.refuse();
                }
            }
            // the others would not be recorded either
            Abandoned::OverBudget => {
                if let Some(lead) = self.lead {
                    lead.release();
                }
            }
            // dropped, the next one leads
            Abandoned::Dropped
            | Abandoned::Failed
            | Abandoned::WrongLength
            | Abandoned::CalledOff => {}
        }
        self.engine.reasons.count(why.as_str());
        tracing::debug!(reason = why.as_str(), key = ?self.key, "response not stored");
    }
}

impl<St: Store> Fill<St> {
    /// Stores the response. Says whether it was accepted.
    fn store(self, body: Bytes) -> bool {
        let Self { engine, asker, key, base, head, answered, indexes, .. } = self;
        let Self { expires_ms, queue_bytes, filled, lead, .. } = self;
        if engine.is_invalid_by_now(&key, &head) {
            count(&engine.counters.not_stored);
            engine.reasons.count("invalidated");
            if let Some(lead) = lead {
                lead.outdated();
            }
            return false;
        }
        // a body that was read slowly is older than what others have brought meanwhile
        if engine.is_filled_after(&key, answered) {
            count(&engine.counters.not_stored);
            engine.reasons.count("overtaken");
            if let Some(lead) = lead {
                lead.found();
            }
            return false;
        }
        let mut entries = Vec::with_capacity(3);
        for (at, mut index) in indexes {
            let over = index.variants.len().saturating_sub(MAX_VARIANTS);
            for oldest in index.variants.drain(..over) {
                count(&engine.counters.variants_evicted);
                engine.forget(KeyRange::only(&variant_key(&at, &oldest)));
            }
            let index = Arc::new(index);
            let stored = Stored::Variants(Arc::clone(&index));
            match &index.search {
                Some(_) => engine.learn_rule(&at, rule_of(Some(&stored))),
                None => engine.learn(&at, &index),
            }
            let expires_ms = expires_ms.saturating_add(INDEX_SLACK_MS);
            entries.push(Entry { key: at, stored, expires_ms });
        }
        let response = StoredResponse { head: Arc::new(head), body };
        let stored = Stored::Response(response.clone());
        entries.push(Entry { key: key.clone(), stored, expires_ms });
        let ticket = match engine.pending.begin(&entries, queue_bytes, |_| true) {
            Ok(ticket) => ticket,
            Err(refused) => {
                let counters = &engine.counters;
                let full = refused == Refused::Full;
                count(if full { &counters.shed } else { &counters.not_stored });
                if let Some(lead) = lead {
                    lead.release();
                }
                return false;
            }
        };
        engine.forget_unstorable(&asker);
        engine.filled(&key, answered);
        let received_ms = response.head.received_ms;
        let is_fresh = is_fresh(&response.head, engine.store.now_ms());
        let _ = filled.0.set(response.clone());
        // visible by now to whoever looks for it; not to those who lead when this one has landed
        let visible = Instant::now();
        let lease = lead.and_then(|lead| lead.land(response));
        if is_fresh {
            let credentialed = asker.1;
            let about = FlightKey { key: key.clone(), base, credentialed };
            engine.flights.filled(&about, visible);
        }
        // another process may have got the lease: then nothing is written
        let is_sure = lease.as_ref().is_none_or(|lease| !lease.is_over());
        let (writer, is_late) = (Arc::clone(&engine), answered.elapsed() > LATE);
        let written = engine.behind(ticket, async move {
            if is_late && writer.holds_newer(&key, received_ms).await {
                writer.reasons.count("overtaken");
                return Ok(false);
            }
            writer.put_leased(entries, lease).await
        });
        written && is_sure
    }
}

impl<St: Store> Engine<St> {
    /// Replaces the head of a stored response: visible to lookups at once, in the store soon, without
    /// its body. A response that has been replaced or removed meanwhile stays so.
    pub(in crate::engine) fn freshen_behind(
        self: &Arc<Self>,
        update: HeadUpdate,
        body: Bytes,
        queue_bytes: usize,
    ) {
        let HeadUpdate { key, new, expires_ms, .. } = update.clone();
        let stored = Stored::Response(StoredResponse { head: new, body });
        let visible = Entry { key, stored, expires_ms };
        // what waits to be written is newer than what was validated, unless it is the same
        let clear = |waits: &Waits<'_>| {
            waits(&update.key).is_none_or(
                |stored| matches!(stored, Stored::Response(response) if response.head == update.old),
            )
        };
        let ticket = match self.pending.begin(&[visible], queue_bytes, clear) {
            Ok(ticket) => ticket,
            Err(Refused::Full) => return count(&self.counters.shed),
            Err(Refused::Overtaken) => return,
        };
        let store = self.store.clone();
        self.behind(ticket, async move { store.freshen(update).await });
    }

    /// Counts what was held back and is not stored.
    pub(in crate::engine) fn called_off(&self, objection: Objection, lead: Option<Lead>) {
        let (counter, reason) = match objection {
            Objection::CalledOff(reason) => (&self.counters.not_stored, reason),
            Objection::Dropped => (&self.counters.abandoned, Abandoned::Dropped.as_str()),
        };
        count(counter);
        self.reasons.count(reason);
        tracing::debug!(reason, "response not stored");
        if let Some(lead) = lead {
            lead.object(objection);
        }
    }

    /// Whether the store has a response to the same key that was received later.
    async fn holds_newer(&self, key: &CacheKey, received_ms: u64) -> bool {
        let found = self.store.get(key.clone()).await;
        matches!(found, Ok(Some(Stored::Response(found))) if found.head.received_ms > received_ms)
    }

    /// Whether what this process has seen of the log says already that a response is not to be used. It is
    /// judged again whenever it is served; this only saves the storing.
    pub(in crate::engine) fn is_invalid_by_now(&self, key: &CacheKey, head: &StoredHead) -> bool {
        let mut validity = std::pin::pin!(self.store.log().validity(key, head));
        let known = validity.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        matches!(known, Poll::Ready(Ok(Validity::Invalid)))
    }

    /// Removes a stored response in the background.
    pub(in crate::engine) fn forget(self: &Arc<Self>, range: KeyRange) {
        let engine = Arc::clone(self);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = engine.remove(&range).await;
            });
        }
    }

    /// Writes behind the response; the ticket keeps what is written visible until this ends, however
    /// it ends. `false` when it has failed already, or there is no runtime to do it on.
    fn behind(
        self: &Arc<Self>,
        ticket: Ticket,
        write: impl Future<Output = Result<bool, StoreError>> + Send + 'static,
    ) -> bool {
        let (engine, span) = (Arc::clone(self), write_span());
        // by itself: a future that awaits another one by value has room for it twice
        let write = Box::pin(write);
        let mut write = Box::pin(async move {
            let written = bounded(WRITE_LIMIT, write).instrument(span).await;
            match &written {
                Ok(true) => count(&engine.counters.stored),
                Ok(false) => {}
                Err(StoreError::Overloaded) => count(&engine.counters.shed),
                Err(error) => {
                    count(&engine.counters.write_errors);
                    if let Some(suppressed) = engine.write_warning.pass() {
                        let reason = error.as_str();
                        tracing::warn!(
                            error = error.cause(),
                            reason,
                            suppressed,
                            "a response could not be stored"
                        );
                    }
                }
            }
            drop(ticket);
            written.is_ok()
        });
        // a store in memory is done at once; only others are worth a task
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(written) = write.as_mut().poll(&mut cx) {
            return written;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(write);
                true
            }
            Err(_) => false,
        }
    }
}
