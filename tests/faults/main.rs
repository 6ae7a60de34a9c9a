//! Real faults on a real database. Whatever happens to it: every request is answered, with the right body,
//! after one `store_timeout` at most and after no wait at all once the breaker is open; nothing is served
//! that an invalidation had removed that was said to be done; and the cache comes back by itself. `kit`
//! holds what is promised, and checks it with every request.
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
