//! What one process has seen of the log, and what that says about responses.
//!
//! Ids are handed out when a row is inserted, and rows appear when their transaction commits, in any
//! order. So what has been seen is the largest id and the *gaps* below it: ids that no row has been
//! seen for. A gap ends when its row appears, or when it is known that there will be none.

mod gaps;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::gaps::Gap;
pub(crate) use self::gaps::Reading;
use super::index::Index;
use crate::tag::{LogPosition, Scope, Tag, Validity};

/// Rows that a process remembers: 65,536, about 15 MB. What is older is asked for.
const WINDOW: usize = 65_536;

/// What these rows may take: 24 MiB. They are fewer where URIs and tags are long.
const WINDOW_BYTES: usize = 24 << 20;

/// Rows of this process that are awaited one by one; with more, everything is.
pub(super) const MAX_AWAITED: usize = 16_384;

/// What one process has seen of the log.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct LogView {
    largest: u64,
    /// Ids below `largest` without a row, as ranges: first to last, and since when.
    gaps: BTreeMap<u64, Gap>,
    /// The rows seen, from `from` on.
    rows: BTreeMap<u64, Mark>,
    /// What `rows` and `index` take.
    bytes: usize,
    /// Every row with an id from here on that has been seen is in `rows`.
    from: u64,
    index: Index,
    /// Rows that this process has appended, or is about to commit, and has not seen yet.
    awaited: BTreeMap<u64, (Mark, Instant)>,
    awaited_index: Index,
    /// Rows that were too many for that: up to this id, since when.
    awaited_all: Option<(u64, Instant)>,
    /// What is to be invalidated and could not be written yet.
    owed_index: Index,
    owes: bool,
    /// What is to be invalidated and waits to be written.
    under_way: Index,
    /// Rows of that.
    begun: usize,
    position: Arc<LogPosition>,
    window: usize,
}

/// What a row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) scope: Scope,
    pub(crate) soft: bool,
}

impl Mark {
    /// What a row takes with its places in the view: a URI has two.
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
    /// What has been seen decides.
    Known(Validity),
    /// The response had not seen rows that are not remembered: the log itself has to be asked about those
    /// below `below`. The others say `known`.
    Older { known: Validity, below: u64 },
    /// The response's position lies ahead of what has been seen.
    Ahead,
}

