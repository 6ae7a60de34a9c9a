//! `No-Vary-Search`: which parts of a query tell the responses of a path apart.
//!
//! A response with the field is stored under the canonical form of its query, and the field under a key of the path.
//! A process remembers the field of a path, or that there is none, for a minute.
//!
//! The first such response is stored with a mark, under one key of the prefix. Until a process has stored such a
//! response, or has found the mark, no request pays for the field: once a minute, one lookup asks for the mark too.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::super::Route;
use super::admission::Plan;
use crate::key::{CacheKey, Search};
use crate::rfc9111::no_vary_search::{NO_VARY_SEARCH, NoVarySearch, canonical};
use crate::stored::{Stored, StoredResponse, VariantIndex};

/// What is known of a path.
pub(in crate::engine) type Rule = Option<Arc<NoVarySearch>>;

impl Search {
    /// The end of the target by which the rule tells requests apart, with its question mark.
    pub(in crate::engine) fn canonical(&self, rule: &NoVarySearch) -> String {
        canonical(rule, Some(&self.query))
    }
}

impl Plan {
    /// Where the rule of the path is stored. `None` without a query, and while no response has had a rule.
    pub(in crate::engine) fn search(&self, route: &Route) -> Option<&Search> {
        let keys = route.keys.uses_search().then_some(&route.keys)?;
        self.search.get_or_init(|| keys.search(&self.target)).as_ref()
    }

    /// The key to look at, by the rule that is known for the path.
    pub(in crate::engine) fn key_under(&self, route: &Route, rule: &NoVarySearch) -> CacheKey {
        let Some(search) = self.search(route) else { return self.base.clone() };
        let target = self.target.with_query(&search.path, &search.canonical(rule));
        route.keys.base_key(&target, &self.credential_hashes)
    }

    /// Whether a response found by one rule is meant by its own: rules change.
    pub(in crate::engine) fn rule_matches(
        &self,
        route: &Route,
        rule: Option<&NoVarySearch>,
        found: &StoredResponse,
    ) -> bool {
        let (Some(rule), Some(search)) = (rule, self.search(route)) else { return true };
        let own = NoVarySearch::parse(&found.head.headers);
        search.canonical(&own) == search.canonical(rule)
    }

    /// Where a response is stored by its own field, and the path's indexes if it has some.
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

/// Bytes that a rule holds in memory of its own.
pub(in crate::engine) fn extra_bytes(rule: &Rule) -> usize {
    rule.as_ref().map_or(0, |rule| rule.held_bytes())
}

/// The rule that a path's index holds.
pub(in crate::engine) fn rule_of(stored: Option<&Stored>) -> Rule {
    let Some(Stored::Variants(index)) = stored else { return None };
    let value = HeaderValue::from_bytes(index.search.as_ref()?).ok()?;
    let rule = NoVarySearch::parse(&HeaderMap::from_iter([(NO_VARY_SEARCH, value)]));
    (!rule.is_default()).then(|| Arc::new(rule))
}
