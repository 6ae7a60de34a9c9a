//! Old rows are deleted in the background, however many there are.

use super::gaps::insert_all;
use super::*;

const ROWS: u64 = 20_000;

/// Old rows of `cache_invalidations`.
async fn long_ago(connection: &mut MySqlConnection, rows: u64) {
    let row = "('product:9', 1)";
    insert_all(connection, "cache_invalidations (tag, at_ms)", row, rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_process_prunes_the_log_without_culling() {
    let database = support::database().await;
    let often = builder(database.url()).idle_cull_interval(Duration::from_millis(50));
    let node = node_of(often).await;
    let mut connection = database.connection().await;
    run(&mut connection, "INSERT INTO cache_invalidations (tag, at_ms) VALUES ('a', 1)").await;
    node.fill("http://h/p/0").await;
    long_ago(&mut connection, ROWS).await;
    // reads the rows, so that later responses have them in their position
    node.fill("http://h/p/1").await;
    node.fill(TAGGED).await;
    let count = "SELECT COUNT(*) FROM cache_invalidations";
    // rows that are not settled are not pruned
    let mut writer = database.connection().await;
    let mut tx = writer.begin().await.unwrap();
    run(&mut tx, "INSERT INTO cache_invalidations (tag, at_ms) VALUES ('product:7', 1)").await;
    long_ago(&mut connection, ROWS).await;
    until!("the rows before are pruned", number(&mut connection, count).await <= ROWS + 3);
    node.assert_hit(TAGGED).await;
    tx.commit().await.unwrap();
    assert_eq!(node.validity(TAGGED).await, Validity::Invalid);
    until!("the rows after are pruned", number(&mut connection, count).await <= 3);
    fill_again(&node, TAGGED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_process_deletes_old_leases_without_culling() {
    let database = support::database().await;
    let often = builder(database.url()).idle_cull_interval(Duration::from_millis(50));
    let node = node_of(often).await;
    let mut connection = database.connection().await;
    let row = "(UNHEX(SUBSTR(SHA2(UUID(), 256), 1, 32)), 1, 1, 5)";
    insert_all(&mut connection, "cache_leases", row, ROWS).await;
    node.store.leases().lease(&CacheKey::new(KEY), Duration::from_secs(1)).await.unwrap();
    let count = "SELECT COUNT(*) FROM cache_leases";
    until!("they are gone", number(&mut connection, count).await <= 1);
}
