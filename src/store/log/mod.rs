//! What has one process read of the invalidation log, and what does this say about a response? Plain data, without
//! I/O.

mod index;
mod memory;
mod view;

pub use memory::MemoryLog;
pub(crate) use view::{Judgement, LogView};
#[cfg(any(test, feature = "mysql"))]
pub(crate) use view::{Mark, Reading};

#[cfg(test)]
mod tests;
