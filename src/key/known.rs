//! What all clones of a layer know of each other.

use std::borrow::Cow;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::query::QueryRules;
use crate::sync;

/// Shared by the clones of a layer: an invalidation by one of them has to name what the others store.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The query rules of the clones that wrap a service, each once.
    rules: RwLock<Vec<QueryRules>>,
    /// Whether there is a handle, which knows the prefix and the version as they were when it was made.
    has_handle: AtomicBool,
}

impl Known {
    pub(super) fn add(&self, rules: &QueryRules) {
        let known = sync::read(&self.rules).contains(rules);
        if !known {
            let mut all = sync::write(&self.rules);
            if !all.contains(rules) {
                all.push(rules.clone());
            }
        }
    }

    pub(super) fn handle_is_made(&self) {
        self.has_handle.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_handle(&self) -> bool {
        self.has_handle.load(Ordering::Relaxed)
    }

    /// What a path and query is stored under: by `own` rules first, then by those of each clone.
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
