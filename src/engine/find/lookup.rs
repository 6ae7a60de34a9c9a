//! Finding the stored response for a request, in one round trip where the process knows what the
//! target varies on.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH};
use http::request::Parts;
use http::{HeaderMap, Method};
use tracing::Instrument;

use super::super::request::{Plan, Rule, rule_of};
use super::super::respond::Want;
use super::super::{Engine, Route};
use super::bounded::bounded;
use super::variants::variant_of;
use crate::key::CacheKey;
use crate::policy::Mode;
use crate::rfc9111;
use crate::rfc9111::freshness::{date_ms, is_fresh};
use crate::rfc9111::no_vary_search::NoVarySearch;
use crate::rfc9111::{RequestDirectives, Reuse, reuse};
use crate::status::Forward;
use crate::store::{InvalidationLog as _, Store, StoreError};
use crate::stored::{Stored, StoredOrHead, StoredResponse, VariantIndex};
use crate::tag::Validity;
use crate::telemetry::{LookupTimer, count, lookup_span};

/// What a lookup found.
pub(in crate::engine) struct Lookup {
    pub(in crate::engine) found: Found,
    /// What the target is known to vary on.
    pub(in crate::engine) index: Option<Arc<VariantIndex>>,
    /// The body of the response was not read. Never of what [`Engine::lookup`] returns as a response.
    left_out: Option<LeftOut>,
}

/// A body that was not read.
#[derive(Clone, Copy)]
struct LeftOut {
    bytes: Option<u64>,
}

/// What was fetched for a key; the body is empty where it was left out.
struct Fetched {
    stored: Stored,
    left_out: Option<LeftOut>,
}

/// Whether bodies are needed, or heads may do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bodies {
    All,
    Small,
}

pub(in crate::engine) enum Found {
    /// A response whose selecting fields match the request.
    Response(At),
    /// One that answers the request without its body, which was not read, and the body's length.
    Head(At, Want, u64),
    /// Nothing, and why.
    Nothing(Forward, Option<&'static str>),
}

/// A stored response and its key.
pub(in crate::engine) struct At {
    pub(in crate::engine) key: CacheKey,
    pub(in crate::engine) response: StoredResponse,
    /// What the log says about it.
    pub(in crate::engine) validity: Validity,
}

impl<St: Store> Engine<St> {
    /// Finds what is stored for a request, for no longer than the route allows.
    pub(in crate::engine) async fn lookup(
        &self,
        route: &Route,
        plan: &Plan,
        request: &Parts,
        directives: &RequestDirectives,
    ) -> Lookup {
        let began = Instant::now();
        let may_look = self.may_look(route, &plan.base);
        let timer = LookupTimer::start();
        let looked = self.find_needed(route, plan, request, directives);
        let looked = bounded(route.store_timeout, looked);
        let looked = looked.instrument(lookup_span()).await;
        timer.stop();
        match looked {
            Ok(lookup) => lookup,
            Err(_) if !may_look => {
                count(&self.counters.lookups_skipped);
                let found = Found::Nothing(Forward::Miss, Some("breaker-open"));
                let index = self.indexes.get(&plan.base.hash());
                Lookup { found, index, left_out: None }
            }
            Err(error) => {
                count(&self.counters.lookup_errors);
                self.lookup_failed(route, &error, began);
                if let Some(suppressed) = self.lookup_warning.pass() {
                    let reason = error.as_str();
                    tracing::warn!(
                        error = error.cause(),
                        reason,
                        suppressed,
                        "lookup failed, the handler answers"
                    );
                }
                let found = Found::Nothing(Forward::Miss, Some("store-error"));
                let index = self.indexes.get(&plan.base.hash());
                Lookup { found, index, left_out: None }
            }
        }
    }

    /// What is stored for a request, with its body where that is needed.
    async fn find_needed(
        &self,
        route: &Route,
        plan: &Plan,
        request: &Parts,
        directives: &RequestDirectives,
    ) -> Result<Lookup, StoreError> {
        let headers = &request.headers;
        let conditional =
            headers.contains_key(IF_NONE_MATCH) || headers.contains_key(IF_MODIFIED_SINCE);
        let needs_body = request.method != Method::HEAD && !conditional;
        // whether to refresh early is decided with the whole response at hand
        if needs_body || route.policy.early_refresh.is_some() {
            return self.find_judged(route, plan, headers, Bodies::All).await;
        }
        let lookup = self.find_judged(route, plan, headers, Bodies::Small).await?;
        let Lookup { found: Found::Response(at), left_out: Some(left_out), .. } = lookup else {
            return Ok(lookup);
        };
        match self.without_body(route, plan, request, directives, &at, left_out) {
            Some((want, bytes)) => Ok(Lookup { found: Found::Head(at, want, bytes), ..lookup }),
            None => self.find_judged(route, plan, headers, Bodies::All).await,
        }
    }

