//! Collapsing: which request calls the handler, and which wait for its response.

mod flight;
mod join;
mod lease;
mod share;

pub(in crate::engine) use self::flight::{FlightKey, Flights, Joined, Joining, Lead};
pub(in crate::engine) use self::join::{Collapsed, Collapsing, Queue};
pub(in crate::engine) use self::lease::{Held, LONGEST_WAIT, Leased};
