//! The invalidation log on real servers: which invalidations take effect, and when.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};
use tower::Layer;
use tower::util::BoxCloneSyncService;
use tower_mysql_cache::invalidation::{Invalidation, Scope, Tag, Validity};
use tower_mysql_cache::key::CacheKey;
use tower_mysql_cache::service::CacheBody;
use tower_mysql_cache::status::Forward;
use tower_mysql_cache::store::{
    Admin, Consistency, Entries, InvalidationLog, MySqlStoreBuilder, Store,
};
use tower_mysql_cache::{
    CacheHandle, CacheLayer, CacheOverride, CachePolicy, MemoryStore, MySqlStore, Tiered,
};

use crate::kit::{Answer, Calls, get, response, send};
use crate::support::{self, TestDatabase};

const HOUR: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(3600));
const TAGGED: &str = "http://h/p/7";
/// The key of this page.
const KEY: &str = "test:1:/p/7 http://h";

/// One process of an application: `/p/<n>` has the tag `product:<n>`.
struct Node<St> {
    service: BoxCloneSyncService<Request<()>, Response<CacheBody<Full<Bytes>>>, Infallible>,
    handle: CacheHandle,
    store: St,
    calls: Calls,
}

impl<St: Store> Node<St> {
    fn new(store: St) -> Self {
        Self::with_tags(store, |path| {
            vec![Tag::from(format!("product:{}", path.trim_start_matches("/p/")))]
        })
    }

    fn with_tags(
        store: St,
        tags: impl Fn(&str) -> Vec<Tag> + Clone + Send + Sync + 'static,
    ) -> Self {
        let layer = CacheLayer::new(store.clone())
            .prefix("test")
            .store_timeout(Duration::from_secs(5))
            .with_policy(HOUR);
        let calls = Calls::default();
        let counted = calls.clone();
        let service = layer.layer(tower::service_fn(move |request: Request<()>| {
            let confirmed = request.headers().contains_key("if-none-match");
            let call = counted.add();
            let mut answer = match confirmed {
                true => response(304, &[("etag", "\"1\"")], ""),
                false => response(200, &[("etag", "\"1\"")], &format!("call {call}")),
            };
            answer.extensions_mut().insert(CacheOverride::new().tags(tags(request.uri().path())));
            async move { Ok::<_, Infallible>(answer) }
        }));
        let service = BoxCloneSyncService::new(service);
        Self { service, handle: layer.handle(), store, calls }
    }

    async fn get(&self, uri: &str) -> Answer {
        send(&self.service, get(uri, &[])).await
    }

    /// Requests the page, and waits until every process finds it.
    async fn fill(&self, uri: &str) {
        let answer = self.get(uri).await;
        assert!(!answer.is_hit() && answer.cache.is_stored(), "{:?}", answer.cache);
        self.handle.flush().await.unwrap();
    }

    async fn assert_hit(&self, uri: &str) {
        let answer = self.get(uri).await;
        assert!(answer.is_hit(), "{uri}: {:?}", answer.cache);
    }

    /// Asserts that the page is stored, and not served because of the log.
    async fn assert_refused(&self, uri: &str, detail: &str) {
        let answer = self.get(uri).await;
        let said = (answer.cache.forward(), answer.cache.reason().map(|reason| reason.as_str()));
        assert_eq!(said, (Some(Forward::Stale), Some(detail)), "{uri}");
    }

    /// The log verdict on the page, without a request for it.
    async fn validity(&self, uri: &str) -> Validity {
        self.handle.inspect(uri).await.unwrap().first().expect("an entry").validity
    }
}

fn builder(url: &str) -> MySqlStoreBuilder {
    // the tests choose when rows are deleted
    let builder = MySqlStore::builder(url).unwrap().background_cull(false);
    builder.gap_grace(Duration::from_millis(200))
}

async fn node(database: &TestDatabase) -> Node<MySqlStore> {
    node_of(builder(database.url())).await
}

async fn node_of(builder: MySqlStoreBuilder) -> Node<MySqlStore> {
    let store = builder.query_timeout(Duration::from_secs(10)).connect().await.unwrap();
    store.migrate().await.unwrap();
    Node::new(store)
}

async fn run(connection: &mut MySqlConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"));
}

async fn number(connection: &mut MySqlConnection, sql: &str) -> u64 {
    let sql = format!("SELECT CAST(COALESCE(({sql}), 0) AS UNSIGNED)");
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await.unwrap()
}

async fn settled(connection: &mut MySqlConnection) -> u64 {
    number(connection, "SELECT MAX(settled) FROM cache_invalidations_state").await
}

