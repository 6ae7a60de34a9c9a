//! A log that is emptied, restored or dropped.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_log_invalidates_all_older_responses() {
    let database = support::database().await;
    let (one, two) = (node(&database).await, node(&database).await);
    one.handle.invalidate_tags(["a", "b", "c"]).await.unwrap();
    one.fill(TAGGED).await;
    one.fill("http://h/p/8").await;
    two.assert_hit(TAGGED).await;
    let mut connection = database.connection().await;
    eventually("it is settled", async || settled(&mut connection).await == 3).await;
    execute(&mut connection, "TRUNCATE TABLE cache_invalidations").await;
    // its next row would have an id that was read long ago
    execute(&mut connection, "INSERT INTO cache_invalidations (tag) VALUES ('product:7')").await;
    two.assert_refused(TAGGED, "invalidated").await;
    one.assert_refused("http://h/p/8", "invalidated").await;
    // one row invalidates everything, and responses stored after it are served
    let restarts = "SELECT COUNT(*) FROM cache_invalidations WHERE tag = ':everything'";
    assert_eq!(number(&mut connection, restarts).await, 1);
    for each in [&one, &two] {
        fill_again(each, TAGGED).await;
        fill_again(each, "http://h/p/8").await;
    }
    let three = node(&database).await;
    three.assert_hit(TAGGED).await;
    three.handle.invalidate_tags(["product:7"]).await.unwrap();
    for each in [&one, &two, &three] {
        assert_eq!(each.validity(TAGGED).await, Validity::Invalid);
        each.assert_hit("http://h/p/8").await;
    }
    assert_eq!(number(&mut connection, restarts).await, 1);
}

/// Two processes have read different parts of the log when it is emptied. The one that is behind notices first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_behind_notices_an_emptied_log_too() {
    let database = support::database().await;
    let seldom = Duration::from_secs(60);
    let ahead = node(&database).await;
    let behind = node_of(builder(database.url()).poll_interval(seldom)).await;
    ahead.handle.invalidate_tags(["a"]).await.unwrap();
    ahead.fill("http://h/p/1").await;
    ahead.fill("http://h/p/2").await;
    behind.assert_hit("http://h/p/1").await;
    let many: Vec<String> = (0..200).map(|n| format!("n:{n}")).collect();
    ahead.handle.invalidate_tags(many).await.unwrap();
    ahead.fill(TAGGED).await;
    let mut connection = database.connection().await;
    execute(&mut connection, "TRUNCATE TABLE cache_invalidations").await;
    behind.assert_refused("http://h/p/1", "invalidated").await;
    // the new ids reach those that the other process has read
    let more: Vec<String> = (0..250).map(|n| format!("m:{n}")).collect();
    behind.handle.invalidate_tags(more).await.unwrap();
    behind.assert_refused(TAGGED, "invalidated").await;
    ahead.assert_refused("http://h/p/2", "invalidated").await;
    fill_again(&ahead, TAGGED).await;
    fill_again(&behind, TAGGED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_log_is_noticed_after_its_ids_caught_up() {
    let database = support::database().await;
    let node = node_of(builder(database.url()).poll_interval(Duration::from_secs(60))).await;
    node.handle.invalidate_tags(["a", "b", "c"]).await.unwrap();
    node.fill(TAGGED).await;
    node.assert_hit(TAGGED).await;
    let mut connection = database.connection().await;
    // the log is known by the times of its rows
    time_passes(&node.store, 1).await;
    execute(&mut connection, "TRUNCATE TABLE cache_invalidations").await;
    for n in 0..8 {
        let tag = if n == 1 { "product:7" } else { "d" };
        execute(
            &mut connection,
            &format!("INSERT INTO cache_invalidations (tag) VALUES ('{tag}')"),
        )
        .await;
    }
    node.assert_refused(TAGGED, "invalidated").await;
}

/// After a crash, a server can lose rows that were visible but not durable yet, here the newest row. Then it assigns
/// the id again. One process had read the lost row; only the other process reads the log again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_reused_after_a_crash_still_invalidates() {
    let database = support::database().await;
    let mut connection = database.connection().await;
    for round in 0..3 {
        let seldom = || node_of(builder(database.url()).poll_interval(Duration::from_secs(60)));
        let (one, two) = (seldom().await, seldom().await);
        two.handle.invalidate_tags(["before"]).await.unwrap();
        execute(&mut connection, "INSERT INTO cache_invalidations (tag) VALUES ('undone')").await;
        let mut entry = None;
        eventually("it is stored", async || {
            one.get(TAGGED).await;
            one.handle.flush().await.unwrap();
            entry = one.store.get_entries(vec![CacheKey::new(KEY)]).await.unwrap().pop().flatten();
            entry.is_some()
        })
        .await;
        let undone = largest(&mut connection).await;
        // the row with the same id has another time
        time_passes(&one.store, 1).await;
        for sql in [
            "DELETE FROM cache_entries".to_owned(),
            format!("DELETE FROM cache_invalidations WHERE id = {undone}"),
            format!("UPDATE cache_invalidations_state SET settled = {undone} - 1 WHERE id = 1"),
            format!("ALTER TABLE cache_invalidations AUTO_INCREMENT = {undone}"),
        ] {
            execute(&mut connection, &sql).await;
        }
        kill_sessions(&mut connection, "db = DATABASE()").await;
        two.handle.invalidate_tags(["product:7"]).await.unwrap();
        let same_id =
            format!("SELECT tag = 'product:7' FROM cache_invalidations WHERE id = {undone}");
        assert_eq!(number(&mut connection, &same_id).await, 1, "{round}");
        one.store.put_many(entry.into_iter().collect()).await.unwrap();
        for each in [&two, &one] {
            assert_eq!(each.validity(TAGGED).await, Validity::Invalid, "{round}");
        }
    }
}

