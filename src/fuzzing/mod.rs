//! What holds for any input, of everything here that reads what others have written.
//!
//! Each target is a function from bytes to nothing that panics when its property does not hold: not only
//! "it does not panic", but "no reading is fresher than the strict one", "what was written is read back",
//! "no age is negative". `cargo fuzz` (the folder `fuzz`) looks for input that breaks them, and the tests
//! of this crate replay its corpus, and what comes of changing it at random, on every toolchain.
//!
//! Input is text wherever it can be, so that people can read a corpus: field values, a line each, or
//! fields as `name: value`; an empty line ends a section. None of this is part of the public interface,
//! and none of it is compiled but for tests and with `--cfg fuzzing`, which `cargo fuzz` sets.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used)] // assertions
#![allow(missing_docs)] // for `cargo fuzz` alone

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

/// Panics where it does not hold for an input.
pub type Property = fn(&[u8]);

/// The name of each target, in `fuzz/fuzz_targets` and `tests/corpus`, and its property.
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

/// Longer input finds nothing that this does not, and takes longer.
const MAX_BYTES: usize = 4096;

fn cut(data: &[u8]) -> &[u8] {
    data.get(..MAX_BYTES).unwrap_or(data)
}

/// The lines of the input.
fn lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    cut(data).split(|&byte| byte == b'\n')
}

/// The lines up to an empty one, and those after it.
fn sections(data: &[u8]) -> (&[u8], &[u8]) {
    let data = cut(data);
    match data.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, &[]),
    }
}

/// The lines that can be values of a field.
fn values(data: &[u8]) -> Vec<HeaderValue> {
    lines(data).filter_map(|line| HeaderValue::from_bytes(line).ok()).collect()
}

/// Lines of one field.
fn of(name: &HeaderName, values: &[HeaderValue]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    values.iter().for_each(|value| _ = fields.append(name, value.clone()));
    fields
}

/// The lines that are a field, `name: value`.
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

/// A value with something before and behind it.
fn around(before: &str, value: &HeaderValue, behind: &str) -> HeaderValue {
    let text = [before.as_bytes(), value.as_bytes(), behind.as_bytes()].concat();
    HeaderValue::from_bytes(&text).expect("what surrounds a value is text")
}

/// A number out of a line, 0 where there is none.
fn number(line: Option<&[u8]>) -> u64 {
    let digits = line.unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |sum: u64, byte| sum.saturating_mul(10).saturating_add(u64::from(byte - b'0')))
}

#[cfg(test)]
mod tests;
