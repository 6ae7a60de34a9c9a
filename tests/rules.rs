//! Checks the chapters of the guide on the rules of HTTP and on failures: the first has each rule once, and the files
//! and tests that both name exist.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests

#[path = "support/files.rs"]
#[allow(unreachable_pub)] // several test binaries share this module
mod files;

use std::fs;
use std::path::Path;

use files::source_files;

const RULES: usize = 134;

/// A row of the tables.
struct Row {
    number: usize,
    rule: String,
    place: String,
    tests: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rows() -> Vec<Row> {
    let text = read(&root().join("src/docs/rules.md"));
    let lines = text.lines().filter(|line| line.starts_with('|'));
    let lines = lines.filter(|line| !line.starts_with("| No. |") && !line.starts_with("|---"));
    lines
        .map(|line| {
            let cells: Vec<_> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
            let [_, number, rule, place, tests, _] = &cells[..] else {
                panic!("not four cells: {line}");
            };
            let number = number.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            let (rule, place, tests) = (rule.clone(), place.clone(), tests.clone());
            Row { number, rule, place, tests }
        })
        .collect()
}

/// The rows of the table of failures: the failure, and its tests.
fn failures() -> Vec<(String, String)> {
    let text = read(&root().join("src/docs/failures.md"));
    let rows = text.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|line| {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
        let [_, what, _, _, tests, _] = &cells[..] else { panic!("not four cells: {line}") };
        (what.clone(), tests.clone())
    })
    .collect()
}

/// The texts between backticks.
fn code(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The tests in a cell: a path of modules and a function.
fn tests(row: &Row) -> Vec<&str> {
    code(&row.tests).collect()
}

/// A source file, and its module as a path from the root of its crate.
struct Source {
    module: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for folder in ["src", "tests"] {
        let folder = root().join(folder);
        let mut files = Vec::new();
        source_files(&folder, &mut files);
        sources.extend(files.into_iter().map(|path| {
            let inside = path.strip_prefix(&folder).expect("below the folder").with_extension("");
            let parts = inside.iter().map(|part| part.to_str().expect("a plain name"));
            let parts: Vec<_> = parts.filter(|part| !["mod", "tests"].contains(part)).collect();
            Source { module: parts.join("::"), text: read(&path) }
        }));
    }
    sources
}

/// Whether `name` means `module`: it is the same path, or its end.
fn is_meant(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|start| start.is_empty() || start.ends_with("::"))
}

/// Whether the source has a test with this name: a function under `#[test]` or `#[tokio::test]`, or one that runs on
/// every store.
fn has_test(source: &Source, name: &str) -> bool {
    let lines: Vec<_> = source.text.lines().collect();
    let functions = [format!("fn {name}("), format!("async fn {name}(")];
    let mut on_every_store = false;
    for (at, line) in lines.iter().enumerate() {
        match *line {
            "on_every_store! {" => on_every_store = true,
            "}" => on_every_store = false,
            _ => {}
        }
        if !functions.iter().any(|function| line.trim_start().starts_with(function)) {
            continue;
        }
        let above = lines[..at].iter().rev().map(|line| line.trim_start());
        let mut attributes = above.take_while(|line| line.starts_with("#["));
        let attributed =
            attributes.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
        return attributed || on_every_store;
    }
    false
}

#[test]
fn every_rule_is_there_once_and_in_order() {
    let rows = rows();
    let numbers: Vec<_> = rows.iter().map(|row| row.number).collect();
    assert_eq!(numbers, (1..=RULES).collect::<Vec<_>>());
    for row in &rows {
        let number = row.number;
        assert!(row.rule.split(' ').count() > 2, "{number} says nothing: {:?}", row.rule);
        assert!(!row.place.is_empty(), "{number} says nothing of where");
    }
}

/// Asserts that there is one test with this name.
fn exists(sources: &[Source], of: &str, name: &str) {
    let Some((module, function)) = name.rsplit_once("::") else {
        panic!("{of}: `{name}` has no module");
    };
    let meant = sources.iter().filter(|source| is_meant(&source.module, module));
    let found = meant.filter(|source| has_test(source, function)).count();
    assert_eq!(found, 1, "{of}: tests named `{name}`");
}

#[test]
fn every_test_that_is_named_exists() {
    let sources = sources();
    for row in rows() {
        for name in tests(&row) {
            exists(&sources, &row.number.to_string(), name);
        }
    }
}

#[test]
fn every_failure_has_tests_and_they_exist() {
    let (sources, failures) = (sources(), failures());
    assert!(failures.len() > 20, "{} failures", failures.len());
    for (what, tests) in &failures {
        assert!(code(tests).count() > 0, "no test of: {what}");
        code(tests).for_each(|name| exists(&sources, what, name));
    }
}

#[test]
fn every_fault_is_in_the_table() {
    let named: Vec<_> = failures().into_iter().map(|(_, tests)| tests).collect();
    for source in sources().iter().filter(|source| source.module.starts_with("faults::")) {
        for line in source.text.lines().filter(|line| line.starts_with("async fn ")) {
            let name = line.trim_start_matches("async fn ").split('(').next().unwrap_or_default();
            if has_test(source, name) {
                let module = source.module.trim_start_matches("faults::");
                let name = format!("`{module}::{name}`");
                assert!(named.iter().any(|tests| tests.contains(&name)), "{name} is in no row");
            }
        }
    }
}

#[test]
fn every_file_that_is_named_exists_and_has_the_named_items() {
    let mut wrong = Vec::new();
    for row in rows() {
        let is_file = |name: &&str| name.ends_with(".rs") || name.starts_with("scripts/");
        let mut text = String::new();
        for file in code(&row.place).filter(is_file) {
            let path = match file.ends_with(".rs") {
                true => root().join("src").join(file),
                false => root().join(file),
            };
            match path.is_file() {
                true => text.push_str(&read(&path)),
                false => wrong.push(format!("{}: there is no {file}", row.number)),
            }
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        // header fields with a name of one word could look like items
        let is_item = |name: &&str| {
            let field = ["Date", "ETag", "Upgrade", "Vary"].contains(name);
            !field && !is_file(name) && name.chars().all(is_name)
        };
        for item in code(&row.place).filter(is_item) {
            let last = item.rsplit("::").next().unwrap_or(item);
            let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            if !words.any(|word| word == last) {
                wrong.push(format!("{}: `{item}` is in none of its files", row.number));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_rule_without_a_test_says_why() {
    for row in rows() {
        let open = ["not yet", "partly"].iter().any(|word| row.place.starts_with(word));
        let reason = row.tests.split_once(": ").map_or("", |(_, reason)| reason);
        let said = open || reason.split(' ').count() > 2;
        assert!(!tests(&row).is_empty() || said, "{} has no test and no reason", row.number);
    }
}
