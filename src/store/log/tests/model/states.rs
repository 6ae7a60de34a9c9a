//! The first state, and what tells states apart.

use std::hash::{Hash, Hasher};

use super::*;

/// Hashes by folded multiplication: most of an exploration is hashing, and without optimization SipHash takes
/// several times as long.
struct Folded(u64);

impl Folded {
    fn add(&mut self, word: u64) {
        let mixed = self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(mixed) * u128::from(0xd6e8_feb8_6659_fd93_u64);
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u8(&mut self, byte: u8) {
        self.add(byte.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.add(word as u64);
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }
}

impl State {
    pub(super) fn new(world: &World) -> Self {
        let process = || Process {
            view: Arc::new(LogView::new(0).with_window(world.window)),
            begun: false,
            filler: Filler::Idle,
            seen: 0,
        };
        Self {
            log: [(1, LogEntry { names: Names::Nothing, held: None })].into(),
            next_id: 2,
            settled: 0,
            floor: 1,
            writers: [Writer { transaction: Transaction::Idle, rows: 0 }; 2],
            processes: [process(), process()],
            entry: None,
            front: None,
            reader: Reader::Idle,
            checked: None,
            requests: 0,
            crashes: 0,
            prunes: 0,
            noises: 0,
        }
    }

    /// A hash of everything that distinguishes states. With ten million states, two share a hash with a probability
    /// of 3 in a million.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = Folded(0);
        self.log.hash(&mut hasher);
        (self.next_id, self.settled, self.floor, self.writers).hash(&mut hasher);
        for process in &self.processes {
            process.view.hash(&mut hasher);
            (process.begun, process.seen).hash(&mut hasher);
            hash_filler(&process.filler, &mut hasher);
        }
        hash_held(self.entry.as_ref(), &mut hasher);
        hash_held(self.front.as_ref(), &mut hasher);
        hash_reader(&self.reader, &mut hasher);
        let checked = self.checked.as_ref();
        checked.map(|(at, position)| (hashed(at), hashed(position))).hash(&mut hasher);
        (self.requests, self.crashes, self.prunes, self.noises).hash(&mut hasher);
        hasher.finish()
    }

    fn changes(&self, of: impl Fn(Transaction) -> bool) -> u8 {
        let bits = self.writers.iter().enumerate();
        bits.filter(|(_, writer)| of(writer.transaction)).fold(0, |all, (n, _)| all | 1 << n)
    }

    /// The changes that a reader of the data sees.
    pub(super) fn committed(&self) -> u8 {
        use Transaction::{Committed, Returned};
        self.changes(|transaction| matches!(transaction, Committed | Returned))
    }

    /// The changes whose commit has returned.
    pub(super) fn returned(&self) -> u8 {
        self.changes(|transaction| transaction == Transaction::Returned)
    }
}

fn hashed(position: &LogPosition) -> (u64, &[(u64, u64)]) {
    (position.largest, &position.gaps)
}

fn hash_held(held: Option<&Held>, hasher: &mut impl Hasher) {
    held.map(|(shows, position)| (*shows, position.largest, &position.gaps)).hash(hasher);
}

fn hash_filler(filler: &Filler, hasher: &mut impl Hasher) {
    match filler {
        Filler::Idle => 0_u8.hash(hasher),
        Filler::Asked(position) => (1_u8, position.largest, &position.gaps).hash(hasher),
        Filler::ReadFirst(shows) => (2_u8, *shows).hash(hasher),
        Filler::Made((shows, position)) => {
            (3_u8, *shows, position.largest, &position.gaps).hash(hasher);
        }
        Filler::Done => 4_u8.hash(hasher),
    }
}

fn hash_reader(reader: &Reader, hasher: &mut impl Hasher) {
    match reader {
        Reader::Idle => 0_u8.hash(hasher),
        Reader::Began { required, looked, found, newest } => {
            (1_u8, *required, *looked, found.is_some(), *newest).hash(hasher);
            hash_held(found.as_ref().and_then(Option::as_ref), hasher);
        }
        Reader::Asking { required, found, since, worst, known, position } => {
            (2_u8, *required, *worst as u8, *known as u8).hash(hasher);
            (hashed(since), hashed(position)).hash(hasher);
            hash_held(Some(found), hasher);
        }
        Reader::Done => 3_u8.hash(hasher),
    }
}
