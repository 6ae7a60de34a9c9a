//! Open transactions with many log rows: their cost, and that none of their rows is missed. The rows and pages that
//! the server reads are counted for the whole server, so each test has its own server.

use std::fmt::Write as _;

use super::*;
use crate::support::OwnServer;

const OTHER: &str = "http://h/p/8";

/// Rows with these tags, in inserts of this many rows.
async fn insert(
    connection: &mut MySqlConnection,
    list: usize,
    tags: impl IntoIterator<Item = String>,
) {
    let mut tags = tags.into_iter().peekable();
    while tags.peek().is_some() {
        let mut sql = "INSERT INTO cache_invalidations (tag) VALUES ".to_owned();
        for (n, tag) in tags.by_ref().take(list).enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            write!(sql, "{comma}('{tag}')").unwrap();
        }
        execute(connection, &sql).await;
    }
}

/// The same row, this many times.
pub(super) async fn insert_all(connection: &mut MySqlConnection, into: &str, row: &str, rows: u64) {
    const LIST: u64 = 1_000;
    for _ in 0..rows / LIST {
        let list = vec![row; LIST as usize].join(", ");
        execute(connection, &format!("INSERT INTO {into} VALUES {list}")).await;
    }
}

/// The sum of the server's counters whose names begin like this.
async fn counted(connection: &mut MySqlConnection, name: &str) -> u64 {
    let show = format!("SHOW GLOBAL STATUS LIKE '{name}'");
    let rows: Vec<(String, String)> =
        sqlx::query_as(AssertSqlSafe(show)).fetch_all(connection).await.unwrap();
    rows.iter().map(|(_, value)| value.parse::<u64>().unwrap()).sum()
}

/// The rows and table pages that the server reads while a page is served repeatedly.
async fn cost_of_hits(node: &Node<MySqlStore>, connection: &mut MySqlConnection) -> (u64, u64) {
    const HITS: u64 = 20;
    const ROWS: &str = "Handler_read%";
    const PAGES: &str = "Innodb_buffer_pool_read_requests";
    node.assert_hit(OTHER).await;
    let before = (counted(connection, ROWS).await, counted(connection, PAGES).await);
    for _ in 0..HITS {
        node.assert_hit(OTHER).await;
    }
    // showing the counters reads rows too
    let rows = counted(connection, ROWS).await - before.0;
    (rows / HITS, (counted(connection, PAGES).await - before.1) / HITS)
}

/// Reads its log only when it is asked to, and does not close gaps.
async fn quiet_node(server: &OwnServer) -> Node<MySqlStore> {
    let seldom = Duration::from_secs(60);
    node_of(builder(server.url()).poll_interval(seldom).gap_grace(seldom)).await
}

async fn server() -> (OwnServer, Node<MySqlStore>, MySqlConnection, MySqlConnection) {
    let server = support::own_server(None).await;
    // closing gaps once a second is not counted here
    let node = quiet_node(&server).await;
    let (connection, bulk) = (server.connection().await, server.connection().await);
    node.handle.invalidate_tags(["first"]).await.unwrap();
    node.fill(TAGGED).await;
    node.fill(OTHER).await;
    (server, node, connection, bulk)
}

