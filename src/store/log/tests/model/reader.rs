//! How a request decides whether it serves what it has found.

use super::invariants::served;
use super::steps::says;
use super::*;

impl State {
    pub(super) fn judge(&self, p: usize, since: &LogPosition) -> Judgement {
        self.processes[p].view.judge(KEY, &[Tag::from("t")], since)
    }

    pub(super) fn serve(&mut self, world: &World, now: Instant) -> Result<(), String> {
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

    pub(super) fn ask_on(&mut self, world: &World) -> Result<(), String> {
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
}
