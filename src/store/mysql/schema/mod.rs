//! Which tables does the store need, and how are they created and checked?

mod ddl;
mod migrate;

pub(super) use self::ddl::{entries_ddl, lease_ddl, log_ddl, log_state_ddl};
pub(super) use self::migrate::{check, migrate, tables};
