//! Servers that accept only small statements.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_small_packet_limit_is_refused() {
    let server = support::own_server(None).await;
    let mut connection = server.connection().await;
    for bytes in [1_024, 16_384, 65_536] {
        execute(&mut connection, &format!("SET GLOBAL max_allowed_packet = {bytes}")).await;
        let error = builder(server.url()).connect().await.unwrap_err();
        assert_eq!(error.as_str(), "config");
        let error = error.to_string();
        assert!(error.contains("max_allowed_packet") && error.contains("131072"), "{error}");
        assert!(error.contains(&bytes.to_string()), "{error}");
    }
    execute(&mut connection, "SET GLOBAL max_allowed_packet = 131072").await;
    node_of(builder(server.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_long_tags_are_written_in_small_statements() {
    let server = support::own_server(None).await;
    let one = node_of(builder(server.url())).await;
    one.fill(TAGGED).await;
    let mut connection = server.connection().await;
    // new connections have this limit
    execute(&mut connection, "SET GLOBAL max_allowed_packet = 16384").await;
    let tags = || (0..150).map(|n| format!("{n:0>255}")).chain(["product:7".to_owned()]);
    let invalidation = || Invalidation::tags(tags()).reason("\u{1f980}".repeat(255));
    let mut connection = server.connection().await;
    let mut tx = connection.begin().await.unwrap();
    one.handle.invalidate_on(&mut tx, invalidation()).await.unwrap();
    one.assert_hit(TAGGED).await;
    tx.commit().await.unwrap();
    one.assert_refused(TAGGED, "invalidated").await;
    // on a connection of the store, which the first write opens
    let two = builder(server.url());
    execute(&mut connection, "SET GLOBAL max_allowed_packet = 131072").await;
    let two = Node::new(two.connect().await.unwrap());
    execute(&mut connection, "SET GLOBAL max_allowed_packet = 16384").await;
    two.handle.invalidate(invalidation()).await.unwrap();
    assert_eq!(number(&mut connection, "SELECT COUNT(*) FROM cache_invalidations").await, 302);
}
