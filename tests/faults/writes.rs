//! The server answers lookups, and refuses writes.

use crate::kit::{Site, plain_account};
use crate::support::{self, eventually, execute};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_server_serves_hits_and_stores_nothing() {
    let server = support::own_server(None).await;
    let mut root = server.connection().await;
    let url = plain_account(&mut root, server.url()).await;
    let site = Site::at(&url).await;
    site.fill("/before").await;
    execute(&mut root, "SET GLOBAL read_only = 1").await;
    let before = site.handle.counts();
    for n in 0..20 {
        site.get(&format!("/{n}")).await;
        assert!(site.get("/before").await.hit);
    }
    eventually("the writes have failed", async || {
        site.handle.counts().write_errors - before.write_errors == 20
    })
    .await;
    assert!(site.change("/before").await.is_err(), "it cannot be done");
    site.put("/before").await;
    let counts = site.handle.counts();
    assert!(counts.invalidation_errors - before.invalidation_errors >= 2);
    assert_eq!(counts.breaker_opened, 0, "lookups are answered");
    execute(&mut root, "SET GLOBAL read_only = 0").await;
    site.comes_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_pages_within_the_servers_packet_size_are_stored() {
    let server = support::own_server(None).await;
    let site = Site::at(server.url()).await; // has learnt that packets may have 16 MiB or more
    let mut root = server.connection().await;
    execute(&mut root, "SET GLOBAL max_allowed_packet = 1048576").await;
    for n in 0..3 {
        site.get(&format!("/large/{n}")).await; // two megabytes each
    }
    eventually("the writes have failed", async || site.handle.counts().write_errors == 3).await;
    assert!(!site.get("/large/0").await.hit);
    site.comes_back().await;
    // a new process knows the limit, and does not send the page at all
    let site = Site::at(server.url()).await;
    site.get("/large/0").await;
    eventually("it is refused", async || {
        site.handle.stats().await.is_ok_and(|stats| stats.store.too_large == 1)
    })
    .await;
}
