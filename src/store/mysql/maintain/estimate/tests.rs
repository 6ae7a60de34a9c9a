//! Estimates of tables with a known size, and culls of a table in memory.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const LIMITS: Limits = Limits { rows: 10_000, bytes: u64::MAX };

fn row(hash: u128, prefix: &str) -> Seen {
    Seen { hash, expires_ms: 100, born_ms: 0, bytes: 10, prefix: prefix.into() }
}

/// A table in memory, culled as the maintenance task does it, without I/O.
struct Table {
    rows: BTreeMap<u128, Seen>,
    random: StdRng,
    estimates: Estimates,
    written: HashMap<Vec<u8>, u64>,
    limits: Limits,
    now: u64,
    next: u128,
}

impl Table {
    fn new(limits: Limits) -> Self {
        Self {
            rows: BTreeMap::new(),
            random: StdRng::seed_from_u64(7),
            estimates: Estimates::default(),
            written: HashMap::new(),
            limits,
            now: 0,
            next: 12345,
        }
    }

    fn insert(&mut self, prefix: &str, ttl: u64, owned: bool) {
        self.now += 1;
        let hash = self.random.random();
        let (born_ms, expires_ms) = (self.now, self.now + ttl);
        let seen = Seen { hash, expires_ms, born_ms, bytes: 10, prefix: prefix.into() };
        self.rows.insert(hash, seen);
        if owned {
            *self.written.entry(prefix.into()).or_default() += 1;
        }
    }

    /// One window of `window` rows.
    fn window(&mut self, window: usize, evictions: &HashMap<Vec<u8>, Eviction>, windows: f64) {
        let start = self.next;
        let mut tally = Tally::new(start, self.written.keys());
        let seen: Vec<Seen> = self
            .rows
            .range(start..)
            .chain(self.rows.range(..start))
            .take(window)
            .map(|(_, row)| row.clone())
            .collect();
        if seen.len() == self.rows.len() {
            tally.close();
        }
        self.next = seen.last().map_or(start, |row| row.hash.wrapping_add(1));
        for step in seen.chunks(STEP) {
            tally.add(step);
            let chosen = choose(step, evictions, windows, self.now, || self.random.random());
            let chosen: Vec<u128> = chosen.iter().map(|row| row.hash).collect();
            for row in step {
                if chosen.contains(&row.hash) || row.expires_ms <= self.now {
                    self.rows.remove(&row.hash);
                    tally.remove(row);
                }
            }
        }
        self.estimates.push(tally);
    }

    fn cull_whole(&mut self) {
        let now = self.now;
        self.rows.retain(|_, row| row.expires_ms > now);
        let mut census = Census::default();
        self.rows.values().for_each(|row| census.add(row.born_ms, row.bytes, 0.0));
        let (mut rows, bytes) = census.excess(&self.limits);
        if let Some(until) = census.threshold((rows, bytes)) {
            self.rows.retain(|_, row| {
                let goes = rows > 0 && row.born_ms <= until;
                rows -= u64::from(goes);
                !goes
            });
        }
    }

    fn cull(&mut self, window: usize) {
        if self.estimates.is_exact() && self.rows.len() <= window {
            self.written.values_mut().for_each(|rows| *rows = 0);
            return self.cull_whole();
        }
        let mut repeats = 1.0_f64;
        let mut evictions = HashMap::new();
        if let Some(all) = self.estimates.all() {
            for (prefix, written) in &mut self.written {
                let size = self.estimates.of(prefix).unwrap_or_default();
                let eviction = Eviction::new(size, all, &self.limits, *written, window as u64);
                repeats = repeats.max(eviction.windows());
                evictions.insert(prefix.clone(), eviction);
                *written = 0;
            }
        }
        for _ in 0..repeats as usize {
            self.window(window, &evictions, repeats);
        }
    }

    fn count(&self, prefix: &str) -> usize {
        self.rows.values().filter(|row| row.prefix == prefix.as_bytes()).count()
    }
}

#[test]
fn an_empty_table_and_a_single_row_are_counted_exactly() {
    let mut estimates = Estimates::default();
    assert_eq!(estimates.all(), None);
    let mut tally = Tally::new(5, std::iter::empty());
    tally.add(&[]);
    tally.close();
    estimates.push(tally);
    assert_eq!(estimates.all(), Some(Size::default()));
    let mut tally = Tally::new(u128::MAX, std::iter::empty());
    tally.add(&[row(3, "p")]);
    tally.close();
    estimates.push(tally);
    assert_eq!(estimates.all(), Some(Size { rows: 1.0, bytes: 10.0 }));
    assert!(estimates.is_exact());
}

#[test]
fn the_ends_of_the_key_space_do_not_overflow() {
    let mut tally = Tally::new(u128::MAX, std::iter::empty());
    tally.add(&[row(u128::MAX, "p"), row(0, "p"), row(u128::MAX - 1, "p")]);
    assert!((tally.span() - 1.0).abs() < 1e-9);
    let mut tally = Tally::new(0, std::iter::empty());
    tally.add(&[row(0, "p")]);
    assert!(tally.span() > 0.0);
    let mut estimates = Estimates::default();
    estimates.push(tally);
    assert_eq!(estimates.all().unwrap().rows, 0.0, "one row alone tells nothing");
}

#[test]
fn sixteen_windows_come_close_to_the_truth() {
    let mut table = Table::new(LIMITS);
    for i in 0..200_000_u32 {
        table.insert(if i % 4 == 0 { "a" } else { "b" }, u64::MAX / 2, true);
    }
    for _ in 0..16 {
        table.window(1000, &HashMap::new(), 1.0);
    }
    let all = table.estimates.all().unwrap();
    assert!((all.rows / 200_000.0 - 1.0).abs() < 0.03, "{all:?}");
    let a = table.estimates.of(b"a").unwrap();
    assert!((a.rows / 50_000.0 - 1.0).abs() < 0.06, "{a:?}");
    assert!((a.bytes / 500_000.0 - 1.0).abs() < 0.06, "{a:?}");
    assert!(!table.estimates.is_exact());
}

