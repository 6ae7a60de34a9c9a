//! Which statements are there for the invalidation log?

use super::{TableName, Text, entry, list};

/// The most rows that one statement of a read returns.
pub(in super::super) const READ_LIMIT: u64 = 2_000;

/// The largest id that a row may have.
pub(in super::super) const MAX_ID: u64 = i64::MAX as u64;

/// The most ranges of ids in one read, in addition to the newest rows.
pub(in super::super) const MAX_RANGES: usize = 64;

/// The most values in one query of the history.
pub(in super::super) const MAX_TAGS: usize = 256;

/// The most rows in one insert. The server gives all their ids at once, and inserts the rows a moment later. With
/// short lists, this takes only a moment.
pub(in super::super) const MAX_APPEND: usize = 64;

/// The row of the log with the largest id. If a row has the same id but another time, it belongs to another log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct NewestLogRow {
    pub(in super::super) id: u64,
    pub(in super::super) at_ms: u64,
}

/// The statements of one log.
#[derive(Debug, Default)]
pub(in super::super) struct LogSql {
    /// Reads the log. Binds the first id, then first and last of 0, 1, 4, 16 or 64 ranges, then the limit. With
    /// ranges, it also returns the floor, because rows in gaps may have been pruned.
    read: Vec<Text>,
    /// Appends 1, 2, 4, ..., 64 rows. Binds tag, kind, reason of each.
    append: Vec<Text>,
    /// Queries the history. Binds 1, 4, 16, 64 or 256 tags, then the lowest id, the id after the last, the limit.
    history: Vec<Text>,
    /// The next statement on the connection also reads uncommitted rows.
    pub(in super::super) uncommitted: Text,
    pub(in super::super) begin: Text,
    pub(in super::super) commit: Text,
    pub(in super::super) roll_back: Text,
    /// Queries the history for a range of tags. Binds the first tag, the one after the last, the same for ids, the
    /// limit.
    pub(in super::super) history_between: Text,
    /// The largest id, or 0.
    pub(in super::super) largest: Text,
    /// The row with the largest id.
    pub(in super::super) newest: Text,
    /// The time of a row. Binds its id.
    pub(in super::super) time: Text,
    /// The first id that has not been pruned.
    pub(in super::super) floor: Text,
    /// Raises the floor. Binds the last id that will be pruned, twice.
    pub(in super::super) raise_floor: Text,
    /// The ids of a range. Binds first and last id, limit.
    pub(in super::super) ids: Text,
    /// The rows of a range, with a lock. Fails at once if a transaction holds one. Binds first and last id, limit.
    pub(in super::super) locked: Text,
    /// The same, but only the ids.
    pub(in super::super) locked_ids: Text,
    /// Up to which id the log is settled, or 0.
    pub(in super::super) settled: Text,
    /// Records up to which id the log is settled. Binds that id, the id and the time of a row that was read, and the
    /// first id again. If the row does not exist, this is another log, and nothing changes.
    pub(in super::super) settle: Text,
    /// Inserts the row that invalidates everything after a loss. Binds its id.
    pub(in super::super) restart: Text,
    /// The largest id, from this one on, of a row that invalidates everything, or 0. Binds an id.
    pub(in super::super) restarted: Text,
    /// Records a lower settled id for a log that has lost rows. Binds it.
    pub(in super::super) unsettle: Text,
    /// The newest rows. Binds the limit.
    pub(in super::super) tail: Text,
    /// The first rows after an id. Binds the id, the limit.
    pub(in super::super) oldest: Text,
    /// Deletes rows. Binds an id, and the last id to delete after it.
    pub(in super::super) prune: Text,
}

impl LogSql {
    pub(super) fn new(log: &TableName, state: &TableName) -> Self {
        let (l, s) = (log.quoted(), state.quoted());
        let floor =
            format!("SELECT CAST(COALESCE(MAX(settled), 0) + 1 AS UNSIGNED) FROM {s} WHERE id = 2");
        Self {
            begin: "START TRANSACTION".into(),
            commit: "COMMIT".into(),
            roll_back: "ROLLBACK".into(),
            uncommitted: "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED".into(),
            largest: format!("SELECT CAST(COALESCE(MAX(id), 0) AS UNSIGNED) FROM {l}").into(),
            newest: format!("SELECT id, tag, kind, at_ms FROM {l} ORDER BY id DESC LIMIT 1").into(),
            time: format!("SELECT at_ms FROM {l} WHERE id = ?").into(),
            tail: format!("SELECT id, tag, kind, reason, at_ms FROM {l} ORDER BY id DESC LIMIT ?")
                .into(),
            oldest: format!("SELECT id, at_ms FROM {l} WHERE id > ? ORDER BY id LIMIT ?").into(),
            prune: format!("DELETE FROM {l} WHERE id > ? AND id <= ?").into(),
            floor: floor.as_str().into(),
            ..Self::of_rows(&l, &floor, Self::of_state(&l, &s))
        }
    }

