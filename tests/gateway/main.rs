//! The gateway example, talked to over real sockets, in front of an origin made for each test: every
//! byte that goes in and comes out can be asserted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod cache;
mod connections;
mod forwarding;
mod kit;
mod process;
mod upstream;
