//! Faults of the network between the process and the server.

use std::time::Duration;

use sqlx::Connection as _;
use tower_mysql_cache::key::CacheKey;
use tower_mysql_cache::store::Entries;

use crate::kit::{Site, WAIT, builder};
use crate::proxy::{Network, Proxy, Way};
use crate::support::{self, TestDatabase, eventually, number};

async fn site() -> (TestDatabase, Proxy, Site) {
    let database = support::database().await;
    let proxy = Proxy::to(database.url()).await;
    let store = builder(&proxy.url(database.url()));
    // a shorter timeout than the default, so that the test is faster
    let site = Site::over(store.connect_timeout(Duration::from_secs(2))).await;
    site.fill("/").await;
    (database, proxy, site)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_network_serves_and_a_very_slow_one_is_skipped() {
    let (_database, proxy, site) = site().await;
    proxy.set(Network::Slow(Duration::from_millis(50)));
    for _ in 0..5 {
        assert!(site.get("/").await.hit, "100 ms are within the time");
    }
    proxy.set(Network::Slow(WAIT * 3));
    site.opens_the_breaker(10).await;
    site.get_all((0..50).map(|n| format!("/{n}"))).await;
    proxy.set(Network::Up);
    site.comes_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_costs_only_one_wait() {
    let (_database, proxy, site) = site().await;
    proxy.set(Network::BlackHole);
    site.opens_the_breaker(20).await;
    let waited = site.handle.counts().lookup_errors;
    site.get_all((0..100).map(|n| format!("/{n}"))).await;
    assert_eq!(site.handle.counts().lookup_errors, waited, "no request has waited since");
    assert!(site.change("/").await.is_err(), "it cannot be done");
    proxy.set(Network::Up);
    site.comes_back().await;
}

/// A connection attempt into the black hole takes longer than this test waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_black_hole_no_lost_connect_is_waited_for() {
    let database = support::database().await;
    let proxy = Proxy::to(database.url()).await;
    let times = Duration::from_millis(500);
    let store = builder(&proxy.url(database.url())).query_timeout(times).write_timeout(times);
    let site = Site::over(store.connect_timeout(Duration::from_secs(300))).await;
    site.fill("/").await;
    proxy.set(Network::BlackHole);
    let accepted = proxy.accepted();
    eventually("attempts have been lost", async || {
        let _ = site.change("/").await;
        let _ = site.get("/").await;
        proxy.accepted() >= accepted + 2
    })
    .await;
    proxy.set(Network::Up);
    site.comes_back().await;
    eventually("its figures can be had", async || site.handle.stats().await.is_ok()).await;
}

/// Two megabytes that cannot be compressed, over a slow network.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_delays_no_other_lookup() {
    let database = support::database().await;
    let proxy = Proxy::to(database.url()).await;
    let store = builder(&proxy.url(database.url())).query_timeout(WAIT * 20);
    let store = store.read_connections(1).connect().await.unwrap();
    store.migrate().await.unwrap();
    let site = Site::of(store.clone());
    for path in ["/large", "/small"] {
        site.fill(path).await;
    }
    let mut connection = database.connection().await;
    let sql = "SELECT cache_key FROM cache_entries ORDER BY cache_key";
    let keys: Vec<Vec<u8>> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
    let key = |path: &str| CacheKey::new(keys[usize::from(path == "/small")].clone());
    assert!(store.get(key("/large")).await.unwrap().is_some(), "found, with a lane of its own");
    proxy.set(Network::Slow(Duration::from_millis(10)));
    // both in one batch, then each of them alone
    let mut large = std::pin::pin!(store.get(key("/large")));
    let small = async {
        for _ in 0..3 {
            assert!(store.get(key("/small")).await.unwrap().is_some());
        }
    };
    tokio::select! {
        biased;
        _ = &mut large => panic!("the small ones had to wait for the large one"),
        () = small => {}
    }
    assert!(large.await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_during_an_answer_gives_no_wrong_answer() {
    let (_database, proxy, site) = site().await;
    // through a whole answer: names of the columns, head of the row, its value, and some bytes after it
    for bytes in (0..64).chain((64..1600).step_by(24)) {
        let before = proxy.cut();
        proxy.cut_after(Way::ToClient, bytes);
        eventually("a connection is cut", async || {
            site.get("/").await;
            proxy.cut() > before
        })
        .await;
        // a lookup with an answer in between, so that the breaker stays closed
        eventually("it is served again", async || site.get("/").await.hit).await;
    }
    assert!(proxy.cut() > 60, "{} connections were cut", proxy.cut());
    site.comes_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_during_a_write_reports_no_success() {
    let (_database, proxy, site) = site().await;
    for bytes in (0..400).step_by(8) {
        let path = format!("/page/{bytes}");
        site.fills(&path).await;
        proxy.cut_after(Way::ToServer, bytes);
        // the write either succeeds or fails; after a success, the test checks that no older response is served
        let _ = site.change(&path).await;
        site.get(&path).await;
    }
    assert!(proxy.cut() > 20, "{} connections were cut", proxy.cut());
    site.comes_back().await;
    for bytes in (0..400).step_by(8) {
        site.get(&format!("/page/{bytes}")).await;
    }
}

/// There is always a request that waits for a read of the log, and periodic work must still be done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gaps_are_closed_while_many_connections_read_the_log() {
    let database = support::database().await;
    let proxy = Proxy::to(database.url()).await;
    let store = builder(&proxy.url(database.url())).gap_grace(Duration::from_millis(200));
    let store = store.connect().await.unwrap();
    store.migrate().await.unwrap();
    proxy.set(Network::Slow(Duration::from_millis(1)));
    let key = CacheKey::new("faults:1:/ http://h");
    let readers: Vec<_> = (0..128)
        .map(|_| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move {
                loop {
                    let _ = store.get(key.clone()).await;
                }
            })
        })
        .collect();
    let mut connection = database.connection().await;
    let mut tx = connection.begin().await.unwrap();
    for _ in 0..70 {
        let insert = "INSERT INTO cache_invalidations (tag) VALUES ('rolled back')";
        sqlx::query(insert).execute(&mut *tx).await.unwrap();
    }
    tx.rollback().await.unwrap();
    let insert = "INSERT INTO cache_invalidations (tag) VALUES ('committed')";
    let newest = sqlx::query(insert).execute(&mut connection).await.unwrap().last_insert_id();
    let settled = "SELECT MAX(settled) FROM cache_invalidations_state WHERE id = 1";
    eventually("the gap is closed", async || number(&mut connection, settled).await >= newest)
        .await;
    readers.iter().for_each(|reader| reader.abort());
}