#[test]
fn garbage_stays_under_a_tenth_of_the_table() {
    let mut table = Table::new(LIMITS);
    let (mut worst, mut sum, mut count) = (0.0_f64, 0.0, 0.0);
    for i in 0..200_000_u32 {
        table.insert("p", 5_000, true);
        if table.random.random_bool(0.01) {
            table.cull(1000);
        }
        if i > 20_000 && i % 500 == 0 {
            let expired = table.rows.values().filter(|row| row.expires_ms <= table.now).count();
            let share = expired as f64 / table.rows.len() as f64;
            worst = worst.max(share);
            sum += share;
            count += 1.0;
        }
    }
    let mean = sum / count;
    assert!(mean < 0.1 && worst < 0.2, "{mean} in the mean, {worst} at worst");
}

#[test]
fn the_limit_is_held_within_a_few_percent() {
    for (limit, window) in
        [(500, 1000), (2_000, 1000), (10_000, 1000), (30_000, 1000), (10_000, 100)]
    {
        let mut table = Table::new(Limits { rows: limit, bytes: u64::MAX });
        let (mut most, mut least) = (0, usize::MAX);
        for i in 0..limit * 6 {
            table.insert("p", u64::MAX / 2, true);
            if table.random.random_bool(EXAMINED / window as f64) {
                table.cull(window);
            }
            if i > limit * 2 {
                most = most.max(table.rows.len());
                least = least.min(table.rows.len());
            }
        }
        // between two culls, about a tenth of a window is written
        let noise = window as f64 * 0.6;
        let (most, least, limit) = (most as f64, least as f64, limit as f64);
        assert!(most < limit * 1.08 + noise, "{limit} by {window}: {least} to {most}");
        assert!(least > limit * 0.90 - noise, "{limit} by {window}: {least} to {most}");
    }
}

#[test]
fn bytes_are_held_too() {
    let mut table = Table::new(Limits { rows: u64::MAX, bytes: 50_000 });
    for _ in 0..30_000 {
        table.insert("p", u64::MAX / 2, true);
        if table.random.random_bool(0.01) {
            table.cull(1000);
        }
    }
    let rows = table.rows.len(); // of 10 bytes
    assert!((4_500..6_000).contains(&rows), "{rows}");
}

#[test]
fn a_small_prefix_in_a_large_table_keeps_its_limit_and_others_are_left_alone() {
    let mut table = Table::new(Limits { rows: 5_000, bytes: u64::MAX });
    for _ in 0..50_000 {
        table.insert("other", u64::MAX / 2, false);
    }
    for _ in 0..60_000 {
        table.insert("own", u64::MAX / 2, true);
        if table.random.random_bool(0.01) {
            table.cull(1000);
        }
    }
    assert_eq!(table.count("other"), 50_000);
    let own = table.count("own");
    assert!((4_200..6_500).contains(&own), "{own}");
}

#[test]
fn the_oldest_go_first() {
    let mut rows: Vec<Seen> =
        (0..100).map(|i| Seen { born_ms: 100 - i as u64, ..row(i, "p") }).collect();
    rows[0].expires_ms = 0;
    let size = Size { rows: 12_000.0, bytes: 0.0 };
    let eviction = Eviction::new(size, size, &LIMITS, 100, 1000);
    let evictions =
        HashMap::from([(b"p".to_vec(), eviction), (b"q".to_vec(), Eviction::default())]);
    let chosen = choose(&rows, &evictions, 1.0, 50, || 0.999);
    let chosen: Vec<u128> = chosen.iter().map(|row| row.hash).collect();
    // a tenth to make room, minus the expired one, and 15 % to get below the limit
    assert_eq!(chosen, (76..=99).rev().collect::<Vec<u128>>());
    assert!(choose(&rows, &HashMap::new(), 1.0, 50, || 0.0).is_empty());
}

#[test]
fn nothing_is_evicted_within_the_limits() {
    let size = Size { rows: 9_500.0, bytes: 1e12 };
    assert_eq!(Eviction::new(size, size, &LIMITS, 1_000_000, 1000), Eviction::default());
    assert_eq!(LIMITS.filled(Size { rows: 20_000.0, bytes: 0.0 }), 2.0);
    let bytes = Limits { rows: 10, bytes: 100 };
    assert_eq!(bytes.filled(Size { rows: 5.0, bytes: 150.0 }), 1.5);
}

#[test]
fn a_census_tells_the_age_that_has_to_go() {
    let mut census = Census::default();
    for born in (0..1_000).rev() {
        census.add(born, 2, 0.5);
    }
    let limits = |rows, bytes| Limits { rows, bytes };
    let mut threshold = |limits: Limits| {
        let excess = census.excess(&limits);
        census.threshold(excess)
    };
    assert_eq!(threshold(limits(1_000, 2_000)), None);
    assert_eq!(threshold(limits(900, u64::MAX)), Some(99));
    assert_eq!(threshold(limits(u64::MAX, 1_000)), Some(499));
    assert_eq!(threshold(limits(999, u64::MAX)), Some(0));

    let mut random = StdRng::seed_from_u64(1);
    let mut large = Census::default();
    for born in 0..100_000 {
        large.add(born, 1, random.random());
    }
    let threshold = large.threshold((50_000, 0)).unwrap();
    assert!((46_000..54_000).contains(&threshold), "{threshold}");
}
