//! What does this layer decide, by the rules of RFC 9111? Nothing here acts: `exchange` and `handler` do.
//!
//! | question | file |
//! |---|---|
//! | Does a stored response answer the request? | `reuse` |
//! | Is a stale response served in place of an error? | `rescue` |
//! | Is the handler's response stored: what of it, and until when? | `storable` |
//! | What was known of the request before the handler was called? | `snapshot` |
//! | What does a 304, or a 200 to `HEAD`, change in a stored response? | `confirm` |
//! | How long may a response be served stale? | `windows` |
//! | How are policy and override expressed for `rfc9111`? | `translate` |

mod confirm;
mod rescue;
mod reuse;
mod snapshot;
mod storable;
mod translate;
mod windows;

pub(in crate::engine) use self::confirm::{Change, Confirmation, with_cookies_of};
pub(in crate::engine) use self::rescue::Rescue;
pub(in crate::engine) use self::reuse::{Decision, Serve, decide};
pub(in crate::engine) use self::snapshot::RequestSnapshot;
pub(in crate::engine) use self::storable::{PreparedEntry, expires_ms, is_gone, is_transient};
pub(in crate::engine) use self::windows::random_fraction;