    /// The statements that read and write rows.
    fn of_rows(l: &str, floor: &str, others: Self) -> Self {
        let read = |ranges: usize| -> Text {
            let floor = if ranges > 0 { format!(", ({floor})") } else { String::new() };
            let ranges = " OR id BETWEEN ? AND ?".repeat(ranges);
            format!("SELECT id, tag, kind, at_ms{floor} FROM {l} WHERE id >= ?{ranges} ORDER BY id LIMIT ?")
                .into()
        };
        let between = |columns: &str, lock: &str| -> Text {
            format!("SELECT {columns} FROM {l} WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?{lock}")
                .into()
        };
        let lock = " FOR UPDATE NOWAIT";
        Self {
            read: [0, 1, 4, 16, MAX_RANGES].into_iter().map(read).collect(),
            append: (0..=MAX_APPEND.ilog2())
                .map(|power| {
                    let rows = list("(?, ?, ?)", 1 << power);
                    format!("INSERT INTO {l} (tag, kind, reason) VALUES {rows}").into()
                })
                .collect(),
            // with the index on tags, which a server with outdated statistics does not always choose
            history: [1, 4, 16, 64, MAX_TAGS]
                .into_iter()
                .map(|tags| {
                    let tags = list("?", tags);
                    format!(
                        "SELECT id, kind, tag FROM {l} IGNORE INDEX (PRIMARY) \
                         WHERE tag IN ({tags}) AND id >= ? AND id < ? LIMIT ?"
                    )
                    .into()
                })
                .collect(),
            history_between: format!(
                "SELECT id, kind, tag FROM {l} IGNORE INDEX (PRIMARY) \
                 WHERE tag >= ? AND tag < ? AND id >= ? AND id < ? LIMIT ?"
            )
            .into(),
            ids: between("id", ""),
            locked: between("id, tag, kind, at_ms", lock),
            locked_ids: between("id", lock),
            ..others
        }
    }

    /// The statements of the log's state: how far it is settled, and its restart.
    fn of_state(l: &str, s: &str) -> Self {
        Self {
            raise_floor: format!(
                "INSERT INTO {s} (id, settled) VALUES (2, ?) \
                 ON DUPLICATE KEY UPDATE settled = GREATEST(settled, ?)"
            )
            .into(),
            settled: format!(
                "SELECT CAST(COALESCE(MAX(settled), 0) AS UNSIGNED) FROM {s} WHERE id = 1"
            )
            .into(),
            settle: format!(
                "INSERT INTO {s} (id, settled) SELECT 1, ? FROM {l} WHERE {l}.id = ? AND {l}.at_ms = ? \
                 ON DUPLICATE KEY UPDATE settled = GREATEST(settled, ?)"
            )
            .into(),
            restarted: format!(
                "SELECT CAST(COALESCE(MAX(id), 0) AS UNSIGNED) FROM {l} \
                 WHERE id >= ? AND tag = ':everything' AND kind = 'h'"
            )
            .into(),
            unsettle: format!("UPDATE {s} SET settled = ? WHERE id = 1").into(),
            restart: format!(
                "INSERT INTO {l} (id, tag, kind, reason) \
                 VALUES (?, ':everything', 'h', 'the log has lost rows')"
            )
            .into(),
            ..Self::default()
        }
    }

    /// The statement that reads at least this many ranges, and how many it binds.
    pub(in super::super) fn read(&self, ranges: usize) -> (&Text, usize) {
        let (text, of_four) = fourfold(&self.read, ranges, 1);
        if ranges == 0 { (entry(&self.read, 0).0, 0) } else { (text, of_four) }
    }

    /// The insert with the most rows up to `count`, and how many.
    pub(in super::super) fn append(&self, count: usize) -> (&Text, usize) {
        entry(&self.append, count.clamp(1, MAX_APPEND).ilog2())
    }

    /// The query for at least this many tags, and how many it binds.
    pub(in super::super) fn history(&self, tags: usize) -> (&Text, usize) {
        fourfold(&self.history, tags, 0)
    }
}

/// From texts for 1, 4, 16, ... things, beginning at `first`: the smallest for `count`, and how many it binds.
fn fourfold(texts: &[Text], count: usize, first: u32) -> (&Text, usize) {
    let power = count.max(1).next_power_of_two().ilog2().div_ceil(2);
    (entry(texts, power + first).0, 1 << (2 * power))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql() -> LogSql {
        let name = |name| TableName::parse("log_table", name).unwrap();
        LogSql::new(&name("d.l"), &name("d.l_state"))
    }

    #[test]
    fn a_read_of_the_log_binds_its_ranges() {
        let sql = sql();
        for ranges in 0..=MAX_RANGES {
            let (text, binds) = sql.read(ranges);
            assert!(binds >= ranges && binds <= 4 * ranges, "{ranges}: {binds}");
            assert_eq!(text.matches('?').count(), 2 * binds + 2, "{ranges}");
        }
        for count in 1..=MAX_TAGS {
            let (text, tags) = sql.history(count);
            assert!(tags >= count && tags <= 4 * count, "{count}: {tags}");
            assert_eq!(text.matches('?').count(), tags + 3, "{count}");
        }
        for count in 1..=64 {
            let (text, rows) = sql.append(count);
            assert!(rows <= count && text.matches('?').count() == 3 * rows);
        }
        assert!(sql.tail.contains("FROM `d`.`l` "), "{}", sql.tail);
    }
}
