//! The house keeps its order: four levels and one direction, also between the rooms of the large folders; short files.

#![allow(clippy::expect_used, clippy::panic)] // helpers of tests

#[path = "support/files.rs"]
#[allow(unreachable_pub)] // several test binaries share this module
mod files;

use std::fs;
use std::path::{Path, PathBuf};

use files::source_files;

/// Each top-level module and its level; a module uses its own and lower ones. Neighbours on a level
/// that must not know each other are told apart by `MIDDLE`.
const LEVELS: &[(&str, u8)] = &[
    ("fuzzing", 5), // looks in from outside
    ("layer", 4),
    ("service", 4),
    ("future", 4),
    ("guard", 4),
    ("handle", 4),
    ("axum", 4),
    ("engine", 3),
    ("rfc9111", 1),
    ("body", 2),
    ("store", 2),
    ("stored", 1),
    ("reason", 1),
    ("policy", 1),
    ("overrides", 1),
    ("cookies", 1),
    ("credentials", 1),
    ("key", 1),
    ("tag", 1),
    ("status", 1),
    ("clock", 1),
    ("sync", 1),
    ("telemetry", 1),
    ("error", 1),
];
const MIDDLE: u8 = 2;
const MAX_LINES: usize = 400;

/// Each file below `src`: its top-level module, its path, its lines without tests.
fn code() -> Vec<(String, PathBuf, Vec<String>)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&src, &mut files);
    let files =
        files.into_iter().filter(|path| path.file_name().is_some_and(|name| name != "tests.rs"));
    // the folder of the whole project may have any name
    let inside = |path: &Path| path.strip_prefix(&src).expect("below src").to_owned();
    let files =
        files.filter(|path| !inside(path).components().any(|part| part.as_os_str() == "tests"));
    files
        .map(|path| {
            let inside = inside(&path);
            let first = inside.components().next().expect("a name");
            let module = Path::new(first.as_os_str()).with_extension("").display().to_string();
            let text = fs::read_to_string(&path).expect("text");
            let own = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(&text);
            (module, path.clone(), own.lines().map(str::to_owned).collect())
        })
        .collect()
}

fn level(module: &str) -> Option<u8> {
    LEVELS.iter().find(|(name, _)| *name == module).map(|(_, level)| *level)
}

#[test]
fn modules_use_only_their_own_and_lower_levels() {
    for (module, path, lines) in code() {
        if module == "lib" || module == "bin" {
            continue;
        }
        let own = level(&module).unwrap_or_else(|| panic!("{module} has no level"));
        for used in named(&modules(&path), &text_of(&lines)) {
            let Some(other) = used.first().and_then(|used| level(used)) else { continue };
            let neighbours = own == MIDDLE && other == MIDDLE && used.first() != Some(&module);
            let unseen = own == MIDDLE && used.first().is_some_and(|used| used == "rfc9111");
            assert!(!unseen, "{}: stores and bodies know no rules", path.display());
            assert!(other <= own && !neighbours, "{}: {}", path.display(), used.join("::"));
        }
    }
}

#[test]
fn every_level_has_modules() {
    let modules: Vec<_> = code().into_iter().map(|(module, ..)| module).collect();
    for (name, _) in LEVELS {
        assert!(modules.iter().any(|module| module == name), "{name} is gone");
    }
}

#[test]
fn no_file_has_more_than_400_lines_of_code() {
    for (_, path, lines) in code() {
        let code = lines.iter().filter(|line| !line.trim_start().starts_with("//")).count();
        assert!(code <= MAX_LINES, "{} has {code} lines of code", path.display());
    }
}

#[test]
fn half_of_the_files_have_fewer_than_200_lines() {
    let mut lines: Vec<_> = code().iter().map(|(_, _, lines)| lines.len()).collect();
    lines.sort_unstable();
    assert!(lines.get(lines.len() / 2).is_some_and(|median| *median < 200), "{lines:?}");
}

#[test]
fn rules_do_not_wait_and_read_no_clock() {
    for (module, path, lines) in code() {
        if module != "rfc9111" {
            continue;
        }
        for line in lines {
            for word in ["async ", ".await", "SystemTime::now", "Instant::now", "Clock"] {
                assert!(!line.contains(word), "{}: {line}", path.display());
            }
        }
    }
}

#[test]
fn rules_know_nothing_else_of_the_crate() {
    for (module, path, lines) in code() {
        let outside = lines.iter().find(|line| line.contains("crate::"));
        assert!(module != "rfc9111" || outside.is_none(), "{}: {outside:?}", path.display());
    }
}

#[test]
fn the_readme_shows_the_example_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = fs::read_to_string(root.join("examples/axum.rs")).expect("the example");
    let code = example.split_once("use std::time").expect("code").1;
    assert!(fs::read_to_string(root.join("README.md")).expect("the README").contains(code));
}

/// A large folder: its rooms in the order in which they build on each other, and how many pairs of rooms know each other
/// at the most. A room uses only rooms that stand before it.
struct Folder {
    path: &'static [&'static str],
    rooms: &'static [&'static str],
    arrows: usize,
}

