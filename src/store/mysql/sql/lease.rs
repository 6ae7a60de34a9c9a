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

/// How far apart the clocks of a cluster's nodes may be, in ms.
const SLACK: u64 = 1_000;

/// The longest time that a policy may say that there is nothing to wait for, in ms: a day.
const LONGEST_MARK: u64 = 86_400_000;

/// The last number that can be a time: the end of the year 9999, in ms since 1970.
const LAST_NUMBER: u64 = 253_402_300_799_999;

/// How long the row of a lease is kept after its grant and its end, in ms: an hour. A holder that comes back
/// later than that, to write, finds no row, and does not write.
const KEPT: u64 = 3_600_000;

#[derive(Debug)]
pub(in super::super) struct LeaseSql {
    /// Binds hash, owner, ms, ms, ms, owner, ms, ms. The id of the insert is the number that the lease was granted
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
    /// Binds first and last hash: those that were granted and have ended longer ago than [`KEPT`].
    pub(in super::super) prune: Text,
}

impl LeaseSql {
    pub(super) fn new(table: &TableName) -> Self {
        let t = table.quoted();
        // The clock may step back under a lease, by a correction or because another server has taken over: an
        // end that is further ahead than any that could be given now is none. Binds the ms that the asker wants.
        let over = format!(
            "(until_ms <= {NOW} OR until_ms > {NOW} + IF(owner = 0, {LONGEST_MARK}, ? + {SLACK}))"
        );
        let next = format!("IF(fence < {LAST_NUMBER}, GREATEST(fence + 1, {NOW}), {NOW})");
        Self {
            // numbers grow with the clock as well, so that none comes again when a row has been removed;
            // `until_ms` is assigned last, because the others are judged by what it was, and stays over
            // for an owner that has been assigned before
            take: format!(
                "INSERT INTO {t} (key_hash, owner, fence, until_ms) \
                 VALUES (?, ?, LAST_INSERT_ID({NOW}), {NOW} + ?) ON DUPLICATE KEY UPDATE \
                 fence = IF(LAST_INSERT_ID(IF({over}, {next}, \
                 IF(owner = 0, LEAST({UNSHAREABLE} + until_ms - {NOW}, {LAST_UNSHAREABLE}), {HELD}))) \
                 > {LAST_UNSHAREABLE}, {next}, fence), \
                 owner = IF({over}, ?, owner), \
                 until_ms = IF({over}, {NOW} + ?, until_ms)"
            )
            .into(),
            // free whatever the clock says later
            free: format!("UPDATE {t} SET until_ms = 0 WHERE key_hash = ? AND fence = ?").into(),
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
            // a number is the time of a grant, which is all that a lease given back says of its age; a sum
            // with a damaged column would be an error
            prune: format!(
                "DELETE FROM {t} WHERE key_hash BETWEEN ? AND ? \
                 AND (until_ms < {NOW} - {KEPT} OR until_ms > {NOW} + {LONGEST_MARK}) \
                 AND (fence < {NOW} - {KEPT} OR fence > {LAST_NUMBER})"
            )
            .into(),
        }
    }
}
