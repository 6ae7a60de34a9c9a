//! The store in MySQL and MariaDB: the table, the server, the connections.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sqlx::{AssertSqlSafe, MySqlConnection, Row};
use tower_mysql_cache::invalidation::{LogRecord, Scope, Tag};
use tower_mysql_cache::key::{CacheKey, KeyRange};
use tower_mysql_cache::store::{
    Admin, Entries, Entry, HeadUpdate, InvalidationLog, Leases, MySqlStoreBuilder, Stored,
    StoredHead, StoredResponse, VariantIndex,
};
use tower_mysql_cache::{MySqlStore, StoreError};

use crate::support::{self, TestDatabase};

const HOUR: u64 = 3_600_000;

fn key(text: impl Into<String>) -> CacheKey {
    CacheKey::new(text.into())
}

fn response(now_ms: u64, body: impl Into<Bytes>) -> Stored {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/plain"));
    let mut head = StoredHead::new(StatusCode::OK, headers, now_ms);
    head.fresh_until_ms = now_ms + HOUR;
    head.gen_ms = 5;
    Stored::Response(StoredResponse::new(head, body.into()))
}

fn entry(store: &MySqlStore, key: CacheKey, body: impl Into<Bytes>) -> Entry {
    let now_ms = store.now_ms();
    Entry::new(key, response(now_ms, body), now_ms + HOUR)
}

fn body(found: Option<Stored>) -> Option<Bytes> {
    match found? {
        Stored::Response(response) => Some(response.body),
        Stored::Variants(_) => panic!("an index of variants"),
    }
}

fn builder(database: &TestDatabase) -> MySqlStoreBuilder {
    MySqlStore::builder(database.url()).unwrap()
}

/// A store with its table on a fresh database.
async fn fresh() -> (TestDatabase, MySqlStore) {
    let database = support::database().await;
    let store = builder(&database).connect().await.unwrap();
    store.migrate().await.unwrap();
    (database, store)
}

