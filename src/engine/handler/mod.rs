//! Calls of the handler, and what becomes of its answer.

mod conditions;
mod failure;
mod miss;
mod refresh;
mod validate;

pub(in crate::engine) use self::conditions::Stripped;
pub(in crate::engine) use self::miss::Miss;
pub(in crate::engine) use self::refresh::{Refresh, go_on, in_foreground};
