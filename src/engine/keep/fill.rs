//! How does a complete body get into the store?

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;

use super::super::Engine;
use super::super::collapse::{FlightKey, HeldLease, Leader};
use super::super::consent::{Consent, Objection};
use super::super::decide::PreparedEntry;
use super::super::find::{Refused, Ticket, is_known_invalid, selected};
use super::super::request::{Cx, StorabilityKey, rule_of};
use super::{remove, write};
use crate::body::{Abandoned, Completed, Sink};
use crate::key::{CacheKey, KeyRange, variant_key};
use crate::reason::Reason;
use crate::rfc9111::freshness::is_fresh;
use crate::store::Store;
use crate::stored::{Entry, Stored, StoredHead, StoredResponse, VariantIndex};
use crate::telemetry::count;

/// The most variants of one target. With more, the oldest is deleted. Clients choose the values that select variants,
/// so there must be a limit.
const MAX_VARIANTS: usize = 64;
/// If reading the body takes longer than this, another process may have stored a newer response.
const SLOW_READ: Duration = Duration::from_secs(1);
/// How much longer than the variant of a fill its index is stored: a day. So a short-lived variant does not hide a
/// long-lived one.
const INDEX_SLACK_MS: u64 = 24 * 3600 * 1000;

pub(in crate::engine) struct Fill<St> {
    engine: Arc<Engine<St>>,
    storability_key: StorabilityKey,
    key: CacheKey,
    /// The key without the variant.
    base: CacheKey,
    head: Arc<StoredHead>,
    /// When the head arrived.
    answered: Instant,
    /// What lookups need to find the response: the target's variant index if it varies, and the path's rule.
    indexes: Vec<(CacheKey, VariantIndex)>,
    /// When the entry may be deleted.
    expires_ms: u64,
    /// Set when the response is stored.
    filled: Filled,
    /// The flight, if other requests may wait for the response.
    leader: Option<Leader>,
    /// Whether the response may be stored.
    consent: Consent,
}

/// A response that has just been stored, for the code that sends it.
#[derive(Clone, Default)]
pub(in crate::engine) struct Filled(Arc<OnceLock<StoredResponse>>);

impl Filled {
    pub(in crate::engine) fn get(&self) -> Option<&StoredResponse> {
        self.0.get()
    }
}

impl<St: Store> Fill<St> {
    /// Stores the response under the variant that `request` selects. These are the fields that the handler saw.
    /// `index` is the target's variant index at that time.
    pub(in crate::engine) fn new(
        cx: &Cx<St>,
        request: &HeaderMap,
        index: Option<&Arc<VariantIndex>>,
        prepared: PreparedEntry,
        leader: Option<Leader>,
    ) -> Self {
        let Cx { engine, route, plan } = cx;
        let PreparedEntry { head, expires_ms, names } = prepared;
        let (base, mut indexes) = plan.storage_keys(route, &head.headers);
        let leader = leader.and_then(|leader| leader.if_key_matches(&base, plan));
        let key = if names.is_empty() {
            base.clone()
        } else {
            let variant = selected(&names, request);
            let seen = index.filter(|index| index.names == names);
            let variants = seen.map(|index| index.variants.clone()).unwrap_or_default();
            let index = VariantIndex { names, variants, search: None };
            indexes.push((base.clone(), with_variant(index, variant)));
            variant_key(&base, &variant)
        };
        Self {
            engine: Arc::clone(engine),
            storability_key: plan.storability_key(),
            key,
            base,
            head: Arc::new(head),
            answered: Instant::now(),
            indexes,
            expires_ms,
            filled: Filled::default(),
            leader,
            consent: plan.consent.clone(),
        }
    }

    pub(in crate::engine) fn filled(&self) -> Filled {
        self.filled.clone()
    }
}

/// The index, with this variant as its newest.
fn with_variant(mut index: VariantIndex, variant: [u8; 16]) -> VariantIndex {
    index.variants.retain(|known| *known != variant);
    index.variants.push(variant);
    index
}

