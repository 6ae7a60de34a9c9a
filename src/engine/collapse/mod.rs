//! Collapsing: which request calls the handler, and which wait for its response.
//!
//! | question | file |
//! |---|---|
//! | Does a request lead or follow, and what does it get? | `join` |
//! | Who flies: the leaders, the followers, how flights end? | `flight` |
//! | Is the leader's response one for the followers? | `share` |
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
