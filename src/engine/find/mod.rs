//! What is stored for a request, with the log's verdict; and when the store is not asked.

mod bounded;
mod breaker;
mod lookup;
mod pending;
mod remembered;
mod rules;
mod variants;

pub(in crate::engine) use self::bounded::bounded;
pub(in crate::engine) use self::breaker::{Breaker, Breakers};
pub(in crate::engine) use self::lookup::{At, Found, Lookup};
pub(in crate::engine) use self::pending::{Pending, Refused, Ticket};
pub(in crate::engine) use self::remembered::{TABLE_BYTES, nothing, table};
pub(in crate::engine) use self::variants::{selected, variant_of};
