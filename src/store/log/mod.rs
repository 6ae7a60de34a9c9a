//! The invalidation log as one process sees it: rows, gaps, and what they say about a response. No I/O.

mod index;
mod memory;
mod view;

pub use memory::MemoryLog;
pub(crate) use view::{Judgement, LogView};
#[cfg(any(test, feature = "mysql"))]
pub(crate) use view::{Mark, Reading};

#[cfg(test)]
mod tests;