async fn largest(connection: &mut MySqlConnection) -> u64 {
    number(connection, "SELECT MAX(id) FROM cache_invalidations").await
}

/// Waits for something that the tasks of the stores do.
macro_rules! until {
    ($what:literal, $reached:expr) => {
        let since = Instant::now();
        while !$reached {
            assert!(since.elapsed() < Duration::from_secs(60), "never: {}", $what);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
}

mod damage;
mod gaps;
mod packets;
mod pruning;

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
    until!("the gap below is closed", settled(&mut connection).await == open - 1);
    // the open one is not closed, even if its grace has passed and the log is read often
    for _ in 0..20 {
        assert_eq!(settled(&mut connection).await, open - 1);
        node.assert_hit(TAGGED).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    held.commit().await.unwrap();
    node.assert_refused(TAGGED, "invalidated").await;
    node.assert_hit(TAGGED).await;
    until!("nothing is open", settled(&mut connection).await == newest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_does_not_miss_a_later_commit() {
    let database = support::database().await;
    let one = node(&database).await;
    one.handle.invalidate_tags(["first"]).await.unwrap();
    let mut connection = database.connection().await;
    until!("something is settled", settled(&mut connection).await == 1);
    one.fill(TAGGED).await;
    one.fill("http://h/p/8").await;
    let mut tx = connection.begin().await.unwrap();
    // by plain SQL, so that no process knows of it
    run(&mut tx, "INSERT INTO cache_invalidations (tag) VALUES ('product:7')").await;
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

/// Requests the page until it is a hit. After the log was emptied, this can take until no transaction holds an id in
/// it.
async fn fill_again<St: Store>(node: &Node<St>, uri: &str) {
    until!("it is served again", {
        let is_hit = node.get(uri).await.is_hit();
        node.handle.flush().await.unwrap();
        is_hit
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_log_invalidates_all_older_responses() {
    let database = support::database().await;
    let (one, two) = (node(&database).await, node(&database).await);
    one.handle.invalidate_tags(["a", "b", "c"]).await.unwrap();
    one.fill(TAGGED).await;
    one.fill("http://h/p/8").await;
    two.assert_hit(TAGGED).await;
    let mut connection = database.connection().await;
    until!("it is settled", settled(&mut connection).await == 3);
    run(&mut connection, "TRUNCATE TABLE cache_invalidations").await;
    // its next row would have an id that was read long ago
    run(&mut connection, "INSERT INTO cache_invalidations (tag) VALUES ('product:7')").await;
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
    run(&mut connection, "TRUNCATE TABLE cache_invalidations").await;
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
    tokio::time::sleep(Duration::from_millis(5)).await;
    run(&mut connection, "TRUNCATE TABLE cache_invalidations").await;
    for n in 0..8 {
        let tag = if n == 1 { "product:7" } else { "d" };
        run(&mut connection, &format!("INSERT INTO cache_invalidations (tag) VALUES ('{tag}')"))
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
        run(&mut connection, "INSERT INTO cache_invalidations (tag) VALUES ('undone')").await;
        one.get(TAGGED).await;
        one.handle.flush().await.unwrap();
        let mut entries = one.store.get_entries(vec![CacheKey::new(KEY)]).await.unwrap();
        let entry = entries.pop().unwrap().expect("an entry");
        let undone = largest(&mut connection).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        for sql in [
            "DELETE FROM cache_entries".to_owned(),
            format!("DELETE FROM cache_invalidations WHERE id = {undone}"),
            format!("UPDATE cache_invalidations_state SET settled = {undone} - 1 WHERE id = 1"),
            format!("ALTER TABLE cache_invalidations AUTO_INCREMENT = {undone}"),
        ] {
            run(&mut connection, &sql).await;
        }
        let others = "SELECT CAST(id AS UNSIGNED) FROM information_schema.processlist \
                      WHERE db = DATABASE() AND id <> CONNECTION_ID()";
        let others: Vec<u64> = sqlx::query_scalar(others).fetch_all(&mut connection).await.unwrap();
        for id in others {
            let kill = format!("KILL {id}");
            // the connection may already be closed
            let _ = sqlx::raw_sql(AssertSqlSafe(kill)).execute(&mut connection).await;
        }
        two.handle.invalidate_tags(["product:7"]).await.unwrap();
        let same_id =
            format!("SELECT tag = 'product:7' FROM cache_invalidations WHERE id = {undone}");
        assert_eq!(number(&mut connection, &same_id).await, 1, "{round}");
        one.store.put_many(vec![entry]).await.unwrap();
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
    run(&mut connection, "TRUNCATE TABLE cache_invalidations").await;
    let mut writer = database.connection().await;
    let mut tx = writer.begin().await.unwrap();
    run(&mut tx, "INSERT INTO cache_invalidations (tag) VALUES ('product:7')").await;
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
    run(&mut connection, "DROP TABLE cache_invalidations").await;
    let failures = node.store.stats().await.unwrap().failures;
    for _ in 0..3 {
        let answer = node.get(TAGGED).await;
        let said = (answer.cache.forward(), answer.cache.reason().map(|reason| reason.as_str()));
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
    until!("owed rows are written", node.store.stats().await.unwrap().owed_invalidations == 0);
    node.handle.flush().await.unwrap();
    assert_eq!(node.validity(TAGGED).await, Validity::Invalid);
    fill_again(&node, TAGGED).await;
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
    run(
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
    until!("all is settled", settled(&mut connection).await == newest);
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
        run(connection, &format!("{insert} ('{tag}', 1)")).await;
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
    until!("it is settled", settled(&mut connection).await == 4);
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
    run(&mut connection, &format!("{insert} ('first', 1)")).await;
    one.fill(TAGGED).await;
    away.assert_hit(TAGGED).await;
    run(&mut connection, &format!("{insert} ('a', 1), ('b', 1), ('c', 1), ('d', 1)")).await;
    one.fill("http://h/p/8").await;
    until!("it is settled", settled(&mut connection).await == 5);
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
    run(&mut connection, &format!("{insert} ('first', 1)")).await;
    one.fill("http://h/p/8").await;
    let mut tx = writer.begin().await.unwrap();
    run(&mut tx, &format!("{insert} ('product:7', 1)")).await;
    run(&mut connection, &format!("{insert} ('a', 1), ('b', 1), ('c', 1)")).await;
    one.fill(TAGGED).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    one.handle.cull().await.unwrap();
    for _ in 0..3 {
        one.assert_hit(TAGGED).await;
        one.assert_hit("http://h/p/8").await;
    }
    tx.commit().await.unwrap();
    one.assert_refused(TAGGED, "invalidated").await;
    one.assert_hit("http://h/p/8").await;
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
    until!("the server is used again", one.store.stats().await.is_ok());
    until!("nothing is owed", {
        one.store.stats().await.is_ok_and(|stats| stats.owed_invalidations == 0)
    });
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
        assert_eq!(
            one.get(TAGGED).await.cache.reason().map(|reason| reason.as_str()),
            Some("invalidated"),
            "{round}"
        );
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
            assert_eq!(
                one.get(TAGGED).await.cache.reason().map(|reason| reason.as_str()),
                Some("invalidated"),
                "{wanted:?}"
            );
            one.handle.flush().await.unwrap();
            one.assert_hit(TAGGED).await;
            after.commit().await.unwrap();
            assert_eq!(
                one.get(TAGGED).await.cache.reason().map(|reason| reason.as_str()),
                Some("invalidated"),
                "{wanted:?}"
            );
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
        // it finds a response that it has not written yet
        bounded.handle.flush().await.unwrap();
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
        other.handle.invalidate_tags(["product:7"]).await.unwrap();
        assert!(!strict.get(TAGGED).await.is_hit());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tags_of_any_bytes_survive_freshening() {
    let database = support::database().await;
    let tags = |_: &str| {
        let mut tags: Vec<Tag> = (0..1_000).map(|n| Tag::from(format!("tag:{n}"))).collect();
        tags.extend([Tag::new(&b"\0\xff"[..]), Tag::new(&b" "[..]), Tag::new(vec![0xff; 255])]);
        tags.push(Tag::from(":everything")); // a tag that looks like another scope
        tags
    };
    let store = builder(database.url()).connect().await.unwrap();
    store.migrate().await.unwrap();
    let one = Node::with_tags(store, tags);
    let two = node(&database).await;
    one.fill(TAGGED).await;
    let kept = &one.handle.inspect(TAGGED).await.unwrap()[0].head.tags;
    assert_eq!(kept.len(), 1_004);
    let mut named: Vec<Vec<u8>> = vec![b"tag:0".to_vec(), b"tag:999".to_vec(), b"\0\xff".to_vec()];
    named.extend([b" ".to_vec(), vec![0xff; 255], b":everything".to_vec()]);
    for name in named {
        one.assert_hit(TAGGED).await;
        two.handle.invalidate_tags([Tag::new(vec![0xff; 254])]).await.unwrap();
        two.handle.invalidate_tags(["TAG:0"]).await.unwrap();
        one.assert_hit(TAGGED).await;
        two.handle.invalidate_tags([&name[..]]).await.unwrap();
        assert_eq!(one.validity(TAGGED).await, Validity::Invalid, "{}", name.escape_ascii());
        // the handler answers 304, so the head is replaced together with its tags
        let answer = one.get(TAGGED).await;
        assert_eq!((answer.text(), answer.status.as_u16()), ("call 1", 200));
        one.handle.flush().await.unwrap();
        assert_eq!(one.handle.inspect(TAGGED).await.unwrap()[0].head.tags.len(), 1_004);
    }
    let too_long = one.handle.invalidate_tags([vec![b'x'; 256]]).await.unwrap_err();
    assert!(too_long.to_string().contains("1 to 255 bytes"), "{too_long}");
    assert!(one.handle.invalidate_tags([""]).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soft_invalidation_makes_stale_and_a_hard_one_invalid() {
    let database = support::database().await;
    let node = node(&database).await;
    node.fill(TAGGED).await;
    node.handle.soft_invalidate_tags(["product:7"]).await.unwrap();
    assert_eq!(node.validity(TAGGED).await, Validity::Outdated);
    node.handle.invalidate_tags(["product:7"]).await.unwrap();
    node.handle.soft_invalidate_tags(["product:7"]).await.unwrap();
    assert_eq!(node.validity(TAGGED).await, Validity::Invalid, "the worst that was said");
    node.get(TAGGED).await;
    node.handle.flush().await.unwrap();
    node.handle.soft_invalidate_all().await.unwrap();
    node.assert_refused(TAGGED, "outdated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_runs_and_past_invalidations_can_be_listed() {
    let database = support::database().await;
    let node = node(&database).await;
    for n in 0..5 {
        node.fill(&format!("http://h/p/{n}")).await;
    }
    let all = node.handle.dry_run(&Invalidation::all()).await.unwrap();
    assert_eq!((all.examined, all.named), (5, 5));
    let wanted = Invalidation::tags(["product:1"]).and_tags(["product:2", "none"]);
    let some = node.handle.dry_run(&wanted).await.unwrap();
    assert_eq!((some.examined, some.named), (5, 2));
    assert!(some.bytes > 0 && some.bytes < all.bytes);
    assert_eq!(node.handle.dry_run(&Invalidation::uri("/p/3")).await.unwrap().named, 1);
    assert_eq!(node.handle.dry_run(&Invalidation::path("/p")).await.unwrap().named, 5);
    node.assert_hit("http://h/p/1").await;
    assert_eq!(node.handle.invalidations(10).await.unwrap(), []);

    let before = node.store.now_ms();
    node.handle.invalidate(wanted.reason("price import").soft()).await.unwrap();
    let rows = node.handle.invalidations(2).await.unwrap();
    let ids: Vec<u64> = rows.iter().map(|row| row.id).collect();
    assert_eq!(ids, [3, 2], "the newest first, no more than asked for");
    assert_eq!(rows[0].scope, Scope::Tag(Tag::from("none")));
    assert!(rows[1].soft && rows[1].reason.as_deref() == Some("price import"));
    let late = rows[0].at_ms.abs_diff(before);
    assert!(late < 60_000, "{late} ms");
    let found = node.handle.inspect("http://h/p/2").await.unwrap();
    assert_eq!((found.len(), found[0].validity), (1, Validity::Outdated));
    assert_eq!(found[0].head.tags, [Tag::from("product:2")]);
    assert!(node.handle.inspect("http://h/p/99").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_invalidates_for_any_database_client() {
    let database = support::database().await;
    let (one, two) = (node(&database).await, node(&database).await);
    let mut connection = database.connection().await;
    run(&mut connection, "CREATE TABLE products (id INT PRIMARY KEY, price INT)").await;
    run(&mut connection, "INSERT INTO products VALUES (7, 1), (8, 1), (9, 1)").await;
    run(
        &mut connection,
        "CREATE TRIGGER products_changed AFTER UPDATE ON products FOR EACH ROW \
         INSERT INTO cache_invalidations (tag) VALUES (CONCAT('product:', NEW.id))",
    )
    .await;
    for n in 7..10 {
        one.fill(&format!("http://h/p/{n}")).await;
    }
    let mut tx = connection.begin().await.unwrap();
    run(&mut tx, "UPDATE products SET price = 2 WHERE id IN (7, 8)").await;
    two.assert_hit(TAGGED).await;
    tx.rollback().await.unwrap();
    two.assert_hit(TAGGED).await;
    run(&mut connection, "UPDATE products SET price = 2 WHERE id IN (7, 8)").await;
    for n in [7, 8] {
        assert_eq!(two.validity(&format!("http://h/p/{n}")).await, Validity::Invalid);
    }
    one.assert_refused(TAGGED, "invalidated").await;
    two.assert_hit("http://h/p/9").await;
    let row = &two.handle.invalidations(1).await.unwrap()[0];
    assert!(!row.soft && row.at_ms > 0 && row.reason.is_none(), "{row:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_gets_its_ids_one_by_one() {
    let database = support::database().await;
    let node = node(&database).await;
    let mut connection = database.connection().await;
    run(&mut connection, "CREATE TABLE products (id INT PRIMARY KEY AUTO_INCREMENT, price INT)")
        .await;
    run(&mut connection, "INSERT INTO products (price) VALUES (1), (1), (1), (1), (1), (1), (1)")
        .await;
    run(&mut connection, "INSERT INTO products (price) SELECT a.price FROM products a, products b")
        .await;
    run(
        &mut connection,
        "CREATE TRIGGER products_changed AFTER UPDATE ON products FOR EACH ROW \
         INSERT INTO cache_invalidations (tag) VALUES (CONCAT('product:', NEW.id))",
    )
    .await;
    // the trigger gets each id when it needs it, and none in advance
    run(&mut connection, "UPDATE products SET price = 2").await;
    node.handle.invalidate_tags(["after"]).await.unwrap();
    let rows = number(&mut connection, "SELECT COUNT(*) FROM cache_invalidations").await;
    assert_eq!((rows, largest(&mut connection).await), (57, 57));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_can_be_selected_in_the_applications_transaction() {
    let database = support::database().await;
    let node = node(&database).await;
    let mut connection = database.connection().await;
    run(&mut connection, "CREATE TABLE products (id INT PRIMARY KEY, brand INT)").await;
    let values: Vec<String> = (0..200).map(|id| format!("({id}, {})", id % 2)).collect();
    run(&mut connection, &format!("INSERT INTO products VALUES {}", values.join(","))).await;
    for n in [7, 8, 199] {
        node.fill(&format!("http://h/p/{n}")).await;
    }
    let mut tx = connection.begin().await.unwrap();
    let odd = "SELECT CONCAT('product:', id) FROM products WHERE brand = ?";
    let count =
        node.handle.invalidate_selected_on(&mut tx, sqlx::query(odd).bind(1)).await.unwrap();
    assert_eq!(count, 100);
    node.assert_hit(TAGGED).await;
    tx.commit().await.unwrap();
    assert_eq!(node.validity(TAGGED).await, Validity::Invalid);
    assert_eq!(node.validity("http://h/p/199").await, Validity::Invalid);
    node.assert_hit("http://h/p/8").await;
    let none = node.handle.invalidate_selected_on(&mut connection, sqlx::query(odd).bind(5)).await;
    assert_eq!(none.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_insert_id_is_kept_by_results_variables_and_triggers() {
    const LAST: &str = "LAST_INSERT_ID()";
    let database = support::database().await;
    let node = node(&database).await;
    let mut connection = database.connection().await;
    run(&mut connection, "CREATE TABLE orders (id INT PRIMARY KEY AUTO_INCREMENT, n INT)").await;
    run(&mut connection, "ALTER TABLE orders AUTO_INCREMENT = 900").await;
    let mut tx = connection.begin().await.unwrap();
    let order = sqlx::query("INSERT INTO orders (n) VALUES (1)").execute(&mut *tx).await.unwrap();
    run(&mut tx, "SET @order = LAST_INSERT_ID()").await;
    node.handle.invalidate_tags_on(&mut tx, ["product:7"]).await.unwrap();
    assert_eq!((order.last_insert_id(), number(&mut tx, "@order").await), (900, 900));
    assert_eq!(number(&mut tx, LAST).await, 1, "of the log");
    tx.commit().await.unwrap();
    run(
        &mut connection,
        "CREATE TRIGGER orders_changed AFTER INSERT ON orders FOR EACH ROW \
         INSERT INTO cache_invalidations (tag) VALUES (CONCAT('product:', NEW.n))",
    )
    .await;
    run(&mut connection, "INSERT INTO orders (n) VALUES (2)").await;
    assert_eq!(number(&mut connection, LAST).await, 901);
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
