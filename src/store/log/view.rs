//! What has one process read of the log, and what does this say about a response?
//!
//! The server gives a row its id when it is inserted, but the row appears when its transaction commits, in any order.
//! So a view is the largest id, and the *gaps* below it: ids without a row so far. A gap ends when its row appears,
//! or when it is known that no row will come.

mod gaps;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::gaps::Gap;
pub(crate) use self::gaps::Reading;
use super::index::Index;
use crate::tag::{LogPosition, Scope, Tag, Validity};

/// The most rows that a process remembers: about 15 MB. For older rows, the log table is queried.
const WINDOW: usize = 65_536;

/// The most bytes of these rows. With long URIs and tags, fewer rows are remembered.
const WINDOW_BYTES: usize = 24 << 20;

/// The most rows of this process that are awaited one by one. With more, every response waits for the log.
pub(super) const MAX_AWAITED: usize = 16_384;

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct LogView {
    largest: u64,
    /// Ids below `largest` without a row: the first id of each range, its last, and since when.
    gaps: BTreeMap<u64, Gap>,
    /// The rows from `from` on.
    rows: BTreeMap<u64, Mark>,
    /// The memory of `rows` and `index`.
    bytes: usize,
    /// All rows seen with ids from here on are in `rows`.
    from: u64,
    index: Index,
    /// Rows of this process that have not appeared in the log yet: appended, or in an open transaction.
    awaited: BTreeMap<u64, (Mark, Instant)>,
    awaited_index: Index,
    /// If there are too many awaited rows: the largest of their ids, and since when.
    awaited_all: Option<(u64, Instant)>,
    /// Rows that could not be written, and will be written later.
    unwritten_index: Index,
    has_unwritten: bool,
    /// Rows that are being written now.
    being_written: Index,
    /// The number of rows in `being_written`.
    rows_being_written: usize,
    position: Arc<LogPosition>,
    window: usize,
}

/// What a log row names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) scope: Scope,
    pub(crate) soft: bool,
}

impl Mark {
    /// The memory of a row in the view. A URI is in two indexes.
    fn held_bytes(&self) -> usize {
        const PLACES: usize = 240;
        let name = match &self.scope {
            Scope::Everything => 0,
            Scope::Tag(tag) => tag.as_bytes().len(),
            Scope::Prefix(name) | Scope::Path(name) => name.len(),
            Scope::Uri(name) => PLACES + 2 * name.len(),
        };
        PLACES + name
    }
}

/// What the view says about a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// The log verdict.
    Known(Validity),
    /// The response has not seen rows that are not remembered. For rows below `below`, the log table must be queried;
    /// the others say `known`.
    Older { known: Validity, below: u64 },
    /// The response's position is ahead of the view.
    Ahead,
}

impl LogView {
    /// A view of a log that has been read up to `largest`. It has no gaps, and remembers no rows.
    pub(crate) fn new(largest: u64) -> Self {
        Self {
            largest,
            gaps: BTreeMap::new(),
            rows: BTreeMap::new(),
            bytes: 0,
            from: largest.saturating_add(1),
            index: Index::default(),
            awaited: BTreeMap::new(),
            awaited_index: Index::default(),
            awaited_all: None,
            unwritten_index: Index::default(),
            has_unwritten: false,
            being_written: Index::default(),
            rows_being_written: 0,
            position: Arc::new(LogPosition { largest, gaps: Vec::new() }),
            window: WINDOW,
        }
    }

    /// Hashes everything in which two views can differ.
    #[cfg(test)]
    pub(crate) fn hash(&self, hasher: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        (self.largest, self.from, self.gaps.len(), self.rows.len()).hash(hasher);
        self.gaps.iter().for_each(|(from, gap)| (*from, gap.to).hash(hasher));
        self.rows.iter().for_each(|(id, mark)| (*id, &mark.scope).hash(hasher));
        self.awaited.len().hash(hasher);
        self.awaited.keys().for_each(|id| id.hash(hasher));
        self.awaited_all.map(|(id, _)| id).hash(hasher);
    }

    #[cfg(test)]
    pub(crate) fn with_window(mut self, window: usize) -> Self {
        self.window = window;
        self
    }

    /// Takes over the awaited rows of an earlier view.
    pub(crate) fn take_over(&mut self, before: Self) {
        for (id, (mark, since)) in before.awaited {
            let _ = self.await_row(id, mark, since);
        }
        if let Some((id, since)) = before.awaited_all {
            self.await_all(id, since);
        }
        (self.being_written, self.rows_being_written) =
            (before.being_written, before.rows_being_written);
    }

