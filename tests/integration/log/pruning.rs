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
    execute(&mut connection, "INSERT INTO cache_invalidations (tag, at_ms) VALUES ('a', 1)").await;
    node.fill("http://h/p/0").await;
    long_ago(&mut connection, ROWS).await;
    // reads the rows, so that later responses have them in their position
    node.fill("http://h/p/1").await;
    node.fill(TAGGED).await;
    let count = "SELECT COUNT(*) FROM cache_invalidations";
    // rows that are not settled are not pruned
    let mut writer = database.connection().await;
    let mut tx = writer.begin().await.unwrap();
    execute(&mut tx, "INSERT INTO cache_invalidations (tag, at_ms) VALUES ('product:7', 1)").await;
    long_ago(&mut connection, ROWS).await;
    eventually("the rows before are pruned", async || {
        number(&mut connection, count).await <= ROWS + 3
    })
    .await;
    node.assert_hit(TAGGED).await;
    tx.commit().await.unwrap();
    assert_eq!(node.validity(TAGGED).await, Validity::Invalid);
    eventually("the rows after are pruned", async || number(&mut connection, count).await <= 3)
        .await;
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
    eventually("they are gone", async || number(&mut connection, count).await <= 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_older_than_the_view_are_checked_in_the_log() {
    let database = support::database().await;
    let one = node(&database).await;
    one.handle.invalidate_tags(["first"]).await.unwrap();
    for n in 0..4 {
        one.fill(&format!("http://h/p/{n}")).await;
    }
    one.handle.invalidate_tags(["product:1"]).await.unwrap();
    one.handle.soft_invalidate_tags(["product:2"]).await.unwrap();
    let mut connection = database.connection().await;
    // no other process appends, so the ids of INSERT ... SELECT do no harm here
    execute(
        &mut connection,
        "INSERT INTO cache_invalidations (tag) \
         SELECT CONCAT('other:', a.n) FROM (SELECT 1 AS n UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 \
         UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9 UNION SELECT 10) a, \
         (SELECT 1 AS n UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 \
         UNION SELECT 7 UNION SELECT 8 UNION SELECT 9 UNION SELECT 10) b, \
         information_schema.collations c LIMIT 6000",
    )
    .await;
    let newest = largest(&mut connection).await;
    assert!(newest >= 6000, "{newest}");
    one.assert_hit("http://h/p/0").await;
    eventually("all is settled", async || settled(&mut connection).await == newest).await;
    let two = node(&database).await;
    two.assert_hit("http://h/p/0").await;
    assert_eq!(two.validity("http://h/p/1").await, Validity::Invalid);
    assert_eq!(two.validity("http://h/p/2").await, Validity::Outdated);
    two.assert_hit("http://h/p/3").await;
    // asked once: later rows are read from the log as usual
    one.handle.invalidate_tags(["product:3"]).await.unwrap();
    two.assert_refused("http://h/p/3", "invalidated").await;
    two.assert_hit("http://h/p/0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruned_rows_invalidate_responses_that_missed_them() {
    let database = support::database().await;
    let one = node_of(builder(database.url()).background_cull(true)).await;
    let mut connection = database.connection().await;
    // a row whose `at_ms` is long ago, so that it may be pruned
    let long_ago = async |connection: &mut MySqlConnection, tag: &str| {
        let insert = "INSERT INTO cache_invalidations (tag, at_ms) VALUES";
        execute(connection, &format!("{insert} ('{tag}', 1)")).await;
    };
    long_ago(&mut connection, "first").await;
    one.fill(TAGGED).await;
    one.fill("http://h/p/8").await;
    long_ago(&mut connection, "product:7").await;
    long_ago(&mut connection, "other").await;
    long_ago(&mut connection, "another").await;
    one.assert_refused(TAGGED, "invalidated").await;
    one.handle.flush().await.unwrap();
    one.assert_hit(TAGGED).await;
    one.assert_hit("http://h/p/8").await; // it remembers that no row names the response
    eventually("it is settled", async || settled(&mut connection).await == 4).await;
    one.handle.cull().await.unwrap();
    let smallest = number(&mut connection, "SELECT MIN(id) FROM cache_invalidations").await;
    let newest = largest(&mut connection).await;
    assert_eq!((smallest, newest), (3, 4), "the two newest rows stay, whatever their age");
    // a process that starts now cannot know it
    let two = node(&database).await;
    assert_eq!(two.validity("http://h/p/8").await, Validity::Invalid);
    two.assert_hit(TAGGED).await;
}

/// The last row that this process had read has been pruned. This must not count as a lost log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruned_rows_do_not_look_like_an_emptied_log() {
    let database = support::database().await;
    let one = node_of(builder(database.url()).background_cull(true)).await;
    let away = node_of(builder(database.url()).poll_interval(Duration::from_secs(60))).await;
    let mut connection = database.connection().await;
    let insert = "INSERT INTO cache_invalidations (tag, at_ms) VALUES";
    execute(&mut connection, &format!("{insert} ('first', 1)")).await;
    one.fill(TAGGED).await;
    away.assert_hit(TAGGED).await;
    execute(&mut connection, &format!("{insert} ('a', 1), ('b', 1), ('c', 1), ('d', 1)")).await;
    one.fill("http://h/p/8").await;
    eventually("it is settled", async || settled(&mut connection).await == 5).await;
    one.handle.cull().await.unwrap();
    let seen = "SELECT COUNT(*) FROM cache_invalidations WHERE id = 1";
    assert_eq!(number(&mut connection, seen).await, 0, "pruned");
    away.assert_hit("http://h/p/8").await;
    assert_eq!(away.validity(TAGGED).await, Validity::Invalid, "it cannot know");
    one.assert_hit("http://h/p/8").await;
    let restarts = "SELECT COUNT(*) FROM cache_invalidations WHERE tag = ':everything'";
    assert_eq!(number(&mut connection, restarts).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_after_an_open_transaction_are_not_pruned() {
    let database = support::database().await;
    let one = node_of(builder(database.url()).background_cull(true)).await;
    let (mut connection, mut writer) = (database.connection().await, database.connection().await);
    let insert = "INSERT INTO cache_invalidations (tag, at_ms) VALUES";
    execute(&mut connection, &format!("{insert} ('first', 1)")).await;
    one.fill("http://h/p/8").await;
    let mut tx = writer.begin().await.unwrap();
    execute(&mut tx, &format!("{insert} ('product:7', 1)")).await;
    execute(&mut connection, &format!("{insert} ('a', 1), ('b', 1), ('c', 1)")).await;
    one.fill(TAGGED).await;
    // nothing is settled, although the grace of the gap passes and the task that closes gaps has run
    a_later_gap_closes(&one, &database).await;
    one.handle.cull().await.unwrap();
    for _ in 0..3 {
        one.assert_hit(TAGGED).await;
        one.assert_hit("http://h/p/8").await;
    }
    tx.commit().await.unwrap();
    one.assert_refused(TAGGED, "invalidated").await;
    one.assert_hit("http://h/p/8").await;
}
