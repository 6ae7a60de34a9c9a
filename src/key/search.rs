//! Where is the `No-Vary-Search` of a path stored, and has any response had one?

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::builder::{MAX_TARGET_BYTES, Target, TargetKey};
use super::target::{KeyRules, push_partition};
use super::{CacheKey, SEPARATOR};

/// How often a process asks the store whether another process has stored a response with `No-Vary-Search`.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// How often a process that stores such responses writes the mark that says so.
const WRITE_EVERY: Duration = Duration::from_secs(3600);

/// A target with a query of which parts may not count (`No-Vary-Search`).
#[derive(Clone, Debug)]
pub(crate) struct Search {
    /// The key of the path's index, on its origin and in its partition.
    pub(crate) index: CacheKey,
    /// The key of the newest index of the path, for callers that know only the path.
    pub(crate) anywhere: CacheKey,
    pub(crate) path: String,
    pub(crate) query: String,
}

/// Whether any response under a prefix and version has had `No-Vary-Search`. Shared by the clones of a layer.
pub(super) struct SearchUse {
    used: AtomicBool,
    began: Instant,
    /// When this process last asked for the mark, and last wrote it; see [`is_due`](Self::is_due).
    asked: AtomicU64,
    written: AtomicU64,
}

impl Default for SearchUse {
    fn default() -> Self {
        let (asked, written) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { used: AtomicBool::new(false), began: Instant::now(), asked, written }
    }
}

impl SearchUse {
    /// Whether `every` has passed since `last`, or `last` is 0. Of several callers, one gets `true`.
    fn is_due(&self, last: &AtomicU64, every: Duration) -> bool {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = ms(self.began.elapsed() + every);
        let before = last.load(Ordering::Relaxed);
        now.saturating_sub(before) >= ms(every)
            && last.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl KeyRules {
    /// Whether any response has had `No-Vary-Search`, as far as this process knows.
    pub(crate) fn uses_search(&self) -> bool {
        self.search_use.used.load(Ordering::Relaxed)
    }

    /// A response has had `No-Vary-Search`.
    pub(crate) fn search_is_used(&self) {
        self.search_use.used.store(true, Ordering::Relaxed);
    }

    /// The key of the mark that is stored beside the first responses with `No-Vary-Search`, if it is time to ask
    /// whether another process has stored it. Only for targets with a query, once in [`ASK_EVERY`].
    pub(crate) fn search_mark_to_ask(&self, target: &TargetKey) -> Option<CacheKey> {
        let Target::Uri { path_and_query, .. } = &target.target else { return None };
        let due = || self.search_use.is_due(&self.search_use.asked, ASK_EVERY);
        (!self.uses_search() && path_and_query.contains(&b'?') && due()).then(|| self.search_mark())
    }

    /// The same key, if it is time to write the mark: once in [`WRITE_EVERY`].
    pub(crate) fn search_mark_to_write(&self) -> Option<CacheKey> {
        let due = self.search_use.is_due(&self.search_use.written, WRITE_EVERY);
        due.then(|| self.search_mark())
    }

    fn search_mark(&self) -> CacheKey {
        CacheKey::new(self.search_start(""))
    }

    /// How the indexes of a path begin. No path begins with a question mark, so no path's range holds them.
    fn search_start(&self, path: &str) -> Vec<u8> {
        format!("{}:{}:?{path}", self.prefix, self.version).into_bytes()
    }

    /// The path and the query of a target, and the keys of the path's indexes. `None` if the target has no query, is
    /// a custom key, or is shortened.
    pub(crate) fn search(&self, target: &TargetKey) -> Option<Search> {
        let Target::Uri { path_and_query, .. } = &target.target else { return None };
        if path_and_query.len() >= MAX_TARGET_BYTES {
            return None;
        }
        let (path, query) = std::str::from_utf8(path_and_query).ok()?.split_once('?')?;
        let mut key = self.search_start(path);
        let anywhere = CacheKey::new(key.clone());
        if let Some(origin) = target.origin_bytes().filter(|origin| !origin.is_empty()) {
            key.push(SEPARATOR);
            key.extend_from_slice(origin);
        }
        push_partition(&mut key, target);
        let index = CacheKey::new(key);
        Some(Search { index, anywhere, path: path.to_owned(), query: query.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn target(rules: &KeyRules, uri: &str) -> TargetKey {
        let (parts, ()) = Request::get(uri).body(()).unwrap().into_parts();
        rules.target(&parts.uri, &parts).unwrap()
    }

    #[test]
    fn a_process_asks_for_the_mark_once_a_minute_until_it_is_found() {
        let rules = KeyRules::default();
        let (plain, query) = (target(&rules, "http://h/p"), target(&rules, "http://h/p?a"));
        assert_eq!(rules.search_mark_to_ask(&plain), None, "no query, no question");
        let mark = rules.search_mark_to_ask(&query).unwrap();
        assert_eq!(rules.clone().search_mark_to_ask(&query), None, "clones ask together");
        rules.search_use.asked.store(0, Ordering::Relaxed); // a minute later
        assert_eq!(rules.search_mark_to_ask(&query), Some(mark.clone()));
        rules.search_is_used();
        rules.search_use.asked.store(0, Ordering::Relaxed);
        assert_eq!(rules.search_mark_to_ask(&query), None);
        assert_eq!(rules.search_mark_to_write(), Some(mark));
        assert_eq!(rules.search_mark_to_write(), None, "once an hour");
    }

    #[test]
    fn each_prefix_and_version_has_a_mark_of_its_own() {
        let mut rules = KeyRules::default();
        rules.search_is_used();
        let first = rules.search_mark();
        rules.set_version(2).unwrap();
        assert!(!rules.uses_search() && rules.search_mark() != first);
        rules.search_is_used();
        rules.set_prefix("other").unwrap();
        assert!(!rules.uses_search());
    }
}
