//! Real faults on a real database. `kit` checks these promises with every request:
//!
//! - Every request is answered, with the right body.
//! - A request waits for one `store_timeout` at most, and not at all while the breaker is open.
//! - After a successful invalidation, no older response is served.
//! - When the database works again, so does the cache.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests

mod clock;
mod connections;
mod damaged;
mod disk;
mod frozen;
mod killed;
mod kit;
mod locks;
mod memory;
mod network;
mod process;
mod proxy;
#[path = "../support/mod.rs"]
mod support;
mod tables;
mod writes;
