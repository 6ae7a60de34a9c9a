//! Connecting, closing, and runtimes that end.

use super::*;

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
    eventually("all rows are written", async || count(&mut connection).await == 50).await;
    no_connection_is_left(&mut connection, database.name()).await;
}

/// Waits until no other connection uses the database.
async fn no_connection_is_left(connection: &mut MySqlConnection, database: &str) {
    eventually("all are closed", async || connections(connection, database).await == 0).await;
}
