//! How what was measured relates: each time as a multiple of the first and of the last of its group,
//! which are the bare handler and, where there is one, the ceiling.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use criterion::Criterion;
use serde_json::Value;

struct Measured {
    at: SystemTime,
    group: String,
    function: String,
    nanos: f64,
}

/// Runs a benchmark, then shows its ratios.
pub(crate) fn run(benchmark: impl FnOnce(&mut Criterion)) {
    let results = results();
    let began = SystemTime::now();
    let mut criterion = Criterion::default().output_directory(&results).configure_from_args();
    benchmark(&mut criterion);
    criterion.final_summary();

    let mut measured = Vec::new();
    collect(&results, began, &mut measured);
    measured.sort_by_key(|measured| measured.at);
    for group in measured.chunk_by(|a, b| a.group == b.group) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        println!("\n{:<38} {:>10} {:>10} {:>10}", first.group, "median", "of first", "of last");
        for this in group {
            let (first, last) = (this.nanos / first.nanos, this.nanos / last.nanos);
            println!("  {:<36} {:>10} {first:>9.2}x {last:>9.2}x", this.function, time(this.nanos));
        }
    }
}

/// `criterion` in the target directory that this benchmark was built in.
fn results() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default(); // target/release/deps/NAME
    program.ancestors().nth(3).unwrap_or(Path::new("target")).join("criterion")
}

/// What has been written below `directory` since `began`.
fn collect(directory: &Path, began: SystemTime, measured: &mut Vec<Measured>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() == "new" {
            measured.extend(read(&path).filter(|measured| measured.at >= began));
        } else if path.is_dir() {
            collect(&path, began, measured);
        }
    }
}

fn read(directory: &Path) -> Option<Measured> {
    let json = |file: &str| -> Option<Value> {
        serde_json::from_slice(&fs::read(directory.join(file)).ok()?).ok()
    };
    let (names, estimates) = (json("benchmark.json")?, json("estimates.json")?);
    let name = |field: &str| names.get(field).and_then(Value::as_str).map(str::to_owned);
    Some(Measured {
        at: fs::metadata(directory.join("estimates.json")).ok()?.modified().ok()?,
        group: name("group_id")?,
        function: name("function_id")?,
        nanos: estimates.pointer("/median/point_estimate")?.as_f64()?,
    })
}

fn time(nanos: f64) -> String {
    match nanos {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.2} us", n / 1e3),
        n => format!("{:.2} ms", n / 1e6),
    }
}
