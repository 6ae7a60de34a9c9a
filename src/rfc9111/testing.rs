//! What the tests of several rules need.
#![allow(clippy::unwrap_used)] // helpers of tests

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::date;
use crate::stored::StoredHead;
use crate::tag::LogPosition;

/// 2026-01-15 00:00:00, the moment at which everything happens.
pub(crate) const NOW_MS: u64 = 1_768_435_200_000;

/// Fields of these names and values, in this order, repeats kept.
pub(crate) fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

/// A date so many seconds after [`NOW_MS`].
pub(crate) fn at(seconds: i64) -> String {
    date::format(NOW_MS.saturating_add_signed(seconds * 1000)).to_str().unwrap().to_owned()
}

/// A 200 received at [`NOW_MS`], with an age of 0 and a lifetime of a minute.
pub(crate) fn head(fields: &[(&str, &str)]) -> StoredHead {
    StoredHead {
        status: StatusCode::OK,
        headers: headers(fields),
        requested_ms: NOW_MS,
        received_ms: NOW_MS,
        initial_age_ms: 0,
        fresh_until_ms: NOW_MS + 60_000,
        gen_ms: 0,
        shared: false,
        vary: Vec::new(),
        tags: Vec::new(),
        position: LogPosition::default(),
    }
}

/// Any bytes that a field can hold, so that none have to be thrown away.
#[cfg(test)]
pub(crate) fn field_bytes(most: usize) -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    use proptest::prelude::*;
    let byte = prop_oneof![4 => b' '..=b'~', 1 => 0x80..=0xff_u8, 1 => Just(b'\t')];
    prop::collection::vec(byte, 0..most)
}
