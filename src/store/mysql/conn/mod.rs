//! How is a connection opened, used within deadlines, and replaced after a failure?

mod connection;
mod failure;
mod link;
mod reopen;
mod retry;
mod server;

pub(super) use self::connection::{Connection, Role, Statement, statement};
pub(super) use self::failure::{Failure, MISSING, OTHER_SHAPE, Recovery};
pub(super) use self::link::Link;
pub(super) use self::reopen::{IDLE, idle_timer, reopen, stopped};
pub(super) use self::retry::Retry;
pub(super) use self::server::SameServer;
