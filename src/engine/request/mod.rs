//! What does the cache know about a request?
//!
//! | question | file |
//! |---|---|
//! | Does the cache handle the request, and under which key? | `admission` |
//! | What is every later stage given? | `cx` |
//! | Which kind of reply does the request want? | `reply_kind` |
//! | Which part of the query counts (`No-Vary-Search`)? | `search` |
//! | Does the request come through two layers of one cache? | `nesting` |

mod admission;
mod cx;
pub(crate) mod nesting;
mod reply_kind;
mod search;

pub(in crate::engine) use self::admission::StorabilityKey;
pub(crate) use self::admission::{Admission, Plan, Write, admit};
pub(in crate::engine) use self::cx::Cx;
pub(in crate::engine) use self::reply_kind::ReplyKind;
pub(in crate::engine) use self::search::{Rule, extra_bytes, has_rule, rule_of, same_rule};
