//! The clock of a process is wrong by an hour: what counts is the database's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::kit::until;
use crate::process::{Process, example};
use crate::support;

/// In seconds.
const HOUR: i64 = 3600;

/// A directory with a library that shifts a process's clock, and how far.
struct Shift(PathBuf);

impl Shift {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("tmc-clock.{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/clock.c");
        // the compiler that links Rust's programs
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.join("clock.so")).arg(source);
        assert!(cc.status().expect("there is a C compiler").success());
        let shift = Self(folder);
        shift.set(0);
        shift
    }

    fn set(&self, seconds: i64) {
        // at once: no half of it is ever read
        std::fs::write(self.0.join("new"), seconds.to_string()).unwrap();
        std::fs::rename(self.0.join("new"), self.0.join("seconds")).unwrap();
    }

    fn of<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let (library, file) = (self.0.join("clock.so"), self.0.join("seconds"));
        command.env("LD_PRELOAD", library).env("CLOCK_SHIFT", file)
    }
}

impl Drop for Shift {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn shop(url: &str) -> Command {
    let mut command = example("axum");
    command.env("DATABASE_URL", url).env("LISTEN", "127.0.0.1:0");
    command
}

/// How far a process's own clock is from this one's, by the field that its server adds to what is not
/// cached.
async fn ahead(process: &Process) -> i64 {
    let date = httpdate::parse_http_date(process.ask("/missing").await.field("date")).unwrap();
    match date.duration_since(SystemTime::now()) {
        Ok(ahead) => ahead.as_secs() as i64,
        Err(behind) => -(behind.duration().as_secs() as i64),
    }
}

async fn hits(process: &Process, path: &str) -> bool {
    let reply = process.get(path).await;
    if reply.is_hit() {
        // seconds since it was stored, not an hour more or less
        assert!(reply.field("age").parse::<u64>().unwrap() < 60, "{:?}", reply.headers);
        let (_, ttl) = reply.field("cache-status").split_once("ttl=").unwrap();
        assert!((1..=300).contains(&ttl.parse::<i64>().unwrap()), "{ttl}");
    }
    reply.is_hit()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_whose_clock_is_wrong_by_an_hour_agrees_with_the_others() {
    let database = support::database().await;
    let shift = Shift::new();
    shift.set(-HOUR);
    let (right, wrong) = tokio::task::block_in_place(|| {
        let right = Process::start(&mut shop(database.url()));
        (right, Process::start(shift.of(&mut shop(database.url()))))
    });
    assert!(ahead(&right).await.abs() < 60);
    assert!((ahead(&wrong).await + HOUR).abs() < 60, "the clock is wrong");
    // what either stores, the other serves, as old as it is
    right.get("/products").await;
    until("the other serves it", || hits(&wrong, "/products")).await;
    wrong.get("/products/7").await;
    until("the other serves it", || hits(&right, "/products/7")).await;
    // and under way it jumps by two hours
    shift.set(HOUR);
    until("the clock has jumped", async || (ahead(&wrong).await - HOUR).abs() < 60).await;
    assert!(hits(&wrong, "/products").await && hits(&right, "/products").await);
    wrong.get("/products/8").await;
    until("the other serves it", || hits(&right, "/products/8")).await;
}
