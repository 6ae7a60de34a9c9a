//! What the suites share: stores, handlers, gates, requests, answers and servers.

mod answers;
mod crowds;
mod gates;
mod handlers;
mod requests;
mod sites;
mod slow;
mod stores;

pub(crate) use answers::Answer;
pub(crate) use crowds::Crowd;
pub(crate) use gates::{Gate, gated, gated_by};
pub(crate) use handlers::{App, Calls, Seen, cached, scripted};
pub(crate) use requests::{get, request, response, send};
pub(crate) use sites::Site;
pub(crate) use slow::Slow;
pub(crate) use stores::{Kit, in_memory, on_every_store, over, patient, time_passes};