    /// Rows below this id may have been pruned before they were read. For a response that has not seen them, the log
    /// table must be queried.
    pub(crate) fn unknown_below(&mut self, floor: u64) {
        self.from = self.from.max(floor);
    }

    pub(crate) fn largest(&self) -> u64 {
        self.largest
    }

    /// The log position of a response whose handler is called now.
    pub(crate) fn position(&self) -> Arc<LogPosition> {
        Arc::clone(&self.position)
    }

    /// The largest id up to which the log is settled: every row has been seen, or will never come.
    pub(crate) fn settled(&self) -> u64 {
        self.gaps.keys().next().map_or(self.largest, |first| first.saturating_sub(1))
    }

    /// The number of gaps.
    pub(crate) fn gap_count(&self) -> usize {
        self.gaps.len()
    }

    /// Ranges of ids without a row for longer than `grace`: gaps, and awaited rows.
    pub(crate) fn overdue(&self, grace: Duration, now: Instant) -> Vec<(u64, u64)> {
        let late = |since: &Instant| now.saturating_duration_since(*since) >= grace;
        let gaps = self.gaps.iter().filter(|(_, gap)| late(&gap.since));
        let mut overdue: Vec<_> = gaps.map(|(&from, gap)| (from, gap.to)).collect();
        let own = self.awaited.range(self.largest.saturating_add(1)..);
        for (&id, _) in own.filter(|(_, (_, since))| late(since)) {
            match overdue.last_mut() {
                Some((_, to)) if to.checked_add(1) == Some(id) => *to = id,
                _ => overdue.push((id, id)),
            }
        }
        let all = self.awaited_all.filter(|(id, since)| *id > self.largest && late(since));
        overdue.extend(all.map(|(id, _)| (self.largest.saturating_add(1), id)));
        overdue
    }

    /// Adds rows that have been read, in any order. Rows that were seen before change nothing.
    pub(crate) fn absorb(&mut self, rows: impl IntoIterator<Item = (u64, Mark)>, now: Instant) {
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_unstable_by_key(|(id, _)| *id);
        let mut changed = false;
        for (id, mark) in rows {
            if id > self.largest {
                if id > self.largest.saturating_add(1) {
                    let gap = Gap { to: id - 1, since: now };
                    self.gaps.insert(self.largest + 1, gap);
                }
                self.largest = id;
            } else if !self.leave_gap(id, id) {
                continue;
            }
            changed = true;
            self.arrived(id);
            // for older rows, the log table is queried
            if id >= self.from {
                self.index.add(id, &mark.scope, mark.soft);
                self.bytes += mark.held_bytes();
                self.rows.insert(id, mark);
            }
        }
        if changed {
            self.forget_old();
            self.join_gaps();
            self.all_arrived(self.largest);
            self.update_position();
        }
    }

    /// No row will come with these ids, because their transactions were rolled back. A query at `asked` has found
    /// this out. If the server crashed, another transaction may have got one of these ids since: awaited rows that
    /// are newer than the query stay awaited.
    pub(crate) fn close(&mut self, from: u64, to: u64, asked: Instant) {
        self.end_gaps(from, to);
        let own = self.awaited.range(from..=to).filter(|(_, (_, since))| *since < asked);
        let gone: Vec<u64> = own.map(|(&id, _)| id).collect();
        gone.into_iter().for_each(|id| self.arrived(id));
        // if nothing is left between the largest id and `from`, rows up to `to` will not come either
        let is_older = self.awaited_all.is_some_and(|(_, since)| since < asked);
        let adjoins = from <= self.largest.saturating_add(1);
        self.all_arrived(if is_older && adjoins { to } else { 0 });
        self.update_position();
    }

    /// The log is settled up to `id`.
    pub(crate) fn settle(&mut self, id: u64) {
        self.end_gaps(0, id.min(self.largest));
        self.all_arrived(0);
        self.update_position();
    }

    fn forget_old(&mut self) {
        while self.rows.len() > self.window || self.bytes > WINDOW_BYTES {
            let Some((id, mark)) = self.rows.pop_first() else { break };
            self.index.remove(id, &mark.scope, mark.soft);
            self.bytes = self.bytes.saturating_sub(mark.held_bytes());
            self.from = self.from.max(id.saturating_add(1));
        }
    }

    /// Forgets a row, because a newer row names the same.
    pub(crate) fn forget(&mut self, id: u64) {
        if let Some(mark) = self.rows.remove(&id) {
            self.index.remove(id, &mark.scope, mark.soft);
            self.bytes = self.bytes.saturating_sub(mark.held_bytes());
        }
    }

