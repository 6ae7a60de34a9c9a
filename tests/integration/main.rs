//! The suites that need a database, and those that run on every store.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests
#![allow(clippy::type_complexity)] // tables of cases

mod cluster;
mod collapse;
mod conditions;
mod confirmations;
mod contract;
mod cost;
mod credentials;
mod front;
mod groups;
mod guard;
mod invalidation;
mod kit;
mod layer;
mod leaks;
mod log;
mod logins;
mod lookalikes;
mod mysql_store;
mod names;
mod outage;
mod poisoning;
mod policies;
mod privacy;
mod processes;
mod reflected;
mod rules_freshness;
mod rules_selection;
mod rules_storing;
mod search;
mod servers;
mod stale;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod transactions;
mod writes;
