//! The suites that need a database, and those that run on every store.

mod contract;
mod kit;
mod layer;
mod servers;
mod streams;
#[path = "../support/mod.rs"]
mod support;
