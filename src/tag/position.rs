//! The log position of a response.

/// The log position of a response: the rows of the invalidation log that this process had read before the handler
/// ran. These are all rows up to the id `largest`, except the ids in `gaps`. Only a row outside the position can
/// invalidate the response.
///
/// The database assigns an id when a row is inserted, but the row becomes visible only when its transaction commits.
/// So a row can appear below the largest id that has been read. (Measured: with transactions of a few milliseconds,
/// 47 % of the rows do.)
///
/// The default position, `0` without gaps, is older than every invalidation.
///
/// ```
/// use tower_mysql_cache::invalidation::LogPosition;
///
/// let position = LogPosition::new(9, [(3, 3), (5, 6)]);
/// assert!(position.has_seen(4) && !position.has_seen(5) && !position.has_seen(10));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// The largest id that has been read.
    pub(crate) largest: u64,
    /// Ranges of ids below `largest` that had no visible row, as `(first, last)`, in ascending order. At most
    /// [`LogPosition::MAX_GAPS`].
    pub(crate) gaps: Vec<(u64, u64)>,
}

impl LogPosition {
    /// The maximum number of gaps in a position.
    pub const MAX_GAPS: usize = 1_024;

    /// A position at which the rows up to `largest` had been read, except the ids in `gaps` (first to last). For stores
    /// that read a position back.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::LogPosition;
    /// let position = LogPosition::new(9, [(5, 6), (3, 3)]);
    /// assert_eq!(position.gaps(), [(3, 3), (5, 6)]);
    /// assert!(position.has_seen(4) && !position.has_seen(5) && !position.has_seen(10));
    /// ```
    #[must_use]
    pub fn new(largest: u64, gaps: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut sorted: Vec<_> = gaps.into_iter().filter(|(from, to)| from <= to).collect();
        sorted.sort_unstable();
        let mut apart: Vec<(u64, u64)> = Vec::with_capacity(sorted.len());
        for (from, to) in sorted {
            match apart.last_mut() {
                Some((_, end)) if from <= *end => *end = to.max(*end),
                _ => apart.push((from, to)),
            }
        }
        Self::of(largest, apart.into_iter())
    }

    /// The largest id that has been read.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::LogPosition;
    /// assert_eq!(LogPosition::new(9, []).largest(), 9);
    /// ```
    #[must_use]
    pub fn largest(&self) -> u64 {
        self.largest
    }

    /// The ids below [`LogPosition::largest`] that had no visible row, as ranges, first to last, in ascending order.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::LogPosition;
    /// assert_eq!(LogPosition::new(9, [(3, 3), (5, 6)]).gaps(), [(3, 3), (5, 6)]);
    /// ```
    #[must_use]
    pub fn gaps(&self) -> &[(u64, u64)] {
        &self.gaps
    }

    /// A position with these gaps, in ascending order. If there are more than [`LogPosition::MAX_GAPS`], the lowest
    /// ones become one gap, together with the rows between them. This can only invalidate more.
    pub(crate) fn of(
        largest: u64,
        mut ranges: impl DoubleEndedIterator<Item = (u64, u64)>,
    ) -> Self {
        let mut gaps: Vec<_> = ranges.by_ref().rev().take(Self::MAX_GAPS).collect();
        if let (Some((first, _)), Some(lowest)) = (ranges.next(), gaps.last_mut()) {
            lowest.0 = first;
        }
        gaps.reverse();
        Self { largest, gaps }
    }

    /// Whether the row with this id had been read.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::LogPosition;
    ///
    /// let position = LogPosition::new(9, []);
    /// assert!(position.has_seen(9) && !position.has_seen(10));
    /// ```
    #[must_use]
    pub fn has_seen(&self, id: u64) -> bool {
        let gap = self.gaps.get(self.gaps.partition_point(|&(_, to)| to < id));
        id <= self.largest && gap.is_none_or(|&(from, _)| from > id)
    }

