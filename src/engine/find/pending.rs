//! Which entries are on their way to the store? Lookups find them from the moment that their body is complete.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::key::{CacheKey, KeyRange};
use crate::stored::{Entry, Stored};
use crate::sync;

/// Memory of a waiting entry in addition to its own bytes: its task, its places in queues and maps, and its fields as
/// a row. Measured with bodies of five bytes: 4.2 KB each.
const OVERHEAD: usize = 4 << 10;

#[derive(Clone, Default)]
pub(crate) struct Pending(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// The number of entries, readable without the lock. Most of the time there are none.
    count: AtomicUsize,
    settled: Notify,
}

#[derive(Default)]
struct State {
    entries: HashMap<CacheKey, PendingEntry>,
    bytes: usize,
    next: u64,
    open_tickets: BTreeMap<u64, Arc<[CacheKey]>>,
}

struct PendingEntry {
    ticket: u64,
    stored: Stored,
    expires_ms: u64,
}

/// Keeps entries visible while they are written. Dropping it ends the wait.
pub(crate) struct Ticket {
    pending: Pending,
    number: u64,
    keys: Arc<[CacheKey]>,
    bytes: usize,
}

/// Why entries did not become visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The waiting entries take too many bytes.
    Full,
    /// Something newer has happened to the key.
    Overtaken,
}

impl Pending {
    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.0.state)
    }

    /// Makes entries visible, if all waiting entries stay within `limit` bytes and `allowed` agrees. `allowed` can
    /// ask what waits under a key. It runs under the lock, so no withdrawal can come between.
    pub(crate) fn insert(
        &self,
        entries: &[Entry],
        limit: usize,
        allowed: impl FnOnce(&dyn Fn(&CacheKey) -> Option<Stored>) -> bool,
    ) -> Result<Ticket, Refused> {
        let size =
            |entry: &Entry| OVERHEAD + entry.key.as_bytes().len() + entry.stored.size_bytes();
        let bytes: usize = entries.iter().map(size).sum();
        let mut state = self.state();
        if state.bytes.saturating_add(bytes) > limit {
            return Err(Refused::Full);
        }
        if !allowed(&|key| Some(state.entries.get(key)?.stored.clone())) {
            return Err(Refused::Overtaken);
        }
        state.bytes += bytes;
        state.next += 1;
        let number = state.next;
        let keys: Arc<[CacheKey]> = entries.iter().map(|entry| entry.key.clone()).collect();
        state.open_tickets.insert(number, Arc::clone(&keys));
        for Entry { key, stored, expires_ms } in entries {
            let (stored, expires_ms) = (stored.clone(), *expires_ms);
            state.entries.insert(key.clone(), PendingEntry { ticket: number, stored, expires_ms });
        }
        self.0.count.store(state.entries.len(), Ordering::Release);
        drop(state);
        Ok(Ticket { pending: self.clone(), number, keys, bytes })
    }

    /// The entry that waits under `key`.
    pub(crate) fn find(&self, key: &CacheKey, now_ms: impl FnOnce() -> u64) -> Option<Stored> {
        if self.0.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let state = self.state();
        let waiting = state.entries.get(key)?;
        (waiting.expires_ms > now_ms()).then(|| waiting.stored.clone())
    }

    /// Hides the entries in a range. They may still be written: see [`Pending::settled`].
    pub(crate) fn withdraw(&self, range: &KeyRange) {
        let mut state = self.state();
        state.entries.retain(|key, _| !range.contains(key.as_bytes()));
        self.0.count.store(state.entries.len(), Ordering::Release);
    }

    /// Waits until all writes that have begun so far have ended.
    pub(crate) async fn settled(&self) {
        self.settled_where(|_| true).await;
    }

    /// The same, for the writes in a range.
    pub(crate) async fn settled_in(&self, range: &KeyRange) {
        self.settled_where(|key| range.contains(key.as_bytes())).await;
    }

    async fn settled_where(&self, is_meant: impl Fn(&CacheKey) -> bool) {
        let last = self.state().next;
        let ended = || {
            let state = self.state();
            !state.open_tickets.range(..=last).any(|(_, keys)| keys.iter().any(&is_meant))
        };
        sync::until(&self.0.settled, ended).await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.pending.state();
        for key in self.keys.iter() {
            if state.entries.get(key).is_some_and(|waiting| waiting.ticket == self.number) {
                state.entries.remove(key);
            }
        }
        state.bytes = state.bytes.saturating_sub(self.bytes);
        state.open_tickets.remove(&self.number);
        self.pending.0.count.store(state.entries.len(), Ordering::Release);
        drop(state);
        self.pending.0.settled.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::stored::VariantIndex;

    fn entry(key: &str) -> Entry {
        let stored = Stored::Variants(Arc::new(VariantIndex::default()));
        Entry { key: CacheKey::new(key.to_owned()), stored, expires_ms: 10 }
    }

    #[test]
    fn an_entry_is_visible_until_its_ticket_is_dropped() {
        let pending = Pending::default();
        let ticket = pending.insert(&[entry("a")], 10_000, |_| true).unwrap();
        assert!(pending.find(&entry("a").key, || 9).is_some());
        assert!(pending.find(&entry("a").key, || 10).is_none(), "expired");
        assert!(pending.find(&entry("b").key, || 9).is_none());
        drop(ticket);
        assert!(pending.find(&entry("a").key, || 9).is_none());
        assert_eq!(pending.state().bytes, 0);
    }

    #[test]
    fn an_older_ticket_does_not_hide_a_newer_entry() {
        let pending = Pending::default();
        let older = pending.insert(&[entry("a")], 10_000, |_| true).unwrap();
        let newer = pending.insert(&[entry("a")], 10_000, |_| true).unwrap();
        drop(older);
        assert!(pending.find(&entry("a").key, || 9).is_some());
        drop(newer);
        assert!(pending.find(&entry("a").key, || 9).is_none());
    }

    #[test]
    fn entries_over_the_byte_limit_are_refused() {
        let pending = Pending::default();
        let limit = OVERHEAD + 200;
        let one = pending.insert(&[entry("a")], limit, |_| true).unwrap();
        assert!(pending.insert(&[entry("b")], limit, |_| true).is_err());
        drop(one);
        assert!(pending.insert(&[entry("b")], limit, |_| true).is_ok());
    }

    #[tokio::test]
    async fn settled_waits_for_earlier_tickets_only() {
        let pending = Pending::default();
        let early = pending.insert(&[entry("a")], 10_000, |_| true).unwrap();
        let waiting = tokio::spawn({
            let pending = pending.clone();
            async move { pending.settled().await }
        });
        tokio::task::yield_now().await;
        let _late = pending.insert(&[entry("b")], 10_000, |_| true).unwrap();
        assert!(!waiting.is_finished());
        drop(early);
        waiting.await.unwrap();
    }

    #[test]
    fn withdrawn_entries_are_invisible_at_once() {
        let pending = Pending::default();
        let _ticket = pending.insert(&[entry("a"), entry("b")], 10_000, |_| true).unwrap();
        pending.withdraw(&KeyRange::starting_with("a"));
        assert!(pending.find(&entry("a").key, || 9).is_none());
        assert!(pending.find(&entry("b").key, || 9).is_some());
    }
}
