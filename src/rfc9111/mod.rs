//! The rules of HTTP caching as pure functions: RFC 9111, what it needs of RFC 9110 (dates,
//! validators, ranges), and its extensions: RFC 5861 (stale responses), RFC 9213 (targeted fields),
//! RFC 9875 (cache groups) and No-Vary-Search.
//!
//! Nothing here waits, reads a clock or knows a store. Times are parameters, in milliseconds since the
//! Unix epoch; answers are enums, and each "no" has a name. Where a specification leaves a choice, the
//! one that reuses less is taken: no odd input makes a response fresher, or more widely shared, than
//! a strict reader would find it.
//!
//! | module | question | RFC 9111 |
//! |---|---|---|
//! | [`directives`] | what do `Cache-Control` and `Pragma` say? | 5.2, 5.4 |
//! | [`targeted`] | what does a field for this cache say instead? | RFC 9213 2 |
//! | [`date`] | which moment is this? | RFC 9110 5.6.7 |
//! | [`freshness`] | how long is a response fresh, how old is it? | 4.2 |
//! | [`storage`] | may this response be stored? | 3, 3.5 |
//! | [`fields`] | which of its header fields? | 3.1, 3.2 |
//! | [`vary`] | which requests does it answer? | 4.1 |
//! | [`no_vary_search`] | which queries does it answer? | draft-ietf-httpbis-no-vary-search |
//! | [`mod@reuse`] | does it answer this one, without validation? | 4, 4.2.4 |
//! | [`stale`] | may it answer although it is stale? | 4.2.4, RFC 5861 |
//! | [`validation`] | does the client have it already? | 4.3.2 |
//! | [`range`] | which part of it is wanted? | RFC 9110 14 |
//! | [`invalidation`] | what else does a request make untrue? | 4.4 |
//! | [`groups`] | which responses become untrue together? | RFC 9875 |

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
