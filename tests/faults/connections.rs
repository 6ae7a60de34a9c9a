//! The server accepts no more connections, or its connections have other settings.

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use sqlx::{Connection, MySqlConnection, Row};
use tower::{Layer, ServiceExt};
use tower_mysql_cache::{CacheLayer, CacheOverride, CachePolicy, CacheStatus, MySqlStore};

use crate::kit::{Site, plain_account};
use crate::support::{self, eventually, execute, number};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_too_many_connections_fails_no_request() {
    let server = support::own_server(None).await;
    let mut root = server.connection().await;
    let url = plain_account(&mut root, server.url()).await;
    let site = Site::at(&url).await;
    site.fill("/").await;
    // the store's connections are closed, and other clients take their places
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

/// Like in a cluster whose nodes use different ids.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_skips_ids_loses_no_invalidation() {
    let server = support::own_server(None).await;
    let mut root = server.connection().await;
    execute(&mut root, "SET GLOBAL auto_increment_increment = 7, GLOBAL auto_increment_offset = 3")
        .await;
    let mut connection = server.connection().await;
    let store = MySqlStore::builder(server.url()).unwrap().gap_grace(Duration::from_secs(1));
    let store = store.connect().await.unwrap();
    store.migrate().await.unwrap();
    let policy = CachePolicy::new().ttl(Duration::from_secs(60));
    let layer = CacheLayer::new(store.clone()).prefix("site").with_policy(policy);
    let app = layer.layer(tower::service_fn(|request: Request<()>| async move {
        let mut response = Response::new(Full::new(bytes::Bytes::from("x")));
        let tag = CacheOverride::new().tags([request.uri().path().to_owned()]);
        response.extensions_mut().insert(tag);
        Ok::<_, Infallible>(response)
    }));
    let hit = async |page: &str| {
        let request = Request::get(page).body(()).unwrap();
        let (parts, body) = app.clone().oneshot(request).await.unwrap().into_parts();
        body.collect().await.unwrap();
        parts.extensions.get::<CacheStatus>().unwrap().is_hit()
    };
    let pages: Vec<_> = (0..20).map(|n| format!("/{n}")).collect();
    let handle = layer.handle();
    for in_transaction in [false, true, false, true] {
        for page in &pages {
            hit(page).await;
        }
        handle.flush().await.unwrap();
        for page in &pages {
            assert!(hit(page).await, "{page}");
        }
        if in_transaction {
            let mut transaction = connection.begin().await.unwrap();
            handle.invalidate_tags_on(&mut transaction, pages.clone()).await.unwrap();
            transaction.commit().await.unwrap();
        } else {
            handle.invalidate_tags(pages.clone()).await.unwrap();
        }
        for page in &pages {
            assert!(!hit(page).await, "{page}, in a transaction: {in_transaction}");
        }
        // the store waits for no row any more: a response stored after the gaps were closed is served
        for page in &pages {
            eventually("it is stored and holds", async || hit(page).await).await;
        }
    }
    let others = "SELECT COUNT(*) FROM cache_invalidations WHERE id % 7 <> 3";
    assert_eq!(number(&mut root, others).await, 0);
    store.close().await;
}
