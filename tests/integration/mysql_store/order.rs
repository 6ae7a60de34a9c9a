//! The order of writes and removals, in one store and in several.

use super::*;

#[tokio::test]
async fn two_stores_on_one_table_share_their_entries() {
    let (database, one) = fresh().await;
    let two = builder(&database).connect().await.unwrap();
    one.put(entry(&one, key("p:1:/a"), "1")).await.unwrap();
    assert_eq!(body(two.get(key("p:1:/a")).await.unwrap()).unwrap(), "1");
    two.put(entry(&two, key("p:1:/a"), "2")).await.unwrap();
    assert_eq!(body(one.get(key("p:1:/a")).await.unwrap()).unwrap(), "2");
    assert_eq!(one.remove(KeyRange::starting_with("p:1:/a")).await.unwrap(), 1);
    assert_eq!(two.get(key("p:1:/a")).await.unwrap(), None);
    let apart = one.now_ms().abs_diff(two.now_ms());
    assert!(apart < 100, "their clocks are {apart} ms apart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_writers_on_the_same_keys_never_deadlock() {
    let (database, _) = fresh().await;
    let mut connection = database.connection().await;
    let before = deadlocks(&mut connection).await;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..16_usize {
        // separate stores, like separate processes
        let builder = builder(&database);
        tasks.spawn(async move {
            let store = builder.connect().await.unwrap();
            for round in 0..4 {
                let puts: Vec<Entry> = (0..400)
                    .map(|i| {
                        let at = (i * 7 + writer * 31 + round * 13) % 400;
                        entry(&store, key(format!("p:1:/{at}")), vec![b'x'; 300])
                    })
                    .collect();
                store.put_many(puts).await.unwrap();
            }
            store.stats().await.unwrap().failures
        });
    }
    while let Some(failures) = tasks.join_next().await {
        assert_eq!(failures.unwrap(), 0);
    }
    assert_eq!(count(&mut connection).await, 400);
    // so that retries do not hide deadlocks from the counter of failures
    assert_eq!(deadlocks(&mut connection).await, before);
}

#[tokio::test]
async fn a_removal_deletes_earlier_puts_and_keeps_later_ones() {
    let (_database, store) = fresh().await;
    let noise: Vec<u8> = (0..2_000_000_u64).map(|i| ((i * i) >> 7) as u8).collect();
    for round in 0..20 {
        let (before, after) = (key(format!("p:1:/{round}/a")), key(format!("p:1:/{round}/b")));
        let range = KeyRange::starting_with(format!("p:1:/{round}/"));
        // the first body takes long to compress
        let (one, removed, two) = tokio::join!(
            store.put(entry(&store, before.clone(), noise.clone())),
            store.remove(range),
            store.put(entry(&store, after.clone(), "x")),
        );
        one.unwrap();
        removed.unwrap();
        two.unwrap();
        assert_eq!(store.get(before).await.unwrap(), None, "round {round}");
        assert!(store.get(after).await.unwrap().is_some(), "round {round}");
    }
}

#[tokio::test]
async fn the_later_put_wins_even_if_the_earlier_is_slow() {
    let (_database, store) = fresh().await;
    let text = vec![b'x'; 4_000_000];
    for round in 0..10 {
        let key = key(format!("p:1:/{round}"));
        let (one, two) = tokio::join!(
            store.put(entry(&store, key.clone(), text.clone())),
            store.put(entry(&store, key.clone(), "later")),
        );
        one.unwrap();
        two.unwrap();
        assert_eq!(body(store.get(key).await.unwrap()).unwrap(), "later", "round {round}");
    }
}

#[tokio::test]
async fn a_large_range_is_deleted_and_no_other_entries() {
    let (database, store) = fresh().await;
    let long = "x".repeat(300); // beyond the bytes that the index compares
    for part in 0..6 {
        let puts = (0..500).map(|i| entry(&store, key(format!("p:1:/in/{long}/{part}/{i}")), "x"));
        store.put_many(puts.collect()).await.unwrap();
    }
    for neighbour in ["p:1:/im", "p:1:/in", "p:1:/io", "q:1:/in/x"] {
        store.put(entry(&store, key(neighbour), "x")).await.unwrap();
    }
    let range = KeyRange::starting_with("p:1:/in/");
    assert_eq!(store.remove(range.clone()).await.unwrap(), 3_000);
    assert_eq!(store.remove(range).await.unwrap(), 0);
    assert_eq!(count(&mut database.connection().await).await, 4);
}

#[tokio::test]
async fn a_removal_reads_only_a_range_of_the_index() {
    let (database, store) = fresh().await;
    let mut connection = database.connection().await;
    for part in 0..20 {
        let puts = (0..200).map(|i| entry(&store, key(format!("p:1:/{part}/{i}")), "x"));
        store.put_many(puts.collect()).await.unwrap();
    }
    execute(&mut connection, "ANALYZE TABLE cache_entries").await;
    let rows = sqlx::query(
        "EXPLAIN FORMAT=TRADITIONAL SELECT key_hash FROM cache_entries \
         WHERE cache_key >= 'p:1:/7/' AND cache_key < 'p:1:/70' LIMIT 512",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let plan: Vec<(String, Option<String>)> =
        rows.iter().map(|row| (row.get("type"), row.get("key"))).collect();
    assert_eq!(plan, [("range".to_owned(), Some("cache_key".to_owned()))]);
}

#[tokio::test]
async fn flushing_waits_for_earlier_puts() {
    let (database, store) = fresh().await;
    let mut puts: Vec<_> = (0..300)
        .map(|i| Box::pin(store.put(entry(&store, key(format!("p:1:/{i}")), "x"))))
        .collect();
    for put in &mut puts {
        assert!(poll_once(put.as_mut()).is_pending());
    }
    store.flush().await.unwrap();
    assert_eq!(count(&mut database.connection().await).await, 300);
}