impl<St: Store> Sink for Fill<St> {
    fn complete(self: Box<Self>, body: Bytes) -> Completed {
        let consent = self.consent.clone();
        let stored = consent.then(move |decision| match decision {
            Ok(()) => self.store(body),
            Err(objection) => {
                count_not_stored(&self.engine, objection, self.leader);
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
            return count_not_stored(&self.engine, objection, self.leader);
        }
        count(&self.engine.counters.abandoned);
        if why == Abandoned::TooLarge {
            self.engine.fills.remember_unstorable(self.storability_key);
        }
        match why {
            Abandoned::TooLarge | Abandoned::Trailers => {
                if let Some(leader) = self.leader {
                    leader.mark_unshareable();
                }
            }
            // a follower's response could not be recorded either
            Abandoned::OverBudget => {
                if let Some(leader) = self.leader {
                    leader.release();
                }
            }
            // dropping the leader lets the next request lead
            Abandoned::Dropped
            | Abandoned::Failed
            | Abandoned::WrongLength
            | Abandoned::CalledOff => {}
        }
        let reason = why.reason();
        self.engine.reasons.count(reason.as_str());
        tracing::debug!(%reason, key = ?self.key, "response not stored");
    }
}

impl<St: Store> Fill<St> {
    /// Stores the response. `false` if it was refused.
    fn store(mut self, body: Bytes) -> bool {
        let engine = Arc::clone(&self.engine);
        if is_known_invalid(&engine.store, &self.key, &self.head) {
            return self.not_stored(Reason::Invalidated, Leader::invalidated);
        }
        // the body was read slowly, and a newer response has been stored
        if engine.fills.is_later(&self.key, self.answered) {
            return self.not_stored(Reason::Overtaken, Leader::look_up_again);
        }
        let mut entries = self.index_entries();
        // the recorder has copied the body, or it is large
        let response = StoredResponse::compact(Arc::clone(&self.head), body);
        let (key, stored) = (self.key.clone(), Stored::Response(response.clone()));
        entries.push(Entry { key, stored, expires_ms: self.expires_ms });
        match engine.pending.insert(&entries, engine.limits.queue_bytes, |_| true) {
            Ok(ticket) => {
                let lease = self.publish(response);
                self.write(entries, ticket, lease)
            }
            Err(refused) => {
                let full = refused == Refused::Full;
                let counters = &engine.counters;
                count(if full { &counters.shed } else { &counters.not_stored });
                if let Some(leader) = self.leader {
                    leader.release();
                }
                false
            }
        }
    }

    fn not_stored(self, reason: Reason, tell: impl FnOnce(Leader)) -> bool {
        count(&self.engine.counters.not_stored);
        self.engine.reasons.count(reason.as_str());
        if let Some(leader) = self.leader {
            tell(leader);
        }
        false
    }

    /// The index entries. Lookups of this process use them from now on. If a target has too many variants, its oldest
    /// are deleted.
    fn index_entries(&mut self) -> Vec<Entry> {
        let engine = &self.engine;
        let mut entries = Vec::with_capacity(3);
        for (at, mut index) in std::mem::take(&mut self.indexes) {
            let over = index.variants.len().saturating_sub(MAX_VARIANTS);
            for oldest in index.variants.drain(..over) {
                count(&engine.counters.variants_evicted);
                remove::remove_in_background(engine, KeyRange::only(&variant_key(&at, &oldest)));
            }
            let index = Arc::new(index);
            let stored = Stored::Variants(Arc::clone(&index));
            match &index.search {
                Some(_) => engine.known.learn_rule(&at, rule_of(Some(&stored))),
                None => engine.known.learn_index(&at, &index),
            }
            let expires_ms = self.expires_ms.saturating_add(INDEX_SLACK_MS);
            entries.push(Entry { key: at, stored, expires_ms });
        }
        entries
    }

    /// The response is visible to lookups, so the followers get it. Returns the lease, which the write needs.
    fn publish(&mut self, response: StoredResponse) -> Option<HeldLease> {
        let engine = &self.engine;
        engine.fills.forget_unstorable(&self.storability_key);
        engine.fills.note(&self.key, self.answered);
        let is_fresh = is_fresh(&response.head, engine.store.now_ms());
        let _ = self.filled.0.set(response.clone());
        // after the lookups that missed the response, and before the flights that begin after this one
        let visible = Instant::now();
        let (key, base) = (self.key.clone(), self.base.clone());
        let about = FlightKey { key, base, credentialed: self.storability_key.1 };
        let leads = self.leader.as_ref().is_some_and(|leader| *leader.key() == about);
        let lease = self.leader.take().and_then(|leader| leader.complete(response));
        match (is_fresh, leads) {
            (true, true) => engine.flights.end_older(&about, visible),
            (true, false) => engine.flights.note_stored(&about, visible),
            (false, _) => {}
        }
        lease
    }

    fn write(self, entries: Vec<Entry>, ticket: Ticket, lease: Option<HeldLease>) -> bool {
        let Self { engine, key, head, answered, .. } = self;
        // if another process has got the lease, nothing is written
        let may_write = lease.as_ref().is_none_or(|lease| !lease.is_expired());
        let (writer, is_late) = (Arc::clone(&engine), answered.elapsed() > SLOW_READ);
        let written = write::in_background(&engine, ticket, async move {
            if is_late && write::holds_newer(&writer.store, &key, head.received_ms).await {
                writer.reasons.count(Reason::Overtaken.as_str());
                return Ok(false);
            }
            write::put(&writer, entries, lease).await
        });
        written && may_write
    }
}

/// Counts a response that was held back for the guard and is not stored.
pub(in crate::engine) fn count_not_stored<St>(
    engine: &Engine<St>,
    objection: Objection,
    leader: Option<Leader>,
) {
    let (counter, reason) = match objection {
        Objection::CalledOff(reason) => (&engine.counters.not_stored, reason),
        Objection::Dropped => (&engine.counters.abandoned, Abandoned::Dropped.reason()),
    };
    count(counter);
    engine.reasons.count(reason.as_str());
    tracing::debug!(%reason, "response not stored");
    if let Some(leader) = leader {
        leader.end_unstored(objection);
    }
}
