//! What a request is to the cache: whether it is handled, its plan, its query, and the layers that it comes through.

mod admission;
pub(crate) mod nesting;
mod search;

pub(in crate::engine) use self::admission::Asker;
pub(crate) use self::admission::{Admission, Plan, Write, admit};
pub(in crate::engine) use self::search::{Rule, held_bytes, rule_of};
