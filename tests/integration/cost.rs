//! The cost of an invalidation, by the server's counters, which do not depend on the load of the machine. Times are
//! printed (`--nocapture`) but not checked. `TMC_COST=full` uses a million entries.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::Request;
use sqlx::{Connection, MySqlConnection, Row};
use tower::Layer;
use tower_mysql_cache::{CacheHandle, CacheOverride, CachePolicy, MySqlStore};

use crate::kit::{get, patient, response, send};
use crate::support::{self, deadlocks, eventually, execute, number, status};

/// The number of entries with the tag.
fn many() -> u64 {
    match std::env::var("TMC_COST") {
        Ok(size) if size == "full" => 1_000_000,
        _ => 10_000,
    }
}

/// What the storage engine has done for this connection: rows read, by kind of access, and rows written.
async fn handlers(connection: &mut MySqlConnection) -> BTreeMap<String, u64> {
    let rows = sqlx::query("SHOW SESSION STATUS LIKE 'Handler\\_%'").fetch_all(connection).await;
    rows.unwrap()
        .iter()
        .map(|row| (row.get::<String, _>(0), row.get::<String, _>(1).parse().unwrap()))
        .collect()
}

/// The server's counters of lock waits and deadlocks.
async fn waits_and_deadlocks(connection: &mut MySqlConnection) -> (u64, u64) {
    let waits = status(connection, "Innodb_row_lock_waits").await;
    (waits, deadlocks(connection).await)
}

/// Invalidates these tags in a transaction. Returns what the storage engine did, and the median time.
async fn cost(
    handle: &CacheHandle,
    connection: &mut MySqlConnection,
    tags: usize,
) -> (BTreeMap<String, u64>, Duration) {
    let tags = || std::iter::once("all".to_owned()).chain((1..tags).map(|n| format!("tag:{n}")));
    let mut times = Vec::new();
    let mut asked = BTreeMap::new();
    for _ in 0..21 {
        let mut tx = connection.begin().await.unwrap();
        let before = handlers(&mut tx).await;
        let began = Instant::now();
        handle.invalidate_tags_on(&mut tx, tags()).await.unwrap();
        times.push(began.elapsed());
        let after = handlers(&mut tx).await;
        tx.commit().await.unwrap();
        asked = after.into_iter().map(|(name, n)| (name.clone(), n - before[&name])).collect();
    }
    times.sort_unstable();
    (asked, times[times.len() / 2])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_costs_the_same_for_any_number_of_entries() {
    let database = support::database().await;
    let builder = MySqlStore::builder(database.url()).unwrap().background_cull(false);
    let store = builder.connect().await.unwrap();
    store.migrate().await.unwrap();
    let layer = patient(store).with_policy(CachePolicy::new().ttl(Duration::from_secs(36_000)));
    let handle = layer.handle();
    let app = layer.layer(tower::service_fn(|_: Request<()>| async {
        let mut answer = response(200, &[], "a page");
        answer.extensions_mut().insert(CacheOverride::new().tags(["all"]));
        Ok::<_, Infallible>(answer)
    }));
    let mut connection = database.connection().await;

    let one = cost(&handle, &mut connection, 1).await;
    let hundred = cost(&handle, &mut connection, 100).await;
    assert!(one.0["Handler_write"] < hundred.0["Handler_write"], "{one:?} {hundred:?}");
    assert!(hundred.0["Handler_write"] >= 100, "{hundred:?}");

    // a page of the layer, and copies of its row
    send(&app, get("http://h/p", &[])).await;
    handle.flush().await.unwrap();
    let columns = "value, value_type, expires, head, size, status, born_ms, fresh_until_ms, gen_ms";
    let mut entries = number(&mut connection, "SELECT COUNT(*) FROM cache_entries").await;
    assert_eq!(entries, 1);
    while entries < many() {
        let double = format!(
            "INSERT INTO cache_entries (key_hash, cache_key, {columns}) \
             SELECT UNHEX(LEFT(SHA2(CONCAT(cache_key, '/', {entries}), 256), 32)), CONCAT(cache_key, '/', {entries}), \
             {columns} FROM cache_entries"
        );
        execute(&mut connection, &double).await;
        entries = number(&mut connection, "SELECT COUNT(*) FROM cache_entries").await;
    }

    let one_of_many = cost(&handle, &mut connection, 1).await;
    let hundred_of_many = cost(&handle, &mut connection, 100).await;
    println!(
        "1 tag: {:?} with 0 entries, {:?} with {entries}; 100 tags: {:?} and {:?}",
        one.1, one_of_many.1, hundred.1, hundred_of_many.1
    );
    assert_eq!(one.0, one_of_many.0, "1 tag");
    assert_eq!(hundred.0, hundred_of_many.0, "100 tags");
    // the invalidation is effective
    assert!(!send(&app, get("http://h/p", &[])).await.is_hit());
}

/// Each writer changes its own row, so they could wait for each other only in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_with_one_tag_do_not_wait_for_each_other() {
    const WRITERS: u64 = 32;
    const TIMES: u64 = 25;
    let server = support::own_server(None).await;
    let store = MySqlStore::builder(server.url()).unwrap().connect().await.unwrap();
    store.migrate().await.unwrap();
    let handle = patient(store).handle();
    let mut connection = server.connection().await;
    execute(
        &mut connection,
        "CREATE TABLE shop (id BIGINT UNSIGNED PRIMARY KEY, price INT NOT NULL)",
    )
    .await;
    for id in 0..WRITERS {
        execute(&mut connection, &format!("INSERT INTO shop VALUES ({id}, 0)")).await;
    }
    let before = waits_and_deadlocks(&mut connection).await;
    let began = Instant::now();
    let writers = (0..WRITERS).map(|id| {
        let (handle, url) = (handle.clone(), server.url().to_owned());
        tokio::spawn(async move {
            let mut connection = MySqlConnection::connect(&url).await.unwrap();
            for _ in 0..TIMES {
                let mut tx = connection.begin().await.unwrap();
                execute(&mut tx, &format!("UPDATE shop SET price = price + 1 WHERE id = {id}"))
                    .await;
                handle.invalidate_tags_on(&mut tx, ["all"]).await.unwrap();
                // all of them hold their log row for a while
                tokio::time::sleep(Duration::from_millis(id % 7)).await;
                tx.commit().await.unwrap();
            }
        })
    });
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    let took = began.elapsed();
    let after = waits_and_deadlocks(&mut connection).await;
    println!("{} transactions of {WRITERS} writers in {took:?}", WRITERS * TIMES);
    let rows = number(&mut connection, "SELECT COUNT(*) FROM cache_invalidations").await;
    assert_eq!(rows, WRITERS * TIMES);
    assert_eq!(before, after, "waits for locks, and deadlocks");

    // the counter works: it counts a transaction that waits for another's row
    let mut tx = connection.begin().await.unwrap();
    execute(&mut tx, "UPDATE shop SET price = 0 WHERE id = 1").await;
    let mut other = server.connection().await;
    let waiter = tokio::spawn(async move {
        execute(&mut other, "UPDATE shop SET price = 1 WHERE id = 1").await;
    });
    let mut watcher = server.connection().await;
    eventually("the wait is counted", async || waits_and_deadlocks(&mut watcher).await.0 > after.0)
        .await;
    tx.commit().await.unwrap();
    waiter.await.unwrap();
}
