//! Which stored response does a lookup find? If the process knows the target's `Vary`, the lookup takes one round trip.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH};
use http::request::Parts;
use http::{HeaderMap, Method};
use tracing::Instrument;

use super::super::request::{Cx, ReplyKind, Rule, has_rule, rule_of};
use super::bounded::bounded;
use super::breaker;
use super::variants::variant_of;
use super::verdict::log_verdict;
use crate::key::CacheKey;
use crate::policy::Mode;
use crate::reason::Reason;
use crate::rfc9111;
use crate::rfc9111::freshness::{date_ms, is_fresh};
use crate::rfc9111::{Reuse, reuse};
use crate::status::Forward;
use crate::store::{Store, StoreError};
use crate::stored::{Stored, StoredOrHead, StoredResponse, VariantIndex};
use crate::tag::Validity;
use crate::telemetry::{LookupTimer, count, lookup_span};

pub(in crate::engine) struct Lookup {
    pub(in crate::engine) found: Found,
    /// The target's known variants.
    pub(in crate::engine) index: Option<Arc<VariantIndex>>,
    /// Set if the body was not read. In the result of [`lookup`], it is never set together with [`Found::Response`].
    left_out: Option<LeftOut>,
}

/// A body that was not read, with its length if known.
#[derive(Clone, Copy)]
struct LeftOut {
    bytes: Option<u64>,
}

/// What was fetched for a key. A body that was left out is empty.
struct Fetched {
    stored: Stored,
    left_out: Option<LeftOut>,
}

/// Whether all bodies are read, or only those that come with their heads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bodies {
    All,
    Small,
}

pub(in crate::engine) enum Found {
    /// A response that the request selects.
    Response(FoundEntry),
    /// A response whose head is enough: its body was not read. The number is the length of the body.
    Head(FoundEntry, ReplyKind, u64),
    /// Nothing, for this reason.
    Nothing(Forward, Option<Reason>),
}

/// A stored response with its key.
pub(in crate::engine) struct FoundEntry {
    pub(in crate::engine) key: CacheKey,
    pub(in crate::engine) response: StoredResponse,
    /// The log verdict.
    pub(in crate::engine) validity: Validity,
}

/// Looks up the stored response for a request, within the route's `store_timeout`.
pub(in crate::engine) async fn lookup<St: Store>(cx: &Cx<St>, request: &Parts) -> Lookup {
    let Cx { engine, route, plan } = cx;
    let began = Instant::now();
    let may_ask_store = breaker::may_ask_store(engine, route, &plan.base);
    let timer = LookupTimer::start();
    // pinned here: a future that is passed by value takes its size twice
    let find = pin!(Finder::of(cx, request).find_with_needed_body(request));
    let result = bounded(route.store_timeout, find).instrument(lookup_span()).await;
    timer.stop();
    let reason = match result {
        Ok(lookup) => return lookup,
        Err(_) if !may_ask_store => {
            count(&engine.counters.lookups_skipped);
            Reason::BreakerOpen
        }
        Err(error) => {
            count(&engine.counters.lookup_errors);
            breaker::lookup_failed(engine, route, &error, began);
            if let Some(suppressed) = engine.known.warning.pass() {
                let reason = error.as_str();
                tracing::warn!(
                    error = error.cause(),
                    reason,
                    suppressed,
                    "lookup failed; the handler is called"
                );
            }
            Reason::StoreError
        }
    };
    let found = Found::Nothing(Forward::Miss, Some(reason));
    Lookup { found, index: engine.known.index(&plan.base), left_out: None }
}

/// One lookup.
struct Finder<'a, St> {
    cx: &'a Cx<St>,
    headers: &'a HeaderMap,
    bodies: Bodies,
}

impl<'a, St: Store> Finder<'a, St> {
    fn of(cx: &'a Cx<St>, request: &'a Parts) -> Self {
        Self { cx, headers: &request.headers, bodies: Bodies::All }
    }

    /// The stored response, with its body if the reply needs it.
    async fn find_with_needed_body(self, request: &Parts) -> Result<Lookup, StoreError> {
        let conditional = self.headers.contains_key(IF_NONE_MATCH)
            || self.headers.contains_key(IF_MODIFIED_SINCE);
        let needs_body = request.method != Method::HEAD && !conditional;
        // the decision about an early refresh needs the whole response
        if needs_body || self.cx.route.policy.early_refresh.is_some() {
            return self.find_with_verdict().await;
        }
        let heads = Self { bodies: Bodies::Small, ..self };
        let lookup = Box::pin(heads.find_with_verdict()).await?;
        let Lookup { found: Found::Response(entry), left_out: Some(left_out), .. } = lookup else {
            return Ok(lookup);
        };
        match self.without_body(request, &entry, left_out) {
            Some((kind, bytes)) => Ok(Lookup { found: Found::Head(entry, kind, bytes), ..lookup }),
            None => Box::pin(self.find_with_verdict()).await,
        }
    }

