//! Which statements create the tables, and are existing tables encrypted?

use super::super::sql::TableName;

/// The statement that creates the table of entries.
pub(in super::super) fn entries_ddl(table: &TableName) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (
  key_hash       BINARY(16)        NOT NULL, -- first 16 bytes of SHA-256 over cache_key
  cache_key      VARBINARY(1024)   NOT NULL, -- prefix:version:target ...
  value          LONGBLOB          NOT NULL, -- body, perhaps compressed, then 9 bytes
  value_type     CHAR(1) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, -- r response, R and Z compressed, v variants
  expires        BIGINT UNSIGNED   NOT NULL, -- may be removed from then on, ms since 1970
  head           MEDIUMBLOB        NULL,     -- status, fields, times, tags
  size           INT UNSIGNED      NULL,     -- bytes of cache_key, head and value
  status         SMALLINT UNSIGNED NULL,
  born_ms        BIGINT UNSIGNED   NULL,     -- ms since 1970
  fresh_until_ms BIGINT UNSIGNED   NULL,     -- ms since 1970
  gen_ms         INT UNSIGNED      NULL,     -- how long it took to make
  PRIMARY KEY (key_hash),
  KEY cache_key (cache_key(255))
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC",
        table.quoted()
    )
}

/// The statement that creates the invalidation log. All columns except `tag` have defaults, so a trigger only needs
/// to name the tag.
pub(in super::super) fn log_ddl(table: &TableName) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (
  id     BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  tag    VARBINARY(1024) NOT NULL, -- what is invalidated
  kind   CHAR(1) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'h', -- h hard, s soft: stale only
  reason VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
  at_ms  BIGINT UNSIGNED NOT NULL DEFAULT (CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS UNSIGNED)), -- ms since 1970
  PRIMARY KEY (id),
  KEY tag (tag, id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC",
        table.quoted()
    )
}

/// The statement that creates the table with the log's state: up to which id it is settled.
pub(in super::super) fn log_state_ddl(table: &TableName) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (
  id      TINYINT UNSIGNED NOT NULL, -- 1 settled, 2 pruned
  settled BIGINT UNSIGNED  NOT NULL, -- 1: no row up to this id of the log is still to come; 2: rows up to this id are gone
  PRIMARY KEY (id)
) ENGINE=InnoDB",
        table.quoted()
    )
}

/// The statement that creates the table of leases.
pub(in super::super) fn lease_ddl(table: &TableName) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (
  key_hash BINARY(16)      NOT NULL, -- what the lease is about
  owner    BIGINT UNSIGNED NOT NULL, -- whose it is; 0: there is nothing to wait for
  fence    BIGINT UNSIGNED NOT NULL, -- grows with each grant; whose is smaller does not write
  until_ms BIGINT UNSIGNED NOT NULL, -- ms since 1970; from then on anyone may take it
  PRIMARY KEY (key_hash)
) ENGINE=InnoDB",
        table.quoted()
    )
}

/// The table option that encrypts, for a server of this version.
pub(in super::super) fn encryption(version: &str) -> &'static str {
    if version.to_ascii_lowercase().contains("mariadb") {
        "ENCRYPTED=YES"
    } else {
        "ENCRYPTION='Y'"
    }
}

/// Whether a table is encrypted, by the `create_options` that the server shows. `by_default`: whether the server
/// encrypts tables without such an option.
pub(in super::super) fn is_encrypted(create_options: &str, by_default: bool) -> bool {
    let plain: String = create_options
        .chars()
        .filter(|c| !matches!(c, '`' | '\'' | '"'))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let says = |wanted: &[&str]| plain.split_whitespace().any(|option| wanted.contains(&option));
    says(&["encrypted=yes", "encryption=y"])
        || by_default && !says(&["encrypted=no", "encryption=n"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_both_servers_are_read() {
        for shown in ["`ENCRYPTED`=YES", "`encrypted`='yes' row_format=DYNAMIC", "ENCRYPTION=\"Y\""]
        {
            assert!(is_encrypted(shown, false), "{shown}");
        }
        for shown in ["", "row_format=DYNAMIC", "`ENCRYPTED`=NO", "ENCRYPTION='N'"] {
            assert!(!is_encrypted(shown, false), "{shown}");
            assert_eq!(is_encrypted(shown, true), !shown.contains("ENCRYPT"), "{shown}");
        }
    }
}
