//! How do writes wait, and how are they done in their order?

mod batch;
mod held;
mod lease;
mod prefixes;
mod queue;
mod remove;
mod task;

pub(super) use self::prefixes::{Owned, owner};
pub(super) use self::queue::{Encoding, Freshen, Job, LeaseJob, Put, Queued, Writes};
pub(super) use self::task::Writer;
