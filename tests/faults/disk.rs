//! The disk of the server is full.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use crate::kit::{Site, builder};
use crate::support::{self, OwnServer, eventually};

/// Uses up all free space on the server's disk.
fn fill_up(server: &OwnServer) -> PathBuf {
    let path = server.dir_from_outside().join("filler");
    let mut file = File::create(&path).expect("a file beside the server's");
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    path
}

/// Stores large pages until the server says that no more fit.
async fn fill_the_table(site: &Site) {
    let before = site.handle.counts().write_errors;
    let mut n = 0;
    eventually("the disk is full", async || {
        n += 1;
        site.get(&format!("/large/{n}")).await;
        let _ = site.handle.flush().await;
        site.handle.counts().write_errors > before
    })
    .await;
}

/// Pages that cannot be stored are answered, and stored pages are served.
async fn stores_nothing_and_serves(site: &Site) {
    let before = site.handle.counts();
    for n in 0..20 {
        site.get(&format!("/large/full/{n}")).await;
        let answer = site.get("/before").await;
        assert!(answer.hit, "lookups need no room: {answer:?}");
    }
    eventually("the writes have failed", async || {
        site.handle.counts().write_errors - before.write_errors == 20
    })
    .await;
    assert_eq!(site.handle.counts().breaker_opened, 0);
}

/// MariaDB 10.11 aborts if it cannot extend a table's file for some seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_no_request_and_free_space_is_used_again() {
    let Some(mut server) = support::server_on_a_small_disk(450).await else {
        return eprintln!("nothing can be mounted here: the full tablespace stands for this");
    };
    let site = Site::over(builder(server.url()).background_cull(false)).await;
    site.fill("/before").await;
    let filler = tokio::task::block_in_place(|| fill_up(&server));
    fill_the_table(&site).await;
    for n in 0..20 {
        site.get(&format!("/large/full/{n}")).await;
        site.get("/before").await;
    }
    let _ = site.change("/before").await;
    site.put("/before").await;
    std::fs::remove_file(filler).unwrap();
    if !server.is_alive() {
        tokio::task::block_in_place(|| server.restart());
    }
    site.comes_back().await;
    site.get("/before").await;
}

/// The system tablespace contains the table, and must not grow.
const SMALL_SPACE: &str =
    "--innodb-file-per-table=0 --innodb-data-file-path=ibdata1:12M:autoextend:max:32M";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_tablespace_fails_no_request() {
    let server = support::own_server_with(SMALL_SPACE).await;
    let site = Site::over(builder(server.url()).background_cull(false)).await;
    site.fill("/before").await;
    fill_the_table(&site).await;
    stores_nothing_and_serves(&site).await;
}
