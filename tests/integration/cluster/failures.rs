//! Leaders that die or are late, and a lease table that cannot be used.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leaders_lease_ends_and_another_process_leads() {
    let database = migrated().await;
    let policy = CLUSTER.lease(2 * SECOND).collapse_wait(30 * SECOND);
    let (calls, hangs) = gate(0);
    let dead = store(&database).await;
    let first = app(&layer(dead.clone(), policy), &calls, &hangs, |_| response(200, &[FRESH], "?"));
    let _leading = start(&first, 1);
    eventually("the handler is called", async || calls.count() == 1).await;
    // it can no longer give its lease back
    dead.close().await;
    let other = layer(store(&database).await, policy);
    let began = Instant::now();
    let (calls, gate) = gate(1);
    let second = app(&other, &calls, &gate, |_| response(200, &[FRESH], "hello"));
    let answers = start(&second, 20).answers().await;
    assert!(answers.iter().all(|answer| answer.text() == "hello"));
    assert_eq!(calls.count(), 1);
    let waited = began.elapsed();
    assert!(waited < 15 * SECOND, "{waited:?}");
    assert!(other.handle().counts().lease_waits > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_leader_does_not_replace_a_newer_response() {
    let database = migrated().await;
    let policy = CLUSTER.lease(SECOND).collapse_wait(30 * SECOND);
    let slow = layer(store(&database).await, policy);
    let (calls, paused) = gate(0);
    let waiting = start(&app(&slow, &calls, &paused, |_| response(200, &[FRESH], "old")), 1);
    eventually("the handler is called", async || calls.count() == 1).await;
    let quick = layer(store(&database).await, policy);
    let (_, free) = gate(1);
    let app = self::app(&quick, &calls, &free, |_| response(200, &[FRESH], "new"));
    let answer = send(&app, get("/", &[]));
    assert_eq!(answer.await.text(), "new");
    quick.handle().flush().await.unwrap();
    paused.let_pass(1);
    let answers = waiting.answers().await;
    assert_eq!((answers[0].text(), answers[0].cache().is_stored()), ("old", false));
    slow.handle().flush().await.unwrap();
    assert_eq!(slow.handle().counts().leases_lost, 1);
    assert_eq!(slow.handle().reasons().get("lease-lost"), Some(&1));
    let third = layer(store(&database).await, policy);
    let (_, shut) = gate(0);
    let app = self::app(&third, &calls, &shut, |_| response(200, &[FRESH], "?"));
    let answer = send(&app, get("/", &[]));
    let answer = answer.await;
    assert!(answer.is_hit());
    assert_eq!(answer.text(), "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_lease_table_each_process_calls_the_handler() {
    let database = migrated().await;
    let mut connection = database.connection().await;
    execute(&mut connection, "DROP TABLE cache_leases").await;
    let (calls, gate) = gate(0);
    let (mut layers, mut waiting) = (Vec::new(), Crowd::new());
    for _ in 0..2 {
        let layer = layer(store(&database).await, CLUSTER);
        let app = app(&layer, &calls, &gate, |_| response(200, &[FRESH], "hello"));
        waiting.send(&app, requests(10));
        layers.push(layer);
    }
    eventually("both handlers are called", async || calls.count() == 2).await;
    gate.let_pass(100);
    let answers = waiting.answers().await;
    assert!(answers.iter().all(|answer| answer.text() == "hello"));
    let said = |answer: &&Answer| answer.reason() == Some("lease-error");
    assert_eq!(answers.iter().filter(said).count(), 2);
    for layer in &layers {
        layer.handle().flush().await.unwrap();
        let counts = layer.handle().counts();
        assert_eq!((counts.lease_errors, counts.flights, counts.stored), (1, 1, 1));
    }
    assert_eq!(calls.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_lease_row_costs_only_store_timeout() {
    let database = migrated().await;
    let first = layer(store(&database).await, CLUSTER).store_timeout(SECOND / 4);
    let (calls, gate) = gate(100);
    let app = app(&first, &calls, &gate, |_| response(200, &[("cache-control", "max-age=0")], "x"));
    assert_eq!(send(&app, get("/", &[])).await.text(), "x");
    let mut connection = database.connection().await;
    eventually("there is a row", async || {
        number(&mut connection, "SELECT COUNT(*) FROM cache_leases").await == 1
    })
    .await;
    let mut transaction = connection.begin().await.unwrap();
    let lock = "SELECT * FROM cache_leases FOR UPDATE";
    sqlx::query(lock).fetch_all(&mut *transaction).await.unwrap();
    let second = layer(store(&database).await, CLUSTER).store_timeout(SECOND / 4);
    let other = self::app(&second, &calls, &gate, |_| response(200, &[FRESH], "y"));
    let answer = send(&other, get("/", &[])).await;
    assert_eq!(answer.text(), "y");
    assert_eq!(second.handle().counts().lease_errors, 1);
    transaction.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_cluster_no_statement_uses_the_lease_table() {
    let server = support::own_server(None).await;
    let store = MySqlStore::builder(server.url()).unwrap();
    let store = store.idle_cull_interval(SECOND / 20).connect().await.unwrap();
    store.migrate().await.unwrap();
    let mut connection = server.connection().await;
    let log = "SET GLOBAL log_output = 'TABLE'; SET GLOBAL general_log = 1";
    execute(&mut connection, log).await;
    // except this one
    let said = "SELECT COUNT(*) FROM mysql.general_log WHERE CONVERT(argument USING utf8mb4) \
                LIKE '%`cache\\_leases`%' AND CONVERT(argument USING utf8mb4) NOT LIKE '%general%'";
    for (policy, touches) in [(CLUSTER.collapse(Collapse::Process), false), (CLUSTER, true)] {
        let prefix = if touches { "on" } else { "off" };
        let layer = layer(store.clone(), policy).prefix(prefix);
        let (calls, gate) = gate(100);
        let app = app(&layer, &calls, &gate, |_| response(200, &[FRESH], "hello"));
        start(&app, 10).answers().await;
        layer.handle().flush().await.unwrap();
        assert_eq!(calls.count(), 1);
        let culls = store.stats().await.unwrap().culls;
        eventually("it culls", async || store.stats().await.unwrap().culls > culls + 1).await;
        let all = number(&mut connection, "SELECT COUNT(*) FROM mysql.general_log").await;
        assert!(all > 5, "the server writes its log");
        assert_eq!(number(&mut connection, said).await > 0, touches);
    }
}
