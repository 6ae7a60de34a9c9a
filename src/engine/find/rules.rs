//! Under which keys are the responses of a path with `No-Vary-Search`?

use super::super::request::{Cx, Rule, rule_of};
use super::super::{Engine, Route};
use crate::key::{CacheKey, TargetKey};
use crate::store::{Store, StoreError};

/// The key of the request's flight, without the variant, and the rule that it comes from.
pub(in crate::engine) fn collapse_key<St>(cx: &Cx<St>) -> (CacheKey, Rule) {
    let Cx { engine, route, plan } = cx;
    let known = plan.search(route).and_then(|search| engine.known.rule(search));
    let rule = known.flatten();
    let base = rule.as_ref().map_or_else(|| plan.base.clone(), |rule| plan.key_under(route, rule));
    (base, rule)
}

/// The forms of a target under which responses may be stored: with its own query, and under the path's rule.
pub(in crate::engine) async fn lookup_targets<St: Store>(
    engine: &Engine<St>,
    route: &Route,
    target: &TargetKey,
) -> Result<Vec<TargetKey>, StoreError> {
    let mut targets = vec![target.clone()];
    let Some(search) = route.keys.search(target) else { return Ok(targets) };
    let indexes = vec![search.index.clone(), search.anywhere.clone()];
    for index in engine.store.get_many(indexes).await? {
        let Some(rule) = rule_of(index.as_ref()) else { continue };
        let other = target.with_query(&search.path, &search.canonical(&rule));
        if !targets.contains(&other) {
            targets.push(other);
        }
    }
    Ok(targets)
}
