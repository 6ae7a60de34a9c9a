//! Which parts of a query distinguish the responses of a path (`No-Vary-Search`)?
//!
//! A response with the field is stored under the canonical form of its query. The field's value is stored under a key
//! of the path. For a minute, a process remembers the value for a path, or that there is none.
//!
//! The first such response is stored together with a mark, under one key of the prefix. Until a process has stored or
//! found the mark, requests do not look for the field. Once a minute, one lookup also asks for the mark.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::super::Route;
use super::admission::Plan;
use crate::key::{CacheKey, Search};
use crate::rfc9111::no_vary_search::{NO_VARY_SEARCH, NoVarySearch, canonical};
use crate::stored::{Stored, StoredResponse, VariantIndex};

/// The rule of a path, if it has one.
pub(in crate::engine) type Rule = Option<Arc<NoVarySearch>>;

/// Whether a response may answer other queries of its path.
pub(in crate::engine) fn has_rule(response: &HeaderMap) -> bool {
    !NoVarySearch::parse(response).is_default()
}

/// Whether two responses have the same rule.
pub(in crate::engine) fn same_rule(one: &HeaderMap, other: &HeaderMap) -> bool {
    NoVarySearch::parse(one) == NoVarySearch::parse(other)
}

impl Search {
    /// The query that distinguishes requests under this rule, with its question mark.
    pub(in crate::engine) fn canonical(&self, rule: &NoVarySearch) -> String {
        canonical(rule, Some(&self.query))
    }
}

impl Plan {
    /// The keys of the path's rule. `None` for targets without a query, and until a response has had a rule.
    pub(in crate::engine) fn search(&self, route: &Route) -> Option<&Search> {
        let keys = route.keys.uses_search().then_some(&route.keys)?;
        self.search.get_or_init(|| keys.search(&self.target)).as_ref()
    }

    /// The key of this request under a rule.
    pub(in crate::engine) fn key_under(&self, route: &Route, rule: &NoVarySearch) -> CacheKey {
        let Some(search) = self.search(route) else { return self.base.clone() };
        let target = self.target.with_query(&search.path, &search.canonical(rule));
        route.keys.base_key(&target, &self.credential_hashes)
    }

    /// Whether a response found by a path's rule is right by its own rule. The rule of a path can change.
    pub(in crate::engine) fn rule_matches(
        &self,
        route: &Route,
        rule: &Rule,
        found: &StoredResponse,
    ) -> bool {
        let (Some(rule), Some(search)) = (rule, self.search(route)) else { return true };
        let own = NoVarySearch::parse(&found.head.headers);
        search.canonical(&own) == search.canonical(rule)
    }

    /// The key for a response, and the index entries of its path, if the response has a rule.
    pub(in crate::engine) fn storage_keys(
        &self,
        route: &Route,
        response: &HeaderMap,
    ) -> (CacheKey, Vec<(CacheKey, VariantIndex)>) {
        let rule = NoVarySearch::parse(response);
        if !rule.is_default() {
            route.keys.search_is_used();
        }
        match self.search(route) {
            Some(search) if !rule.is_default() => {
                let lines = response.get_all(NO_VARY_SEARCH).iter().map(HeaderValue::as_bytes);
                let field = Bytes::from(lines.collect::<Vec<_>>().join(&b", "[..]));
                let index = VariantIndex { search: Some(field), ..VariantIndex::default() };
                let keys = [search.index.clone(), search.anywhere.clone()].into_iter();
                let keys = keys.chain(route.keys.search_mark_to_write());
                (self.key_under(route, &rule), keys.map(|key| (key, index.clone())).collect())
            }
            _ => (self.base.clone(), Vec::new()),
        }
    }
}

/// Bytes in memory, for the limit of a table.
pub(in crate::engine) fn extra_bytes(rule: &Rule) -> usize {
    rule.as_ref().map_or(0, |rule| rule.held_bytes())
}

/// The rule in the index of a path.
pub(in crate::engine) fn rule_of(stored: Option<&Stored>) -> Rule {
    let Some(Stored::Variants(index)) = stored else { return None };
    let value = HeaderValue::from_bytes(index.search.as_ref()?).ok()?;
    let rule = NoVarySearch::parse(&HeaderMap::from_iter([(NO_VARY_SEARCH, value)]));
    (!rule.is_default()).then(|| Arc::new(rule))
}
