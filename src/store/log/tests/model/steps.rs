//! The steps that are possible in a state, and what they change.

use super::*;

impl State {
    pub(super) fn steps(&self, world: &World) -> Vec<Step> {
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
                // a process that starts later begins there
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
            Reader::Began { looked, found, newest, .. } => {
                if found.is_none() {
                    steps.push(Step::Find);
                }
                if !looked {
                    steps.push(Step::ReaderLooks);
                    if newest.is_some_and(|newest| self.confirms(world, newest)) {
                        steps.push(Step::Confirm);
                    }
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
            // pruning waits for rows that transactions hold; the newest row stays
            let last = self.log.iter().rfind(|(_, row)| row.held.is_none()).map(|(&id, _)| id);
            let free = self.log.iter().take_while(|(_, row)| row.held.is_none());
            steps.extend(free.map(|(&id, _)| id).filter(|id| Some(*id) != last).map(Step::Prune));
        }
        if world.noise && self.noises == 0 {
            steps.push(Step::Noise);
        }
        steps
    }

    /// Whether a lookup that has read this newest row of the log needs no read of its own.
    fn confirms(&self, world: &World, newest: u64) -> bool {
        let Process { view, begun, .. } = &self.processes[0];
        let without_gaps = view.gap_count() == 0 || world.mutant == Mutant::GapsNotConfirmed;
        *begun && view.largest() == newest && without_gaps
    }

    /// Whether the request must wait for a read before the log verdict.
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

    /// One read of the log, as the task does it. `false` if it waits for a transaction.
    pub(super) fn look(&mut self, world: &World, p: usize, now: Instant) -> bool {
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
        let before = (mutant == Mutant::GapsNotAsked).then(|| view.clone());
        let mut gaps = view.gaps_to_read(world.reading);
        if let Some(before) = before {
            *view = before;
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
            // the newest row is gone: everything is invalidated
            let id = newest.max(largest(&self.log)).saturating_add(1);
            if self.log.contains_key(&id) {
                return false; // a row that is not committed has this id
            }
            self.log.insert(id, LogEntry { names: Names::Everything, held: None });
            self.next_id = self.next_id.max(id + 1);
            rows = read(&self.log, newest, &[]);
        }
        view.absorb(rows, now);
        self.processes[p].seen = self.returned();
        true
    }

    /// Closes the gaps that no transaction holds. Rows in gaps that reads leave out are not read.
    pub(super) fn close_gaps(&mut self, mutant: Mutant, p: usize, now: Instant) {
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
                // a row that is not found may have been pruned
                if mutant != Mutant::NoFloor {
                    view.unknown_below(floor);
                }
                view.close(id, id, now + Duration::from_secs(1));
            }
        }
    }

    pub(super) fn take(&mut self, world: &World, step: Step, now: Instant) -> Result<(), String> {
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
                let early = world.mutant == Mutant::EarlyNewest;
                let newest = early.then(|| self.processes[0].view.largest());
                self.reader = Reader::Began { required, looked: false, found: None, newest };
            }
            Step::Find => {
                let held = match world.tier {
                    Tier::Store => self.entry.clone(),
                    Tier::Strict | Tier::Bounded => self.front.clone(),
                };
                let read = largest(&self.log);
                if let Reader::Began { found, newest, looked, .. } = &mut self.reader {
                    *found = Some(held);
                    if world.confirms && !*looked {
                        newest.get_or_insert(read);
                    }
                }
            }
            Step::ReaderLooks => {
                let done = self.look(world, 0, now);
                if let Reader::Began { looked, newest, .. } = &mut self.reader {
                    *looked = done;
                    // not needed any more
                    *newest = newest.filter(|_| !done);
                }
            }
            Step::Confirm => {
                if let Reader::Began { looked, newest, .. } = &mut self.reader {
                    (*looked, *newest) = (true, None);
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
}

/// The log verdict of a row.
pub(super) fn says(names: Names) -> Validity {
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
