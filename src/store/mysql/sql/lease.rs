//! Which statements are there for leases? They use the database's time.

use super::{TableName, Text};

/// The time now in milliseconds since 1970. It does not change during a statement.
const NOW: &str = "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS UNSIGNED)";

/// The id that [`LeaseSql::take`] returns if another process holds the lease. If the key is unshareable, the id is
/// [`UNSHAREABLE`] plus the milliseconds left, up to [`LAST_UNSHAREABLE`]. Lease numbers are larger, because they are
/// times since 1970.
pub(in super::super) const HELD: u64 = 1;
pub(in super::super) const UNSHAREABLE: u64 = 2;
pub(in super::super) const LAST_UNSHAREABLE: u64 = 1_000_000_000;

/// How much the clocks of a cluster's nodes may differ, in ms.
const SLACK: u64 = 1_000;

/// The longest time that a key can be unshareable, in ms: a day.
const LONGEST_MARK: u64 = 86_400_000;

/// The last number that can be a time: the end of the year 9999, in ms since 1970.
const LAST_NUMBER: u64 = 253_402_300_799_999;

/// How long the row of a lease stays after its grant and its end, in ms: an hour. If a holder writes later than that,
/// it finds no row, and the write is refused.
const KEPT: u64 = 3_600_000;

#[derive(Debug, Default)]
pub(in super::super) struct LeaseSql {
    /// Binds hash, owner, ms, ms, ms, owner, ms, ms. The id of the insert is the lease's number, or the other
    /// results.
    pub(in super::super) take: Text,
    /// Releases a lease. Binds hash, number.
    pub(in super::super) free: Text,
    /// Marks the key as unshareable. Binds ms, hash, number.
    pub(in super::super) mark: Text,
    /// Used in place of a row's hash. It is null, which no row may have, unless the lease is still held. Binds the
    /// row's hash, the lease's hash, its number.
    pub(super) fenced_hash: String,
    /// Binds first hash, limit.
    pub(in super::super) window: Text,
    /// Deletes leases whose grant and end are longer ago than [`KEPT`]. Binds first and last hash.
    pub(in super::super) prune: Text,
}

impl LeaseSql {
    pub(super) fn new(table: &TableName) -> Self {
        let t = table.quoted();
        // The clock may step back during a lease, by a correction or on another server. So an end that is further
        // ahead than any lease given now counts as over. Binds the requested ms.
        let over = format!(
            "(until_ms <= {NOW} OR until_ms > {NOW} + IF(owner = 0, {LONGEST_MARK}, ? + {SLACK}))"
        );
        let next = format!("IF(fence < {LAST_NUMBER}, GREATEST(fence + 1, {NOW}), {NOW})");
        Self {
            // Numbers grow with the clock too, so that no number is given twice after a row was deleted. `until_ms`
            // is assigned last, because the other assignments depend on its old value. For an owner that has been
            // assigned before, the lease still counts as over.
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
            // free, whatever the clock says later
            free: format!("UPDATE {t} SET until_ms = 0 WHERE key_hash = ? AND fence = ?").into(),
            mark: format!(
                "UPDATE {t} SET owner = 0, until_ms = {NOW} + ? WHERE key_hash = ? AND fence = ?"
            )
            .into(),
            // locked, so that no other process gets the lease before the row is written
            fenced_hash: format!(
                "(SELECT CAST(? AS BINARY(16)) FROM {t} WHERE key_hash = ? AND fence = ? \
                 LOCK IN SHARE MODE)"
            ),
            window: format!("SELECT key_hash FROM {t} WHERE key_hash >= ? ORDER BY key_hash LIMIT ?")
                .into(),
            // a number is the time of a grant, the only sign of a released lease's age; adding to a damaged column
            // would be an error
            prune: format!(
                "DELETE FROM {t} WHERE key_hash BETWEEN ? AND ? \
                 AND (until_ms < {NOW} - {KEPT} OR until_ms > {NOW} + {LONGEST_MARK}) \
                 AND (fence < {NOW} - {KEPT} OR fence > {LAST_NUMBER})"
            )
            .into(),
        }
    }
}