async fn execute(connection: &mut MySqlConnection, sql: impl Into<String>) {
    let sql = sql.into();
    sqlx::raw_sql(AssertSqlSafe(sql.clone()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn number(connection: &mut MySqlConnection, sql: &str) -> i64 {
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(connection).await.unwrap();
    row.get(0)
}

async fn count(connection: &mut MySqlConnection) -> i64 {
    number(connection, "SELECT COUNT(*) FROM cache_entries").await
}

/// A value of `SHOW GLOBAL STATUS`.
async fn status(connection: &mut MySqlConnection, name: &str) -> u64 {
    let sql = format!("SHOW GLOBAL STATUS LIKE '{name}'");
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(connection).await.unwrap();
    row.get::<String, _>(1).parse().unwrap()
}

/// The source of an error, as text.
fn cause(error: &StoreError) -> String {
    std::error::Error::source(error).expect("a source").to_string()
}

/// Waits until a condition holds, at most 20 s.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// ---- connecting

/// Tests with `#[tokio::test]` may share a `static` store, although each has its own runtime.
#[test]
fn a_store_whose_runtime_has_ended_works_on_the_next_one() {
    let runtimes = || {
        let [one, two] = [1, 2].map(|_| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap()
        });
        let many =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        [one, many.unwrap(), two]
    };
    let [first, ..] = runtimes();
    let (database, store) = first.block_on(fresh());
    first.block_on(store.put(entry(&store, key("p:1:/kept"), "kept"))).unwrap();
    drop(first);
    for runtime in runtimes() {
        let uses = async {
            let record = LogRecord::hard(Scope::Tag(Tag::new("t")));
            store.append(vec![record]).await.unwrap();
            assert_eq!(body(store.get(key("p:1:/kept")).await.unwrap()).unwrap(), "kept");
            store.put(entry(&store, key("p:1:/new"), "new")).await.unwrap();
            store.flush().await.unwrap();
            assert_eq!(store.remove(KeyRange::only(&key("p:1:/new"))).await.unwrap(), 1);
            assert_eq!(store.stats().await.unwrap().entries, 1);
            assert_eq!(store.cull().await.unwrap().examined, 1);
            assert_eq!(store.tail(100).await.unwrap()[0].scope, Scope::Tag(Tag::new("t")));
        };
        let limited = async { tokio::time::timeout(Duration::from_secs(20), uses).await };
        runtime.block_on(limited).expect("nothing hangs");
        // requests that are half way fail with the runtime; no caller waits for them
        let waiting = store.clone();
        runtime.spawn(async move { waiting.get(key("p:1:/kept")).await });
        drop(runtime);
    }
    // without a runtime, each call returns an error at once
    use futures_util::FutureExt as _;
    let closed = |error| assert!(matches!(error, StoreError::Closed), "{error}");
    closed(store.flush().now_or_never().expect("at once").unwrap_err());
    closed(store.get(key("p:1:/kept")).now_or_never().expect("at once").unwrap_err());
    closed(store.stats().now_or_never().expect("at once").unwrap_err());
    let [last, ..] = runtimes();
    last.block_on(async {
        assert!(store.get(key("p:1:/kept")).await.unwrap().is_some());
        store.close().await;
        closed(store.flush().await.unwrap_err());
    });
    drop(database);
}

#[tokio::test]
async fn a_missing_server_is_an_error_within_the_timeout() {
    let since = Instant::now();
    let refused = MySqlStore::connect("mysql://root@127.0.0.1:1/cache").await.unwrap_err();
    assert!(matches!(refused, StoreError::Connect(_)), "{refused}");
    // accepts connections and never answers
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mysql://root@{}/cache", mute.local_addr().unwrap());
    let builder = MySqlStore::builder(&url).unwrap().connect_timeout(Duration::from_millis(200));
    let error = builder.connect().await.unwrap_err();
    assert!(matches!(error, StoreError::Connect(_)), "{error}");
    assert!(cause(&error).contains("200ms"), "{error:?}");
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
}

#[tokio::test]
async fn connect_errors_do_not_show_the_password() {
    let database = support::database().await;
    let host = database.url().split('@').next_back().unwrap().to_owned();
    let wrong = format!("mysql://nobody:hunter2@{host}");
    let error = MySqlStore::connect(&wrong).await.unwrap_err();
    assert!(matches!(error, StoreError::Connect(_)), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    let source = std::error::Error::source(&error).expect("sqlx's error");
    assert!(!source.to_string().is_empty());

    let unknown = database.url().replace(database.name(), "no_such_database");
    let error = MySqlStore::connect(&unknown).await.unwrap_err();
    assert!(matches!(error, StoreError::Connect(_)), "{error}");
    assert!(cause(&error).contains("no_such_database"), "{error:?}");
}

/// On MySQL, this needs the feature `mysql-rsa`.
#[tokio::test]
async fn a_password_works_without_tls() {
    let database = support::database().await;
    let (host, name) = (database.url().split('@').next_back().unwrap(), database.name());
    let mut connection = database.connection().await;
    // a new user, because the server remembers passwords that were used
    let user = format!("u{}", &name[name.len() - 12..]);
    execute(&mut connection, format!("CREATE USER '{user}'@'%' IDENTIFIED BY 'hunter2'")).await;
    execute(&mut connection, format!("GRANT ALL ON {name}.* TO '{user}'@'%'")).await;
    let url = format!("mysql://{user}:hunter2@{host}?ssl-mode=disabled");
    let store = MySqlStore::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    store.close().await;
    execute(&mut connection, format!("DROP USER '{user}'@'%'")).await;
}

#[tokio::test]
async fn settings_are_checked_before_the_network() {
    let since = Instant::now();
    let at = || MySqlStore::builder("mysql://root@192.0.2.1/cache").unwrap();
    for (builder, parts) in [
        (at().table("a`b"), ["table", "a`b", "letters"]),
        (at().table(""), ["table", "\"\"", "1 to 64"]),
        (at().read_connections(99), ["read_connections", "99", "1 to 16"]),
        (at().cull_probability(0.0), ["cull_probability", "is 0;", "background_cull(false)"]),
        (at().cull_probability(f64::INFINITY), ["cull_probability", "inf", "to 1"]),
        (at().query_timeout(Duration::ZERO), ["query_timeout", "0 ns", "1 ms"]),
        (at().max_entry_bytes(usize::MAX), ["max_entry_bytes", "18446744073709551615", "1 GiB"]),
    ] {
        let error = builder.connect().await.unwrap_err();
        assert!(matches!(error, StoreError::Config(_)), "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{error} has no {part}");
        }
    }
    for url in ["", "redis://x/y", "mysql://root@host"] {
        assert!(matches!(MySqlStore::connect(url).await, Err(StoreError::Config(_))), "{url}");
    }
    assert!(since.elapsed() < Duration::from_secs(1));
}

#[test]
fn connecting_outside_a_runtime_is_an_error() {
    let mut connecting = std::pin::pin!(MySqlStore::connect("mysql://root@127.0.0.1:1/cache"));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match connecting.as_mut().poll(&mut context) {
        std::task::Poll::Ready(Err(StoreError::Config(error))) => {
            assert!(error.to_string().contains("runtime"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_closed_store_returns_errors_and_has_no_connections() {
    let (database, store) = fresh().await;
    let mut connection = database.connection().await;
    let key = key("p:1:/");
    store.put(entry(&store, key.clone(), "x")).await.unwrap();
    store.get(key.clone()).await.unwrap();
    store.stats().await.unwrap();
    assert_eq!(connections(&mut connection, database.name()).await, 4);
    store.close().await;
    store.close().await;
    assert!(matches!(store.get(key.clone()).await, Err(StoreError::Closed)));
    let late = entry(&store, key.clone(), "y");
    assert!(matches!(store.put(late).await, Err(StoreError::Closed)));
    assert!(matches!(store.stats().await, Err(StoreError::Closed)));
    no_connection_is_left(&mut connection, database.name()).await;
}

#[tokio::test]
async fn the_last_handle_writes_the_queue_and_disconnects() {
    let (database, store) = fresh().await;
    let mut connection = database.connection().await;
    let (first, second) = (store.clone(), store);
    for i in 0..50 {
        // polled once so that it is queued, then dropped
        let mut put = Box::pin(first.put(entry(&first, key(format!("p:1:/{i}")), "x")));
        let _ = poll_once(put.as_mut());
    }
    drop((first, second));
    for attempt in 0.. {
        match count(&mut connection).await {
            50 => break,
            rows => assert!(attempt < 500, "{rows} rows are written"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    no_connection_is_left(&mut connection, database.name()).await;
}

/// Waits until no other connection uses the database.
async fn no_connection_is_left(connection: &mut MySqlConnection, database: &str) {
    for attempt in 0.. {
        match connections(connection, database).await {
            0 => break,
            left => assert!(attempt < 500, "{left} connections are left"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The number of connections to another database than the test's.
async fn connections(connection: &mut MySqlConnection, database: &str) -> i64 {
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.processlist \
         WHERE db = '{database}' AND id <> CONNECTION_ID()"
    );
    // the view also shows statements of other tests, and MySQL 9 fails if they contain bytes that are not UTF-8
    for _ in 0..200 {
        if let Ok(row) = sqlx::query(AssertSqlSafe(sql.clone())).fetch_one(&mut *connection).await {
            return row.get(0);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{sql} still fails")
}

/// Polls once.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

// ---- the table

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

// ---- rows

#[tokio::test]
async fn keys_with_the_same_hash_are_misses_for_each_other() {
    let (database, store) = fresh().await;
    let mut connection = database.connection().await;
    let (one, two) = (key("p:1:/one"), key("p:1:/two"));
    store.put(entry(&store, one.clone(), "one")).await.unwrap();
    // as if the keys had the same hash
    let collide = "UPDATE cache_entries SET key_hash = UNHEX(LEFT(SHA2('p:1:/two', 256), 32))";
    execute(&mut connection, collide).await;
    assert_eq!(store.get(two.clone()).await.unwrap(), None);
    assert_eq!(store.get_many(vec![two.clone(), one.clone()]).await.unwrap(), [None, None]);
    let Stored::Response(response) = response(store.now_ms(), "") else { return };
    let update = HeadUpdate::new(two.clone(), response.head.clone(), response.head, u64::MAX >> 1);
    assert!(!store.freshen(update).await.unwrap());
    store.put(entry(&store, two.clone(), "two")).await.unwrap();
    assert_eq!(body(store.get(two.clone()).await.unwrap()).unwrap(), "two");
    assert_eq!(store.get(one.clone()).await.unwrap(), None);
    assert_eq!(store.stats().await.unwrap().entries, 1, "the later put wins");
    assert_eq!(store.stats().await.unwrap().unreadable, 0, "a collision is not damage");
}

#[tokio::test]
async fn a_row_that_inflates_over_the_limit_is_a_miss() {
    let (database, store) = fresh().await;
    let small = MySqlStore::builder(database.url()).unwrap().max_entry_bytes(64 << 10);
    let small = small.connect().await.unwrap();
    let key = key("p:1:/page http://h");
    let put = |length: usize| entry(&store, key.clone(), "x".repeat(length));
    store.put(put(64 << 10)).await.unwrap();
    assert!(small.get(key.clone()).await.unwrap().is_some());
    store.put(put((64 << 10) + 1)).await.unwrap();
    assert_eq!(small.get(key.clone()).await.unwrap(), None);
    assert_eq!(small.stats().await.unwrap().unreadable, 1);
    assert!(store.get(key).await.unwrap().is_some());
}

#[tokio::test]
async fn a_damaged_row_is_a_miss_until_the_next_put() {
    let (database, store) = fresh().await;
    let mut connection = database.connection().await;
    let key = key("p:1:/page http://h");
    let text = "all work and no play\n".repeat(100);
    let put = || entry(&store, key.clone(), text.clone());
    store.put(put()).await.unwrap();
    let flip = |column: &str, at: &str| {
        format!(
            "{column} = INSERT({column}, {at}, 1, CHAR(ASCII(SUBSTRING({column}, {at}, 1)) ^ 1))"
        )
    };
    let mut damages = vec![
        "value = ''".to_owned(),
        "value = CONCAT(value, 'x')".to_owned(),
        "value = LEFT(value, LENGTH(value) - 1)".to_owned(),
        "value = REVERSE(value)".to_owned(),
        "head = NULL".to_owned(),
        "head = ''".to_owned(),
        "head = CONCAT(head, 'x')".to_owned(),
        "head = LEFT(head, LENGTH(head) - 1)".to_owned(),
        "head = CONCAT(CHAR(2), SUBSTRING(head, 2))".to_owned(), // an unknown version
        "value_type = 'r'".to_owned(),                           // the row is compressed
        "value_type = 'v'".to_owned(),
        "value_type = 'j'".to_owned(),
        "value_type = ''".to_owned(),
    ];
    damages.extend((1..40).map(|at| flip("value", &at.to_string())));
    damages.extend((1..40).map(|at| flip("head", &at.to_string())));
    damages.extend((0..9).map(|back| flip("value", &format!("LENGTH(value) - {back}"))));
    damages.extend((0..9).map(|back| flip("head", &format!("LENGTH(head) - {back}"))));
    for (done, damage) in damages.iter().enumerate() {
        store.put(put()).await.unwrap();
        assert_eq!(body(store.get(key.clone()).await.unwrap()).unwrap(), text);
        execute(&mut connection, format!("UPDATE cache_entries SET {damage}")).await;
        assert_eq!(store.get(key.clone()).await.unwrap(), None, "{damage}");
        let stats = store.stats().await.unwrap();
        assert_eq!((stats.unreadable, stats.failures), (done as u64 + 1, 0), "{damage}");
    }
    // with these columns it is another row, not a damaged one
    for change in ["expires = 0", "cache_key = 'p:1:/page http://H'"] {
        store.put(put()).await.unwrap();
        execute(&mut connection, format!("UPDATE cache_entries SET {change}")).await;
        assert_eq!(store.get(key.clone()).await.unwrap(), None, "{change}");
    }
    // these columns are only for people
    store.put(put()).await.unwrap();
    let harmless = "size = 0, status = 500, born_ms = NULL, fresh_until_ms = 1, gen_ms = NULL, \
                    expires = 18446744073709551615";
    execute(&mut connection, format!("UPDATE cache_entries SET {harmless}")).await;
    assert_eq!(body(store.get(key).await.unwrap()).unwrap(), text);
}

#[tokio::test]
async fn columns_are_readable_in_sql() {
    let (database, store) = fresh().await;
    let mut connection = database.connection().await;
    let stored = entry(&store, key("shop:1:/a http://h"), "hello");
    store.put(stored.clone()).await.unwrap();
    let row = sqlx::query(
        "SELECT LEFT(value, LENGTH(value) - 9), value_type, expires, size, status, gen_ms, \
         key_hash = UNHEX(LEFT(SHA2(cache_key, 256), 32)), \
         LENGTH(cache_key) + LENGTH(head) + LENGTH(value) FROM cache_entries",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(row.get::<Vec<u8>, _>(0), b"hello");
    assert_eq!(row.get::<String, _>(1), "r");
    assert_eq!(row.get::<u64, _>(2), stored.expires_ms);
    assert_eq!(i64::from(row.get::<u32, _>(3)), row.get::<i64, _>(7));
    assert_eq!((row.get::<u16, _>(4), row.get::<u32, _>(5)), (200, 5));
    assert_eq!(row.get::<i64, _>(6), 1);
    let Stored::Response(response) = stored.stored else { unreachable!() };
    let mut head = (*response.head).clone();
    head.status = StatusCode::GONE;
    let later = stored.expires_ms + 1;
    let (key, old, new) = (stored.key, response.head, Arc::new(head));
    let update = HeadUpdate::new(key, old, new, later);
    assert!(store.freshen(update).await.unwrap());
    let row = sqlx::query(
        "SELECT status, expires, size, LENGTH(cache_key) + LENGTH(head) + LENGTH(value) \
         FROM cache_entries",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!((row.get::<u16, _>(0), row.get::<u64, _>(1)), (410, later));
    assert_eq!(i64::from(row.get::<u32, _>(2)), row.get::<i64, _>(3));
}

#[tokio::test]
async fn keys_of_any_bytes_are_distinct() {
    let (database, store) = fresh().await;
    let keys: Vec<CacheKey> = [
        &b"p:1:/a"[..],
        b"p:1:/a ",
        b"p:1:/a  ",
        b"p:1:/a\0",
        b"p:1:/a\0\0",
        b"p:1:/A",
        b"p:1:/a\xff",
        b"p:1:/a\xff\xff",
        b"p:1:/a%",
        b"p:1:/a_",
        "p:1:/\u{1f980}".as_bytes(),
        "p:1:/\u{e4}".as_bytes(),
        b"p:1:/a\xcc\x88",
        &[0xff; 1024],
        b"",
    ]
    .map(|bytes| CacheKey::new(Bytes::copy_from_slice(bytes)))
    .to_vec();
    for key in &keys {
        store.put(entry(&store, key.clone(), key.to_bytes())).await.unwrap();
    }
    let found = store.get_many(keys.clone()).await.unwrap();
    for (key, found) in keys.iter().zip(found) {
        assert_eq!(body(found).as_deref(), Some(key.as_bytes()), "{key:?}");
    }
    // a range contains the same keys in the database as in memory
    for range in [
        KeyRange::continuing("p:1:/a"),
        KeyRange::starting_with("p:1:/a\0"),
        KeyRange::starting_with(&b"p:1:/a\xff"[..]),
        KeyRange::starting_with("p:1:/a_"),
        KeyRange::starting_with(&b"\xff"[..]),
        KeyRange::starting_with(""),
    ] {
        for key in &keys {
            store.put(entry(&store, key.clone(), key.to_bytes())).await.unwrap();
        }
        let inside: HashSet<&[u8]> =
            keys.iter().map(CacheKey::as_bytes).filter(|key| range.contains(key)).collect();
        assert_eq!(store.remove(range.clone()).await.unwrap(), inside.len() as u64, "{range:?}");
        for key in &keys {
            let gone = store.get(key.clone()).await.unwrap().is_none();
            assert_eq!(gone, inside.contains(key.as_bytes()), "{key:?} of {range:?}");
        }
    }
    assert_eq!(count(&mut database.connection().await).await, 0);
}

#[tokio::test]
async fn an_entry_over_the_limits_is_refused_before_it_is_sent() {
    let server = support::own_server(None).await;
    let packet = 4 << 20;
    let sql = format!("SET GLOBAL max_allowed_packet = {packet}");
    execute(&mut server.connection().await, sql).await;
    let store = MySqlStore::builder(server.url()).unwrap().compress_level(0).connect();
    let store = store.await.unwrap();
    store.migrate().await.unwrap();
    let too_large = entry(&store, key("p:1:/large"), vec![b'x'; packet]);
    let small = entry(&store, key("p:1:/small"), "x");
    let error = store.put_many(vec![too_large, small]).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    assert!(store.get(key("p:1:/small")).await.unwrap().is_some(), "the others are stored");
    let fits = vec![b'y'; packet - 128 * 1024];
    let large = entry(&store, key("p:1:/large"), fits.clone());
    store.put(large).await.unwrap();
    assert!(body(store.get(key("p:1:/large")).await.unwrap()).unwrap() == fits);

    let tight =
        MySqlStore::builder(server.url()).unwrap().max_entry_bytes(4096).connect().await.unwrap();
    let error = tight.put(entry(&tight, key("p:1:/x"), vec![0; 5000])).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { limit: 4096, .. }), "{error}");
    let stats = tight.stats().await.unwrap();
    assert_eq!((stats.too_large, stats.failures), (1, 0));
    assert_eq!(store.stats().await.unwrap().failures, 0);
}

#[tokio::test]
async fn large_and_compressed_bodies_are_read_back_unchanged() {
    let (database, store) = fresh().await;
    let text: Vec<u8> = (0..3_000_000_u32).map(|i| b"abcdefgh\n"[(i % 9) as usize]).collect();
    for (name, body) in [("text", text.clone()), ("empty", Vec::new()), ("one", vec![0])] {
        store.put(entry(&store, key(format!("p:1:/{name}")), body)).await.unwrap();
    }
    assert!(body(store.get(key("p:1:/text")).await.unwrap()).unwrap() == text);
    assert_eq!(body(store.get(key("p:1:/empty")).await.unwrap()).unwrap(), "");
    let sql = "SELECT CAST(SUM(LENGTH(value)) AS SIGNED) FROM cache_entries";
    assert!(number(&mut database.connection().await, sql).await < 100_000);
}

// ---- time

#[tokio::test]
async fn entries_expire_by_the_databases_clock() {
    let (database, store) = fresh().await;
    let mut connection = database.connection().await;
    let sql = "SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)";
    let server = number(&mut connection, sql).await;
    let here = i64::try_from(store.now_ms()).unwrap();
    assert!((server - here).abs() < 200, "{server} and {here}");
    let mut short = entry(&store, key("p:1:/"), "x");
    short.expires_ms = store.now_ms() + 300;
    let expires_ms = short.expires_ms;
    store.put(short).await.unwrap();
    loop {
        let before = store.now_ms();
        let found = store.get(key("p:1:/")).await.unwrap().is_some();
        let after = store.now_ms();
        assert!(!found || before < expires_ms, "found {before} though it died {expires_ms}");
        assert!(found || after >= expires_ms, "not found {after} though it lives to {expires_ms}");
        if !found {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let Stored::Response(StoredResponse { head, .. }) = response(server as u64, "") else { return };
    let (key, old) = (key("p:1:/"), head.clone());
    let update = HeadUpdate::new(key, old, head, expires_ms + HOUR);
    let freshened = store.freshen(update).await.unwrap();
    assert!(!freshened, "what has expired is not brought back");
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
    let server = number(&mut connection, "SELECT UNIX_TIMESTAMP()").await * 1000;
    assert!((server - store.now_ms() as i64).abs() < 2_000);
}

// ---- several stores

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

/// The number of deadlocks on the server. MariaDB and MySQL keep it in different places.
async fn deadlocks(connection: &mut MySqlConnection) -> i64 {
    let version: String =
        sqlx::query("SELECT VERSION()").fetch_one(&mut *connection).await.unwrap().get(0);
    if version.contains("MariaDB") {
        return i64::try_from(status(connection, "Innodb_deadlocks").await).unwrap();
    }
    let sql = "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'";
    number(connection, sql).await
}

// ---- order

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

// ---- load and failure

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_dropped_lookups_do_no_harm() {
    let (database, store) = fresh().await;
    let keys: Vec<CacheKey> = (0..64).map(|i| key(format!("p:1:/{i}"))).collect();
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
    until("lookups work again", || async { store.get(key.clone()).await.is_ok() }).await;
    until("writes work again", || async {
        store.put(entry(&store, key.clone(), "z")).await.is_ok()
    })
    .await;
    assert_eq!(body(store.get(key).await.unwrap()).unwrap(), "z");
    until("the rest works again", || async { store.stats().await.is_ok() }).await;
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
    kill_the_others(&mut connection).await;
    assert_eq!(body(store.get(key.clone()).await.unwrap()).unwrap(), "x");
    store.put(entry(&store, key.clone(), "y")).await.unwrap();
    assert_eq!(body(store.get(key.clone()).await.unwrap()).unwrap(), "y");
    store.stats().await.unwrap();
    let record = LogRecord::hard(Scope::Tag(Tag::new("t")));
    for call in 0..8 {
        kill_the_others(&mut connection).await;
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

/// Closes all connections to the database `cache` except this one.
async fn kill_the_others(connection: &mut MySqlConnection) {
    let rows = sqlx::query(
        "SELECT CAST(id AS UNSIGNED) FROM information_schema.processlist \
         WHERE db = 'cache' AND id <> CONNECTION_ID()",
    );
    for row in rows.fetch_all(&mut *connection).await.unwrap() {
        // a connection may already be closed
        let kill = format!("KILL {}", row.get::<u64, _>(0));
        let _ = sqlx::raw_sql(AssertSqlSafe(kill)).execute(&mut *connection).await;
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
    until("lookups work again", || async { store.get(key.clone()).await.is_ok() }).await;
    until("writes work again", || async {
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
    until("writes work again", || async {
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

// ---- culling

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
    let since = Instant::now();
    let mut connection = database.connection().await;
    while count(&mut connection).await > 0 {
        assert!(since.elapsed() < Duration::from_secs(10), "it is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
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
    tokio::time::sleep(Duration::from_millis(50)).await;
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
    let deadline = Instant::now() + Duration::from_secs(60);
    for round in 0.. {
        let puts = (0..100).map(|i| entry(&store, key(format!("ours:1:/{round}/{i}")), "x"));
        store.put_many(puts.collect()).await.unwrap();
        // thousands of rows by now; culls keep the table near its limit, though not exactly
        let held = number(&mut connection, ours).await;
        if round > 40 && held < 1_000 {
            break;
        }
        assert!(Instant::now() < deadline, "{held} entries at a limit of 500 after {round} rounds");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("the culls have caught up", || async { store.stats().await.unwrap().culls > 10 }).await;
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
    let oldest = number(&mut connection, "SELECT CAST(MIN(born_ms) AS SIGNED) FROM cache_entries");
    let oldest = oldest.await as u64 - (now_ms - 100_000);
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

#[tokio::test]
async fn an_index_is_stored_in_addition_to_its_variants() {
    let (_database, store) = fresh().await;
    let names = vec![HeaderName::from_static("accept"), HeaderName::from_static("x-tenant")];
    let index = Stored::Variants(Arc::new(VariantIndex::new(names, vec![[1; 16]])));
    let key = key("p:1:/v");
    let put = Entry::new(key.clone(), index.clone(), store.now_ms() + HOUR);
    store.put(put).await.unwrap();
    assert_eq!(store.get(key.clone()).await.unwrap(), Some(index));
    let Stored::Response(StoredResponse { head, .. }) = response(store.now_ms(), "") else {
        return;
    };
    let expires_ms = store.now_ms() + HOUR;
    let update = HeadUpdate::new(key, head.clone(), head, expires_ms);
    let freshened = store.freshen(update).await.unwrap();
    assert!(!freshened, "there is no response to freshen");
}
