//! How is the table kept in order? Culling, pruning, statistics, and questions that scan a table.

mod estimate;
mod full_cull;
mod leases;
mod log;
mod task;

pub(super) use self::estimate::Estimates;
pub(super) use self::task::{Command, Maintenance};
