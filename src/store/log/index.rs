//! Which log rows name a response? An index from names to row ids.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::tag::{
    Implied, LogPosition, Scope, Tag, Validity, has_any_query, implied_by, paths_of, without_query,
};

/// The ids of the rows that name one thing, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    hard: VecDeque<u64>,
    soft: VecDeque<u64>,
}

impl Rows {
    fn of_kind(&mut self, soft: bool) -> &mut VecDeque<u64> {
        if soft { &mut self.soft } else { &mut self.hard }
    }

    fn add(&mut self, id: u64, soft: bool) {
        let ids = self.of_kind(soft);
        ids.insert(ids.partition_point(|other| *other < id), id);
    }

    fn remove(&mut self, id: u64, soft: bool) {
        let ids = self.of_kind(soft);
        if let Ok(at) = ids.binary_search(&id) {
            ids.remove(at);
        }
    }

    fn is_empty(&self) -> bool {
        self.hard.is_empty() && self.soft.is_empty()
    }

    /// The log verdict of the rows from id `from` on, for a response stored at `position`.
    pub(super) fn verdict(&self, position: &LogPosition, from: u64) -> Validity {
        match () {
            () if any_unseen(&self.hard, position, from) => Validity::Invalid,
            () if any_unseen(&self.soft, position, from) => Validity::Outdated,
            () => Validity::Valid,
        }
    }
}

/// Whether there is an id from `from` on that `position` has not seen.
fn any_unseen(ids: &VecDeque<u64>, position: &LogPosition, from: u64) -> bool {
    let Some(&newest) = ids.back().filter(|newest| **newest >= from) else { return false };
    let is_in = |first: u64, last: u64| {
        let next = ids.get(ids.partition_point(|id| *id < first.max(from)));
        next.is_some_and(|id| *id <= last)
    };
    let mut gaps = position.gaps.iter().rev().take_while(|(_, last)| *last >= from);
    newest > position.largest || gaps.any(|&(first, last)| is_in(first, last))
}

/// The rows, by what they name.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Index {
    everything: Rows,
    tags: HashMap<Bytes, Rows>,
    prefixes: HashMap<Bytes, Rows>,
    uris: HashMap<Bytes, Rows>,
    paths: HashMap<Bytes, Rows>,
    /// The rows of `uris`, by their paths without query.
    any_query: HashMap<Bytes, Rows>,
}

impl Index {
    pub(super) fn add(&mut self, id: u64, scope: &Scope, soft: bool) {
        if let Scope::Uri(start) = scope {
            self.any_query.entry(path(start)).or_default().add(id, soft);
        }
        match self.map(scope) {
            None => self.everything.add(id, soft),
            Some((map, name)) => map.entry(name).or_default().add(id, soft),
        }
    }

    /// Removes a row. Other rows may still name the same thing.
    pub(super) fn remove(&mut self, id: u64, scope: &Scope, soft: bool) {
        if let Scope::Uri(start) = scope {
            forget(&mut self.any_query, &path(start), id, soft);
        }
        match self.map(scope) {
            None => self.everything.remove(id, soft),
            Some((map, name)) => forget(map, &name, id, soft),
        }
    }

    fn map(&mut self, scope: &Scope) -> Option<(&mut HashMap<Bytes, Rows>, Bytes)> {
        Some(match scope {
            Scope::Everything => return None,
            Scope::Tag(tag) => (&mut self.tags, tag.to_bytes()),
            Scope::Prefix(prefix) => (&mut self.prefixes, prefix.clone()),
            Scope::Uri(start) => (&mut self.uris, start.clone()),
            Scope::Path(start) => (&mut self.paths, start.clone()),
        })
    }

    /// The rows that name a response, by each of its tags and implicit tags.
    pub(super) fn of<'a>(
        &'a self,
        key: &'a [u8],
        tags: &'a [Tag],
    ) -> impl Iterator<Item = &'a Rows> + 'a {
        let by_tag = tags.iter().filter_map(|tag| self.tags.get(tag.as_bytes()));
        let by_key = implied_by(key, tags).filter_map(|implied| match implied {
            Implied::Everything => Some(&self.everything),
            Implied::Prefix(prefix) => self.prefixes.get(prefix),
            Implied::Uri(start) => self.uris.get(start),
            Implied::Path(start) => self.paths.get(start),
        });
        let by_path = has_any_query(tags).then(|| paths_of(key, tags));
        let by_path = by_path.into_iter().flatten();
        let by_path = by_path.filter_map(|path| self.any_query.get(path.as_ref()));
        by_key.chain(by_tag).chain(by_path).filter(|rows| !rows.is_empty())
    }

    pub(super) fn names(&self, key: &[u8], tags: &[Tag]) -> bool {
        self.of(key, tags).next().is_some()
    }
}

fn path(start: &Bytes) -> Bytes {
    match without_query(start) {
        Cow::Borrowed(_) => start.clone(),
        Cow::Owned(path) => path.into(),
    }
}

fn forget(map: &mut HashMap<Bytes, Rows>, name: &Bytes, id: u64, soft: bool) {
    let Some(rows) = map.get_mut(name) else { return };
    rows.remove(id, soft);
    if rows.is_empty() {
        map.remove(name);
    }
}
