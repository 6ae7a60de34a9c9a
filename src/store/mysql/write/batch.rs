//! Which rows are written together? They are sorted, and of several rows with one key, only the last is written.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::super::codec::{Hash, Row};
use super::queue::{Ack, Put, Share};
use crate::store::StoreError;

/// Rows with the same key. The last one is written, and all of them get the result.
pub(in super::super) struct Folded {
    pub(in super::super) row: Row,
    pub(in super::super) acks: Vec<Ack<bool>>,
    _shares: Vec<Share>,
}

/// Sorts rows by hash, and joins those with the same hash.
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

/// Gives all of them the same result.
pub(in super::super) fn answer(batch: Vec<Folded>, outcome: &Result<bool, StoreError>) {
    for ack in batch.into_iter().flat_map(|folded| folded.acks) {
        let _ = ack.send(outcome.clone());
    }
}
