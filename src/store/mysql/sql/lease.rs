//! Statements about leases. Times are the database's own.

use super::{TableName, Text};

/// The time now, in milliseconds since 1970: the same throughout a statement.
const NOW: &str = "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS UNSIGNED)";

/// What [`LeaseSql::take`] says in place of a number: somebody holds the lease; or there is nothing to wait
/// for, for as many ms as the answer is more than [`UNSHAREABLE`], to [`LAST_UNSHAREABLE`]. Numbers are
/// more: they are times since 1970.
pub(in super::super) const HELD: u64 = 1;
pub(in super::super) const UNSHAREABLE: u64 = 2;
pub(in super::super) const LAST_UNSHAREABLE: u64 = 1_000_000_000;

#[derive(Debug)]
pub(in super::super) struct LeaseSql {
    /// Binds hash, owner, ms, owner, ms. The id of the insert is the number that the lease was granted
    /// under, or what is said in the place of one.
    pub(in super::super) take: Text,
    /// Binds hash, number: the next one may have it.
    pub(in super::super) free: Text,
    /// Binds ms, hash, number: until then there is nothing to wait for.
    pub(in super::super) mark: Text,
    /// In place of a row's hash: it is null, which no row may have, unless the lease is held still. Binds
    /// the row's hash, the lease's hash, its number.
    pub(super) fenced_hash: String,
    /// Binds first hash, limit.
    pub(in super::super) window: Text,
    /// Binds first and last hash, ms: those that ended longer ago than this.
    pub(in super::super) prune: Text,
}

impl LeaseSql {
    pub(super) fn new(table: &TableName) -> Self {
        let t = table.quoted();
        Self {
            // numbers grow with the clock as well, so that none comes again when a row has been removed;
            // `until_ms` is assigned last, because the others are judged by what it was
            take: format!(
                "INSERT INTO {t} (key_hash, owner, fence, until_ms) \
                 VALUES (?, ?, LAST_INSERT_ID({NOW}), {NOW} + ?) ON DUPLICATE KEY UPDATE \
                 fence = IF(LAST_INSERT_ID(IF(until_ms <= {NOW}, GREATEST(fence + 1, {NOW}), \
                 IF(owner = 0, LEAST({UNSHAREABLE} + until_ms - {NOW}, {LAST_UNSHAREABLE}), {HELD}))) \
                 > {LAST_UNSHAREABLE}, GREATEST(fence + 1, {NOW}), fence), \
                 owner = IF(until_ms <= {NOW}, ?, owner), \
                 until_ms = IF(until_ms <= {NOW}, {NOW} + ?, until_ms)"
            )
            .into(),
            free: format!(
                "UPDATE {t} SET until_ms = LEAST(until_ms, {NOW}) WHERE key_hash = ? AND fence = ?"
            )
            .into(),
            mark: format!(
                "UPDATE {t} SET owner = 0, until_ms = {NOW} + ? WHERE key_hash = ? AND fence = ?"
            )
            .into(),
            // locked, so that nobody takes it over before the row is written
            fenced_hash: format!(
                "(SELECT CAST(? AS BINARY(16)) FROM {t} WHERE key_hash = ? AND fence = ? \
                 LOCK IN SHARE MODE)"
            ),
            window: format!("SELECT key_hash FROM {t} WHERE key_hash >= ? ORDER BY key_hash LIMIT ?")
                .into(),
            prune: format!(
                "DELETE FROM {t} WHERE key_hash BETWEEN ? AND ? AND until_ms + ? < {NOW}"
            )
            .into(),
        }
    }
}