/// The new row has an id that was read before the log was emptied, and appears after all processes have started
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_reused_after_truncate_still_invalidates() {
    let database = support::database().await;
    let one = node_of(builder(database.url()).gap_grace(Duration::from_millis(100))).await;
    one.handle.invalidate_tags(["a", "b", "c"]).await.unwrap();
    one.fill(TAGGED).await;
    one.assert_hit(TAGGED).await;
    let mut connection = database.connection().await;
    execute(&mut connection, "TRUNCATE TABLE cache_invalidations").await;
    let mut writer = database.connection().await;
    let mut tx = writer.begin().await.unwrap();
    execute(&mut tx, "INSERT INTO cache_invalidations (tag) VALUES ('product:7')").await;
    one.assert_refused(TAGGED, "invalidated").await;
    let other = "http://h/p/8";
    fill_again(&one, other).await;
    // it is served meanwhile, but its position has a gap
    fill_again(&one, TAGGED).await;
    let two = node(&database).await;
    tx.commit().await.unwrap();
    for each in [&one, &two] {
        assert_eq!(each.validity(TAGGED).await, Validity::Invalid);
        assert_eq!(each.validity(other).await, Validity::Valid);
    }
    one.assert_refused(TAGGED, "invalidated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_log_serves_nothing_and_a_new_one_invalidates() {
    let database = support::database().await;
    let node = node(&database).await;
    node.handle.invalidate_tags(["a", "b"]).await.unwrap();
    node.fill(TAGGED).await;
    node.assert_hit(TAGGED).await;
    let mut connection = database.connection().await;
    execute(&mut connection, "DROP TABLE cache_invalidations").await;
    let failures = node.store.stats().await.unwrap().failures;
    for _ in 0..3 {
        let answer = node.get(TAGGED).await;
        let said = (answer.cache().forward(), answer.reason());
        assert_eq!(said, (Some(Forward::Miss), Some("store-error")));
    }
    assert_eq!(node.handle.counts().lookup_errors, 3);
    assert!(node.store.stats().await.unwrap().failures >= failures + 3, "it is counted");
    assert_eq!(node.store.check().await.unwrap_err().as_str(), "schema");
    let error = node.handle.invalidate_tags(["product:7"]).await.unwrap_err();
    assert!(error.to_string().contains("migrate()"), "{error}");
    let error = node.handle.invalidate_tags_on(&mut connection, ["product:7"]).await.unwrap_err();
    assert!(error.to_string().contains("migrate()"), "{error}");
    node.store.migrate().await.unwrap();
    eventually("owed rows are written", async || {
        node.store.stats().await.unwrap().owed_invalidations == 0
    })
    .await;
    node.handle.flush().await.unwrap();
    assert_eq!(node.validity(TAGGED).await, Validity::Invalid);
    fill_again(&node, TAGGED).await;
}
