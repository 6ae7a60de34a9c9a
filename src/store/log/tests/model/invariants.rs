//! What must hold: in each state, and when everything has come to rest.

use super::*;

impl State {
    /// Only serving is left to do.
    pub(super) fn at_rest(&self, world: &World) -> bool {
        let over =
            |writer: &Writer| !matches!(writer.transaction, Transaction::Idle | Transaction::Open);
        self.writers.iter().all(over)
            && self.processes.iter().take(world.processes).all(|p| p.filler == Filler::Done)
            && self.reader == Reader::Done
    }

    /// A response that a process stores now is a hit for both.
    pub(super) fn refills_are_hits(&self, world: &World, now: Instant) -> Result<(), String> {
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

pub(super) fn served(required: u8, shows: u8) -> Result<(), String> {
    if required & !shows == 0 {
        return Ok(());
    }
    Err(format!("served without changes {:#b}", required & !shows))
}