    /// What of a response answers the request without its body, and how long that is: a 304, or all fields.
    fn without_body(
        &self,
        route: &Route,
        plan: &Plan,
        request: &Parts,
        directives: &RequestDirectives,
        at: &At,
        left_out: LeftOut,
    ) -> Option<(Want, u64)> {
        let (head, now_ms) = (&at.response.head, self.store.now_ms());
        let obeyed = (route.policy.mode == Mode::Strict).then_some(directives);
        let reused = reuse(head, &request.headers, plan.credentials, obeyed, now_ms);
        if reused != Reuse::Fresh || at.validity != Validity::Valid {
            return None;
        }
        match Want::of(request, head, 0, now_ms) {
            Want::NotModified => Some((Want::NotModified, 0)),
            Want::Whole if request.method == Method::HEAD => Some((Want::Whole, left_out.bytes?)),
            _ => None,
        }
    }

    /// What is stored for a request, and whether it still holds.
    async fn find_judged(
        &self,
        route: &Route,
        plan: &Plan,
        request: &HeaderMap,
        bodies: Bodies,
    ) -> Result<Lookup, StoreError> {
        let began = Instant::now();
        let (lookup, by_rule) = self.find(route, plan, request, bodies).await?;
        let lookup = self.judge(route, plan, lookup, began).await?;
        if !by_rule || self.holds(&lookup) {
            return Ok(lookup);
        }
        // not every response of a path says what others say of it: that one lies where its query says
        let by_query = self.look(route, &plan.base, request, None, bodies).await?.0;
        match by_query.found {
            Found::Response(ref at)
                if NoVarySearch::parse(&at.response.head.headers).is_default() =>
            {
                self.judge(route, plan, by_query, began).await
            }
            _ => Ok(lookup),
        }
    }

    async fn judge(
        &self,
        route: &Route,
        plan: &Plan,
        mut lookup: Lookup,
        since: Instant,
    ) -> Result<Lookup, StoreError> {
        if let Found::Response(at) = &mut lookup.found {
            // what waits to be written cannot be judged without the log
            if route.breaker.is_open() {
                return Err(StoreError::Unavailable);
            }
            at.validity = self.judged(&at.key, &at.response, since).await?;
            // it may have been stored for another URI that shares the key
            if let Some(home) = &plan.home {
                at.validity = at.validity.max(self.judged(home, &at.response, since).await?);
            }
        }
        Ok(lookup)
    }

    /// Whether it is fresh and has not been invalidated.
    fn holds(&self, lookup: &Lookup) -> bool {
        let Found::Response(at) = &lookup.found else { return false };
        at.validity == Validity::Valid && is_fresh(&at.response.head, self.store.now_ms())
    }

    /// What the log says about a response, seen no earlier than `since` or than the store allows for
    /// what it has in memory.
    pub(in crate::engine) async fn judged(
        &self,
        key: &CacheKey,
        response: &StoredResponse,
        since: Instant,
    ) -> Result<Validity, StoreError> {
        let at_most = self.store.max_staleness().max(since.elapsed());
        self.store.log().catch_up(key, &response.head, at_most).await?;
        self.store.log().validity(key, &response.head).await
    }

    /// By the whole query, or by what the path's responses say of it: then it is somewhere else.
    async fn find(
        &self,
        route: &Route,
        plan: &Plan,
        request: &HeaderMap,
        bodies: Bodies,
    ) -> Result<(Lookup, bool), StoreError> {
        let Some(search) = plan.search.as_ref().map(|search| &search.index) else {
            return Ok((self.look(route, &plan.base, request, None, bodies).await?.0, false));
        };
        if let Some(rule) = self.searches.get(&search.hash()) {
            return self.look_by(route, plan, request, rule, bodies).await;
        }
        let (lookup, index) = self.look(route, &plan.base, request, Some(search), bodies).await?;
        let rule = rule_of(index.as_ref());
        self.learn_rule(search, rule.clone());
        match rule {
            None => Ok((lookup, false)),
            Some(rule) => self.look_by(route, plan, request, Some(rule), bodies).await,
        }
    }

    async fn look_by(
        &self,
        route: &Route,
        plan: &Plan,
        request: &HeaderMap,
        rule: Rule,
        bodies: Bodies,
    ) -> Result<(Lookup, bool), StoreError> {
        let key = rule.as_ref().map_or_else(|| plan.base.clone(), |rule| plan.key_by(route, rule));
        let mut lookup = self.look(route, &key, request, None, bodies).await?.0;
        if let Found::Response(at) = &lookup.found
            && !plan.is_meant(rule.as_deref(), &at.response)
        {
            lookup.found = Found::Nothing(Forward::UriMiss, None);
        }
        Ok((lookup, key != plan.base))
    }

