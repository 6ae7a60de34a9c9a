//! Histories on a real server: processes that change rows and invalidate in transactions, while readers
//! compare every response with what had been committed before their request began.
//!
//! ```sh
//! cargo test --test histories                                        # a few seconds of each
//! TMC_HISTORIES=full cargo test --release --test histories           # a million responses of each
//! cargo test --test histories -- killed_server                       # one of them
//! TMC_HISTORIES_FAULTS=100 cargo test --test histories -- killed     # and so many faults of those
//! ```
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test

mod board;
mod chance;
mod process;
#[path = "../support/mod.rs"]
mod support;
mod writer;

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use board::{Board, Count, ITEMS};
use futures_util::{StreamExt, stream};
use process::{Process, STALE, TIERS};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};
use support::OwnServer;
use tower_mysql_cache::MySqlStore;

/// Where the children find what they need.
const CHILD: &str = "TMC_HISTORIES_CHILD";

/// What happens to a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    KilledServer,
    KilledProcesses,
    /// A transaction with many rows of the log stays open for a while.
    OpenBulk,
}

const HISTORIES: [(&str, Fault); 4] = [
    ("processes_on_one_database_serve_nothing_stale", Fault::None),
    ("a_killed_server_makes_nothing_stale", Fault::KilledServer),
    ("killed_processes_make_nothing_stale", Fault::KilledProcesses),
    ("hits_go_on_while_a_bulk_transaction_is_open", Fault::OpenBulk),
];

/// Rows in a bulk transaction: many times what a read of the log takes in one by one.
const BULK: usize = 5_000;
const FULL_BULK: usize = 50_000;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if let Ok(child) = std::env::var(CHILD) {
        runtime.block_on(be_a_child(&child));
        // what is left is of no interest to anybody
        std::process::exit(0);
    }
    let filters: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()));
    // a short history waits for its faults most of the time
    let at_a_time = if is_full() { 1 } else { 2 };
    let histories = HISTORIES.into_iter().filter(|(name, _)| wanted(name));
    let histories = stream::iter(histories).map(|(name, fault)| history(name, fault));
    runtime.block_on(histories.buffer_unordered(at_a_time).for_each(std::future::ready));
    runtime.shutdown_background();
}

/// Faults that a history goes through at least.
fn least_faults() -> u32 {
    let faults = std::env::var("TMC_HISTORIES_FAULTS");
    faults.map_or(2, |faults| faults.parse().expect("a number of faults"))
}

fn is_full() -> bool {
    support::is_full("TMC_HISTORIES")
}

/// Its number and the server's URL; the file's path is its argument, and it ends with its standard input.
async fn be_a_child(child: &str) {
    let (number, rest) = child.split_once(' ').expect("a number");
    let (path, url) = rest.split_once(' ').expect("a path and a URL");
    let board = Board::open(&PathBuf::from(path));
    let (process, mut tasks) = Process::start(number.parse().expect("a number"), url, board).await;
    let input = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0; 1]));
    let _ = input.await;
    finish(&process, &mut tasks).await;
}

async fn finish(process: &Arc<Process>, tasks: &mut tokio::task::JoinSet<()>) {
    process.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            process.board.count(process.number, Count::Violations, 1);
            eprintln!("VIOLATION: a task of process {} ended: {error}", process.number);
        }
    }
}

fn start_child(number: usize, path: &std::path::Path, url: &str) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .env(CHILD, format!("{number} {} {url}", path.display()))
        .stdin(Stdio::piped())
        .spawn()
        .expect("a child")
}

async fn prepare(url: &str) {
    let store = MySqlStore::connect(url).await.expect("connects");
    store.migrate().await.expect("migrates");
    store.close().await;
    let mut connection = MySqlConnection::connect(url).await.expect("connects");
    let items: Vec<String> = (0..ITEMS).map(|id| format!("({id}, 1)")).collect();
    for sql in [
        "CREATE TABLE items (id INT PRIMARY KEY, version BIGINT UNSIGNED NOT NULL)".to_owned(),
        format!("INSERT INTO items VALUES {}", items.join(",")),
        format!(
            "CREATE TRIGGER items_changed AFTER UPDATE ON items FOR EACH ROW BEGIN \
             IF NEW.id >= {} THEN \
             INSERT INTO cache_invalidations (tag) VALUES (CONCAT('item:', NEW.id)); \
             END IF; END",
            writer::TRIGGERED
        ),
    ] {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("the tables");
    }
}

