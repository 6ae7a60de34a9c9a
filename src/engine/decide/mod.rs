//! Decisions: what of an answer is stored and until when, and how a stored response is of use.

mod confirm;
mod judge;
mod stale;
mod verdict;

pub(in crate::engine) use self::confirm::{Change, Confirmation, with_cookies_of};
pub(in crate::engine) use self::judge::{
    Asked, Kept, UNSTORABLE, expires_ms, has_validator, is_about_the_request, is_gone,
};
pub(in crate::engine) use self::stale::chance;
pub(in crate::engine) use self::verdict::{Verdict, judge_found};