    /// Looks one key up, and another beside it in the same call.
    async fn look(
        &self,
        route: &Route,
        base: &CacheKey,
        request: &HeaderMap,
        beside: Option<&CacheKey>,
        bodies: Bodies,
    ) -> Result<(Lookup, Option<Stored>), StoreError> {
        let known = self.indexes.get(&base.hash());
        let of_index = |index: &VariantIndex| variant_of(base, index, request);
        let guess = known.as_deref().map(of_index);
        let keys = [Some(base.clone()), guess.clone(), beside.cloned()];
        let keys = keys.into_iter().flatten().collect();
        let mut found = self.fetch(route, keys, bodies).await?.into_iter();
        let at_base = found.next().flatten();
        let at_variant = guess.as_ref().and_then(|_| found.next()).flatten();
        let at_beside = found.next().flatten();
        let mut index = known.clone();
        let first = usable(guess, at_variant, request);
        let mut second = None;
        let nothing = if at_base.is_some() { Forward::VaryMiss } else { Forward::UriMiss };
        match at_base {
            None => {}
            Some(at_base @ Fetched { stored: Stored::Response(_), .. }) => {
                second = usable(Some(base.clone()), Some(at_base), request);
            }
            Some(Fetched { stored: Stored::Variants(seen), .. }) => {
                if known.as_ref().is_none_or(|known| known.names != seen.names) {
                    let key = of_index(&seen);
                    let again = self.fetch(route, vec![key.clone()], bodies).await?.pop().flatten();
                    second = usable(Some(key), again, request);
                }
                if known.as_ref() != Some(&seen) {
                    self.learn(base, &seen);
                }
                index = Some(seen);
            }
        }
        // RFC 9111 4.1: of several that match, one with Vary; of those, 4: the one with the newest Date
        let newest = first.into_iter().chain(second).max_by_key(|(at, _)| {
            let head = &at.response.head;
            let varies = !head.vary.is_empty();
            (varies, date_ms(&head.headers, head.received_ms), head.received_ms)
        });
        let (found, left_out) = match newest {
            Some((at, left_out)) => (Found::Response(at), left_out),
            None => (Found::Nothing(nothing, None), None),
        };
        Ok((Lookup { found, index, left_out }, at_beside.map(|beside| beside.stored)))
    }

    /// Asks what is on its way to the store first, then the store.
    async fn fetch(
        &self,
        route: &Route,
        keys: Vec<CacheKey>,
        bodies: Bodies,
    ) -> Result<Vec<Option<Fetched>>, StoreError> {
        let now_ms = self.store.now_ms();
        let pending = keys.iter().map(|key| self.pending.find(key, now_ms));
        let mut found: Vec<_> = pending.map(|stored| stored.map(Fetched::whole)).collect();
        if found.iter().all(Option::is_some) {
            return Ok(found);
        }
        if route.breaker.is_open() {
            return Err(StoreError::Unavailable);
        }
        let stored: Vec<Option<Fetched>> = match bodies {
            Bodies::All => {
                let stored = self.store.get_many(keys).await?;
                stored.into_iter().map(|stored| stored.map(Fetched::whole)).collect()
            }
            Bodies::Small => {
                let stored = self.store.get_heads(keys).await?;
                stored.into_iter().map(|stored| stored.map(Fetched::of)).collect()
            }
        };
        route.breaker.succeeded();
        for (found, stored) in found.iter_mut().zip(stored) {
            if found.is_none() {
                *found = stored;
            }
        }
        Ok(found)
    }

    /// Remembers what a target varies on.
    pub(in crate::engine) fn learn(&self, base: &CacheKey, index: &Arc<VariantIndex>) {
        self.indexes.insert(base.hash(), Arc::clone(index));
    }
}

impl Fetched {
    fn whole(stored: Stored) -> Self {
        Self { stored, left_out: None }
    }

    fn of(found: StoredOrHead) -> Self {
        match found {
            StoredOrHead::Stored(stored) => Self::whole(stored),
            StoredOrHead::Head { head, body_bytes } => {
                let stored = Stored::Response(StoredResponse { head, body: Bytes::new() });
                Self { stored, left_out: Some(LeftOut { bytes: body_bytes }) }
            }
        }
    }
}

/// A stored response whose own selecting fields match: the key alone is not trusted.
fn usable(
    key: Option<CacheKey>,
    fetched: Option<Fetched>,
    request: &HeaderMap,
) -> Option<(At, Option<LeftOut>)> {
    let Fetched { stored, left_out } = fetched?;
    match stored {
        Stored::Response(response) if rfc9111::matches(&response.head.vary, request) => {
            Some((At { key: key?, response, validity: Validity::Valid }, left_out))
        }
        _ => None,
    }
}
