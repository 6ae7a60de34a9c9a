//! What a process knows of the `No-Vary-Search` of paths.

use super::super::request::{Plan, Rule, rule_of};
use super::super::{Engine, Route};
use crate::key::{CacheKey, TargetKey};
use crate::store::{Store, StoreError};

impl<St: Store> Engine<St> {
    /// Remembers a path's rule, or that it has none.
    pub(in crate::engine) fn learn_rule(&self, search: &CacheKey, rule: Rule) {
        self.searches.insert(search.hash(), rule);
    }

    /// What requests of this plan fly under, without the variant, and what says so of their query.
    pub(in crate::engine) fn flies_by(&self, route: &Route, plan: &Plan) -> (CacheKey, Rule) {
        let known = plan.search.as_ref().map(|search| search.index.hash());
        let rule = known.and_then(|hash| self.searches.get(&hash)).flatten();
        let base = rule.as_ref().map_or_else(|| plan.base.clone(), |rule| plan.key_by(route, rule));
        (base, rule)
    }

    /// The keys of a target: by its own query, and by what the path's responses say of it.
    pub(in crate::engine) async fn spellings(
        &self,
        route: &Route,
        target: &TargetKey,
    ) -> Result<Vec<TargetKey>, StoreError> {
        let mut targets = vec![target.clone()];
        let Some(search) = route.keys.search(target) else { return Ok(targets) };
        let indexes = vec![search.index.clone(), search.anywhere.clone()];
        for index in self.store.get_many(indexes).await? {
            let Some(rule) = rule_of(index.as_ref()) else { continue };
            let other = target.with_query(&search.path, &search.canonical(&rule));
            if !targets.contains(&other) {
                targets.push(other);
            }
        }
        Ok(targets)
    }
}
