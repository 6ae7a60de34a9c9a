//! How large is the table, and which rows does a cull evict? Only arithmetic: no I/O, no clock, and random numbers
//! are parameters.
//!
//! Keys are hashes, so the rows after a random point of the primary key are a fair sample. Their distances show how
//! many rows there are: if `n - 1` rows cover a share `s` of the key space, the table has about `(n - 1) / s` rows.
//!
//! A cull examines [`EXAMINED`] rows for each row written. If a share `g` of the rows has expired, it deletes `10 *
//! g` rows for each new one. So `g` settles at a tenth or less, in tables that are larger than a window.
//!
//! A smaller table is examined completely, once in 100 writes by default, whatever its size. So it always has about
//! as many expired rows, and these may be more than its live rows.

use std::collections::{HashMap, VecDeque};

/// Rows examined for each row written.
pub(in super::super) const EXAMINED: f64 = 10.0;

/// Rows that one step reads.
pub(in super::super) const STEP: usize = 256;

/// The most windows in an estimate. Measured: 16 windows of 512 rows are within 1 to 2 % in rows, and 4 % in bytes.
const WINDOWS: usize = 16;

/// The most key space in an estimate. So a growing table is not estimated from windows that are too old.
const SPAN: f64 = 0.5;

/// The share of a limit at which evicting begins, slowly at first, because an estimate is always a little late.
const RAMP: f64 = 0.95;

/// The largest share of a window for the correction towards a limit.
const MAX_CORRECTION: f64 = 0.15;

/// The largest share of a window that is evicted. With more, there would be no choice of the oldest.
const MAX_SHARE: f64 = 0.5;

/// The most windows in one cull.
const MAX_REPEATS: f64 = 8.0;

/// A row as a window reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Seen {
    pub(in super::super) hash: u128,
    pub(in super::super) expires_ms: u64,
    pub(in super::super) born_ms: u64,
    pub(in super::super) bytes: u64,
    pub(in super::super) prefix: Vec<u8>,
}

/// Rows and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in super::super) struct Size {
    pub(in super::super) rows: f64,
    pub(in super::super) bytes: f64,
}

impl Size {
    fn add(&mut self, row: &Seen) {
        self.rows += 1.0;
        self.bytes += row.bytes as f64;
    }

    fn plus(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, bytes: self.bytes + other.bytes }
    }

    fn times(self, factor: f64) -> Self {
        Self { rows: self.rows * factor, bytes: self.bytes * factor }
    }
}

/// What a window has read so far.
#[derive(Clone, Debug)]
pub(in super::super) struct Tally {
    start: u128,
    /// How far the window extends beyond its start.
    reach: u128,
    whole: bool,
    all: Size,
    prefixes: HashMap<Vec<u8>, Size>,
}

impl Tally {
    /// A window that begins at `start` and counts these prefixes separately.
    pub(in super::super) fn new<'a>(
        start: u128,
        prefixes: impl Iterator<Item = &'a Vec<u8>>,
    ) -> Self {
        let prefixes = prefixes.map(|prefix| (prefix.clone(), Size::default())).collect();
        Self { start, reach: 0, whole: false, all: Size::default(), prefixes }
    }

    /// Adds the rows of a step, in the order of the key space. After its end comes its beginning.
    pub(in super::super) fn add(&mut self, rows: &[Seen]) {
        for row in rows {
            self.all.add(row);
            if let Some(size) = self.prefixes.get_mut(&row.prefix) {
                size.add(row);
            }
            self.reach = self.reach.max(row.hash.wrapping_sub(self.start));
        }
    }

    /// A row that was added has been deleted. A window sees its part of the table when it is fullest, before the
    /// cull. So half of a deletion is subtracted, which is the mean of before and after.
    pub(in super::super) fn remove(&mut self, row: &Seen) {
        let half = Size { rows: -0.5, bytes: -0.5 * row.bytes as f64 };
        self.all = self.all.plus(half);
        if let Some(size) = self.prefixes.get_mut(&row.prefix) {
            *size = size.plus(half);
        }
    }

    /// The window has come back to its start, so it has seen the whole table.
    pub(in super::super) fn close(&mut self) {
        self.whole = true;
    }

    /// Where the next window begins.
    pub(in super::super) fn end(&self) -> u128 {
        self.start.wrapping_add(self.reach).wrapping_add(1)
    }

    fn is_whole(&self) -> bool {
        self.whole
    }

    /// The share of the key space that the window covers.
    fn span(&self) -> f64 {
        if self.whole { 1.0 } else { (self.reach as f64 + 1.0) / 2_f64.powi(128) }
    }

    /// Counts without the last row, because it is always at the end of the window.
    fn counted(&self, size: Size) -> Size {
        if self.whole || self.all.rows == 0.0 {
            return size;
        }
        size.times((self.all.rows - 1.0) / self.all.rows)
    }
}

/// Estimates from the last windows.
#[derive(Debug, Default)]
pub(in super::super) struct Estimates {
    windows: VecDeque<Tally>,
}

impl Estimates {
    /// Adds a window.
    pub(in super::super) fn push(&mut self, tally: Tally) {
        if tally.whole || self.windows.back().is_some_and(Tally::is_whole) {
            self.windows.clear(); // exact, so older windows are not needed
        }
        self.windows.push_back(tally);
        let mut span: f64 = self.windows.iter().map(Tally::span).sum();
        while self.windows.len() > 1 && (self.windows.len() > WINDOWS || span > SPAN) {
            span -= self.windows.pop_front().map_or(0.0, |window| window.span());
        }
    }

    /// The size of the whole table. `None` before the first window.
    pub(in super::super) fn all(&self) -> Option<Size> {
        self.estimate(|window| window.all)
    }

