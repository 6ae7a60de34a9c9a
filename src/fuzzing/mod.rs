//! Properties of the code that reads untrusted input. They must hold for any input.
//!
//! Each target is a function that takes bytes and panics if its property does not hold. A property is more than "does
//! not panic". Examples: no reading is fresher than the strict one; a written value is read back unchanged; no age is
//! negative. `cargo fuzz` (the folder `fuzz`) searches for input that breaks a property. The tests of this crate replay
//! its corpus on every toolchain, and also change the corpus at random.
//!
//! Input is text where possible, so that people can read a corpus: one field value per line, or fields as
//! `name: value`. An empty line ends a section. This module is not public. It is compiled only for tests and with
//! `--cfg fuzzing`, which `cargo fuzz` sets.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used)] // assertions
#![allow(missing_docs)] // only `cargo fuzz` calls these functions

mod directives;
mod freshness;
mod keys;
mod reference;
mod selection;
mod structured;

use http::header::{HeaderMap, HeaderName, HeaderValue};

pub use self::directives::{cache_control, request_directives};
pub use self::freshness::{dates, freshness};
pub use self::keys::{keys, locations, queries};
pub use self::selection::{etags, ranges, vary};
pub use self::structured::{groups, no_vary_search, targeted};
#[cfg(feature = "mysql")]
pub use crate::store::mysql::rows;

/// Panics if the property does not hold for an input.
pub type Property = fn(&[u8]);

/// The targets: the name in `fuzz/fuzz_targets` and `tests/corpus`, and the property.
pub const TARGETS: &[(&str, Property)] = &[
    ("cache_control", cache_control),
    ("dates", dates),
    ("etags", etags),
    ("freshness", freshness),
    ("groups", groups),
    ("keys", keys),
    ("locations", locations),
    ("no_vary_search", no_vary_search),
    ("queries", queries),
    ("ranges", ranges),
    ("request_directives", request_directives),
    #[cfg(feature = "mysql")]
    ("rows", rows),
    ("targeted", targeted),
    ("vary", vary),
];

/// Longer input takes more time and finds no other errors.
const MAX_BYTES: usize = 4096;

fn cut(data: &[u8]) -> &[u8] {
    data.get(..MAX_BYTES).unwrap_or(data)
}

/// The lines of the input.
fn lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    cut(data).split(|&byte| byte == b'\n')
}

/// The input before and after the first empty line.
fn sections(data: &[u8]) -> (&[u8], &[u8]) {
    let data = cut(data);
    match data.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, &[]),
    }
}

/// The lines that are valid field values.
fn values(data: &[u8]) -> Vec<HeaderValue> {
    lines(data).filter_map(|line| HeaderValue::from_bytes(line).ok()).collect()
}

/// Header fields with one name, one for each value.
fn of(name: &HeaderName, values: &[HeaderValue]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    values.iter().for_each(|value| _ = fields.append(name, value.clone()));
    fields
}

/// The lines that are valid header fields, `name: value`.
fn fields(data: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in lines(data) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            fields.append(name, value);
        }
    }
    fields
}

/// A field value with text before and after it.
fn around(before: &str, value: &HeaderValue, behind: &str) -> HeaderValue {
    let text = [before.as_bytes(), value.as_bytes(), behind.as_bytes()].concat();
    HeaderValue::from_bytes(&text).expect("what surrounds a value is text")
}

/// The number at the beginning of a line, or 0.
fn number(line: Option<&[u8]>) -> u64 {
    let digits = line.unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |sum: u64, byte| sum.saturating_mul(10).saturating_add(u64::from(byte - b'0')))
}

#[cfg(test)]
mod tests;