impl LogView {
    /// The view of a log that has been seen up to `largest`, without gaps, and of which nothing is
    /// remembered.
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
            owed_index: Index::default(),
            owes: false,
            under_way: Index::default(),
            begun: 0,
            position: Arc::new(LogPosition { largest, gaps: Vec::new() }),
            window: WINDOW,
        }
    }

    /// Everything that two views can differ in.
    #[cfg(test)]
    pub(crate) fn fingerprint(&self) -> impl std::hash::Hash + use<> {
        let gaps: Vec<(u64, u64)> = self.gaps.iter().map(|(&from, gap)| (from, gap.to)).collect();
        let rows: Vec<(u64, Scope)> =
            self.rows.iter().map(|(&id, mark)| (id, mark.scope.clone())).collect();
        let awaited: Vec<u64> = self.awaited.keys().copied().collect();
        let awaited_all = self.awaited_all.map(|(id, _)| id);
        (self.largest, gaps, rows, self.from, awaited, awaited_all)
    }

    #[cfg(test)]
    pub(crate) fn with_window(mut self, window: usize) -> Self {
        self.window = window;
        self
    }

    /// Takes the place of what was known of the log, but for what this process awaits.
    pub(crate) fn take_over(&mut self, before: Self) {
        for (id, (mark, since)) in before.awaited {
            let _ = self.await_row(id, mark, since);
        }
        if let Some((id, since)) = before.awaited_all {
            self.await_all(id, since);
        }
        (self.under_way, self.begun) = (before.under_way, before.begun);
    }

    /// Rows below this id may have been pruned before they were seen: a response that had not seen them has
    /// to be asked about.
    pub(crate) fn unknown_below(&mut self, floor: u64) {
        self.from = self.from.max(floor);
    }

    /// The largest id seen.
    pub(crate) fn largest(&self) -> u64 {
        self.largest
    }

    /// Where a response stands whose handler runs now.
    pub(crate) fn position(&self) -> Arc<LogPosition> {
        Arc::clone(&self.position)
    }

    /// The largest id up to which every id is settled: seen, or known never to come.
    pub(crate) fn settled(&self) -> u64 {
        self.gaps.keys().next().map_or(self.largest, |first| first.saturating_sub(1))
    }

    /// Ranges of ids that have been without a row for longer than `grace`: gaps, and rows of this
    /// process that have not appeared.
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

    /// Takes in rows that have been read, in any order. Those seen before change nothing.
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
            // what had not seen an older one is asked about
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

    /// There will be no row with these ids: their transactions were rolled back, as was found out by a
    /// question asked at `asked`. A server that came back from a crash may have given an id to another
    /// transaction since: a row of this process's own that is newer than the question is awaited still.
    pub(crate) fn close(&mut self, from: u64, to: u64, asked: Instant) {
        self.end_gaps(from, to);
        let own = self.awaited.range(from..=to).filter(|(_, (_, since))| *since < asked);
        let gone: Vec<u64> = own.map(|(&id, _)| id).collect();
        gone.into_iter().for_each(|id| self.arrived(id));
        // what lies ahead of the largest is gone too when nothing between is left out
        let is_older = self.awaited_all.is_some_and(|(_, since)| since < asked);
        let adjoins = from <= self.largest.saturating_add(1);
        self.all_arrived(if is_older && adjoins { to } else { 0 });
        self.update_position();
    }

    /// Everything up to `id` is known to be settled.
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

    fn update_position(&mut self) {
        let gaps = self.gaps.iter().map(|(&from, gap)| (from, gap.to));
        self.position = Arc::new(LogPosition::of(self.largest, gaps));
    }

    /// This process has inserted a row that is visible when its transaction commits. Until it appears,
    /// what it names is served only after another look at the log. `false` when a row with this id has been
    /// seen already: this one, or another one, before a crash of the server.
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
        // one with the same number: the server came back without it
        self.arrived(id);
        self.awaited_index.add(id, &mark.scope, mark.soft);
        self.awaited.insert(id, (mark, now));
        true
    }

    fn await_all(&mut self, id: u64, now: Instant) {
        let last = self.awaited_all.map_or(id, |(last, _)| last.max(id));
        self.awaited_all = Some((last, now));
    }

    /// Nothing is to come up to `id`, or up to the largest, but for the gaps: ends the awaiting of everything
    /// where no gap is left below what it was for.
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

    /// Whether a row of this process that has not appeared yet names a response.
    pub(crate) fn awaits(&self, key: &[u8], tags: &[Tag]) -> bool {
        self.awaited_all.is_some()
            || !self.awaited.is_empty() && self.awaited_index.names(key, tags)
    }

    /// Replaces what is to be invalidated and could not be written yet: it counts as invalid here.
    pub(crate) fn set_owed(&mut self, owed: impl Iterator<Item = Mark>) {
        self.owed_index = Index::default();
        self.owes = false;
        for mark in owed {
            self.owes = true;
            self.owed_index.add(1, &mark.scope, mark.soft);
        }
    }

    /// These are to be invalidated and wait to be written: they count here at once.
    pub(crate) fn begin(&mut self, rows: &[Mark]) {
        self.begun += rows.len();
        rows.iter().for_each(|mark| self.under_way.add(1, &mark.scope, mark.soft));
    }

    /// They do not wait any more: they have been written, or are owed.
    pub(crate) fn end(&mut self, rows: &[Mark]) {
        self.begun = self.begun.saturating_sub(rows.len());
        rows.iter().for_each(|mark| self.under_way.remove(1, &mark.scope, mark.soft));
    }

    /// What is to be invalidated and not written yet says of a response.
    pub(crate) fn owed(&self, key: &[u8], tags: &[Tag]) -> Validity {
        let of = |is: bool, index: &Index| match is {
            true => verdict(index, key, tags, &LogPosition::default(), 0),
            false => Validity::Valid,
        };
        of(self.owes, &self.owed_index).max(of(self.begun > 0, &self.under_way))
    }

    /// What has been seen says of a response with this key, these tags and this position.
    pub(crate) fn judge(&self, key: &[u8], tags: &[Tag], position: &LogPosition) -> Judgement {
        let owed = self.owed(key, tags);
        if owed == Validity::Invalid {
            return Judgement::Known(owed);
        }
        if position.largest > self.largest {
            return Judgement::Ahead;
        }
        let is_older = position.lowest_unseen() < self.from;
        if position.largest == self.largest && position.gaps.is_empty() && !is_older {
            return Judgement::Known(owed);
        }
        let known = owed.max(verdict(&self.index, key, tags, position, self.from));
        match known {
            Validity::Invalid => Judgement::Known(known),
            _ if is_older => Judgement::Older { known, below: self.from },
            _ => Judgement::Known(known),
        }
    }
}

/// The worst that the rows of an index from an id on say of a response.
fn verdict(index: &Index, key: &[u8], tags: &[Tag], position: &LogPosition, from: u64) -> Validity {
    let verdicts = index.of(key, tags).map(|rows| rows.verdict(position, from));
    verdicts.max().unwrap_or(Validity::Valid)
}
