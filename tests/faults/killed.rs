//! The server is missing from the start, or is killed at run time.

use std::net::TcpListener;
use std::time::Instant;

use tower_mysql_cache::{MySqlStore, StoreError};

use crate::kit::{Site, WAIT, is_under_way};
use crate::proxy::{Network, Proxy};
use crate::support::{self, eventually, execute, number};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_server_is_a_clear_error_at_start() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("mysql://root:hunter2@{free}/cache");
    let since = Instant::now();
    let error = MySqlStore::connect(&url).await.unwrap_err();
    assert!(matches!(error, StoreError::Connect(_)), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("cannot connect to the cache database"), "{said}");
    assert!(!format!("{error:?} {said}").contains("hunter2"), "{said}");
    assert!(since.elapsed() < WAIT * 10, "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_is_retried_until_the_server_is_there() {
    let mut server = support::own_server(None).await;
    server.kill_9();
    assert_eq!(MySqlStore::connect(server.url()).await.unwrap_err().as_str(), "connect");
    tokio::task::block_in_place(|| server.restart());
    Site::at(server.url()).await.fill("/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connections_cause_no_wait_and_no_failure() {
    let database = support::database().await;
    let proxy = Proxy::to(database.url()).await;
    let site = Site::at(&proxy.url(database.url())).await;
    site.fill("/").await;
    proxy.set(Network::Down);
    let (since, calls) = (Instant::now(), site.calls());
    for n in 0..200 {
        assert!(!site.get(&format!("/{n}")).await.hit);
    }
    assert!(site.change("/").await.is_err(), "it cannot be done");
    site.put("/").await;
    assert!(site.calls() >= calls + 200);
    assert!(site.handle.counts().invalidation_errors >= 2);
    // one wait for each request would be 200 s
    assert!(since.elapsed() < WAIT * 20, "{:?}", since.elapsed());
    proxy.set(Network::Up);
    site.comes_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_the_server_is_killed_during_lookups_the_handler_answers() {
    let mut server = support::own_server(None).await;
    let site = Site::at(server.url()).await;
    site.fill("/page/0").await;
    let mut locker = server.connection().await;
    let mut watcher = server.connection().await;
    execute(&mut locker, "LOCK TABLES cache_entries WRITE").await;
    let asking = tokio::spawn({
        let site = site.clone();
        async move { site.get_all((0..20).map(|n| format!("/page/{n}"))).await }
    });
    is_under_way(&mut watcher, "SELECT key_hash").await;
    server.kill_9();
    let answers = asking.await.unwrap();
    assert!(answers.iter().all(|answer| !answer.hit));
    assert!(site.handle.counts().lookup_errors >= 1);
    site.get_all((0..50).map(|n| format!("/page/{n}"))).await;
    assert!(site.change("/page/0").await.is_err());
    tokio::task::block_in_place(|| server.restart());
    site.comes_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_during_writes_loses_only_those() {
    let mut server = support::own_server(None).await;
    let site = Site::at(server.url()).await;
    site.fill("/before").await;
    let mut locker = server.connection().await;
    let mut watcher = server.connection().await;
    execute(&mut locker, "LOCK TABLES cache_entries READ").await;
    let before = site.handle.counts();
    for n in 0..50 {
        let path = format!("/page/{n}");
        assert!(!site.get(&path).await.hit);
        // the row is still waiting to be written, and visible
        assert!(site.get(&path).await.hit, "{path}");
    }
    is_under_way(&mut watcher, "INSERT INTO").await;
    let change = tokio::spawn({
        let site = site.clone();
        async move { site.change("/before").await }
    });
    server.kill_9();
    let changed = change.await.unwrap();
    eventually("the writes have failed", async || {
        site.handle.counts().write_errors - before.write_errors >= 50
    })
    .await;
    assert_eq!(site.handle.counts().stored, before.stored, "none of them counts as stored");
    site.get_all((0..50).map(|n| format!("/page/{n}"))).await;
    tokio::task::block_in_place(|| server.restart());
    site.comes_back().await;
    // a write that was reported as successful is there, and a failed invalidation was made up for
    site.owes_nothing().await;
    let answer = site.get("/before").await;
    assert_eq!((answer.hit, answer.detail), (false, Some("invalidated")), "{changed:?}");
    let stats = site.handle.stats().await.unwrap();
    assert_eq!(stats.store.unreadable, 0, "no row is half written");
    let mut connection = server.connection().await;
    let half =
        "SELECT CAST(COUNT(*) AS SIGNED) FROM cache_entries WHERE head IS NULL OR value = ''";
    assert_eq!(number(&mut connection, half).await, 0);
}
