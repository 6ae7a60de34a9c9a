//! What a put writes into the server's binary log, if the server writes the text of statements there.

use std::time::Duration;

use tower_mysql_cache::store::{Fence, Lease};

use super::*;

const BODY: usize = 64 << 10;

/// Bytes of the server's binary logs.
async fn logged(connection: &mut MySqlConnection) -> u64 {
    let logs = sqlx::query("SHOW BINARY LOGS").fetch_all(connection).await.unwrap();
    logs.iter().map(|log| log.get::<u64, _>(1)).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_are_not_in_the_text_of_statements() {
    let logs_text = match &*support::engine() {
        "mysql" => "--binlog-rows-query-log-events=ON",
        _ => "--binlog-annotate-row-events=ON",
    };
    let arguments = format!("--log-bin=binlog --server-id=1 {logs_text}");
    let server = support::own_server_with(&arguments).await;
    let store = MySqlStore::builder(server.url()).unwrap().compression(Compression::Off);
    let store = store.connect().await.unwrap();
    store.migrate().await.unwrap();
    // bytes that the text of a statement would have to escape
    let body = |n: u8| (0..BODY).map(|at| (at as u8).wrapping_mul(n)).collect::<Vec<u8>>();
    let entries =
        (1..=20).map(|n| entry(&store, key(format!("t:1:/{n}")), body(n))).collect::<Vec<_>>();
    let mut connection = server.connection().await;
    let before = logged(&mut connection).await;
    store.put_many(entries).await.unwrap();
    let written = logged(&mut connection).await - before;
    assert!(written < 20 * BODY as u64 * 11 / 10, "{written} bytes for 20 bodies");

    let page = key("t:1:/page");
    let Lease::Granted(number) = store.lease(&page, Duration::from_secs(60)).await.unwrap() else {
        panic!("no other process has it");
    };
    let before = logged(&mut connection).await;
    let fenced = vec![entry(&store, page.clone(), body(21))];
    assert!(store.put_fenced(fenced, &Fence::new(page, number)).await.unwrap());
    let written = logged(&mut connection).await - before;
    assert!(written < BODY as u64 * 11 / 10, "{written} bytes for one body");

    for n in 1..=20 {
        let found = store.get(key(format!("t:1:/{n}"))).await.unwrap();
        assert!(super::body(found).as_deref() == Some(&body(n)[..]), "{n} is unchanged");
    }
    let found = store.get(key("t:1:/page")).await.unwrap();
    assert!(super::body(found).as_deref() == Some(&body(21)[..]));
}
