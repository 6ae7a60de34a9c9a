//! While the database is away, memory does not grow.

use std::process::Command;

use crate::kit::{Site, builder};
use crate::process::Process;
use crate::support::{self, eventually, example};

/// The memory of a process, in megabytes.
fn resident_mb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Requests this many pages, each with its own URI, sixteen at a time.
async fn ask(process: &Process, path: &str, from: usize, pages: usize) {
    for chunk in (from..from + pages).collect::<Vec<_>>().chunks(16) {
        let asked = chunk
            .iter()
            .map(|n| async move { process.get(&format!("{path}?n={n}")).await.body.len() });
        futures_util::future::join_all(asked).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_does_not_grow_while_the_database_is_away() {
    let mut server = support::own_server(None).await;
    let process = tokio::task::block_in_place(|| {
        let mut shop = Command::new(example("shop"));
        let shop = shop.args(["--serve", "--listen", "127.0.0.1:0", "--database", server.url()]);
        Process::start(shop.stderr(std::process::Stdio::null()))
    });
    // a database can be away in two ways: it does not answer, or it is stopped
    for away in ["hangs", "gone"] {
        ask(&process, "/image", 0, 8).await;
        if away == "hangs" {
            server.stop();
        } else {
            server.kill_9();
        }
        // a megabyte each: together more than the 64 MiB that may wait
        ask(&process, "/image", 1_000, 72).await;
        ask(&process, "/search", 1_000, 500).await;
        let full = resident_mb(process.pid());
        for round in 2..4 {
            ask(&process, "/image", round * 1_000, 30).await;
            ask(&process, "/search", round * 10_000, 500).await;
        }
        // after 60 megabytes and 1,000 pages; allocators keep some memory
        let later = resident_mb(process.pid());
        eprintln!("{away}: from {full} to {later} MB");
        assert!(later < full + 40, "{away}: from {full} to {later} MB");
        assert!(later < 400, "{away}: {later} MB");
        if away == "hangs" {
            server.cont();
        } else {
            tokio::task::block_in_place(|| server.restart());
        }
        eventually("the cache serves again", async || {
            process.get(&format!("/search?q={away}")).await;
            process.get(&format!("/search?q={away}")).await.is_hit()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_small_pages_count_with_their_whole_memory() {
    let server = support::own_server(None).await;
    let store = builder(server.url()).connect().await.expect("connects");
    store.migrate().await.expect("migrates");
    let site = Site::queueing(store, 1 << 20);
    site.fill("/").await;
    server.stop();
    site.opens_the_breaker(20).await;
    let before = site.handle.counts();
    for chunk in 0..20 {
        site.get_all((0..50).map(|n| format!("/small/{chunk}/{n}"))).await;
    }
    // a megabyte has room for about 250 pages, however small they are
    let shed = site.handle.counts().shed - before.shed;
    assert!((740..1_000).contains(&shed), "{shed} of 1,000");
    server.cont();
    site.comes_back().await;
    site.handle.flush().await.expect("flushes");
    site.get("/small/0/0").await;
    site.handle.flush().await.expect("flushes");
    assert!(site.get("/small/0/0").await.hit, "there is room again");
}
