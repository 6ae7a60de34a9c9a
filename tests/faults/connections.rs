//! The server takes no more connections.

use sqlx::{Connection, MySqlConnection, Row};

use crate::kit::{Site, execute, plain_account};
use crate::support;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_too_many_connections_costs_no_answer() {
    let server = support::own_server(None).await;
    let mut root = server.connection().await;
    let url = plain_account(&mut root, server.url()).await;
    let site = Site::at(&url).await;
    site.fill("/").await;
    // the store's connections go, and others take their places
    execute(&mut root, "SET GLOBAL max_connections = 10").await;
    let ours = "SELECT CAST(id AS SIGNED) FROM information_schema.processlist WHERE user = 'app'";
    let mut others = Vec::new();
    for row in sqlx::query(ours).fetch_all(&mut root).await.unwrap() {
        execute(&mut root, format!("KILL {}", row.get::<i64, _>(0))).await;
    }
    while let Ok(other) = MySqlConnection::connect(&url).await {
        others.push(other);
        assert!(others.len() <= 10);
    }
    let answers = site.get_all((0..50).map(|n| format!("/{n}"))).await;
    assert!(answers.iter().all(|answer| !answer.hit));
    assert!(site.change("/").await.is_err(), "it cannot be done");
    assert!(MySqlConnection::connect(&url).await.is_err(), "the server is still full");
    drop(others);
    site.comes_back().await;
}
