//! Does the whole protocol keep its promises? This model explores every interleaving of two writers, two processes
//! that store responses and read the log, and a reader. A process uses the real [`LogView`]. The server, its
//! transactions and the tasks are modelled.
//!
//! - Safety: a response is never served if it lacks a change whose commit had returned before the request began.
//! - Liveness: when nothing is left to do, a response that is stored again is a hit.
//!
//! `TMC_MODEL=full` explores more rows, faults and small windows together.

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

/// A part of the protocol that is left out, to check that the model notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// The position is the largest id alone.
    LargestId,
    /// Gaps are not read again.
    GapsNotRead,
    /// For gaps that reads leave out, the log table is not queried.
    GapsNotAsked,
    /// The position is taken after the handler has read its data.
    LatePosition,
    /// A gap is closed without checking whether a transaction holds it.
    NoLockRead,
    /// Pruned rows are taken for rows that never existed.
    NoFloor,
    /// The log verdict is taken without a read of the log.
    NoLook,
    /// A process does not wait for its own rows.
    NotAwaited,
    /// A process begins at the largest id, not at the settled one.
    NotSettled,
    /// The answer of the log table replaces what the view knows.
    KnownForgotten,
    /// A lookup that finds no newer row in the log needs no read, whatever gaps the view has.
    GapsNotConfirmed,
    /// A lookup needs no read if the log's newest row is in the view, whenever that row was read.
    EarlyNewest,
}

/// Where the reader finds the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    /// In the database.
    Store,
    /// In memory, with a new read of the log.
    Strict,
    /// In memory, without a new read. Changes of this process count, and changes that were committed at its last
    /// read.
    Bounded,
}

/// What is explored.
#[derive(Clone, Copy, Debug)]
struct World {
    tier: Tier,
    mutant: Mutant,
    /// Processes that read the log and store responses: the reader's, and another one.
    processes: usize,
    /// Transactions begin in a separate step, before their first row.
    begin: bool,
    /// Rows of each writer.
    rows: usize,
    /// The writers invalidate softly. What they name is not served, but the log verdict differs.
    soft: bool,
    /// Requests, one after the other.
    requests: u8,
    /// Writers that use the handle of the first process, counted from the first.
    own: usize,
    /// The first process may crash once and start again.
    crash: bool,
    /// The log may be pruned once, at any time.
    prune: bool,
    /// A row that names nothing relevant may be committed.
    noise: bool,
    /// Rows that a process remembers.
    window: usize,
    /// Rows that a process reads when it starts.
    start_rows: u64,
    /// A lookup may read the newest row of the log together with its entry.
    confirms: bool,
    /// How many gaps a read includes. For the others, the log table is queried.
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
    confirms: false,
    reading: Reading { ranges: 8, ids: 8, between: 8 },
};

/// A read includes no gaps.
const NO_GAPS: Reading = Reading { ranges: 0, ids: 0, between: 0 };

impl World {
    /// Whether it matters up to which id the log is settled.
    fn settles(&self) -> bool {
        self.crash || self.processes > 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Transaction {
    Idle,
    Open,
    /// Its rows can be seen.
    Committed,
    /// The writer knows that the commit has succeeded.
    Returned,
    RolledBack,
}

#[derive(Clone, Copy, Debug, Hash)]
struct Writer {
    transaction: Transaction,
    rows: usize,
}

/// A log row: what it names, and the transaction that holds it, if it is not committed.
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

/// The changes that a response shows, as bits, and its log position.
type Held = (u8, LogPosition);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Filler {
    Idle,
    Asked(LogPosition),
    /// Only if the position is taken late.
    ReadFirst(u8),
    Made(Held),
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reader {
    Idle,
    /// The response must show these changes.
    Began {
        required: u8,
        looked: bool,
        found: Option<Option<Held>>,
        /// The id of the newest row of the log, as the lookup has read it, or 0.
        newest: Option<u64>,
    },
    /// The log table is queried: the worst row, and then the floor.
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
    /// Changes that had been committed at its last read.
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
    /// The first process's remembered answer that a response is valid: its position, and the position of the answer.
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
    Confirm,
    Serve,
    AskOn,
    Copy,
    Crash,
    Prune(u64),
    Noise,
}
