//! What the clones of a layer share about their keys.

use std::borrow::Cow;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::query::QueryRules;
use crate::sync;

/// Shared by the clones of a layer, so that an invalidation by one clone covers what all clones store.
#[derive(Debug, Default)]
pub(super) struct SharedRules {
    /// The query rules of all clones that wrap a service, without repeats.
    rules: RwLock<Vec<QueryRules>>,
    /// Whether a handle exists. A handle keeps the prefix and the version that its layer had when it was made.
    has_handle: AtomicBool,
}

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

    pub(super) fn set_has_handle(&self) {
        self.has_handle.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_handle(&self) -> bool {
        self.has_handle.load(Ordering::Relaxed)
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