    fn update_position(&mut self) {
        let gaps = self.gaps.iter().map(|(&from, gap)| (from, gap.to));
        self.position = Arc::new(LogPosition::of(self.largest, gaps));
    }

    /// This process has inserted a row, which appears when its transaction commits. Until then, a response that it names
    /// waits for a new read of the log. Returns `false` if a row with this id has been seen: the same row, or another
    /// one before a crash of the server.
    #[must_use]
    pub(crate) fn await_row(&mut self, id: u64, mark: Mark, now: Instant) -> bool {
        let seen = id <= self.largest
            && self.gaps.range(..=id).next_back().is_none_or(|(_, gap)| gap.to < id);
        if seen {
            return false;
        }
        if self.awaited.len() >= MAX_AWAITED {
            self.await_all(id, now);
            return true;
        }
        // a row with the same id: the server lost it in a crash
        self.arrived(id);
        self.awaited_index.add(id, &mark.scope, mark.soft);
        self.awaited.insert(id, (mark, now));
        true
    }

    fn await_all(&mut self, id: u64, now: Instant) {
        let last = self.awaited_all.map_or(id, |(last, _)| last.max(id));
        self.awaited_all = Some((last, now));
    }

    /// Only gaps are still open up to `id`, or up to the largest id. Ends `awaited_all` if no gap is left below its
    /// id.
    fn all_arrived(&mut self, id: u64) {
        let gap = self.gaps.first_key_value().map(|(&from, _)| from);
        let is_over = |last: u64| last <= self.largest.max(id) && gap.is_none_or(|gap| gap > last);
        self.awaited_all = self.awaited_all.filter(|(last, _)| !is_over(*last));
    }

    fn arrived(&mut self, id: u64) {
        if let Some((mark, _)) = self.awaited.remove(&id) {
            self.awaited_index.remove(id, &mark.scope, mark.soft);
        }
    }

    /// Whether an awaited row names a response.
    pub(crate) fn awaits(&self, key: &[u8], tags: &[Tag]) -> bool {
        self.awaited_all.is_some()
            || !self.awaited.is_empty() && self.awaited_index.names(key, tags)
    }

    /// Replaces the rows that could not be written. They count in this process.
    pub(crate) fn set_unwritten(&mut self, unwritten: impl Iterator<Item = Mark>) {
        self.unwritten_index = Index::default();
        self.has_unwritten = false;
        for mark in unwritten {
            self.has_unwritten = true;
            self.unwritten_index.add(1, &mark.scope, mark.soft);
        }
    }

    /// These rows are being written. They count in this process at once.
    pub(crate) fn begin_write(&mut self, rows: &[Mark]) {
        self.rows_being_written += rows.len();
        rows.iter().for_each(|mark| self.being_written.add(1, &mark.scope, mark.soft));
    }

    /// These rows have been written, or could not be written.
    pub(crate) fn end_write(&mut self, rows: &[Mark]) {
        self.rows_being_written = self.rows_being_written.saturating_sub(rows.len());
        rows.iter().for_each(|mark| self.being_written.remove(1, &mark.scope, mark.soft));
    }

    /// What rows say that are not written yet.
    pub(crate) fn unwritten_verdict(&self, key: &[u8], tags: &[Tag]) -> Validity {
        let of = |is: bool, index: &Index| match is {
            true => verdict(index, key, tags, &LogPosition::default(), 0),
            false => Validity::Valid,
        };
        of(self.has_unwritten, &self.unwritten_index)
            .max(of(self.rows_being_written > 0, &self.being_written))
    }

    /// What the view says about a response with this key, these tags and this position.
    pub(crate) fn judge(&self, key: &[u8], tags: &[Tag], position: &LogPosition) -> Judgement {
        let unwritten = self.unwritten_verdict(key, tags);
        if unwritten == Validity::Invalid {
            return Judgement::Known(unwritten);
        }
        if position.largest > self.largest {
            return Judgement::Ahead;
        }
        let is_older = position.lowest_unseen() < self.from;
        if position.largest == self.largest && position.gaps.is_empty() && !is_older {
            return Judgement::Known(unwritten);
        }
        let known = unwritten.max(verdict(&self.index, key, tags, position, self.from));
        match known {
            Validity::Invalid => Judgement::Known(known),
            _ if is_older => Judgement::Older { known, below: self.from },
            _ => Judgement::Known(known),
        }
    }
}

/// The log verdict of an index, by its rows from id `from` on.
fn verdict(index: &Index, key: &[u8], tags: &[Tag], position: &LogPosition, from: u64) -> Validity {
    let verdicts = index.of(key, tags).map(|rows| rows.verdict(position, from));
    verdicts.max().unwrap_or(Validity::Valid)
}
