//! A model of the whole protocol, explored exhaustively: every interleaving of two writers, two
//! processes that fill and look, and a reader. What a process knows is the real [`LogView`]; the server, its
//! transactions and the steps of the tasks around the view are modelled.
//!
//! - Safety: nothing is served that lacks a change whose commit had returned before the request began.
//! - Liveness: when everything has come to rest, what is filled anew is a hit.
//!
//! `TMC_MODEL=full` explores more rows, faults and small windows at once.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::view::Reading;
use super::*;

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

impl State {
    fn new(world: &World) -> Self {
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

    /// Everything that tells states apart, as a hash: with ten million states two of them share one with a
    /// probability of 3 in a million.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.log.hash(&mut hasher);
        (self.next_id, self.settled, self.floor, self.writers).hash(&mut hasher);
        for process in &self.processes {
            (process.view.fingerprint(), process.begun, process.seen).hash(&mut hasher);
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
    fn committed(&self) -> u8 {
        use Transaction::{Committed, Returned};
        self.changes(|transaction| matches!(transaction, Committed | Returned))
    }

    /// The changes of which somebody knows that they are there.
    fn returned(&self) -> u8 {
        self.changes(|transaction| transaction == Transaction::Returned)
    }

    fn steps(&self, world: &World) -> Vec<Step> {
        use Transaction::{Committed, Idle, Open};
        let mut steps = Vec::with_capacity(16);
        for (w, writer) in self.writers.iter().enumerate() {
            match writer.transaction {
                Idle if world.begin => steps.push(Step::Begin(w)),
                Idle => steps.push(Step::Insert(w)),
                Open => {
                    if writer.rows < world.rows {
                        steps.push(Step::Insert(w));
                    }
                    if writer.rows > 0 {
                        steps.push(Step::Commit(w));
                        steps.push(Step::RollBack(w));
                    }
                }
                Committed if !(w == 0 && self.crashes > 0) => steps.push(Step::Return(w)),
                _ => {}
            }
        }
        for (p, process) in self.processes.iter().enumerate().take(world.processes) {
            steps.push(Step::Look(p));
            if process.begun {
                steps.push(Step::CloseGaps(p));
                // whoever starts later begins there
                if world.settles() && process.view.settled() > self.settled {
                    steps.push(Step::Settle(p));
                }
            }
            if process.filler != Filler::Done {
                steps.push(Step::Fill(p));
            }
        }
        match &self.reader {
            Reader::Idle => steps.push(Step::Request),
            Reader::Began { looked, found, .. } => {
                if found.is_none() {
                    steps.push(Step::Find);
                }
                if !looked {
                    steps.push(Step::ReaderLooks);
                }
                if found.is_some() && (*looked || !self.must_look(world)) {
                    steps.push(Step::Serve);
                }
            }
            Reader::Asking { .. } => steps.push(Step::AskOn),
            Reader::Done => {}
        }
        if world.tier != Tier::Store && self.entry.is_some() && self.front != self.entry {
            steps.push(Step::Copy);
        }
        if world.crash && self.crashes == 0 {
            steps.push(Step::Crash);
        }
        if world.prune && self.prunes == 0 {
            // a removal waits for rows that transactions hold; the newest row stays
            let last = self.log.iter().rfind(|(_, row)| row.held.is_none()).map(|(&id, _)| id);
            let free = self.log.iter().take_while(|(_, row)| row.held.is_none());
            steps.extend(free.map(|(&id, _)| id).filter(|id| Some(*id) != last).map(Step::Prune));
        }
        if world.noise && self.noises == 0 {
            steps.push(Step::Noise);
        }
        steps
    }

    /// Whether the request has to wait for a look before what it found is judged.
    fn must_look(&self, world: &World) -> bool {
        if world.mutant == Mutant::NoLook {
            return false;
        }
        world.tier != Tier::Bounded || self.processes[0].view.awaits(KEY, &[Tag::from("t")])
    }

    fn insert(&mut self, names: Names, held: Option<usize>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.log.insert(id, LogEntry { names, held });
        id
    }

    /// One look at the log, as the task does it. `false` when it waits for a transaction.
    fn look(&mut self, world: &World, p: usize, now: Instant) -> bool {
        let mutant = world.mutant;
        let process = &mut self.processes[p];
        let view = Arc::make_mut(&mut process.view);
        if !process.begun {
            process.begun = true;
            let largest = largest(&self.log);
            if view.largest() == 0 {
                let settled = if mutant == Mutant::NotSettled { largest } else { self.settled };
                let first = largest.saturating_sub(world.start_rows);
                let start = settled.min(first);
                let mut begun = LogView::new(start).with_window(world.window);
                begun.unknown_below(first.max(start) + 1);
                let rows = read(&self.log, first.max(start) + 1, &[]);
                if mutant != Mutant::NoFloor {
                    begun.unknown_below(self.floor);
                }
                begun.absorb(rows, now);
                begun.settle(settled);
                let before = std::mem::replace(view, begun);
                view.take_over(before);
            }
        }
        let mut of = view.clone();
        let mut gaps = of.gaps_to_read(world.reading);
        if mutant != Mutant::GapsNotAsked {
            *view = of;
        }
        let newest = view.largest();
        if mutant == Mutant::GapsNotRead {
            gaps.clear();
        }
        let mut rows = read(&self.log, newest, &gaps);
        if !gaps.is_empty() && mutant != Mutant::NoFloor {
            view.unknown_below(self.floor);
        }
        if newest > 0 && !rows.iter().any(|(id, _)| *id == newest) {
            // the newest row is gone: everything is invalid
            let id = newest.max(largest(&self.log)).saturating_add(1);
            if self.log.contains_key(&id) {
                return false; // that number has been given to a row that is not committed
            }
            self.log.insert(id, LogEntry { names: Names::Everything, held: None });
            self.next_id = self.next_id.max(id + 1);
            rows = read(&self.log, newest, &[]);
        }
        view.absorb(rows, now);
        self.processes[p].seen = self.returned();
        true
    }

    /// A look after gaps: those that no transaction holds are closed.
    /// Rows of those that are left out are not read.
    fn close_gaps(&mut self, mutant: Mutant, p: usize, now: Instant) {
        let floor = self.floor;
        let view = Arc::make_mut(&mut self.processes[p].view);
        for (from, to) in view.overdue(Duration::ZERO, now) {
            for id in from..=to {
                match self.log.get(&id) {
                    Some(row) if row.held.is_some() && mutant != Mutant::NoLockRead => continue,
                    Some(row) if row.held.is_none() && !view.leaves_out(id) => {
                        view.absorb([(id, mark(row.names))], now);
                    }
                    _ => {}
                }
                // a row that nobody finds may have been there, and pruned
                if mutant != Mutant::NoFloor {
                    view.unknown_below(floor);
                }
                view.close(id, id, now + Duration::from_secs(1));
            }
        }
    }

    fn take(&mut self, world: &World, step: Step, now: Instant) -> Result<(), String> {
        match step {
            Step::Begin(w) => self.writers[w].transaction = Transaction::Open,
            Step::Insert(w) => {
                self.writers[w].transaction = Transaction::Open;
                let names = if world.soft { Names::Softly } else { Names::Response };
                let id = self.insert(names, Some(w));
                self.writers[w].rows += 1;
                if w < world.own && world.mutant != Mutant::NotAwaited {
                    let view = Arc::make_mut(&mut self.processes[0].view);
                    assert!(view.await_row(id, mark(names), now));
                }
            }
            Step::Commit(w) => {
                self.writers[w].transaction = Transaction::Committed;
                let rows = self.log.values_mut().filter(|row| row.held == Some(w));
                rows.for_each(|row| row.held = None);
            }
            Step::Return(w) => self.writers[w].transaction = Transaction::Returned,
            Step::RollBack(w) => {
                self.writers[w].transaction = Transaction::RolledBack;
                self.log.retain(|_, row| row.held != Some(w));
            }
            Step::Look(p) => {
                self.look(world, p, now);
            }
            Step::CloseGaps(p) => self.close_gaps(world.mutant, p, now),
            Step::Settle(p) => {
                self.settled = self.settled.max(self.processes[p].view.settled());
            }
            Step::Fill(p) => self.fill(world, p),
            Step::Request => {
                self.requests += 1;
                let required = match world.tier {
                    Tier::Store | Tier::Strict => self.returned(),
                    Tier::Bounded => {
                        let own = (1 << world.own) - 1;
                        self.returned() & own | self.processes[0].seen
                    }
                };
                self.reader = Reader::Began { required, looked: false, found: None };
            }
            Step::Find => {
                let held = match world.tier {
                    Tier::Store => self.entry.clone(),
                    Tier::Strict | Tier::Bounded => self.front.clone(),
                };
                if let Reader::Began { found, .. } = &mut self.reader {
                    *found = Some(held);
                }
            }
            Step::ReaderLooks => {
                let done = self.look(world, 0, now);
                if let Reader::Began { looked, .. } = &mut self.reader {
                    *looked = done;
                }
            }
            Step::Serve | Step::AskOn => {
                let decided = match step {
                    Step::Serve => self.serve(world, now),
                    _ => self.ask_on(world),
                };
                if self.reader == Reader::Done && self.requests < world.requests {
                    self.reader = Reader::Idle;
                }
                return decided;
            }
            Step::Copy => self.front = self.entry.clone(),
            Step::Crash => self.crash(world),
            Step::Prune(last) => {
                self.prunes += 1;
                self.floor = last + 1;
                self.log.retain(|id, _| *id > last);
            }
            Step::Noise => {
                self.noises += 1;
                self.insert(Names::Nothing, None);
            }
        }
        Ok(())
    }

    fn fill(&mut self, world: &World, p: usize) {
        let committed = self.committed();
        let process = &mut self.processes[p];
        let mut position = LogPosition::clone(&process.view.position());
        if world.mutant == Mutant::LargestId {
            position.gaps.clear();
        }
        process.filler = match std::mem::replace(&mut process.filler, Filler::Done) {
            Filler::Idle if world.mutant == Mutant::LatePosition => Filler::ReadFirst(committed),
            Filler::Idle => Filler::Asked(position),
            Filler::Asked(position) => Filler::Made((committed, position)),
            Filler::ReadFirst(shows) => Filler::Made((shows, position)),
            Filler::Made(held) => {
                if p == 0 && world.tier != Tier::Store {
                    self.front = Some(held.clone());
                }
                self.entry = Some(held);
                Filler::Done
            }
            Filler::Done => Filler::Done,
        };
    }

    fn crash(&mut self, world: &World) {
        self.crashes += 1;
        let writer = &mut self.writers[0];
        if matches!(writer.transaction, Transaction::Idle | Transaction::Open) {
            writer.transaction = Transaction::RolledBack;
            self.log.retain(|_, row| row.held != Some(0));
        }
        self.processes[0] = Process {
            view: Arc::new(LogView::new(0).with_window(world.window)),
            begun: false,
            filler: Filler::Idle,
            seen: 0,
        };
        self.front = None;
        self.checked = None;
        (self.reader, self.requests) = (Reader::Idle, 0);
    }

    fn judge(&self, p: usize, since: &LogPosition) -> Judgement {
        self.processes[p].view.judge(KEY, &[Tag::from("t")], since)
    }

    fn serve(&mut self, world: &World, now: Instant) -> Result<(), String> {
        let Reader::Began { required, found, .. } =
            std::mem::replace(&mut self.reader, Reader::Done)
        else {
            return Ok(());
        };
        let Some(Some(held)) = found else { return Ok(()) };
        if self.judge(0, &held.1) == Judgement::Ahead && !self.look(world, 0, now) {
            return Ok(());
        }
        let mut since = held.1.clone();
        let mut judged = self.judge(0, &since);
        if let (Judgement::Older { .. }, Some((at, position))) = (judged, &self.checked)
            && *at == held.1
        {
            since = position.clone();
            judged = self.judge(0, &since);
        }
        match judged {
            Judgement::Known(Validity::Valid) => served(required, held.0),
            Judgement::Known(_) | Judgement::Ahead => Ok(()),
            Judgement::Older { known, below } => {
                let asked = self.log.iter().filter(|(_, row)| row.held.is_none());
                let unseen = asked.filter(|(id, _)| **id < below && !since.has_seen(**id));
                let worst = unseen.map(|(_, row)| says(row.names)).max();
                let worst = worst.unwrap_or(Validity::Valid);
                let position = LogPosition::clone(&self.processes[0].view.position());
                self.reader =
                    Reader::Asking { required, found: held, since, worst, known, position };
                Ok(())
            }
        }
    }

    fn ask_on(&mut self, world: &World) -> Result<(), String> {
        let Reader::Asking { required, found, since, worst, known, position } =
            std::mem::replace(&mut self.reader, Reader::Done)
        else {
            return Ok(());
        };
        let pruned = self.floor > since.lowest_unseen();
        let worst = match pruned && world.mutant != Mutant::NoFloor {
            true => Validity::Invalid,
            false => worst,
        };
        let of_all = worst.max(known);
        let remembered = if world.mutant == Mutant::KnownForgotten { worst } else { of_all };
        if remembered == Validity::Valid {
            self.checked = Some((found.1, position));
        }
        if of_all != Validity::Valid {
            return Ok(());
        }
        served(required, found.0)
    }

    /// Nothing is left to be done but to serve.
    fn at_rest(&self, world: &World) -> bool {
        let over =
            |writer: &Writer| !matches!(writer.transaction, Transaction::Idle | Transaction::Open);
        self.writers.iter().all(over)
            && self.processes.iter().take(world.processes).all(|p| p.filler == Filler::Done)
            && self.reader == Reader::Done
    }

    /// What each process fills now is a hit for both.
    fn refills_are_hits(&self, world: &World, now: Instant) -> Result<(), String> {
        let mut state = self.clone();
        for p in [0, 1, 0, 1] {
            let _ = state.look(world, p, now);
            state.close_gaps(world.mutant, p, now);
        }
        for p in [0, 1] {
            let position = LogPosition::clone(&state.processes[p].view.position());
            for by in [0, 1] {
                let judgement = state.judge(by, &position);
                if judgement != VALID {
                    return Err(format!("filled by {p}, judged by {by}: {judgement:?}"));
                }
            }
        }
        Ok(())
    }
}

fn served(required: u8, shows: u8) -> Result<(), String> {
    if required & !shows == 0 {
        return Ok(());
    }
    Err(format!("served without changes {:#b}", required & !shows))
}

/// What a row says of the response.
fn says(names: Names) -> Validity {
    match names {
        Names::Response | Names::Everything => Validity::Invalid,
        Names::Softly => Validity::Outdated,
        Names::Nothing => Validity::Valid,
    }
}

fn mark(names: Names) -> Mark {
    match names {
        Names::Response => tag("t"),
        Names::Softly => Mark { soft: true, ..tag("t") },
        Names::Nothing => tag("u"),
        Names::Everything => Mark { scope: Scope::Everything, soft: false },
    }
}

fn read(log: &BTreeMap<u64, LogEntry>, from: u64, gaps: &[(u64, u64)]) -> Vec<(u64, Mark)> {
    let asked =
        |id: u64| id >= from || gaps.iter().any(|&(first, last)| (first..=last).contains(&id));
    let seen = log.iter().filter(|(id, row)| row.held.is_none() && asked(**id));
    seen.map(|(&id, row)| (id, mark(row.names))).collect()
}

fn largest(log: &BTreeMap<u64, LogEntry>) -> u64 {
    log.iter().rfind(|(_, row)| row.held.is_none()).map_or(0, |(&id, _)| id)
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
        Reader::Began { required, looked, found } => {
            (1_u8, *required, *looked, found.is_some()).hash(hasher);
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

/// What an exploration has seen.
#[derive(Default)]
struct Explored {
    states: HashSet<u64>,
    hits: u64,
    refusals: u64,
    rests: u64,
}

/// A way to something that must not be.
type Counterexample = (Vec<Step>, String);

/// Takes every step from every state that can be reached.
fn explore(world: &World) -> Result<Explored, Counterexample> {
    let now = Instant::now();
    let mut explored = Explored::default();
    let start = State::new(world);
    explored.states.insert(start.fingerprint());
    let mut path: Vec<Step> = Vec::new();
    let steps = start.steps(world);
    let mut stack = vec![(start, steps)];
    while let Some((state, steps)) = stack.last_mut() {
        let Some(step) = steps.pop() else {
            stack.pop();
            path.pop();
            continue;
        };
        let mut next = state.clone();
        let deciding = matches!(step, Step::Serve | Step::AskOn);
        let had_found = matches!(
            &state.reader,
            Reader::Began { found: Some(Some(_)), .. } | Reader::Asking { .. }
        );
        path.push(step);
        if let Err(broken) = next.take(world, step, now) {
            return Err((path, broken));
        }
        if deciding && had_found && !matches!(next.reader, Reader::Asking { .. }) {
            // what was decided does not show in the state: ask the one before
            let hit = match &state.reader {
                Reader::Began { found: Some(Some(held)), .. } => state.judge(0, &held.1) == VALID,
                _ => false,
            };
            *(if hit { &mut explored.hits } else { &mut explored.refusals }) += 1;
        }
        if !explored.states.insert(next.fingerprint()) {
            path.pop();
            continue;
        }
        if next.at_rest(world) {
            explored.rests += 1;
            if let Err(broken) = next.refills_are_hits(world, now) {
                return Err((path, broken));
            }
        }
        let steps = next.steps(world);
        stack.push((next, steps));
    }
    Ok(explored)
}

fn is_full() -> bool {
    std::env::var("TMC_MODEL").is_ok_and(|size| size == "full")
}

/// Explores and says how much that was; everything has to have happened.
fn holds(name: &str, world: &World) {
    let began = Instant::now();
    match explore(world) {
        Ok(explored) => {
            let Explored { states, hits, refusals, rests } = explored;
            println!(
                "model: {name}: {} states, {hits} hits, {refusals} refusals, {rests} at rest, {:.1} s",
                states.len(),
                began.elapsed().as_secs_f64()
            );
            assert!(hits > 0 && refusals > 0 && rests > 0, "{name} shows nothing");
        }
        Err((path, broken)) => panic!("{name}: {broken} after {path:?}"),
    }
}

/// The mutant is caught where the protocol as it is holds.
fn is_caught(name: &str, world: World, mutant: Mutant) {
    let world = World { mutant, ..world };
    let (path, broken) = explore(&world).err().unwrap_or_else(|| panic!("{name} is not noticed"));
    assert!(broken.starts_with("served without"), "{name}: {broken}");
    println!("model: {name}: {broken} after {} steps", path.len());
}

/// What is added when everything is explored.
fn sized(world: World) -> World {
    if is_full() { World { processes: 2, begin: true, ..world } } else { world }
}

/// The same where faults multiply what there is: one process.
fn sized_with_faults(world: World) -> World {
    if is_full() { World { begin: true, ..world } } else { world }
}

const FAULTS: World = World { crash: true, prune: true, ..SMALL };

#[test]
fn lookups_in_the_database_serve_nothing_stale() {
    holds("database", &sized(SMALL));
}

#[test]
fn neither_a_pruned_log_nor_a_process_that_starts_anew_lets_anything_stale_through() {
    holds("database, prune", &sized_with_faults(World { prune: true, ..SMALL }));
    holds("database, crash", &sized_with_faults(World { crash: true, ..SMALL }));
    if is_full() {
        let world = World { noise: true, ..FAULTS };
        holds("database, crash and prune", &world);
        holds(
            "database, crash and prune, small window",
            &World { window: 1, start_rows: 1, ..world },
        );
    }
}

#[test]
fn what_is_no_longer_remembered_is_asked_for() {
    holds("window of one row", &sized(World { window: 1, start_rows: 0, ..SMALL }));
}

#[test]
fn gaps_that_no_look_reads_are_asked_for() {
    let world = World { reading: NO_GAPS, ..SMALL };
    holds("no gaps read", &sized(world));
    holds("no gaps read, strict front", &World { tier: Tier::Strict, ..world });
    holds("no gaps read, bounded front", &World { tier: Tier::Bounded, ..world });
    holds("no gaps read, softly, two requests", &World { soft: true, requests: 2, ..world });
    if is_full() {
        holds("no gaps read, two requests", &World { requests: 2, ..world });
        holds("no gaps read, prune", &World { prune: true, ..world });
        holds("no gaps read, crash", &World { crash: true, ..world });
        holds("no gaps read, two rows", &World { rows: 2, ..world });
        let one = Reading { ranges: 1, ids: 1, between: 0 };
        holds("one id of the gaps read", &World { reading: one, rows: 2, ..world });
    }
}

#[test]
fn a_strict_front_serves_nothing_stale() {
    holds("strict front", &sized(World { tier: Tier::Strict, ..SMALL }));
}

#[test]
fn a_bounded_front_serves_what_the_last_look_allows_and_nothing_older_than_its_own_writes() {
    let world = World { tier: Tier::Bounded, ..SMALL };
    holds("bounded front", &sized(world));
    holds("bounded front, two writers of its own", &sized(World { own: 2, ..world }));
}

#[test]
fn each_part_of_the_protocol_is_needed() {
    is_caught("the largest id as position", SMALL, Mutant::LargestId);
    is_caught("gaps that are not read again", SMALL, Mutant::GapsNotRead);
    let left_out = World { reading: NO_GAPS, ..SMALL };
    is_caught("gaps left out that are not asked about", left_out, Mutant::GapsNotAsked);
    let softly = World { soft: true, requests: 2, ..left_out };
    is_caught("what is remembered forgotten when it is asked", softly, Mutant::KnownForgotten);
    is_caught("a position from after the handler", SMALL, Mutant::LatePosition);
    is_caught("gaps closed without a locking read", SMALL, Mutant::NoLockRead);
    is_caught("judging without a look", SMALL, Mutant::NoLook);
    is_caught(
        "judging without a look, in front",
        World { tier: Tier::Strict, ..SMALL },
        Mutant::NoLook,
    );
    is_caught("pruning without a floor", World { noise: true, ..FAULTS }, Mutant::NoFloor);
    let pruned = World { noise: true, prune: true, ..SMALL };
    is_caught("pruning without a floor, in gaps", pruned, Mutant::NoFloor);
    is_caught("own rows not awaited", World { tier: Tier::Bounded, ..SMALL }, Mutant::NotAwaited);
    is_caught("starting at the largest id", World { crash: true, ..SMALL }, Mutant::NotSettled);
}
