//! From what rows name to their newest ids.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;

use crate::tag::{Implied, Scope, Tag, has_any_query, implied_by, of_path, path_of};

/// The newest ids of rows that name one thing; zero for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Newest {
    pub(super) hard: u64,
    pub(super) soft: u64,
    /// How many rows that are: they come and go in any order.
    rows: u32,
}

impl Newest {
    fn add(&mut self, id: u64, soft: bool) {
        let slot = if soft { &mut self.soft } else { &mut self.hard };
        *slot = id.max(*slot);
        self.rows = self.rows.saturating_add(1);
    }

    /// Takes one row away. The ids stay while there are others, which may only invalidate more.
    fn remove(&mut self) {
        self.rows = self.rows.saturating_sub(1);
        if self.rows == 0 {
            *self = Self::default();
        }
    }

    fn is_empty(self) -> bool {
        self.rows == 0
    }
}

/// Everything that some rows name.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Index {
    everything: Newest,
    tags: HashMap<Bytes, Newest>,
    prefixes: HashMap<Bytes, Newest>,
    uris: HashMap<Bytes, Newest>,
    paths: HashMap<Bytes, Newest>,
    /// The same rows as in `uris`, by their paths without the query.
    any_query: HashMap<Bytes, Newest>,
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

    /// Forgets a row that has been added. What it names stays named while another row does.
    pub(super) fn remove(&mut self, scope: &Scope) {
        if let Scope::Uri(start) = scope {
            forget(&mut self.any_query, &path(start));
        }
        match self.map(scope) {
            None => self.everything.remove(),
            Some((map, name)) => forget(map, &name),
        }
    }

    fn map(&mut self, scope: &Scope) -> Option<(&mut HashMap<Bytes, Newest>, Bytes)> {
        Some(match scope {
            Scope::Everything => return None,
            Scope::Tag(tag) => (&mut self.tags, tag.to_bytes()),
            Scope::Prefix(prefix) => (&mut self.prefixes, prefix.clone()),
            Scope::Uri(start) => (&mut self.uris, start.clone()),
            Scope::Path(start) => (&mut self.paths, start.clone()),
        })
    }

    /// The newest rows that name a response, by each of its tags and beginnings.
    pub(super) fn of<'a>(
        &'a self,
        key: &'a [u8],
        tags: &'a [Tag],
    ) -> impl Iterator<Item = Newest> + 'a {
        let by_tag = tags.iter().filter_map(|tag| self.tags.get(tag.as_bytes()));
        let by_key = implied_by(key, tags).filter_map(|implied| match implied {
            Implied::Everything => Some(&self.everything),
            Implied::Prefix(prefix) => self.prefixes.get(prefix),
            Implied::Uri(start) => self.uris.get(start),
            Implied::Path(start) => self.paths.get(start),
        });
        let by_path = has_any_query(tags).then(|| of_path(key, tags));
        let by_path = by_path.into_iter().flatten();
        let by_path = by_path.filter_map(|path| self.any_query.get(path.as_ref()));
        by_key.chain(by_tag).chain(by_path).copied().filter(|newest| !newest.is_empty())
    }

    pub(super) fn names(&self, key: &[u8], tags: &[Tag]) -> bool {
        self.of(key, tags).next().is_some()
    }
}

fn path(start: &Bytes) -> Bytes {
    match path_of(start) {
        Cow::Borrowed(_) => start.clone(),
        Cow::Owned(path) => path.into(),
    }
}

fn forget(map: &mut HashMap<Bytes, Newest>, name: &Bytes) {
    let Some(newest) = map.get_mut(name) else { return };
    newest.remove();
    if newest.is_empty() {
        map.remove(name);
    }
}
