//! Lookups: the queue of those that wait, and the tasks that answer them in batches.

mod lane;
mod queue;

pub(super) use self::lane::lane;
pub(super) use self::queue::{Answer, Found, Lookups};
