//! From a complete body or a 304 to the store.
//!
//! | question | file |
//! |---|---|
//! | How does a complete body get into the store? | `fill` |
//! | How does a stored response get another head? | `freshen` |
//! | How does it lose its place? | `remove` |
//! | Who writes, behind which response, with which lease? | `write` |
//! | What has a process stored lately, and what not? | `fills` |

mod fill;
mod fills;
mod freshen;
mod remove;
mod write;

pub(in crate::engine) use self::fill::{Fill, Filled, count_not_stored};
pub(in crate::engine) use self::fills::Fills;
pub(in crate::engine) use self::freshen::freshen;
pub(in crate::engine) use self::remove::{remove, remove_in_background, withdraw};
pub(in crate::engine) use self::write::release_after_writes;
