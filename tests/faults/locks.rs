//! Other transactions hold locks on rows that the store wants to write.

use crate::kit::{Site, is_under_way};
use crate::support::{self, deadlocks, eventually, execute};
use sqlx::{MySqlConnection, Row};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_locked_by_others_are_served_but_not_replaced() {
    let database = support::database().await;
    let site = Site::at(database.url()).await;
    site.fill("/page").await;
    let mut other = database.connection().await;
    execute(&mut other, "BEGIN; SELECT COUNT(*) FROM cache_entries FOR UPDATE").await;
    for _ in 0..20 {
        assert!(site.get("/page").await.hit, "lookups wait for no lock");
    }
    execute(&mut other, "ROLLBACK").await;
    site.comes_back().await;
    let counts = site.handle.counts();
    assert_eq!((counts.lookup_errors, counts.breaker_opened), (0, 0), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_held_too_long_fails_only_the_write() {
    let database = support::database().await;
    let site = Site::at(database.url()).await;
    let mut other = database.connection().await;
    // in the way of every new row
    execute(&mut other, "LOCK TABLES cache_entries READ").await;
    for n in 0..10 {
        site.get(&format!("/{n}")).await;
    }
    eventually("the writes have failed", async || site.handle.counts().write_errors == 10).await;
    execute(&mut other, "UNLOCK TABLES").await;
    site.comes_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_deadlock_the_write_is_retried() {
    let database = support::database().await;
    let site = Site::at(database.url()).await;
    let mut other = database.connection().await;
    let mut watcher = database.connection().await;
    // two rows, which one statement of the store locks in this order
    let (first, second) = rows_of_one_statement(&site, &mut watcher).await;
    let before = deadlocks(&mut watcher).await;
    execute(&mut other, "CREATE TABLE weight (n INT PRIMARY KEY)").await;
    // a larger transaction, so that the server ends the store's
    let weight: Vec<_> = (0..500).map(|n| format!("({n})")).collect();
    execute(&mut other, format!("BEGIN; INSERT INTO weight VALUES {}", weight.join(","))).await;
    let lock =
        |row: &str| format!("SELECT 1 FROM cache_entries WHERE key_hash = x'{row}' FOR UPDATE");
    execute(&mut other, lock(&second)).await;
    let stored = site.handle.counts().stored;
    let writing = tokio::spawn({
        let site = site.clone();
        async move { rewrite(&site).await }
    });
    is_under_way(&mut watcher, "INSERT INTO").await;
    execute(&mut other, lock(&first)).await;
    assert!(deadlocks(&mut watcher).await > before, "there was a deadlock");
    execute(&mut other, "COMMIT").await;
    writing.await.unwrap().expect("the write was done again");
    assert_eq!(site.handle.counts().stored, stored);
    site.comes_back().await;
    let counts = site.handle.counts();
    assert_eq!((counts.write_errors, counts.lookup_errors), (0, 0), "{counts:?}");
}

/// The rows that [`rewrite`] writes, in the order of their key.
async fn rows_of_one_statement(site: &Site, connection: &mut MySqlConnection) -> (String, String) {
    rewrite(site).await.expect("is written");
    let rows = "SELECT CAST(HEX(key_hash) AS CHAR) FROM cache_entries ORDER BY key_hash";
    let rows = sqlx::query(rows).fetch_all(connection).await.unwrap();
    assert_eq!(rows.len(), 2);
    (rows[0].get(0), rows[1].get(0))
}

/// Writes two rows in one statement.
async fn rewrite(site: &Site) -> Result<(), tower_mysql_cache::StoreError> {
    use tower_mysql_cache::key::CacheKey;
    use tower_mysql_cache::store::{Entries, Entry, Stored, VariantIndex};
    let stored = || Stored::Variants(std::sync::Arc::new(VariantIndex::default()));
    let expires_ms = site.store.now_ms() + 600_000;
    let entry = |key: &str| Entry::new(CacheKey::new(key.to_owned()), stored(), expires_ms);
    site.store.put_many(vec![entry("deadlock:1:/a"), entry("deadlock:1:/b")]).await
}