    /// The reply that needs no body, and the length of the body: a 304, or the answer to a HEAD.
    fn without_body(
        &self,
        request: &Parts,
        entry: &FoundEntry,
        left_out: LeftOut,
    ) -> Option<(ReplyKind, u64)> {
        let Cx { engine, route, plan } = self.cx;
        let (head, now_ms) = (&entry.response.head, engine.store.now_ms());
        let request_directives = (route.policy.mode == Mode::Strict).then_some(&plan.directives);
        let reused = reuse(head, self.headers, plan.credentials, request_directives, now_ms);
        if reused != Reuse::Fresh || entry.validity != Validity::Valid {
            return None;
        }
        match ReplyKind::of(request, head, 0, now_ms) {
            ReplyKind::NotModified => Some((ReplyKind::NotModified, 0)),
            ReplyKind::Full if request.method == Method::HEAD => {
                Some((ReplyKind::Full, left_out.bytes?))
            }
            _ => None,
        }
    }

    /// The stored response, with its log verdict.
    async fn find_with_verdict(&self) -> Result<Lookup, StoreError> {
        let began = Instant::now();
        let (mut lookup, by_rule) = self.find_by_query_or_rule().await?;
        self.add_verdict(&mut lookup, began).await?;
        if !by_rule || self.is_fresh_and_valid(&lookup) {
            return Ok(lookup);
        }
        // a response of the same path without the rule is stored under its whole query
        let mut by_query = Box::pin(self.look_up(&self.cx.plan.base, None)).await?.0;
        match by_query.found {
            Found::Response(ref entry) if !has_rule(&entry.response.head.headers) => {
                Box::pin(self.add_verdict(&mut by_query, began)).await?;
                Ok(by_query)
            }
            _ => Ok(lookup),
        }
    }

    async fn add_verdict(&self, lookup: &mut Lookup, since: Instant) -> Result<(), StoreError> {
        let Cx { engine, route, plan } = self.cx;
        if let Found::Response(entry) = &mut lookup.found {
            // without the log there is no log verdict, not even for a pending response
            if route.breaker.is_open() {
                return Err(StoreError::Unavailable);
            }
            entry.validity = log_verdict(&engine.store, &entry.key, &entry.response, since).await?;
            // the response may be stored for another URI with the same custom key
            if let Some(uri_key) = &plan.uri_key {
                let by_uri = log_verdict(&engine.store, uri_key, &entry.response, since);
                let by_uri = Box::pin(by_uri).await?;
                entry.validity = entry.validity.max(by_uri);
            }
        }
        Ok(())
    }

    /// Whether the response is fresh and not invalidated.
    fn is_fresh_and_valid(&self, lookup: &Lookup) -> bool {
        let Found::Response(entry) = &lookup.found else { return false };
        let now_ms = self.cx.engine.store.now_ms();
        entry.validity == Validity::Valid && is_fresh(&entry.response.head, now_ms)
    }

    /// Looks up the whole query, or the query under the path's rule. `true` if the rule leads to another key.
    async fn find_by_query_or_rule(&self) -> Result<(Lookup, bool), StoreError> {
        let Cx { engine, route, plan } = self.cx;
        if let Some(mark) = route.keys.search_mark_to_ask(&plan.target) {
            let (lookup, mark) = Box::pin(self.look_up(&plan.base, Some(&mark))).await?;
            if mark.is_none() {
                return Ok((lookup, false));
            }
            route.keys.search_is_used();
        }
        let Some(search) = plan.search(route) else {
            return Ok((self.look_up(&plan.base, None).await?.0, false));
        };
        if let Some(rule) = engine.known.rule(search) {
            return Box::pin(self.look_up_by_rule(rule)).await;
        }
        let (lookup, index) = Box::pin(self.look_up(&plan.base, Some(&search.index))).await?;
        let rule = rule_of(index.as_ref());
        engine.known.learn_rule(&search.index, rule.clone());
        match rule {
            None => Ok((lookup, false)),
            Some(rule) => Box::pin(self.look_up_by_rule(Some(rule))).await,
        }
    }

    async fn look_up_by_rule(&self, rule: Rule) -> Result<(Lookup, bool), StoreError> {
        let Cx { route, plan, .. } = self.cx;
        let key =
            rule.as_ref().map_or_else(|| plan.base.clone(), |rule| plan.key_under(route, rule));
        let mut lookup = self.look_up(&key, None).await?.0;
        if let Found::Response(entry) = &lookup.found
            && !plan.rule_matches(route, &rule, &entry.response)
        {
            lookup.found = Found::Nothing(Forward::UriMiss, None);
        }
        Ok((lookup, key != plan.base))
    }

