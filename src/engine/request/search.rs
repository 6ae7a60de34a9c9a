//! `No-Vary-Search`: which parts of a query tell the responses of a path apart.
//!
//! A response that says so is stored under the canonical form of its query, and what it said under a key
//! of the path. A process remembers what it has seen, also that there was nothing, for a minute: within it
//! a lookup costs no more than any other.

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
    /// The key to look at, by the rule that is known for the path.
    pub(in crate::engine) fn key_by(&self, route: &Route, rule: &NoVarySearch) -> CacheKey {
        let Some(search) = &self.search else { return self.base.clone() };
        let target = self.target.with_query(&search.path, &search.canonical(rule));
        route.keys.base_key(&target, &self.keyed)
    }

    /// Whether a response found by one rule is meant by its own: rules change.
    pub(in crate::engine) fn is_meant(
        &self,
        rule: Option<&NoVarySearch>,
        found: &StoredResponse,
    ) -> bool {
        let (Some(rule), Some(search)) = (rule, &self.search) else { return true };
        let own = NoVarySearch::parse(&found.head.headers);
        search.canonical(&own) == search.canonical(rule)
    }

    /// Where a response is stored by its own field, and the path's indexes if it has some.
    pub(in crate::engine) fn place(
        &self,
        route: &Route,
        response: &HeaderMap,
    ) -> (CacheKey, Vec<(CacheKey, VariantIndex)>) {
        let rule = NoVarySearch::parse(response);
        match &self.search {
            Some(search) if !rule.is_default() => {
                let lines = response.get_all(NO_VARY_SEARCH).iter().map(HeaderValue::as_bytes);
                let field = Bytes::from(lines.collect::<Vec<_>>().join(&b", "[..]));
                let index = VariantIndex { search: Some(field), ..VariantIndex::default() };
                let indexes = [&search.index, &search.anywhere];
                let indexes = indexes.map(|key| (key.clone(), index.clone())).into();
                (self.key_by(route, &rule), indexes)
            }
            _ => (self.base.clone(), Vec::new()),
        }
    }
}

/// Bytes that a rule holds in memory of its own.
pub(in crate::engine) fn held_bytes(rule: &Rule) -> usize {
    rule.as_ref().map_or(0, |rule| rule.held_bytes())
}

/// The rule that a path's index holds.
pub(in crate::engine) fn rule_of(stored: Option<&Stored>) -> Rule {
    let Some(Stored::Variants(index)) = stored else { return None };
    let value = HeaderValue::from_bytes(index.search.as_ref()?).ok()?;
    let rule = NoVarySearch::parse(&HeaderMap::from_iter([(NO_VARY_SEARCH, value)]));
    (!rule.is_default()).then(|| Arc::new(rule))
}
