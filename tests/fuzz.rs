//! The targets of `cargo fuzz`. Like them, this file is not in the published package.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn names(folder: &Path) -> BTreeSet<String> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_target_with_a_corpus_is_fuzzed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let targets = names(&root.join("fuzz/fuzz_targets"));
    assert_eq!(targets, names(&root.join("tests/corpus")));
    let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
    for target in targets {
        let line = format!("name = \"{target}\"");
        assert!(manifest.contains(&line), "{target} is not in the manifest");
    }
}
