//! Connections: how one is opened, used within deadlines, judged when it fails, and replaced.

mod connection;
mod failure;
mod link;
mod reopen;
mod retry;
mod server;

pub(super) use self::connection::{Connection, Role, Statement, statement};
pub(super) use self::failure::{Failure, MISSING, OTHER_SHAPE, Then};
pub(super) use self::link::Link;
pub(super) use self::reopen::{IDLE, idle_timer, reopen, stopped};
pub(super) use self::retry::Retry;
pub(super) use self::server::SameServer;
