//! What do the tests of several rules need?
#![allow(clippy::unwrap_used)] // helpers of tests

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::view::{SelectingField, StoredView};

/// 2026-01-15 00:00:00, the moment at which the tests happen.
pub(crate) const NOW_MS: u64 = 1_768_435_200_000;

/// Fields with these names and values, in this order. Repeated fields stay separate lines.
pub(crate) fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

/// The date this many seconds after [`NOW_MS`].
#[cfg(test)]
pub(crate) fn at(seconds: i64) -> String {
    super::date::format(NOW_MS.saturating_add_signed(seconds * 1000)).to_str().unwrap().to_owned()
}

/// A stored response.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) received_ms: u64,
    pub(crate) initial_age_ms: u64,
    pub(crate) fresh_until_ms: u64,
    pub(crate) gen_ms: u32,
    pub(crate) shared: bool,
    pub(crate) vary: Vec<SelectingField>,
}

/// A 200 received at [`NOW_MS`], with an age of 0 and a lifetime of a minute.
pub(crate) fn head(fields: &[(&str, &str)]) -> Head {
    Head {
        status: StatusCode::OK,
        headers: headers(fields),
        received_ms: NOW_MS,
        initial_age_ms: 0,
        fresh_until_ms: NOW_MS + 60_000,
        gen_ms: 0,
        shared: false,
        vary: Vec::new(),
    }
}

impl<'a> From<&'a Head> for StoredView<'a> {
    fn from(head: &'a Head) -> Self {
        Self {
            status: head.status,
            headers: &head.headers,
            received_ms: head.received_ms,
            initial_age_ms: head.initial_age_ms,
            fresh_until_ms: head.fresh_until_ms,
            gen_ms: head.gen_ms,
            shared: head.shared,
            vary: &head.vary,
        }
    }
}

/// Bytes that are valid in a field value.
#[cfg(test)]
pub(crate) fn field_bytes(most: usize) -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    use proptest::prelude::*;
    let byte = prop_oneof![4 => b' '..=b'~', 1 => 0x80..=0xff_u8, 1 => Just(b'\t')];
    prop::collection::vec(byte, 0..most)
}
