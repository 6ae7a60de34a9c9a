//! Which prefixes does this process write, and how much since the last cull?

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::Notify;

use super::super::sql::PREFIX_BYTES;
use crate::key::prefix_of;
use crate::sync::lock;

/// The most prefixes whose limits one process enforces.
const MAX_PREFIXES: usize = 64;

/// Shared by the writer and the maintenance task.
#[derive(Debug, Default)]
pub(in super::super) struct Owned {
    written: Mutex<HashMap<Vec<u8>, u64>>,
    /// A written row has started a cull. One more is remembered while a cull runs.
    pub(in super::super) cull: Notify,
}

impl Owned {
    /// A row with this key was written.
    pub(in super::super) fn wrote(&self, key: &[u8]) {
        let prefix = owner(key);
        let mut written = lock(&self.written);
        if let Some(rows) = written.get_mut(prefix) {
            *rows += 1;
        } else if written.len() < MAX_PREFIXES {
            written.insert(prefix.to_vec(), 1);
        }
    }

    pub(in super::super) fn prefixes(&self) -> Vec<Vec<u8>> {
        lock(&self.written).keys().cloned().collect()
    }

    /// The prefixes, with the number of rows written since the last call.
    pub(in super::super) fn take(&self) -> HashMap<Vec<u8>, u64> {
        let mut written = lock(&self.written);
        written.iter_mut().map(|(prefix, rows)| (prefix.clone(), std::mem::take(rows))).collect()
    }
}

/// The prefix of a key, as far as windows read it: only the first bytes of a key.
pub(in super::super) fn owner(key: &[u8]) -> &[u8] {
    prefix_of(key.get(..PREFIX_BYTES).unwrap_or(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_for_each_prefix_and_prefixes_are_bounded() {
        let owned = Owned::default();
        for key in ["a:1:/x", "a:1:/y", "b:1:/x"] {
            owned.wrote(key.as_bytes());
        }
        let taken = owned.take();
        assert_eq!((taken[&b"a"[..]], taken[&b"b"[..]]), (2, 1));
        assert_eq!(owned.take()[&b"a"[..]], 0);
        for i in 0..200 {
            owned.wrote(format!("p{i}:1:/x").as_bytes());
        }
        assert_eq!(owned.take().len(), MAX_PREFIXES);
    }

    #[test]
    fn a_long_prefix_is_cut_where_windows_cut_it() {
        let long = "x".repeat(300);
        assert_eq!(owner(long.as_bytes()).len(), PREFIX_BYTES);
        assert_eq!(owner(b"shop:1:/"), b"shop");
    }
}
