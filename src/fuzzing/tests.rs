//! Replays the corpus of `cargo fuzz` on every toolchain.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// In `tests`, because `fuzz` is a separate package and is not part of this one.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join("corpus")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

/// The corpus of a target.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = folder().join(target);
    let files = names(&folder).into_iter();
    files.map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

#[test]
fn every_target_has_a_corpus() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut kept = names(&folder());
    if !cfg!(feature = "mysql") {
        kept.remove("rows");
    }
    assert_eq!(targets, kept);
    for target in targets {
        assert!(corpus(&target).len() >= 5, "the corpus of {target} is too small");
    }
}

#[test]
fn all_properties_hold_for_the_corpus() {
    let mut broken = Vec::new();
    for (target, property) in TARGETS {
        for (name, data) in corpus(target) {
            if std::panic::catch_unwind(|| property(&data)).is_err() {
                broken.push(format!("tests/corpus/{target}/{name}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn the_corpus_stays_small() {
    let files: Vec<_> = TARGETS.iter().flat_map(|(target, _)| corpus(target)).collect();
    assert!(files.len() <= 400, "{} files", files.len());
    let bytes: usize = files.iter().map(|(_, data)| data.len()).sum();
    assert!(bytes <= 500_000, "{bytes} bytes");
}

/// Simple random changes, like those of a fuzzer.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Cut(Index, usize),
    /// Inserts a piece of another input.
    Splice(Index, Index, Index, usize),
    Twice,
}

fn change() -> impl Strategy<Value = Change> {
    let word = prop_oneof![
        Just("\""),
        Just(","),
        Just("="),
        Just(" "),
        Just("\n"),
        Just("\\"),
        Just(";"),
        Just("*"),
        Just("max-age="),
        Just("no-store"),
        Just("private=\""),
        Just("99999999999999999999"),
        Just("q=0"),
        Just("W/\""),
        Just("GMT"),
        Just("-"),
        Just("0"),
        Just("%"),
        Just("&"),
        Just("?"),
        Just("("),
        Just(")"),
        Just("//"),
        Just(".."),
        Just(":"),
        Just("@"),
        Just("\t"),
        Just("\u{e9}"),
    ];
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), word).prop_map(|(at, word)| Change::Insert(at, word.as_bytes().to_vec())),
        (any::<Index>(), 1..20usize).prop_map(|(at, len)| Change::Cut(at, len)),
        (any::<Index>(), any::<Index>(), any::<Index>(), 1..40usize)
            .prop_map(|(at, file, from, len)| Change::Splice(at, file, from, len)),
        Just(Change::Twice),
    ]
}

fn changed(mut data: Vec<u8>, changes: &[Change], others: &[(String, Vec<u8>)]) -> Vec<u8> {
    for change in changes {
        let position = |at: &Index, data: &[u8]| at.index(data.len() + 1);
        match change {
            Change::Set(at, byte) => {
                let at = position(at, &data);
                if let Some(old) = data.get_mut(at) {
                    *old = *byte;
                }
            }
            Change::Insert(at, word) => {
                let at = position(at, &data);
                data.splice(at..at, word.iter().copied());
            }
            Change::Cut(at, len) => {
                let at = position(at, &data);
                let end = (at + len).min(data.len());
                data.drain(at..end);
            }
            Change::Splice(at, file, from, len) => {
                let (_, other) = &others[file.index(others.len())];
                let from = position(from, other);
                let piece = &other[from..(from + len).min(other.len())];
                let at = position(at, &data);
                data.splice(at..at, piece.iter().copied());
            }
            Change::Twice => data.extend_from_slice(&data.clone()),
        }
    }
    data
}

/// Checks the property of a target for random changes of its corpus.
fn holds_for_changed_corpus(target: &str) {
    let (_, property) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let corpus = corpus(target);
    let inputs = (any::<Index>(), prop::collection::vec(change(), 1..8));
    proptest!(|((start, changes) in inputs)| {
        let (_, data) = &corpus[start.index(corpus.len())];
        let data = changed(data.clone(), &changes, &corpus);
        let held = std::panic::catch_unwind(|| property(&data));
        prop_assert!(held.is_ok(), "{target}: {}", data.escape_ascii());
    });
}

macro_rules! changes_hold {
    ($($target:ident)*) => {
        mod changes {
            $(#[test]
            fn $target() {
                super::holds_for_changed_corpus(stringify!($target));
            })*

            #[cfg(feature = "mysql")]
            #[test]
            fn rows() {
                super::holds_for_changed_corpus("rows");
            }
        }
    };
}

changes_hold! {
    cache_control dates etags freshness groups keys locations no_vary_search queries ranges
    request_directives targeted vary
}
