//! How does a complete body, or a new head, get into the store?
//!
//! | question | file |
//! |---|---|
//! | How does a complete body get into the store? | `fill` |
//! | How does a stored response get another head? | `freshen` |
//! | How is a stored response deleted? | `remove` |
//! | How is it written, after its response and with its lease? | `write` |
//! | What has a process stored lately, and what was not storable? | `fills` |

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
