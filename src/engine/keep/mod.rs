//! From a complete body or a 304 to the store.

mod fill;
mod lease;

pub(in crate::engine) use self::fill::{Filled, Storing};
