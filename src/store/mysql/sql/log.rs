//! The statements of the invalidation log.

use super::{TableName, Text, entry, list};

/// Rows that one look at the log takes at once.
pub(in super::super) const READ_LIMIT: u64 = 2_000;

/// Gaps that a look at the log asks for one by one: more, and it reads on from the lowest.
pub(in super::super) const MAX_GAP_IDS: usize = 1_024;

/// Most rows in one insert. Ids are handed out for all of its rows at once, and the rows are there a
/// moment later: lists are short so that this stays a moment.
pub(in super::super) const MAX_APPEND: usize = 64;

/// The statements of one log.
#[derive(Debug)]
pub(in super::super) struct LogSql {
    /// Binds the first id, then 0, 4, 16, ..., 1,024 ids, then the limit. With ids the floor comes
    /// along: rows in gaps may have been pruned.
    read: Vec<Text>,
    /// Binds 1, 2, 4, ..., 64 rows of tag, kind, reason.
    append: Vec<Text>,
    /// Binds 1, 2, 4, ..., 64 tags, then the lowest id, the limit.
    history: Vec<Text>,
    /// Binds the first tag, the first that is too far, the lowest id, the limit.
    pub(in super::super) history_between: Text,
    /// The largest id, 0 for none.
    pub(in super::super) largest: Text,
    /// Binds an id: the time of its row.
    pub(in super::super) time: Text,
    /// The first id that has not been pruned.
    pub(in super::super) floor: Text,
    /// Binds the last id that is about to be pruned, twice.
    pub(in super::super) raise_floor: Text,
    /// Binds first and last id, limit. Fails at once where a transaction holds one of the ids.
    pub(in super::super) locked: Text,
    /// How far the log is settled, 0 for not at all.
    pub(in super::super) settled: Text,
    /// Binds how far the log is settled, the id and the time of a row that has been seen, how far it is settled:
    /// without the row the log is not the one it was, and this says nothing of it.
    pub(in super::super) settle: Text,
    /// Binds the id.
    pub(in super::super) restart: Text,
    /// Binds an id: the largest of a row from there on that names everything, 0 for none.
    pub(in super::super) restarted: Text,
    /// Binds how far a log that has lost rows is taken for settled.
    pub(in super::super) unsettle: Text,
    /// Binds the limit.
    pub(in super::super) tail: Text,
    /// Binds the limit.
    pub(in super::super) oldest: Text,
    /// Binds the last id.
    pub(in super::super) prune: Text,
}

impl LogSql {
    pub(super) fn new(log: &TableName, state: &TableName) -> Self {
        let (l, s) = (log.quoted(), state.quoted());
        let floor =
            format!("SELECT CAST(COALESCE(MAX(settled), 0) + 1 AS UNSIGNED) FROM {s} WHERE id = 2");
        let read = |gaps: usize| -> Text {
            let (floor, gaps) = match gaps {
                0 => (String::new(), String::new()),
                gaps => (format!(", ({floor})"), format!(" OR id IN ({})", list("?", gaps))),
            };
            format!("SELECT id, tag, kind, at_ms{floor} FROM {l} WHERE id >= ?{gaps} ORDER BY id LIMIT ?")
                .into()
        };
        Self {
            read: [0, 4, 16, 64, 256, MAX_GAP_IDS].into_iter().map(read).collect(),
            append: (0..=MAX_APPEND.ilog2())
                .map(|power| {
                    let rows = list("(?, ?, ?)", 1 << power);
                    format!("INSERT INTO {l} (tag, kind, reason) VALUES {rows}").into()
                })
                .collect(),
            history: (0..=MAX_APPEND.ilog2())
                .map(|power| {
                    let tags = list("?", 1 << power);
                    format!("SELECT id, kind FROM {l} WHERE tag IN ({tags}) AND id >= ? LIMIT ?").into()
                })
                .collect(),
            history_between: format!(
                "SELECT id, kind, tag FROM {l} WHERE tag >= ? AND tag < ? AND id >= ? LIMIT ?"
            )
            .into(),
            largest: format!("SELECT CAST(COALESCE(MAX(id), 0) AS UNSIGNED) FROM {l}").into(),
            time: format!("SELECT at_ms FROM {l} WHERE id = ?").into(),
            raise_floor: format!(
                "INSERT INTO {s} (id, settled) VALUES (2, ?) \
                 ON DUPLICATE KEY UPDATE settled = GREATEST(settled, ?)"
            )
            .into(),
            locked: format!(
                "SELECT id, tag, kind, at_ms FROM {l} WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ? \
                 FOR UPDATE NOWAIT"
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
            tail: format!("SELECT id, tag, kind, reason, at_ms FROM {l} ORDER BY id DESC LIMIT ?")
                .into(),
            oldest: format!("SELECT id, at_ms FROM {l} ORDER BY id LIMIT ?").into(),
            prune: format!("DELETE FROM {l} WHERE id <= ?").into(),
            floor: floor.into(),
        }
    }

    /// A look at the log for this many gaps, and how many it binds.
    pub(in super::super) fn read(&self, gaps: usize) -> (&Text, usize) {
        let power = gaps.clamp(1, MAX_GAP_IDS).next_power_of_two().ilog2().div_ceil(2).max(1);
        match gaps {
            0 => (entry(&self.read, 0).0, 0),
            _ => (entry(&self.read, power).0, 1 << (2 * power)),
        }
    }

    /// The insert of the most rows that are not more than `count`, and how many.
    pub(in super::super) fn append(&self, count: usize) -> (&Text, usize) {
        entry(&self.append, count.clamp(1, MAX_APPEND).ilog2())
    }

    /// The question for this many tags, and how many it binds.
    pub(in super::super) fn history(&self, tags: usize) -> (&Text, usize) {
        let power = tags.clamp(1, MAX_APPEND).next_power_of_two().ilog2();
        entry(&self.history, power)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql() -> LogSql {
        let name = |name| TableName::parse("log_table", name).unwrap();
        LogSql::new(&name("d.l"), &name("d.l_state"))
    }

    #[test]
    fn a_look_at_the_log_binds_what_it_says() {
        let sql = sql();
        for gaps in 0..=MAX_GAP_IDS {
            let (text, binds) = sql.read(gaps);
            assert!(binds >= gaps && (gaps == 0) == (binds == 0), "{gaps}: {binds}");
            assert!(binds <= (4 * gaps).max(4), "{gaps}: {binds}");
            assert_eq!(text.matches('?').count(), binds + 2, "{gaps}");
        }
        for count in 1..=64 {
            let (text, rows) = sql.append(count);
            assert!(rows <= count && text.matches('?').count() == 3 * rows);
            let (text, tags) = sql.history(count);
            assert!(tags >= count && text.matches('?').count() == tags + 2);
        }
        assert!(sql.tail.contains("FROM `d`.`l` "), "{}", sql.tail);
    }
}
