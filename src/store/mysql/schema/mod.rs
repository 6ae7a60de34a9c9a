//! The tables: the statements that create them, and the check that they have the shape that the store needs.

mod ddl;
mod migrate;

pub(super) use self::ddl::{entries_ddl, lease_ddl, log_ddl, log_state_ddl};
pub(super) use self::migrate::{check, migrate, tables};
