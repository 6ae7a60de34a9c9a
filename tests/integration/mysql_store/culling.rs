//! Culling, and the figures of a table.

use super::*;

#[tokio::test]
async fn expired_rows_are_deleted_in_the_background() {
    let database = support::database().await;
    let store = builder(&database).cull_probability(0.2).connect().await.unwrap();
    store.migrate().await.unwrap();
    let mut connection = database.connection().await;
    for part in 0..4 {
        let puts = (0..100).map(|i| {
            let mut put = entry(&store, key(format!("p:1:/old/{part}/{i}")), "x");
            put.expires_ms = store.now_ms() + 1;
            put
        });
        store.put_many(puts.collect()).await.unwrap();
    }
    // new rows cause culls of the old rows
    let mut left = 400;
    for round in 0..200 {
        let put = entry(&store, key(format!("p:1:/new/{round}")), "x");
        store.put(put).await.unwrap();
        let sql = "SELECT COUNT(*) FROM cache_entries WHERE cache_key LIKE 'p:1:/old%'";
        left = number(&mut connection, sql).await;
        if left == 0 {
            break;
        }
    }
    assert!(left < 40, "{left} of 400 are left after 200 new ones");
    assert!(store.stats().await.unwrap().culls > 0);
}

#[tokio::test]
async fn an_idle_store_culls_too() {
    let database = support::database().await;
    let store =
        builder(&database).idle_cull_interval(Duration::from_millis(50)).connect().await.unwrap();
    store.migrate().await.unwrap();
    let mut put = entry(&store, key("p:1:/"), "x");
    put.expires_ms = store.now_ms() + 1;
    store.put(put).await.unwrap();
    let mut connection = database.connection().await;
    eventually("it is deleted", async || count(&mut connection).await == 0).await;
}

#[tokio::test]
async fn without_background_culls_only_cull_deletes() {
    let database = support::database().await;
    let store = builder(&database)
        .background_cull(false)
        .cull_probability(1.0)
        .idle_cull_interval(Duration::from_millis(1))
        .connect()
        .await
        .unwrap();
    store.migrate().await.unwrap();
    for i in 0..20 {
        let mut put = entry(&store, key(format!("p:1:/{i}")), "x");
        put.expires_ms = store.now_ms() + 1;
        store.put(put).await.unwrap();
    }
    // each question is answered by the task that would cull
    for _ in 0..50 {
        store.stats().await.unwrap();
    }
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.entries, stats.culls, stats.estimated), (20, 0, false));
    let report = store.cull().await.unwrap();
    assert_eq!((report.examined, report.expired, report.evicted), (20, 20, 0));
    assert_eq!(store.stats().await.unwrap().culls, 1);
}

#[tokio::test]
async fn the_limit_evicts_only_entries_of_the_own_prefix() {
    let database = support::database().await;
    let theirs = builder(&database).background_cull(false).connect().await.unwrap();
    theirs.migrate().await.unwrap();
    for part in 0..5 {
        let puts = (0..200).map(|i| entry(&theirs, key(format!("theirs:1:/{part}/{i}")), "x"));
        theirs.put_many(puts.collect()).await.unwrap();
    }
    let store = builder(&database).max_entries(500).connect().await.unwrap();
    let mut connection = database.connection().await;
    let ours = "SELECT COUNT(*) FROM cache_entries WHERE cache_key LIKE 'ours:%'";
    let mut round = 0;
    // thousands of rows by now; culls keep the table near its limit, though not exactly
    eventually("the table is near its limit", async || {
        let puts = (0..100).map(|i| entry(&store, key(format!("ours:1:/{round}/{i}")), "x"));
        store.put_many(puts.collect()).await.unwrap();
        round += 1;
        round > 40 && number(&mut connection, ours).await < 1_000
    })
    .await;
    eventually("the culls have caught up", async || store.stats().await.unwrap().culls > 10).await;
    let theirs = "SELECT COUNT(*) FROM cache_entries WHERE cache_key LIKE 'theirs:%'";
    assert_eq!(number(&mut connection, theirs).await, 1_000);
}

#[tokio::test]
async fn a_full_cull_evicts_the_oldest_down_to_the_limit() {
    let database = support::database().await;
    let store = builder(&database).background_cull(false).max_entries(300).connect().await.unwrap();
    store.migrate().await.unwrap();
    let now_ms = store.now_ms();
    let puts = (0..1_000_u64).map(|i| {
        let expires_ms = if i % 10 == 0 { 1 } else { now_ms + HOUR };
        Entry::new(key(format!("p:1:/{i}")), response(now_ms - 100_000 + i, "x"), expires_ms)
    });
    for part in puts.collect::<Vec<_>>().chunks(100) {
        store.put_many(part.to_vec()).await.unwrap();
    }
    let report = store.cull().await.unwrap();
    assert_eq!((report.expired, report.evicted), (100, 600));
    let mut connection = database.connection().await;
    assert_eq!(count(&mut connection).await, 300);
    let oldest = number(&mut connection, "SELECT MIN(born_ms) FROM cache_entries").await;
    let oldest = oldest - (now_ms - 100_000);
    // of 900 entries every tenth had expired; the last 300 start here
    assert_eq!(oldest, 667);
    let report = store.cull().await.unwrap();
    assert_eq!((report.examined, report.expired, report.evicted), (300, 0, 0));
}

#[tokio::test]
async fn figures_of_a_large_table_are_close_estimates() {
    let (database, store) = fresh().await;
    let mut connection = database.connection().await;
    // windows are a fair sample because keys are hashes
    let sql = "INSERT INTO cache_entries (key_hash, cache_key, value, value_type, expires, size) \
               SELECT UNHEX(LEFT(SHA2(n, 256), 32)), CONCAT('p:1:/', n), '', 'r', 99999999999999, 100 \
               FROM (SELECT a.d + 10*b.d + 100*c.d + 1000*e.d + 10000*f.d AS n FROM \
               (SELECT 0 d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 \
               UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9) a, \
               (SELECT 0 d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 \
               UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9) b, \
               (SELECT 0 d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 \
               UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9) c, \
               (SELECT 0 d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 \
               UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9) e, \
               (SELECT 0 d UNION SELECT 1) f) numbers";
    execute(&mut connection, sql).await;
    for _ in 0..16 {
        store.stats().await.unwrap();
    }
    let stats = store.stats().await.unwrap();
    assert!(stats.estimated);
    assert!((18_000..22_000).contains(&stats.entries), "{stats:?}");
    assert!((1_800_000..2_200_000).contains(&stats.bytes), "{stats:?}");
}