    /// The lowest id whose row had not been read.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::LogPosition;
    ///
    /// assert_eq!(LogPosition::new(9, []).lowest_unseen(), 10);
    /// assert_eq!(LogPosition::new(9, [(3, 4)]).lowest_unseen(), 3);
    /// ```
    #[must_use]
    pub fn lowest_unseen(&self) -> u64 {
        let gap = self.gaps.first().map(|&(from, _)| from);
        gap.unwrap_or_else(|| self.largest.saturating_add(1))
    }

    /// The id after the last unread id below `below`: all ids from there up to `below` had been read.
    #[cfg(feature = "mysql")]
    pub(crate) fn unseen_end(&self, below: u64) -> u64 {
        if self.largest.saturating_add(1) < below {
            return below;
        }
        let last = self.gaps.iter().rev().find(|&&(from, _)| from < below);
        last.map_or(below, |&(_, to)| below.min(to.saturating_add(1)))
    }

    /// The same position, with these ids counted as read: rows that the caller itself has written.
    pub(crate) fn with_seen(&self, ids: &[u64]) -> Self {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        let largest = ids.last().map_or(self.largest, |&id| id.max(self.largest));
        let beyond = (self.largest < largest).then(|| (self.largest + 1, largest));
        let mut unseen = Vec::new();
        for (mut from, to) in self.gaps.iter().copied().chain(beyond) {
            let start = ids.partition_point(|&id| id < from);
            for &id in ids.iter().skip(start).take_while(|&&id| id <= to) {
                if id > from {
                    unseen.push((from, id - 1));
                }
                from = id.saturating_add(1);
            }
            if from <= to {
                unseen.push((from, to));
            }
        }
        Self::of(largest, unseen.into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(largest: u64, gaps: &[(u64, u64)]) -> LogPosition {
        LogPosition { largest, gaps: gaps.to_vec() }
    }

    #[test]
    fn a_position_has_seen_all_ids_up_to_it_except_gaps() {
        let position = at(9, &[(3, 3), (5, 6)]);
        let seen: Vec<u64> = (0..12).filter(|&id| position.has_seen(id)).collect();
        assert_eq!(seen, [0, 1, 2, 4, 7, 8, 9]);
        assert_eq!(position.lowest_unseen(), 3);
        #[cfg(feature = "mysql")]
        let ends = [20, 11, 10, 9, 7, 6, 5, 4].map(|below| position.unseen_end(below));
        #[cfg(feature = "mysql")]
        assert_eq!(ends, [20, 11, 7, 7, 7, 6, 4, 4]);
        assert_eq!(at(9, &[]).lowest_unseen(), 10);
    }

    #[test]
    fn if_there_are_too_many_gaps_the_lowest_become_one() {
        let gaps = [(3, 4), (7, 7), (1_000, 2_000_000)];
        assert_eq!(LogPosition::of(3_000_000, gaps.into_iter()), at(3_000_000, &gaps));
        let singles = (1..=1_100).map(|n| 2 * n).map(|id| (id, id));
        let position = LogPosition::of(3_000, singles);
        assert_eq!(position.gaps.len(), LogPosition::MAX_GAPS);
        assert_eq!(position.gaps[..2], [(2, 154), (156, 156)]);
        assert_eq!(position.gaps.last(), Some(&(2_200, 2_200)));
        assert!(!position.has_seen(3) && position.has_seen(155) && position.has_seen(2_199));
    }

    #[test]
    fn own_rows_are_seen_and_rows_between_them_are_not() {
        let position = at(9, &[(3, 3), (5, 7)]);
        assert_eq!(position.with_seen(&[11, 10]), at(11, &[(3, 3), (5, 7)]));
        assert_eq!(position.with_seen(&[12]), at(12, &[(3, 3), (5, 7), (10, 11)]));
        assert_eq!(position.with_seen(&[6]), at(9, &[(3, 3), (5, 5), (7, 7)]));
        assert_eq!(position.with_seen(&[3, 5]), at(9, &[(6, 7)]));
        assert_eq!(position.with_seen(&[]), position);
        assert_eq!(at(9, &[]).with_seen(&[200]), at(200, &[(10, 199)]));
    }
}
