//! Collapsing: which request calls the handler, and which requests wait for its response?
//!
//! | question | file |
//! |---|---|
//! | Does a request lead or follow, and what does it get? | `join` |
//! | Which flights are there, and how do they end? | `flight` |
//! | May the followers get the leader's response? | `share` |
//! | Which process calls the handler? | `lease` |
//! | Which request refreshes a response that has been served? | `refresh` |

mod flight;
mod join;
mod lease;
mod refresh;
mod share;

pub(in crate::engine) use self::flight::{FlightKey, Flights, Leader};
pub(in crate::engine) use self::join::{CollapseState, Collapsed, Collapsing};
pub(in crate::engine) use self::lease::HeldLease;
pub(in crate::engine) use self::refresh::{lead_refresh, lease_refresh};