    /// The size of one prefix.
    pub(in super::super) fn of(&self, prefix: &[u8]) -> Option<Size> {
        self.estimate(|window| window.prefixes.get(prefix).copied().unwrap_or_default())
    }

    /// Whether the figures are exact.
    pub(in super::super) fn is_exact(&self) -> bool {
        self.windows.back().is_some_and(Tally::is_whole)
    }

    fn estimate(&self, size: impl Fn(&Tally) -> Size) -> Option<Size> {
        let span: f64 = self.windows.iter().map(Tally::span).sum();
        let sum = self
            .windows
            .iter()
            .map(|window| window.counted(size(window)))
            .fold(Size::default(), Size::plus);
        (span > 0.0).then(|| sum.times(1.0 / span))
    }
}

/// The limits of each prefix.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Limits {
    pub(in super::super) rows: u64,
    pub(in super::super) bytes: u64,
}

impl Limits {
    /// A size as a share of the limits. 1 is at the limit.
    fn filled(&self, size: Size) -> f64 {
        let filled = |size: f64, limit: u64| size / limit.max(1) as f64;
        filled(size.rows, self.rows).max(filled(size.bytes, self.bytes))
    }
}

/// How much of a prefix a cull evicts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in super::super) struct Eviction {
    /// The share that makes room for new rows.
    room: f64,
    /// The share that brings the prefix back below its limits.
    correction: f64,
}

impl Eviction {
    /// For a prefix of this size in a table of `all` rows. `written` rows came since the last cull, and a window has
    /// `window` rows.
    pub(in super::super) fn new(
        size: Size,
        all: Size,
        limits: &Limits,
        written: u64,
        window: u64,
    ) -> Self {
        let filled = limits.filled(size);
        if filled <= RAMP {
            return Self::default();
        }
        let ramp = ((filled - RAMP) / (1.0 - RAMP)).min(1.0);
        let share = if all.rows > 0.0 { (size.rows / all.rows).min(1.0) } else { 1.0 };
        let seen = (window as f64 * share).min(size.rows).max(1.0);
        let correction = (filled - 1.0).clamp(0.0, MAX_CORRECTION);
        Self { room: ramp * written as f64 / seen, correction }
    }

    /// The number of windows that make enough room without evicting too much from one.
    pub(in super::super) fn windows(self) -> f64 {
        (self.room / (MAX_SHARE - MAX_CORRECTION)).ceil().clamp(1.0, MAX_REPEATS)
    }

    /// The share of rows to evict, in addition to the expired ones, when the work is divided among some windows.
    fn share(self, expired: f64, windows: f64) -> f64 {
        let room = (self.room / windows.max(1.0) - expired).max(0.0);
        (room + self.correction).min(MAX_SHARE)
    }
}

/// Chooses the rows of a step to evict: the oldest of each prefix in `grips`. `chance` in 0..1 decides about
/// fractions of a row.
pub(in super::super) fn choose<'a>(
    rows: &'a [Seen],
    evictions: &HashMap<Vec<u8>, Eviction>,
    windows: f64,
    now_ms: u64,
    mut chance: impl FnMut() -> f64,
) -> Vec<&'a Seen> {
    let mut chosen = Vec::new();
    for (prefix, eviction) in
        evictions.iter().filter(|(_, eviction)| **eviction != Eviction::default())
    {
        let own = rows.iter().filter(|row| row.prefix == *prefix);
        let (expired, mut live): (Vec<&Seen>, Vec<&Seen>) =
            own.partition(|row| row.expires_ms <= now_ms);
        let seen = (expired.len() + live.len()) as f64;
        if seen == 0.0 {
            continue;
        }
        let wanted = eviction.share(expired.len() as f64 / seen, windows) * seen;
        let count = wanted.floor() + f64::from(u8::from(chance() < wanted.fract()));
        live.sort_unstable_by_key(|row| row.born_ms);
        chosen.extend(live.into_iter().take(count as usize));
    }
    chosen
}

/// The rows of one prefix: exact counts, and a fair sample of their ages.
#[derive(Debug, Default)]
pub(in super::super) struct Census {
    pub(in super::super) rows: u64,
    pub(in super::super) bytes: u64,
    sample: Vec<(u64, u64)>,
}

impl Census {
    /// The most rows in the sample. Up to this number, a threshold is exact.
    const SAMPLE: usize = 4096;

    /// Counts a row. `chance` in 0..1 decides whether it joins the sample.
    pub(in super::super) fn add(&mut self, born_ms: u64, bytes: u64, chance: f64) {
        self.rows += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.sample.len() < Self::SAMPLE {
            self.sample.push((born_ms, bytes));
        } else if let Some(slot) = self.sample.get_mut((chance * self.rows as f64) as usize) {
            *slot = (born_ms, bytes);
        }
    }

    /// How many rows and bytes are over the limits.
    pub(in super::super) fn excess(&self, limits: &Limits) -> (u64, u64) {
        (self.rows.saturating_sub(limits.rows), self.bytes.saturating_sub(limits.bytes))
    }

    /// Rows born up to this time must go, so that nothing is over the limits. `None` if nothing is.
    pub(in super::super) fn threshold(&mut self, excess: (u64, u64)) -> Option<u64> {
        if excess == (0, 0) {
            return None;
        }
        self.sample.sort_unstable();
        let each = self.rows as f64 / self.sample.len().max(1) as f64;
        let (mut rows, mut bytes) = (0.0, 0.0);
        for (born_ms, size) in &self.sample {
            rows += each;
            bytes += each * *size as f64;
            if rows >= excess.0 as f64 && bytes >= excess.1 as f64 {
                return Some(*born_ms);
            }
        }
        Some(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
