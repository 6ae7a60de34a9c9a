//! Which stored response is found for a request, and what does the log say about it?
//!
//! | question | file |
//! |---|---|
//! | What does a lookup find? | `lookup` |
//! | What does the invalidation log say about a response? | `verdict` |
//! | Which variant does a request select? | `variants` |
//! | Under which keys are the responses of a path with `No-Vary-Search`? | `rules` |
//! | Which responses are on their way to the store? | `pending` |
//! | When is the store not asked, and how long does a request wait for it? | `breaker`, `bounded` |
//! | What does a process remember, in how much memory? | `known`, `remembered` |

mod bounded;
mod breaker;
mod known;
mod lookup;
mod pending;
mod remembered;
mod rules;
mod variants;
mod verdict;

pub(in crate::engine) use self::bounded::bounded;
pub(in crate::engine) use self::breaker::{Breaker, Breakers};
pub(in crate::engine) use self::known::Known;
pub(in crate::engine) use self::lookup::{Found, FoundEntry, Lookup, lookup};
pub(in crate::engine) use self::pending::{Pending, Refused, Ticket};
pub(in crate::engine) use self::remembered::{TABLE_BYTES, bounded_table, no_extra_bytes};
pub(in crate::engine) use self::rules::{collapse_key, lookup_targets};
pub(in crate::engine) use self::variants::{selected, variant_of};
pub(in crate::engine) use self::verdict::{is_known_invalid, log_verdict};
