//! What the clones of a layer share about their keys.

use std::borrow::Cow;
use std::sync::RwLock;

use super::query::QueryRules;
use crate::sync;

/// Shared by the clones of a layer, so that an invalidation by one clone covers what all clones store.
#[derive(Debug, Default)]
pub(super) struct SharedRules {
    /// The query rules of all clones that wrap a service, without repeats.
    rules: RwLock<Vec<QueryRules>>,
    /// The namespaces of handles. A handle keeps the prefix and the version that its layer had when it was made.
    handles: RwLock<Vec<Namespace>>,
    /// The namespaces of the clones that wrap a service.
    services: RwLock<Vec<Namespace>>,
}

/// Prefix and version.
type Namespace = (String, u32);

impl SharedRules {
    pub(super) fn add(&self, rules: &QueryRules) {
        let is_known = sync::read(&self.rules).contains(rules);
        if !is_known {
            let mut all = sync::write(&self.rules);
            if !all.contains(rules) {
                all.push(rules.clone());
            }
        }
    }

    pub(super) fn has_handle(&self) -> bool {
        !sync::read(&self.handles).is_empty()
    }

    /// Notes a handle. `false` if there are services, and the handle covers none of them.
    pub(super) fn add_handle(&self, namespace: Namespace) -> bool {
        note(&self.handles, &self.services, namespace)
    }

    /// Notes a service. `false` if there are handles, and none of them covers the service.
    pub(super) fn add_service(&self, namespace: Namespace) -> bool {
        note(&self.services, &self.handles, namespace)
    }

    /// The forms in which the clones store a path with its query: the form by `own` rules first, then the others.
    pub(super) fn applied<'a>(
        &self,
        own: &QueryRules,
        path_and_query: &'a str,
    ) -> Vec<Cow<'a, str>> {
        let mut applied = vec![own.apply(path_and_query)];
        if path_and_query.contains('?') {
            for rules in sync::read(&self.rules).iter() {
                let other = rules.apply(path_and_query);
                if !applied.contains(&other) {
                    applied.push(other);
                }
            }
        }
        applied
    }
}

fn note(own: &RwLock<Vec<Namespace>>, others: &RwLock<Vec<Namespace>>, new: Namespace) -> bool {
    let others = sync::read(others);
    let is_covered = others.is_empty() || others.contains(&new);
    drop(others);
    let mut own = sync::write(own);
    if !own.contains(&new) {
        own.push(new);
    }
    is_covered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_with_another_prefix_than_the_services_is_noticed() {
        let namespace = |prefix: &str| (prefix.to_owned(), 1);
        let shared = SharedRules::default();
        assert!(shared.add_service(namespace("")));
        assert!(!shared.add_handle(namespace("shop")));
        assert!(!shared.add_service(namespace("")));
        assert!(shared.add_service(namespace("shop")));
        assert!(shared.add_handle(namespace("")), "a handle for each of two caches");
    }
}