const FOLDERS: &[Folder] = &[
    Folder {
        path: &["engine"],
        rooms: &[
            "consent",
            "background",
            "request",
            "find",
            "decide",
            "respond",
            "collapse",
            "keep",
            "handler",
            "exchange",
            "invalidate",
            "inspect",
            "unsafe_methods",
            "mod",
        ],
        arrows: 40,
    },
    Folder {
        path: &["store", "mysql"],
        rooms: &[
            "codec", "sql", "options", "shared", "conn", "schema", "lookup", "log", "write",
            "maintain", "store", "tasks", "mod",
        ],
        arrows: 50,
    },
];

/// Lines of code as one text, without those that are comments.
fn text_of(lines: &[String]) -> String {
    let code = lines.iter().filter(|line| !line.trim_start().starts_with("//"));
    code.cloned().collect::<Vec<_>>().join("\n")
}

/// The module that a file of `src` is.
fn modules(path: &Path) -> Vec<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let inside = path.strip_prefix(&src).expect("below src").with_extension("");
    let names = inside.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
    names.filter(|name| name != "mod").collect()
}

/// What the parts of a list in braces begin with, or the name itself.
fn first_names(text: &str) -> Vec<String> {
    let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let name = |text: &str| text.trim_start().chars().take_while(is_name).collect::<String>();
    let Some(list) = text.strip_prefix('{') else { return vec![name(text)] };
    let (mut depth, mut parts) = (0_i32, vec![String::new()]);
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(String::new()),
            _ => {}
        }
        if depth == 0 && c != ',' {
            parts.last_mut().expect("one").push(c);
        }
    }
    parts.iter().map(|part| name(part)).filter(|name| !name.is_empty()).collect()
}

/// The modules that a text names, from the top of `src` on: the first name after `crate::` or after all `super::`.
fn named(own: &[String], text: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for (keyword, up) in [("super::", true), ("crate::", false), ("self::", false)] {
        for (at, _) in text.match_indices(keyword) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c == ':' || c == '_' || c.is_ascii_alphanumeric()) {
                continue;
            }
            let mut base = if keyword == "crate::" { Vec::new() } else { own.to_vec() };
            let mut rest = &text[at..];
            while let Some(after) = rest.strip_prefix("super::").filter(|_| up) {
                base.pop();
                rest = after;
            }
            rest = rest.strip_prefix(keyword).filter(|_| !up).unwrap_or(rest);
            while keyword == "crate::" && base.len() < 2 && !rest.starts_with('{') {
                let Some((name, after)) = rest.split_once("::") else { break };
                if !name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                    break;
                }
                base.push(name.to_owned());
                rest = after;
            }
            for name in first_names(rest) {
                all.push(base.iter().cloned().chain([name]).collect());
            }
        }
    }
    all
}

#[test]
fn rooms_of_the_large_folders_use_only_those_before_them() {
    for folder in FOLDERS {
        let depth = folder.path.len();
        let place = |name: &str| folder.rooms.iter().position(|room| *room == name);
        let mut arrows = std::collections::BTreeSet::new();
        for (_, path, lines) in code() {
            let own = modules(&path);
            if own.len() < depth || own[..depth] != *folder.path {
                continue;
            }
            let room = own.get(depth).map_or("mod", String::as_str).to_owned();
            let here = place(&room).unwrap_or_else(|| panic!("{room} has no place"));
            for used in named(&own, &text_of(&lines)) {
                let Some(other) = used.get(depth).filter(|_| used[..depth] == *folder.path) else {
                    continue;
                };
                let Some(there) = place(other).filter(|there| *there != here) else { continue };
                assert!(there < here, "{}: {room} uses {other}", path.display());
                arrows.insert((room.clone(), other.clone()));
            }
        }
        let name = folder.path.join("/");
        println!("\n{name}: {} rooms, {} arrows", folder.rooms.len(), arrows.len());
        assert!(arrows.len() <= folder.arrows, "{name} has {} arrows", arrows.len());
    }
}

/// The names of public types that a file of `src` declares or exports at its top level.
fn public_names(file: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("src").join(file)).expect("text");
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let text = text_of(&lines);
    let mut names = Vec::new();
    for (at, _) in text.match_indices("pub ") {
        let item = &text[at + 4..];
        let exported = item.strip_prefix("use ").and_then(|list| list.split(';').next());
        let is_declared =
            ["struct ", "enum ", "trait ", "type "].iter().any(|word| item.starts_with(word));
        let own = is_declared.then(|| item.split(['<', '(', ' ', '{', ';', ':']).nth(1)).flatten();
        let words = exported.or(own).unwrap_or("").split(|c: char| !c.is_ascii_alphanumeric());
        let is_type = |word: &&str| word.starts_with(|c: char| c.is_ascii_uppercase());
        names.extend(words.filter(is_type).map(str::to_owned));
    }
    names
}

#[test]
fn every_public_item_is_listed_in_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("the architecture");
    for file in ["lib.rs", "key/mod.rs", "policy/mod.rs", "service.rs", "status.rs", "store/mod.rs"]
    {
        let names = public_names(file);
        assert!(names.len() > 2, "{file} has {names:?}");
        for name in names {
            assert!(listed.contains(&format!("| `{name}` |")), "{file}: {name} is not listed");
        }
    }
}
