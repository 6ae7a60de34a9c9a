//! Many callers, dropped callers, and servers that fail.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_dropped_lookups_do_no_harm() {
    let (database, store) = fresh().await;
    let keys: Vec<CacheKey> = (0..16).map(|i| key(format!("p:1:/{i}"))).collect();
    let large = |i: usize| vec![i as u8; 20_000];
    let puts = keys.iter().enumerate().map(|(i, key)| entry(&store, key.clone(), large(i)));
    store.put_many(puts.collect()).await.unwrap();
    for round in 0..1000 {
        let lookup = store.get_many(keys.clone());
        // dropped at any point: before it is sent, half way, and after the answer
        let patience = Duration::from_micros((round % 50) * 40);
        let _ = tokio::time::timeout(patience, lookup).await;
    }
    let found = store.get_many(keys.clone()).await.unwrap();
    for (i, found) in found.into_iter().enumerate() {
        assert!(body(found).unwrap() == large(i), "{i}");
    }
    let connections = connections(&mut database.connection().await, database.name()).await;
    assert!(connections <= 2 + 1 + 1 + 1, "{connections} connections");
    assert_eq!(store.stats().await.unwrap().failures, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_shapes_of_lookups_prepare_few_statements() {
    let server = support::own_server(None).await;
    let mut connection = server.connection().await;
    let store = MySqlStore::builder(server.url()).unwrap().cull_probability(0.05).connect();
    let store = store.await.unwrap();
    store.migrate().await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 1..150_usize {
        // all together are more keys than the queue holds
        if tasks.len() >= 50 {
            tasks.join_next().await.unwrap().unwrap();
        }
        let store = store.clone();
        tasks.spawn(async move {
            let keys: Vec<CacheKey> = (0..n).map(|i| key(format!("p:1:/{i}"))).collect();
            let puts = keys.iter().map(|key| entry(&store, key.clone(), "x")).collect();
            store.put_many(puts).await.unwrap();
            let found = store.get_many(keys).await.unwrap();
            assert!(found.iter().all(Option::is_some));
            store.remove(KeyRange::starting_with(format!("p:1:/x{n}"))).await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    store.remove(KeyRange::starting_with("p:")).await.unwrap();
    store.cull().await.unwrap();
    let held = status(&mut connection, "Prepared_stmt_count").await;
    assert!(held <= 70, "{held} statements on 5 connections");
    assert_eq!(status(&mut connection, "Com_stmt_close").await, 0, "each close stalls 44 ms");
    assert_eq!(store.stats().await.unwrap().failures, 0);
}

#[tokio::test]
async fn waiting_lookups_and_waiting_writes_are_batched() {
    let server = support::own_server(None).await;
    let mut connection = server.connection().await;
    let store = MySqlStore::builder(server.url()).unwrap().background_cull(false).connect();
    let store = store.await.unwrap();
    store.migrate().await.unwrap();
    let before = status(&mut connection, "Com_stmt_execute").await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..64 {
        let store = store.clone();
        tasks.spawn(async move {
            for round in 0..20 {
                let key = key(format!("p:1:/{task}/{round}"));
                store.put(entry(&store, key.clone(), "x")).await.unwrap();
                assert!(store.get(key).await.unwrap().is_some());
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let statements = status(&mut connection, "Com_stmt_execute").await - before;
    assert!(statements < 64 * 20 * 2 / 4, "{statements} statements for 1,280 puts and lookups");
}

#[tokio::test]
async fn a_killed_server_fails_fast_and_is_reconnected() {
    let mut server = support::own_server(None).await;
    let store = MySqlStore::connect(server.url()).await.unwrap();
    store.migrate().await.unwrap();
    let key = key("p:1:/");
    store.put(entry(&store, key.clone(), "x")).await.unwrap();
    server.kill_9();
    let since = Instant::now();
    for _ in 0..20 {
        let asked = Instant::now();
        store.get(key.clone()).await.unwrap_err();
        store.put(entry(&store, key.clone(), "y")).await.unwrap_err();
        store.stats().await.unwrap_err();
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert!(matches!(store.get(key.clone()).await, Err(StoreError::Unavailable)));
    let put = entry(&store, key.clone(), "y");
    assert!(matches!(store.put(put).await, Err(StoreError::Unavailable)));
    server.restart();
    eventually("lookups work again", async || store.get(key.clone()).await.is_ok()).await;
    eventually("writes work again", async || {
        store.put(entry(&store, key.clone(), "z")).await.is_ok()
    })
    .await;
    assert_eq!(body(store.get(key).await.unwrap()).unwrap(), "z");
    eventually("the rest works again", async || store.stats().await.is_ok()).await;
    assert!(store.stats().await.unwrap().failures > 0);
}

#[tokio::test]
async fn connections_closed_by_the_server_are_replaced() {
    let server = support::own_server(None).await;
    let store = MySqlStore::connect(server.url()).await.unwrap();
    store.migrate().await.unwrap();
    let key = key("p:1:/");
    store.put(entry(&store, key.clone(), "x")).await.unwrap();
    store.get(key.clone()).await.unwrap();
    let mut connection = server.connection().await;
    kill_sessions(&mut connection, "db = 'cache'").await;
    assert_eq!(body(store.get(key.clone()).await.unwrap()).unwrap(), "x");
    store.put(entry(&store, key.clone(), "y")).await.unwrap();
    assert_eq!(body(store.get(key.clone()).await.unwrap()).unwrap(), "y");
    store.stats().await.unwrap();
    let record = LogRecord::hard(Scope::Tag(Tag::new("t")));
    for call in 0..8 {
        kill_sessions(&mut connection, "db = 'cache'").await;
        let scopes = || vec![record.scope.clone()];
        match call {
            0 => drop(store.stats().await.expect("stats")),
            1 => drop(store.cull().await.expect("cull")),
            2 => drop(store.tail(1).await.expect("tail")),
            3 => drop(store.count_named(scopes()).await.expect("count_named")),
            4 => drop(store.append(vec![record.clone()]).await.expect("append")),
            5 => drop(store.lease(&key, Duration::from_secs(1)).await.expect("lease")),
            6 => drop(store.remove(KeyRange::only(&key)).await.expect("remove")),
            _ => store.flush().await.expect("flush"),
        }
    }
}

#[tokio::test]
async fn a_frozen_server_costs_only_one_timeout() {
    let server = support::own_server(None).await;
    let timeout = Duration::from_millis(300);
    let store = MySqlStore::builder(server.url())
        .unwrap()
        .query_timeout(timeout)
        .write_timeout(timeout)
        .connect()
        .await
        .unwrap();
    store.migrate().await.unwrap();
    let key = key("p:1:/");
    store.put(entry(&store, key.clone(), "x")).await.unwrap();
    server.stop();
    let since = Instant::now();
    let error = store.get(key.clone()).await.unwrap_err();
    assert!(matches!(error, StoreError::Timeout), "{error}");
    assert!(since.elapsed() < timeout * 2, "{:?}", since.elapsed());
    let since = Instant::now();
    let error = store.put(entry(&store, key.clone(), "y")).await.unwrap_err();
    assert!(matches!(error, StoreError::Timeout), "{error}");
    assert!(since.elapsed() < timeout * 2, "{:?}", since.elapsed());
    let since = Instant::now();
    for _ in 0..100 {
        assert!(matches!(store.get(key.clone()).await, Err(StoreError::Unavailable)));
        let put = entry(&store, key.clone(), "y");
        assert!(matches!(store.put(put).await, Err(StoreError::Unavailable)));
    }
    assert!(since.elapsed() < Duration::from_millis(200), "{:?}", since.elapsed());
    server.cont();
    eventually("lookups work again", async || store.get(key.clone()).await.is_ok()).await;
    eventually("writes work again", async || {
        store.put(entry(&store, key.clone(), "z")).await.is_ok()
    })
    .await;
    assert_eq!(body(store.get(key).await.unwrap()).unwrap(), "z");
}

#[tokio::test]
async fn a_locked_row_fails_only_its_own_write() {
    let (database, store) = fresh().await;
    let mut other = database.connection().await;
    store.put(entry(&store, key("p:1:/locked"), "x")).await.unwrap();
    execute(&mut other, "BEGIN; SELECT 1 FROM cache_entries FOR UPDATE").await;
    // reads do not wait for locks
    assert!(store.get(key("p:1:/locked")).await.unwrap().is_some());
    let error = store.put(entry(&store, key("p:1:/locked"), "y")).await.unwrap_err();
    assert!(matches!(error, StoreError::Database(_) | StoreError::Timeout), "{error}");
    execute(&mut other, "ROLLBACK").await;
    eventually("writes work again", async || {
        store.put(entry(&store, key("p:1:/locked"), "z")).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_sheds_writes_and_counts_them() {
    let (database, _) = fresh().await;
    let store =
        builder(&database).max_entry_bytes(20_000).queue_bytes(50_000).connect().await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..50 {
        let store = store.clone();
        let put = entry(&store, key(format!("p:1:/{i}")), vec![b'x'; 10_000]);
        tasks.spawn(async move { store.put(put).await });
    }
    let mut shed = 0;
    while let Some(outcome) = tasks.join_next().await {
        match outcome.unwrap() {
            Ok(()) => {}
            Err(StoreError::Overloaded) => shed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(shed > 0, "nothing was shed");
    assert_eq!(store.stats().await.unwrap().shed, shed);
    store.put(entry(&store, key("p:1:/after"), "x")).await.unwrap();
}
