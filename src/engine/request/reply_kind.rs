//! Which kind of reply does a request want?

use std::ops::Range;

use http::request::Parts;

use crate::rfc9111::range::{self, RangeOutcome};
use crate::rfc9111::validation::{self, Precondition};
use crate::stored::StoredHead;

/// What a request wants of the stored response that answers it, by its conditions and ranges.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::engine) enum ReplyKind {
    /// The complete response.
    Full,
    /// A 304.
    NotModified,
    /// One part, several parts, or a 416.
    Part(Range<u64>),
    Parts(Vec<Range<u64>>),
    Unsatisfiable,
    /// The handler's own answer, because the handler must evaluate a condition (RFC 9111 4.3.2).
    CallHandler,
}

impl ReplyKind {
    /// Evaluates preconditions, then ranges (RFC 9110 13.2.2).
    pub(in crate::engine) fn of(
        request: &Parts,
        head: &StoredHead,
        length: usize,
        now_ms: u64,
    ) -> Self {
        match validation::evaluate(&request.headers, head, now_ms) {
            Precondition::Forward => return Self::CallHandler,
            Precondition::NotModified => return Self::NotModified,
            Precondition::None => {}
        }
        match range::evaluate(&request.method, &request.headers, head, length as u64, now_ms) {
            RangeOutcome::Whole => Self::Full,
            RangeOutcome::Single(part) => Self::Part(part),
            RangeOutcome::Multi(parts) => Self::Parts(parts),
            RangeOutcome::Unsatisfiable => Self::Unsatisfiable,
        }
    }
}
