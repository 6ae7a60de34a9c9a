//! Which jobs wait for rows that are being encoded? Others may pass them.

use std::collections::HashSet;

use bytes::Bytes;

use super::super::codec::Hash;
use super::queue::{Job, Queued};
use crate::key::KeyRange;

/// The most jobs that others pass. So the time to find the next job is limited.
const MOST: usize = 256;

/// The jobs that were passed so far: a row that is being encoded, and what has to stay behind it.
#[derive(Debug, Default)]
pub(super) struct Held {
    hashes: HashSet<Hash>,
    keys: Vec<Bytes>,
    ranges: Vec<KeyRange>,
}

impl Held {
    /// Whether this job can be done before the held ones: it is for other keys.
    pub(super) fn lets_pass(&self, job: &Queued) -> bool {
        match job {
            Queued::Encoding(_) => false,
            Queued::Job(Job::Put(put)) => self.is_free(&put.row.hash, &put.row.key),
            Queued::Job(Job::Freshen(freshen)) => self.is_free(&freshen.hash, &freshen.key),
            Queued::Job(Job::Remove(range, _)) => {
                let overlaps = |held: &KeyRange| range.from < held.to && held.from < range.to;
                !self.keys.iter().any(|key| range.contains(key))
                    && !self.ranges.iter().any(overlaps)
            }
            Queued::Job(Job::Append(..) | Job::Lease(_) | Job::Flush(_)) => self.is_empty(),
        }
    }

    /// Holds this job too. `false` if no later job can pass it.
    pub(super) fn hold(&mut self, job: &Queued) -> bool {
        let (hash, key) = match job {
            Queued::Encoding(encoding) => (encoding.hash, &encoding.key),
            Queued::Job(Job::Put(put)) => (put.row.hash, &put.row.key),
            Queued::Job(Job::Freshen(freshen)) => (freshen.hash, &freshen.key),
            Queued::Job(Job::Remove(range, _)) => {
                self.ranges.push(range.clone());
                return self.has_room();
            }
            Queued::Job(Job::Append(..) | Job::Lease(_) | Job::Flush(_)) => return false,
        };
        self.hashes.insert(hash);
        self.keys.push(key.clone());
        self.has_room()
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_empty()
    }

    fn has_room(&self) -> bool {
        self.keys.len() + self.ranges.len() < MOST
    }

    /// Keys with the same hash share a row.
    fn is_free(&self, hash: &Hash, key: &Bytes) -> bool {
        !self.hashes.contains(hash) && !self.ranges.iter().any(|range| range.contains(key))
    }
}
