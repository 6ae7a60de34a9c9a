//! What all processes of a run know: a small file of numbers, each written by one task.
//!
//! After a commit has returned, its writer puts the versions that it wrote there; before a request begins,
//! its reader takes what it must see from there. No clock is compared with another one.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Rows of the application's table.
pub(crate) const ITEMS: usize = 120;
/// Tasks that write, in all processes.
pub(crate) const WRITERS: usize = 32;
/// Numbers that are counted by each process.
const COUNTERS: usize = 16;
const PROCESSES: usize = 8;
/// Where the versions are that had been told to the cache softly, and the counters.
const SOFT: usize = ITEMS * WRITERS;
const COUNTED: usize = 2 * ITEMS * WRITERS;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Responses served out of the cache, by tier.
    Hits(usize),
    /// Responses of the handler, by tier.
    Misses(usize),
    Violations,
    Commits,
    RolledBack,
    Killed,
    /// Commits with an unknown outcome.
    Unknown,
    /// Requests answered with an error because the handler had no database.
    Failed,
}

impl Count {
    fn place(self) -> usize {
        match self {
            Self::Hits(tier) => tier,
            Self::Misses(tier) => 4 + tier,
            Self::Violations => 8,
            Self::Commits => 9,
            Self::RolledBack => 10,
            Self::Killed => 11,
            Self::Unknown => 12,
            Self::Failed => 13,
        }
    }
}

pub(crate) struct Board(File);

impl Board {
    pub(crate) fn create(path: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
        let file = file.expect("a file");
        file.set_len(8 * (COUNTED + PROCESSES * COUNTERS) as u64).expect("its length");
        Self(file)
    }

    pub(crate) fn open(path: &Path) -> Self {
        Self(OpenOptions::new().read(true).write(true).open(path).expect("the parent's file"))
    }

    fn read(&self, at: usize, count: usize) -> Vec<u64> {
        let mut bytes = vec![0; 8 * count];
        self.0.read_exact_at(&mut bytes, 8 * at as u64).expect("numbers");
        let number = |chunk: &[u8]| u64::from_ne_bytes(chunk.try_into().expect("eight bytes"));
        bytes.chunks_exact(8).map(number).collect()
    }

    fn write(&self, at: usize, number: u64) {
        self.0.write_all_at(&number.to_ne_bytes(), 8 * at as u64).expect("a number");
    }

    /// A commit of this version of an item has returned. Each writer has a place of its own.
    pub(crate) fn publish(&self, item: usize, writer: usize, version: u64, soft: bool) {
        self.write(if soft { SOFT } else { 0 } + item * WRITERS + writer, version);
    }

    /// The newest version of an item whose commit has returned.
    pub(crate) fn published(&self, item: usize) -> u64 {
        let soft = self.read(SOFT + item * WRITERS, WRITERS).into_iter().max().unwrap_or(0);
        soft.max(self.published_hard(item))
    }

    /// The newest version of an item that nothing stale may be served for any more.
    pub(crate) fn published_hard(&self, item: usize) -> u64 {
        self.read(item * WRITERS, WRITERS).into_iter().max().unwrap_or(0)
    }

    /// The newest versions of all items.
    pub(crate) fn all(&self) -> Vec<u64> {
        let newest = |places: &[u64]| places.iter().copied().max().unwrap_or(0);
        let all = self.read(0, COUNTED);
        let (hard, soft) = all.split_at(SOFT);
        let places = hard.chunks_exact(WRITERS).zip(soft.chunks_exact(WRITERS));
        places.map(|(hard, soft)| newest(hard).max(newest(soft))).collect()
    }

    /// Adds to what a process has counted; only that process does.
    pub(crate) fn count(&self, process: usize, what: Count, by: u64) {
        let at = COUNTED + process * COUNTERS + what.place();
        let before = self.read(at, 1)[0];
        self.write(at, before + by);
    }

    /// The sum over all processes.
    pub(crate) fn counted(&self, what: Count) -> u64 {
        let all = self.read(COUNTED, PROCESSES * COUNTERS);
        all.chunks_exact(COUNTERS).map(|process| process[what.place()]).sum()
    }
}