/// As a trigger on the application's table does, in an import.
async fn append_bulk(tx: &mut MySqlConnection) {
    let rows = if is_full() { FULL_BULK } else { BULK };
    for _ in 0..rows / 50 {
        let values = vec!["('bulk')"; 50].join(",");
        let insert = format!("INSERT INTO cache_invalidations (tag) VALUES {values}");
        sqlx::raw_sql(AssertSqlSafe(insert)).execute(&mut *tx).await.expect("rows");
    }
}

async fn history(name: &str, fault: Fault) {
    let began = Instant::now();
    let mut server: OwnServer = support::own_server(None).await;
    let url = server.url().to_owned();
    prepare(&url).await;
    let path = server.dir().join("board");
    let board = Board::create(&path);
    let mut children: Vec<Child> = (1..3).map(|number| start_child(number, &path, &url)).collect();
    let (process, mut tasks) = Process::start(0, &url, Board::open(&path)).await;

    // until there is enough of everything
    let (responses, least) = if is_full() { (1_000_000, 100_000) } else { (4_000, 200) };
    let limit =
        Duration::from_secs(if is_full() { 1_800 } else { 60 + 15 * u64::from(least_faults()) });
    let mut next_fault = Instant::now() + Duration::from_secs(3);
    let mut faults = 0;
    let hits = |tier| board.counted(Count::Hits(tier));
    let misses = |tier| board.counted(Count::Misses(tier));
    let tiers = || 0..TIERS.len();
    let least_hits = |tier| if tier == STALE { least / 10 } else { least };
    let enough = |faults: u32| {
        let all: u64 = tiers().map(|tier| hits(tier) + misses(tier)).sum();
        let faulty = fault == Fault::None || faults >= least_faults();
        faulty && all >= responses && tiers().all(|tier| hits(tier) >= least_hits(tier))
    };
    while !enough(faults) {
        assert!(began.elapsed() < limit, "{name}: too slow: {}", summary(&board));
        // the load runs; the counters are asked now and then
        tokio::time::sleep(Duration::from_millis(50)).await;
        if fault == Fault::None || Instant::now() < next_fault {
            continue;
        }
        faults += 1;
        match fault {
            Fault::None => {}
            Fault::KilledServer => tokio::task::block_in_place(|| {
                server.kill_9();
                // requests meet a server that is not there, and one that comes up
                std::thread::sleep(Duration::from_millis(300));
                server.restart();
            }),
            Fault::KilledProcesses => {
                let which = faults as usize % children.len();
                let child = &mut children[which];
                child.kill().expect("SIGKILL");
                child.wait().expect("its end");
                *child = start_child(which + 1, &path, &url);
            }
            Fault::OpenBulk => {
                let mut connection = MySqlConnection::connect(&url).await.expect("connects");
                let mut tx = connection.begin().await.expect("a transaction");
                append_bulk(&mut tx).await;
                let before: Vec<u64> = tiers().map(hits).collect();
                // many of them rather than long ones
                let enough = |tier| least_hits(tier) / if is_full() { 50 } else { 1 };
                while tiers().any(|tier| hits(tier) < before[tier] + enough(tier)) {
                    assert!(began.elapsed() < limit, "{name}: no hits: {}", summary(&board));
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                tx.commit().await.expect("a commit");
            }
        }
        next_fault = Instant::now() + Duration::from_millis(if is_full() { 7_000 } else { 3_000 });
    }
    for child in &mut children {
        drop(child.stdin.take());
    }
    finish(&process, &mut tasks).await;
    for child in &mut children {
        let _ = child.wait();
    }
    println!(
        "{name}: {}, {faults} faults, {:.0} s",
        summary(&board),
        began.elapsed().as_secs_f64()
    );
    assert_eq!(board.counted(Count::Violations), 0, "{name}: stale responses");
    assert!(board.counted(Count::Commits) > 50, "{name}: nothing was changed");
    assert!(board.counted(Count::RolledBack) > 0 && board.counted(Count::Killed) > 0, "{name}");
}

fn summary(board: &Board) -> String {
    let mut total = 0;
    let mut text = Vec::new();
    for (tier, name) in TIERS.iter().enumerate() {
        let (hits, misses) = (board.counted(Count::Hits(tier)), board.counted(Count::Misses(tier)));
        total += hits + misses;
        text.push(format!("{name} {hits} hits {misses} misses"));
    }
    format!(
        "{total} responses ({}), {} commits, {} rolled back, {} killed, {} of unknown end, {} requests without \
         a database, {} violations",
        text.join(", "),
        board.counted(Count::Commits),
        board.counted(Count::RolledBack),
        board.counted(Count::Killed),
        board.counted(Count::Unknown),
        board.counted(Count::Failed),
        board.counted(Count::Violations)
    )
}
