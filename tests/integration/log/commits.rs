//! An invalidation takes effect when it is committed, in its own process and in others.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_takes_effect_only_if_committed() {
    let database = support::database().await;
    let (one, two) = (node(&database).await, node(&database).await);
    one.fill(TAGGED).await;
    two.assert_hit(TAGGED).await;
    let mut connection = database.connection().await;

    let mut tx = connection.begin().await.unwrap();
    one.handle.invalidate_tags_on(&mut tx, ["product:7"]).await.unwrap();
    one.assert_hit(TAGGED).await;
    two.assert_hit(TAGGED).await;
    tx.rollback().await.unwrap();
    one.assert_hit(TAGGED).await;
    two.assert_hit(TAGGED).await;

    let mut tx = connection.begin().await.unwrap();
    one.handle.invalidate_tags_on(&mut tx, ["product:8", "product:7"]).await.unwrap();
    two.assert_hit(TAGGED).await;
    tx.commit().await.unwrap();
    assert_eq!(two.validity(TAGGED).await, Validity::Invalid);
    assert_eq!(one.validity(TAGGED).await, Validity::Invalid);
    one.assert_refused(TAGGED, "invalidated").await;

    // the same for a URI and for the whole prefix
    for (uri, all) in [(true, false), (false, true)] {
        one.handle.flush().await.unwrap();
        one.assert_hit(TAGGED).await;
        let mut tx = connection.begin().await.unwrap();
        if uri {
            two.handle.invalidate_uri_on(&mut tx, "/p/7").await.unwrap();
        }
        if all {
            two.handle.invalidate_all_on(&mut tx).await.unwrap();
        }
        one.assert_hit(TAGGED).await;
        tx.commit().await.unwrap();
        one.assert_refused(TAGGED, "invalidated").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_closes_when_its_transaction_is_rolled_back() {
    let database = support::database().await;
    let node = node_of(builder(database.url()).gap_grace(Duration::from_millis(100))).await;
    node.handle.invalidate_tags(["first"]).await.unwrap();
    let (mut long, mut other) = (database.connection().await, database.connection().await);
    // one id that is rolled back, one that stays open, one that commits at once
    let mut tx = other.begin().await.unwrap();
    node.handle.invalidate_tags_on(&mut tx, ["gone"]).await.unwrap();
    let mut held = long.begin().await.unwrap();
    node.handle.invalidate_tags_on(&mut held, ["product:7"]).await.unwrap();
    node.handle.invalidate_tags(["newer"]).await.unwrap();
    let newest = largest(&mut database.connection().await).await;
    let open = newest - 1;
    tx.rollback().await.unwrap();
    // stored while the transaction is open, from the data before it
    node.fill(TAGGED).await;
    let mut connection = database.connection().await;
    eventually("the gap below is closed", async || settled(&mut connection).await == open - 1)
        .await;
    // the open one is not closed, even if its grace has passed and the log is read often
    for _ in 0..2 {
        a_later_gap_closes(&node, &database).await;
        assert_eq!(settled(&mut connection).await, open - 1);
        node.assert_hit(TAGGED).await;
    }
    let newest = largest(&mut connection).await;
    held.commit().await.unwrap();
    node.assert_refused(TAGGED, "invalidated").await;
    node.assert_hit(TAGGED).await;
    eventually("nothing is open", async || settled(&mut connection).await == newest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_does_not_miss_a_later_commit() {
    let database = support::database().await;
    let one = node(&database).await;
    one.handle.invalidate_tags(["first"]).await.unwrap();
    let mut connection = database.connection().await;
    eventually("something is settled", async || settled(&mut connection).await == 1).await;
    one.fill(TAGGED).await;
    one.fill("http://h/p/8").await;
    let mut tx = connection.begin().await.unwrap();
    // by plain SQL, so that no process knows of it
    execute(&mut tx, "INSERT INTO cache_invalidations (tag) VALUES ('product:7')").await;
    one.handle.invalidate_tags(["newer"]).await.unwrap();
    // stored after the newer row was read, and before the older row is visible
    one.fill("http://h/p/9").await;
    let two = node(&database).await;
    two.assert_hit(TAGGED).await;
    tx.commit().await.unwrap();
    two.assert_refused(TAGGED, "invalidated").await;
    two.assert_hit("http://h/p/8").await;
    two.assert_hit("http://h/p/9").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_invalidation_is_an_error_and_written_later() {
    let mut server = support::own_server(None).await;
    let one = node_of(builder(server.url())).await;
    one.handle.invalidate_tags(["first"]).await.unwrap();
    one.fill(TAGGED).await;
    let found = one.handle.inspect(TAGGED).await.unwrap().remove(0);
    let (key, head) = (found.key, found.head);
    server.kill_9();
    assert!(one.handle.invalidate_tags(["product:7"]).await.is_err());
    assert_eq!(one.handle.counts().invalidation_errors, 1);
    assert!(!one.get(TAGGED).await.is_hit());
    assert_eq!(one.store.clone().validity(&key, &head).await.unwrap(), Validity::Invalid);
    tokio::task::block_in_place(|| server.restart());
    eventually("the server is used again", async || one.store.stats().await.is_ok()).await;
    eventually("nothing is owed", async || {
        one.store.stats().await.is_ok_and(|stats| stats.owed_invalidations == 0)
    })
    .await;
    let rows = one.handle.invalidations(10).await.unwrap();
    assert_eq!(rows[0].scope, Scope::Tag(Tag::from("product:7")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_sees_its_own_invalidations_at_once() {
    let database = support::database().await;
    let slow = |url: &str| builder(url).poll_interval(Duration::from_secs(10));
    let store = slow(database.url()).connect().await.unwrap();
    store.migrate().await.unwrap();
    let one = Node::new(Tiered::new(MemoryStore::new(), store));
    let two = node(&database).await;
    let mut connection = database.connection().await;
    for round in 0..20 {
        one.get(TAGGED).await;
        one.handle.flush().await.unwrap();
        one.assert_hit(TAGGED).await;
        let calls = one.calls.count();
        match round % 4 {
            0 => one.handle.invalidate_tags(["product:7"]).await.unwrap(),
            1 => one.handle.invalidate_tags_on(&mut connection, ["product:7"]).await.unwrap(),
            _ => {
                let mut tx = connection.begin().await.unwrap();
                one.handle.invalidate_tags_on(&mut tx, ["other", "product:7"]).await.unwrap();
                // a newer row is visible before the commit
                two.handle.invalidate_tags(["newer"]).await.unwrap();
                one.assert_hit(TAGGED).await;
                one.assert_hit(TAGGED).await;
                tx.commit().await.unwrap();
            }
        }
        assert_eq!(one.get(TAGGED).await.reason(), Some("invalidated"), "{round}");
        assert_eq!(one.calls.count(), calls + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_transactions_with_one_tag_both_invalidate() {
    let database = support::database().await;
    let store = builder(database.url()).poll_interval(Duration::from_secs(10));
    let store = store.connect().await.unwrap();
    store.migrate().await.unwrap();
    let one = Node::new(Tiered::new(MemoryStore::new(), store));
    let (mut first, mut second) = (database.connection().await, database.connection().await);
    let wanted = [
        Invalidation::tags(["product:7"]),
        Invalidation::uri(TAGGED),
        Invalidation::path("/p"),
        Invalidation::all(),
    ];
    for wanted in wanted {
        for in_order in [true, false] {
            let mut early = first.begin().await.unwrap();
            one.handle.invalidate_on(&mut early, wanted.clone()).await.unwrap();
            let mut late = second.begin().await.unwrap();
            one.handle.invalidate_on(&mut late, wanted.clone()).await.unwrap();
            let (before, after) = if in_order { (early, late) } else { (late, early) };
            one.get(TAGGED).await;
            one.assert_hit(TAGGED).await;
            before.commit().await.unwrap();
            assert_eq!(one.get(TAGGED).await.reason(), Some("invalidated"), "{wanted:?}");
            one.handle.flush().await.unwrap();
            one.assert_hit(TAGGED).await;
            after.commit().await.unwrap();
            assert_eq!(one.get(TAGGED).await.reason(), Some("invalidated"), "{wanted:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_before_the_first_lookup_is_seen() {
    let database = support::database().await;
    let other = node(&database).await;
    other.handle.invalidate_tags(["first"]).await.unwrap();
    other.fill(TAGGED).await;
    let store = builder(database.url()).poll_interval(Duration::from_secs(10));
    let one = Node::new(Tiered::new(MemoryStore::new(), store.connect().await.unwrap()));
    let mut connection = database.connection().await;
    let mut tx = connection.begin().await.unwrap();
    one.handle.invalidate_tags_on(&mut tx, ["product:7"]).await.unwrap();
    one.assert_hit(TAGGED).await;
    one.assert_hit(TAGGED).await;
    tx.commit().await.unwrap();
    one.assert_refused(TAGGED, "invalidated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_front_sees_commits_at_once_a_bounded_one_soon() {
    let database = support::database().await;
    let front = |poll: u64, consistency| {
        let builder = builder(database.url()).poll_interval(Duration::from_millis(poll));
        async move {
            let store = builder.connect().await.unwrap();
            store.migrate().await.unwrap();
            Node::new(Tiered::new(MemoryStore::new(), store).consistency(consistency))
        }
    };
    let strict = front(10_000, Consistency::Strict).await;
    let bounded = front(50, Consistency::Bounded).await;
    let other = node(&database).await;
    for _ in 0..20 {
        strict.get(TAGGED).await;
        strict.handle.flush().await.unwrap();
        strict.assert_hit(TAGGED).await;
        bounded.assert_hit(TAGGED).await;
        other.handle.invalidate_tags(["product:7"]).await.unwrap();
        let committed = Instant::now();
        loop {
            let asked = committed.elapsed();
            if !bounded.get(TAGGED).await.is_hit() {
                break;
            }
            assert!(asked <= Duration::from_millis(50), "stale after {asked:?}");
        }
        // what it has stored must not replace what the strict one stores next
        bounded.handle.flush().await.unwrap();
        other.handle.invalidate_tags(["product:7"]).await.unwrap();
        assert!(!strict.get(TAGGED).await.is_hit());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_transaction_an_invalidation_acts_at_once() {
    let database = support::database().await;
    let (one, two) = (node(&database).await, node(&database).await);
    let mut connection = database.connection().await;
    one.fill(TAGGED).await;
    two.assert_hit(TAGGED).await;
    one.handle.invalidate_tags_on(&mut connection, ["product:7"]).await.unwrap();
    assert_eq!(two.validity(TAGGED).await, Validity::Invalid);
    assert_eq!(one.validity(TAGGED).await, Validity::Invalid);
    let closed = one.handle.invalidate_tags_on(&mut connection, ["x".repeat(256)]).await;
    assert!(closed.is_err(), "and what is wrong is an error before anything is written");
    assert_eq!(largest(&mut connection).await, 1);
}