/// A product for each of these numbers.
fn products(numbers: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    numbers.map(|n| format!("product:{n}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hits_read_a_quiet_log_in_their_own_statement() {
    let (_server, node, mut connection, mut bulk) = server().await;
    let reads = async || node.store.stats().await.unwrap().log_reads;
    eventually("the log is quiet", async || {
        let before = reads().await;
        node.assert_hit(TAGGED).await;
        reads().await == before
    })
    .await;
    // only a statement that was slow is followed by a read
    eventually("twenty hits read the log in their own statements", async || {
        let before = reads().await;
        for _ in 0..20 {
            node.assert_hit(TAGGED).await;
        }
        reads().await == before
    })
    .await;
    // an open row, and a committed one after it
    let mut tx = bulk.begin().await.unwrap();
    insert(&mut tx, 1, ["product:7".to_owned()]).await;
    node.assert_hit(TAGGED).await;
    insert(&mut connection, 1, ["product:8".to_owned()]).await;
    node.assert_refused(OTHER, "invalidated").await;
    node.assert_hit(TAGGED).await;
    tx.commit().await.unwrap();
    node.assert_refused(TAGGED, "invalidated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_transaction_does_not_slow_reads_of_the_log() {
    let (_server, node, mut connection, mut bulk) = server().await;
    let (rows_before, pages_before) = cost_of_hits(&node, &mut connection).await;
    let mut tx = bulk.begin().await.unwrap();
    insert(&mut tx, 64, ["product:7".to_owned()].into_iter().chain(products(100..20_100))).await;
    insert(&mut connection, 500, (0..5_000).map(|n| format!("other:{n}"))).await;
    let (rows, _) = cost_of_hits(&node, &mut connection).await;
    assert!(rows <= rows_before + 50, "{rows} rows a hit, {rows_before} before");
    // ten times as many
    insert(&mut tx, 1_000, products(20_100..200_000)).await;
    insert(&mut connection, 500, (0..5_000).map(|n| format!("other:{n}"))).await;
    node.assert_hit(TAGGED).await;
    node.fill("http://h/p/9").await;
    let (rows, pages) = cost_of_hits(&node, &mut connection).await;
    assert!(rows <= rows_before + 50, "{rows} rows a hit, {rows_before} before");
    assert!(pages <= pages_before + 150, "{pages} pages a hit, {pages_before} before");
    // invalidations of others take effect meanwhile, and cause one handler call
    node.handle.invalidate_tags(["product:9"]).await.unwrap();
    node.assert_refused("http://h/p/9", "invalidated").await;
    node.handle.flush().await.unwrap();
    node.assert_hit("http://h/p/9").await;
    let two = node_of(builder(_server.url())).await;
    two.assert_hit(OTHER).await;
    tx.commit().await.unwrap();
    for each in [&node, &two] {
        assert_eq!(each.validity(TAGGED).await, Validity::Invalid);
        each.assert_hit(OTHER).await;
        each.assert_hit("http://h/p/9").await;
    }
    // the new response is invalid too, until the row is taken out of the gap
    fill_again(&node, TAGGED).await;
    fill_again(&two, TAGGED).await;
    eventually("all is settled", async || {
        let newest = largest(&mut connection).await;
        settled(&mut connection).await == newest
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alternating_transactions_hardly_slow_reads_of_the_log() {
    let (_server, node, mut connection, mut bulk) = server().await;
    let (rows_before, _) = cost_of_hits(&node, &mut connection).await;
    let mut other = _server.connection().await;
    let (mut one, mut two) = (bulk.begin().await.unwrap(), other.begin().await.unwrap());
    insert(&mut two, 1, ["product:7".to_owned()]).await;
    for n in 0..3_000 {
        insert(&mut one, 1, products(n + 100..n + 101)).await;
        insert(&mut two, 1, products(n + 100..n + 101)).await;
    }
    two.commit().await.unwrap();
    node.assert_refused(TAGGED, "invalidated").await;
    let (rows, _) = cost_of_hits(&node, &mut connection).await;
    assert!(rows <= rows_before + 1_300, "{rows} rows a hit, {rows_before} before");
    one.rollback().await.unwrap();
    node.assert_hit(OTHER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_bulk_transaction_blocks_only_its_own_tag() {
    let (_server, node, mut connection, mut bulk) = server().await;
    let (_, pages_before) = cost_of_hits(&node, &mut connection).await;
    let mut tx = bulk.begin().await.unwrap();
    insert(&mut tx, 1_000, std::iter::repeat_n("product:7".to_owned(), 100_000)).await;
    node.handle.invalidate_tags(["newer"]).await.unwrap();
    let (_, pages) = cost_of_hits(&node, &mut connection).await;
    assert!(pages <= pages_before + 150, "{pages} pages a hit, {pages_before} before");
    node.get(TAGGED).await;
    node.assert_hit(OTHER).await;
    tx.rollback().await.unwrap();
    node.handle.flush().await.unwrap();
    node.assert_hit(TAGGED).await;
    node.assert_hit(OTHER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_after_an_open_transaction_are_not_read_again() {
    let (_server, node, mut connection, mut bulk) = server().await;
    let (rows_before, _) = cost_of_hits(&node, &mut connection).await;
    let mut tx = bulk.begin().await.unwrap();
    insert(&mut tx, 1, products(100..101)).await;
    insert(&mut connection, 500, std::iter::repeat_n("product:8".to_owned(), 5_000)).await;
    // more rows than a process remembers, but not more than it reads at once
    for _ in 0..4 {
        insert(&mut connection, 1_000, std::iter::repeat_n("other".to_owned(), 20_000)).await;
        node.get(TAGGED).await;
    }
    node.assert_refused(OTHER, "invalidated").await;
    node.handle.flush().await.unwrap();
    let (rows, _) = cost_of_hits(&node, &mut connection).await;
    assert!(rows <= rows_before + 50, "{rows} rows a hit, {rows_before} before");
    tx.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outdated_response_stays_outdated_with_open_rows() {
    let (_server, node, _, mut bulk) = server().await;
    let mut tx = bulk.begin().await.unwrap();
    insert(&mut tx, 1_000, products(100..100_100)).await;
    node.handle.soft_invalidate_tags(["product:7"]).await.unwrap();
    for _ in 0..3 {
        assert_eq!(node.validity(TAGGED).await, Validity::Outdated);
        assert_eq!(node.validity(OTHER).await, Validity::Valid);
    }
    tx.commit().await.unwrap();
    for _ in 0..3 {
        assert_eq!(node.validity(TAGGED).await, Validity::Outdated);
        assert_eq!(node.validity(OTHER).await, Validity::Valid);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_rows_after_all_others_become_a_gap() {
    let (server, node, mut connection, mut bulk) = server().await;
    let (_, pages_before) = cost_of_hits(&node, &mut connection).await;
    // no process puts a row between the open ones
    node.store.close().await;
    let mut tx = bulk.begin().await.unwrap();
    insert(&mut tx, 1_000, products(1..150_000)).await;
    let node = quiet_node(&server).await;
    eventually("a row is put behind them", async || {
        node.assert_hit(TAGGED).await;
        largest(&mut connection).await > 150_000
    })
    .await;
    let (_, pages) = cost_of_hits(&node, &mut connection).await;
    assert!(pages <= pages_before + 150, "{pages} pages a hit, {pages_before} before");
    tx.commit().await.unwrap();
    node.assert_refused(TAGGED, "invalidated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn very_many_new_rows_are_read_only_in_part() {
    let (_server, node, mut connection, _) = server().await;
    insert(
        &mut connection,
        10_000,
        ["product:7".to_owned()].into_iter().chain(products(100..60_000)),
    )
    .await;
    node.assert_refused(TAGGED, "invalidated").await;
    node.handle.flush().await.unwrap();
    for uri in [TAGGED, OTHER] {
        node.assert_hit(uri).await;
    }
}

/// The query that closes gaps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locking_read_of_a_range_does_not_block_inserts() {
    let database = support::database().await;
    node(&database).await;
    let (mut reader, mut writer) = (database.connection().await, database.connection().await);
    let insert = "INSERT INTO cache_invalidations (id, tag) VALUES";
    execute(&mut writer, &format!("{insert} (10, 'a'), (20, 'a'), (30, 'a')")).await;
    execute(&mut reader, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await;
    let mut tx = reader.begin().await.unwrap();
    for range in ["1 AND 29", "5 AND 1000000"] {
        let read = format!(
            "SELECT id FROM cache_invalidations WHERE id BETWEEN {range} ORDER BY id LIMIT 2000 \
             FOR UPDATE NOWAIT"
        );
        execute(&mut tx, &read).await;
    }
    // while it holds its locks
    execute(&mut writer, "SET SESSION innodb_lock_wait_timeout = 1").await;
    execute(&mut writer, &format!("{insert} (5, 'b'), (15, 'b'), (25, 'b'), (40, 'b')")).await;
    execute(&mut writer, "INSERT INTO cache_invalidations (tag) VALUES ('b')").await;
    // if one of the rows is locked, the query fails at once
    let mut held = writer.begin().await.unwrap();
    execute(&mut held, "INSERT INTO cache_invalidations (tag) VALUES ('c')").await;
    tx.rollback().await.unwrap();
    let read = "SELECT id FROM cache_invalidations WHERE id BETWEEN 41 AND 100 FOR UPDATE NOWAIT";
    let error = sqlx::raw_sql(read).execute(&mut reader).await.unwrap_err();
    let error = error.as_database_error().unwrap().to_string();
    assert!(error.contains("1205") || error.contains("3572"), "{error}");
}
