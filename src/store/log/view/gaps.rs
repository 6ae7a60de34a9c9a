//! Which ids have no row so far, and which of them does a read of the log include?

use std::time::Instant;

use super::LogView;

/// Gaps with at most this many rows between them are read as one range.
const NEAR: u64 = 16;

/// The most separate gaps. With more, the lower ones become one gap.
const MAX_GAPS: usize = 16_384;

#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    pub(super) to: u64,
    pub(super) since: Instant,
}

/// How many gaps one read of the log includes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// The most ranges of ids.
    pub(crate) ranges: usize,
    /// The most ids in them, because the server skips each uncommitted row (measured: 0.07 us).
    pub(crate) ids: u64,
    /// The most rows between gaps that are read again, so that close gaps are one range.
    pub(crate) between: u64,
}

impl LogView {
    /// The gaps that the next read of the log includes, as ranges, the lowest first. If there are too many, the lower
    /// ones are left out. For a response that has not seen those, the log table is queried. So an open transaction
    /// with many rows does not slow down reads.
    pub(crate) fn gaps_to_read(&mut self, most: Reading) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let (mut ids, mut between) = (0_u64, 0_u64);
        for (&from, gap) in self.gaps.iter().rev() {
            let from = from.max(self.from);
            if gap.to < from {
                break;
            }
            ids = ids.saturating_add(gap.to - from).saturating_add(1);
            let apart = ranges.last().map_or(u64::MAX, |&(next, _)| next - gap.to - 1);
            let again = between.saturating_add(apart);
            let joins = again <= most.between && (apart <= NEAR || ranges.len() >= most.ranges);
            if ids > most.ids || !joins && ranges.len() >= most.ranges {
                self.from = gap.to.saturating_add(1);
                break;
            }
            match ranges.last_mut() {
                Some(range) if joins => (range.0, between) = (from, again),
                _ => ranges.push((from, gap.to)),
            }
        }
        ranges.reverse();
        ranges
    }

    /// Whether reads leave out this id.
    pub(crate) fn leaves_out(&self, id: u64) -> bool {
        id < self.from
    }

    /// The gaps that reads leave out.
    pub(crate) fn left_out(&self) -> Vec<(u64, u64)> {
        let gaps = self.gaps.iter().map(|(&from, gap)| (from, gap.to));
        gaps.take_while(|(_, to)| *to < self.from).collect()
    }

    /// These rows exist, in gaps that reads leave out.
    pub(crate) fn found(&mut self, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            if self.leaves_out(id) && self.leave_gap(id, id) {
                self.arrived(id);
            }
        }
        self.all_arrived(self.largest);
        self.update_position();
    }

    pub(super) fn end_gaps(&mut self, from: u64, to: u64) {
        let ranges: Vec<(u64, u64)> = {
            let before = self.gaps.range(..=to).map(|(&from, gap)| (from, gap.to));
            before.filter(|&(_, last)| last >= from).collect()
        };
        for (first, last) in ranges {
            self.leave_gap(first.max(from), last.min(to));
        }
    }

    /// Takes a range out of its gap. `false` if it is in no gap.
    pub(super) fn leave_gap(&mut self, from: u64, to: u64) -> bool {
        let Some((&first, &gap)) = self.gaps.range(..=from).next_back() else { return false };
        if gap.to < to {
            return false;
        }
        self.gaps.remove(&first);
        if first < from {
            self.gaps.insert(first, Gap { to: from - 1, since: gap.since });
        }
        if to < gap.to {
            self.gaps.insert(to + 1, gap);
        }
        true
    }

    /// Joins the lower half of very many gaps, as if the rows between them had not been seen.
    pub(super) fn join_gaps(&mut self) {
        if self.gaps.len() <= MAX_GAPS {
            return;
        }
        let Some(&middle) = self.gaps.keys().nth(self.gaps.len() - MAX_GAPS / 2) else { return };
        let upper = self.gaps.split_off(&middle);
        let lower = std::mem::replace(&mut self.gaps, upper);
        let since = lower.values().map(|gap| gap.since).max();
        let ends = lower.first_key_value().zip(lower.last_key_value());
        if let (Some(since), Some(((&from, _), (_, last)))) = (since, ends) {
            self.from = self.from.max(last.to.saturating_add(1));
            self.gaps.insert(from, Gap { to: last.to, since });
        }
    }
}
