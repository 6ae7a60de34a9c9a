//! The table: made, checked, missing, of another shape.

use super::*;

#[tokio::test]
async fn migrations_can_be_repeated_and_run_in_parallel() {
    let database = support::database().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let builder = builder(&database);
        tasks.spawn(async move { builder.connect().await.unwrap().migrate().await });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome.unwrap().unwrap();
    }
    let store = builder(&database).connect().await.unwrap();
    store.migrate().await.unwrap();
    store.check().await.unwrap();
}

#[tokio::test]
async fn the_printed_ddl_creates_the_table() {
    let database = support::database().await;
    let store = builder(&database).table("page_cache").connect().await.unwrap();
    let log = format!("{}.cache_invalidations", database.name());
    let [log, state] = MySqlStore::log_ddl_for(&log).unwrap();
    let leases = format!("{}.cache_leases", database.name());
    let leases = MySqlStore::lease_ddl_for(&leases).unwrap();
    let statements = [MySqlStore::ddl_for("page_cache").unwrap(), log, state, leases];
    assert_eq!(store.ddl(), statements.map(|one| format!("{one};\n")).concat());
    execute(&mut database.connection().await, store.ddl()).await;
    store.check().await.unwrap();
    let qualified = format!("{}.page_cache", database.name());
    let same = builder(&database).table(qualified).connect().await.unwrap();
    same.check().await.unwrap();
    store.put(entry(&store, key("p:1:/"), "x")).await.unwrap();
    assert_eq!(body(same.get(key("p:1:/")).await.unwrap()).unwrap(), "x");
}

#[tokio::test]
async fn a_missing_table_is_an_error_that_says_what_to_do() {
    let database = support::database().await;
    let store = builder(&database).connect().await.unwrap();
    let key = key("p:1:/");
    let all = KeyRange::starting_with("p:");
    for error in [
        store.check().await.unwrap_err(),
        store.get(key.clone()).await.unwrap_err(),
        store.put(entry(&store, key.clone(), "x")).await.unwrap_err(),
        store.remove(all).await.unwrap_err(),
        store.cull().await.unwrap_err(),
        store.stats().await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Schema { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("`cache_entries` does not exist: call `migrate()`"), "{text}");
    }
    store.migrate().await.unwrap();
    store.put(entry(&store, key.clone(), "x")).await.unwrap();
    assert!(store.get(key).await.unwrap().is_some());
}

#[tokio::test]
async fn a_table_of_another_shape_is_an_error_with_the_difference() {
    let database = support::database().await;
    let store = builder(&database).connect().await.unwrap();
    let mut connection = database.connection().await;
    for (alteration, difference) in [
        ("DROP COLUMN head", "has no column `head`"),
        ("MODIFY cache_key VARBINARY(255) NOT NULL", "of type varbinary(255) instead of"),
        ("MODIFY expires BIGINT NOT NULL", "instead of bigint unsigned"),
        ("DROP PRIMARY KEY, ADD PRIMARY KEY (key_hash, expires)", "another primary key"),
        ("DROP KEY cache_key", "no index on `cache_key`"),
        ("ADD owner INT NOT NULL", "a column `owner` more"),
    ] {
        execute(&mut connection, "DROP TABLE IF EXISTS cache_entries").await;
        execute(&mut connection, store.ddl()).await;
        execute(&mut connection, format!("ALTER TABLE cache_entries {alteration}")).await;
        for error in [store.check().await.unwrap_err(), store.migrate().await.unwrap_err()] {
            let text = error.to_string();
            assert!(matches!(error, StoreError::Schema { .. }), "{error:?}");
            assert!(text.contains(difference), "{text} does not say {difference}");
            assert!(text.contains("never alters one") && text.contains("drop it"), "{text}");
        }
    }
    execute(&mut connection, "DROP TABLE cache_entries").await;
    execute(&mut connection, "CREATE TABLE cache_entries (key_hash VARCHAR(16) PRIMARY KEY)").await;
    let error = store.get(key("p:1:/")).await.unwrap_err().to_string();
    assert!(error.contains("migrate()"), "{error}");
}

#[tokio::test]
async fn session_settings_of_the_user_do_not_matter() {
    let (database, _) = fresh().await;
    let mut connection = database.connection().await;
    // settings that an application may use
    let settings = "SET GLOBAL time_zone = '-11:00'";
    execute(&mut connection, settings).await;
    let store = builder(&database).connect().await.unwrap();
    execute(&mut connection, "SET GLOBAL time_zone = 'SYSTEM'").await;
    let server = number(&mut connection, "UNIX_TIMESTAMP()").await * 1000;
    assert!(server.abs_diff(store.now_ms()) < 2_000);
}
