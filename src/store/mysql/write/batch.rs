//! Rows that are written together: sorted, and of those of one key the last.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::super::codec::{Hash, Row};
use super::queue::{Ack, Put, Share};
use crate::store::StoreError;

/// Rows of the same key, folded: the last one is written, all are answered.
pub(in super::super) struct Folded {
    pub(in super::super) row: Row,
    pub(in super::super) acks: Vec<Ack<bool>>,
    _shares: Vec<Share>,
}

/// Sorts rows by their hash; of several with the same hash the last one stays.
pub(in super::super) fn fold(puts: Vec<Put>) -> Vec<Folded> {
    let mut rows: HashMap<Hash, Folded> = HashMap::with_capacity(puts.len());
    for put in puts {
        match rows.entry(put.row.hash) {
            Entry::Occupied(mut held) => {
                let held = held.get_mut();
                held.row = put.row;
                held.acks.push(put.ack);
                held._shares.push(put.share);
            }
            Entry::Vacant(free) => {
                free.insert(Folded { row: put.row, acks: vec![put.ack], _shares: vec![put.share] });
            }
        }
    }
    let mut rows: Vec<Folded> = rows.into_values().collect();
    rows.sort_unstable_by_key(|folded| folded.row.hash);
    rows
}

/// Answers all of them alike.
pub(in super::super) fn answer(batch: Vec<Folded>, outcome: &Result<bool, StoreError>) {
    for ack in batch.into_iter().flat_map(|folded| folded.acks) {
        let _ = ack.send(outcome.clone());
    }
}
