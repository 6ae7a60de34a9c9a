//! A model of the whole protocol, explored exhaustively: every interleaving of two writers, two
//! processes that fill and look, and a reader. What a process knows is the real [`LogView`]; the server, its
//! transactions and the steps of the tasks around the view are modelled.
//!
//! - Safety: nothing is served that lacks a change whose commit had returned before the request began.
//! - Liveness: when everything has come to rest, what is filled anew is a hit.
//!
//! `TMC_MODEL=full` explores more rows, faults and small windows at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::view::Reading;
use super::*;

mod invariants;
mod reader;
mod runs;
mod states;
mod steps;

/// The key and the tag of the one response.
const KEY: &[u8] = b"p:1:/x http://h";

/// What is left out of the protocol, to see that the model notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// The position is the largest id alone.
    LargestId,
    /// Ids in gaps are not read again.
    GapsNotRead,
    /// Gaps that a look leaves out are not asked about.
    GapsNotAsked,
    /// The position is taken when the handler has read.
    LatePosition,
    /// A gap is closed without asking whether a transaction holds it.
    NoLockRead,
    /// What was pruned is taken for what never was.
    NoFloor,
    /// A response is judged by what happens to be known.
    NoLook,
    /// Rows of the process's own are not awaited.
    NotAwaited,
    /// A process begins at the largest id.
    NotSettled,
    /// What the log's older rows say is remembered as all that is known.
    KnownForgotten,
}

/// Where the reader finds the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    /// In the database.
    Store,
    /// In memory, with a look at the log.
    Strict,
    /// In memory, without one: what the own process has committed counts, and what had been committed when
    /// it looked last.
    Bounded,
}

/// What is explored.
#[derive(Clone, Copy, Debug)]
struct World {
    tier: Tier,
    mutant: Mutant,
    /// Processes that look and fill: the reader's own, and another one.
    processes: usize,
    /// Transactions begin in a step of their own, before their first row.
    begin: bool,
    /// Rows of each writer.
    rows: usize,
    /// The writers invalidate softly: what they name is not served, but judged differently.
    soft: bool,
    /// Requests, one after the other.
    requests: u8,
    /// Writers through a handle of the first process, from the first on.
    own: usize,
    /// The first process may die once and start again.
    crash: bool,
    /// The log may be pruned once, at any time.
    prune: bool,
    /// A row that concerns nobody may be committed.
    noise: bool,
    /// Rows that a process remembers.
    window: usize,
    /// Rows that a process reads when it starts, below the largest.
    start_rows: u64,
    /// What a look takes in of the gaps; what it leaves out is asked about.
    reading: Reading,
}

const SMALL: World = World {
    tier: Tier::Store,
    mutant: Mutant::None,
    processes: 1,
    begin: false,
    rows: 1,
    soft: false,
    requests: 1,
    own: 1,
    crash: false,
    prune: false,
    noise: false,
    window: 8,
    start_rows: 8,
    reading: Reading { ranges: 8, ids: 8, between: 8 },
};

/// A look takes in no gap at all.
const NO_GAPS: Reading = Reading { ranges: 0, ids: 0, between: 0 };

impl World {
    /// Whether it matters how far the log is settled.
    fn settles(&self) -> bool {
        self.crash || self.processes > 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Transaction {
    Idle,
    Open,
    /// What it wrote can be seen.
    Committed,
    /// ... and whoever committed knows.
    Returned,
    RolledBack,
}

#[derive(Clone, Copy, Debug, Hash)]
struct Writer {
    transaction: Transaction,
    rows: usize,
}

/// A row of the log: what it says, and whose it is while that is not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct LogEntry {
    names: Names,
    held: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Names {
    Response,
    Softly,
    Everything,
    Nothing,
}

/// The changes that a response shows, as bits, and where it stands.
type Held = (u8, LogPosition);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Filler {
    Idle,
    Asked(LogPosition),
    /// Only where the position comes late.
    ReadFirst(u8),
    Made(Held),
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reader {
    Idle,
    /// It must see these changes.
    Began {
        required: u8,
        looked: bool,
        found: Option<Option<Held>>,
    },
    /// The log itself is asked: the worst row that it has, and then where it begins.
    Asking {
        required: u8,
        found: Held,
        since: LogPosition,
        worst: Validity,
        known: Validity,
        position: LogPosition,
    },
    Done,
}

#[derive(Clone, Debug)]
struct Process {
    view: Arc<LogView>,
    begun: bool,
    filler: Filler,
    /// Changes that had been committed when it looked last.
    seen: u8,
}

#[derive(Clone, Debug)]
struct State {
    log: BTreeMap<u64, LogEntry>,
    next_id: u64,
    settled: u64,
    /// The first id that has not been pruned.
    floor: u64,
    writers: [Writer; 2],
    processes: [Process; 2],
    entry: Option<Held>,
    front: Option<Held>,
    reader: Reader,
    /// What has been asked about and found to be valid, as the first process remembers it: where it stands, and
    /// up to where it has been checked.
    checked: Option<(LogPosition, LogPosition)>,
    requests: u8,
    crashes: u8,
    prunes: u8,
    noises: u8,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Begin(usize),
    Insert(usize),
    Commit(usize),
    Return(usize),
    RollBack(usize),
    Look(usize),
    CloseGaps(usize),
    Settle(usize),
    Fill(usize),
    Request,
    Find,
    ReaderLooks,
    Serve,
    AskOn,
    Copy,
    Crash,
    Prune(u64),
    Noise,
}
