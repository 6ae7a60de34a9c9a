//! The rules of HTTP caching as pure functions.
//!
//! They cover RFC 9111, the parts of RFC 9110 that it needs (dates, validators, ranges), and its extensions: RFC 5861
//! (stale responses), RFC 9213 (targeted fields), RFC 9875 (cache groups) and `No-Vary-Search`.
//!
//! These modules know nothing else of this crate. They do not wait, read no clock and know no store. Times are
//! parameters, in milliseconds since the Unix epoch. Answers are enums, and each "no" has a name. If a specification
//! leaves a choice, the rules reuse less. No odd input makes a response fresher, or more widely shared, than a strict
//! reader would find it.
//!
//! | question | file | section |
//! |---|---|---|
//! | What do `Cache-Control` and `Pragma` say? | [`directives`] | RFC 9111 5.2, 5.4 |
//! | What does a targeted field say in place of `Cache-Control`? | [`targeted`] | RFC 9213 2 |
//! | Which moment does a date name? | [`date`] | RFC 9110 5.6.7 |
//! | How long is a response fresh, and how old is it? | [`freshness`] | RFC 9111 4.2 |
//! | May a response be stored? | [`storage`] | RFC 9111 3, 3.5 |
//! | Which choices does the cache have, and which the application? | [`options`] | RFC 9111 3.5, 4.2.2, 7.3 |
//! | Which header fields are stored, and how does a 304 update them? | [`fields`] | RFC 9111 3.1, 3.2 |
//! | What do the rules need to know of a stored response? | [`view`] | |
//! | Which requests does a stored response answer? | [`vary`] | RFC 9111 4.1 |
//! | Which differences between queries do not matter? | [`no_vary_search`] | draft-ietf-httpbis-no-vary-search |
//! | Does a stored response answer a request without validation? | [`mod@reuse`] | RFC 9111 4, 4.2.4 |
//! | May a stale response be served? | [`stale`] | RFC 9111 4.2.4, RFC 5861 |
//! | Does the client already have the stored response? | [`validation`] | RFC 9111 4.3.2 |
//! | Which part of a stored response does a request want? | [`range`] | RFC 9110 14 |
//! | What does an unsafe request invalidate? | [`invalidation`] | RFC 9111 4.4 |
//! | Which stored responses are invalidated together? | [`groups`] | RFC 9875 |

pub(crate) mod date;
pub(crate) mod directives;
pub(crate) mod fields;
pub(crate) mod freshness;
pub(crate) mod groups;
pub(crate) mod invalidation;
pub(crate) mod no_vary_search;
pub(crate) mod options;
pub(crate) mod range;
pub(crate) mod reuse;
pub(crate) mod stale;
pub(crate) mod storage;
mod syntax;
pub(crate) mod targeted;
#[cfg(any(test, fuzzing))]
pub(crate) mod testing;
pub(crate) mod validation;
pub(crate) mod vary;
pub(crate) mod view;

pub(crate) use directives::{Qualified, RequestDirectives, ResponseDirectives};
pub(crate) use fields::stored_fields;
pub(crate) use freshness::{age_field, remaining_secs};
pub(crate) use invalidation::{Target, invalidates, is_safe, leaves_open, same_origin_targets};
pub(crate) use options::{Credentials, Instructions, Options};
pub(crate) use reuse::{Reuse, reuse};
pub(crate) use storage::{Candidate, NotStorable, Storable};
pub(crate) use vary::{Nominated, matches, nominated, secondary_key, select, selecting};
pub use view::SelectingField;
pub(crate) use view::StoredView;
