//! How do lookups wait, and how are they answered in batches?

mod lane;
mod queue;

pub(super) use self::lane::lane;
pub(super) use self::queue::{Answer, Found, Lookups};