    /// Looks up one key, and an extra one in the same call.
    async fn look_up(
        &self,
        base: &CacheKey,
        extra_key: Option<&CacheKey>,
    ) -> Result<(Lookup, Option<Stored>), StoreError> {
        let remembered = &self.cx.engine.known;
        let known = remembered.index(base);
        let of_index = |index: &VariantIndex| variant_of(base, index, self.headers);
        let known_variant = known.as_deref().map(of_index);
        let (at_base, at_variant, at_extra) = match (&known_variant, extra_key) {
            (None, None) => (self.fetch_one(base.clone()).await?, None, None),
            _ => {
                let keys = [Some(base.clone()), known_variant.clone(), extra_key.cloned()];
                let keys = keys.into_iter().flatten().collect();
                let mut found = Box::pin(self.fetch(keys)).await?.into_iter();
                let at_base = found.next().flatten();
                let at_variant = known_variant.as_ref().and_then(|_| found.next()).flatten();
                (at_base, at_variant, found.next().flatten())
            }
        };
        let mut index = known.clone();
        let first = self.matching(known_variant, at_variant);
        let mut second = None;
        let nothing = if at_base.is_some() { Forward::VaryMiss } else { Forward::UriMiss };
        match at_base {
            None => {}
            Some(at_base @ Fetched { stored: Stored::Response(_), .. }) => {
                second = self.matching(Some(base.clone()), Some(at_base));
            }
            Some(Fetched { stored: Stored::Variants(seen), .. }) => {
                if known.as_ref().is_none_or(|known| known.names != seen.names) {
                    let key = of_index(&seen);
                    let again = Box::pin(self.fetch_one(key.clone())).await?;
                    second = self.matching(Some(key), again);
                }
                if known.as_ref() != Some(&seen) {
                    remembered.learn_index(base, &seen);
                }
                index = Some(seen);
            }
        }
        let found = match (first, second) {
            (Some(first), Some(second)) => Some(newest(first, second)),
            (first, second) => first.or(second),
        };
        let (found, left_out) = match found {
            Some((entry, left_out)) => (Found::Response(entry), left_out),
            None => (Found::Nothing(nothing, None), None),
        };
        Ok((Lookup { found, index, left_out }, at_extra.map(|extra| extra.stored)))
    }

    /// The same as [`fetch`](Self::fetch) for one key, without lists.
    async fn fetch_one(&self, key: CacheKey) -> Result<Option<Fetched>, StoreError> {
        let Cx { engine, route, .. } = self.cx;
        if self.bodies == Bodies::Small {
            return Ok(Box::pin(self.fetch(vec![key])).await?.pop().flatten());
        }
        if let Some(pending) = engine.pending.find(&key, || engine.store.now_ms()) {
            return Ok(Some(Fetched::whole(pending)));
        }
        if route.breaker.is_open() {
            return Err(StoreError::Unavailable);
        }
        let stored = engine.store.get(key).await?;
        route.breaker.succeeded();
        Ok(stored.map(Fetched::whole))
    }

    /// Takes pending entries first, then asks the store.
    async fn fetch(&self, keys: Vec<CacheKey>) -> Result<Vec<Option<Fetched>>, StoreError> {
        let Cx { engine, route, .. } = self.cx;
        let now_ms = || engine.store.now_ms();
        let pending = keys.iter().map(|key| engine.pending.find(key, now_ms));
        let mut found: Vec<_> = pending.map(|stored| stored.map(Fetched::whole)).collect();
        if found.iter().all(Option::is_some) {
            return Ok(found);
        }
        if route.breaker.is_open() {
            return Err(StoreError::Unavailable);
        }
        let stored: Vec<Option<Fetched>> = match self.bodies {
            Bodies::All => {
                let stored = engine.store.get_many(keys).await?;
                stored.into_iter().map(|stored| stored.map(Fetched::whole)).collect()
            }
            Bodies::Small => {
                let stored = engine.store.get_heads(keys).await?;
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

    /// The response, if its own selecting fields match the request. The key alone is not trusted.
    fn matching(&self, key: Option<CacheKey>, fetched: Option<Fetched>) -> Option<Match> {
        let Fetched { stored, left_out } = fetched?;
        match stored {
            Stored::Response(response) if rfc9111::matches(&response.head.vary, self.headers) => {
                Some((FoundEntry { key: key?, response, validity: Validity::Valid }, left_out))
            }
            _ => None,
        }
    }
}

type Match = (FoundEntry, Option<LeftOut>);

/// Of two matching responses, one with `Vary` comes first (RFC 9111 4.1), then the newest `Date` (RFC 9111 4).
fn newest(first: Match, second: Match) -> Match {
    let rank = |(entry, _): &Match| {
        let head = &entry.response.head;
        let varies = !head.vary.is_empty();
        (varies, date_ms(&head.headers, head.received_ms), head.received_ms)
    };
    if rank(&first) > rank(&second) { first } else { second }
}

impl Fetched {
    fn whole(stored: Stored) -> Self {
        Self { stored, left_out: None }
    }

    fn of(found: StoredOrHead) -> Self {
        match found {
            StoredOrHead::Stored(stored) => Self::whole(stored),
            StoredOrHead::Head { head, body_bytes } => {
                let stored = Stored::Response(StoredResponse::new(head, Bytes::new()));
                Self { stored, left_out: Some(LeftOut { bytes: body_bytes }) }
            }
        }
    }
}
