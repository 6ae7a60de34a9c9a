//! The invalidation log on real servers: which invalidations take effect, and when.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use http::Request;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};
use tower::Layer;
use tower_mysql_cache::invalidation::{Invalidation, Scope, Tag, Validity};
use tower_mysql_cache::key::CacheKey;
use tower_mysql_cache::status::Forward;
use tower_mysql_cache::store::{
    Admin, Consistency, Entries, InvalidationLog, MySqlStoreBuilder, Store,
};
use tower_mysql_cache::{
    CacheHandle, CacheLayer, CacheOverride, CachePolicy, MemoryStore, MySqlStore, Tiered,
};

use crate::kit::{Answer, App, Calls, get, response, send, time_passes};
use crate::support::{self, TestDatabase, eventually, execute, kill_sessions, number};

const HOUR: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(3600));
const TAGGED: &str = "http://h/p/7";
/// The key of this page.
const KEY: &str = "test:1:/p/7 http://h";

/// One process of an application: `/p/<n>` has the tag `product:<n>`.
struct Node<St> {
    service: App,
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
        let service = App::new(service);
        Self { service, handle: layer.handle(), store, calls }
    }

    async fn get(&self, uri: &str) -> Answer {
        send(&self.service, get(uri, &[])).await
    }

    /// Requests the page, and waits until every process finds it.
    async fn fill(&self, uri: &str) {
        let answer = self.get(uri).await;
        assert!(!answer.is_hit() && answer.cache().is_stored(), "{:?}", answer.cache());
        self.handle.flush().await.unwrap();
    }

    async fn assert_hit(&self, uri: &str) {
        let answer = self.get(uri).await;
        assert!(answer.is_hit(), "{uri}: {:?}", answer.cache());
    }

    /// Asserts that the page is stored, and not served because of the log.
    async fn assert_refused(&self, uri: &str, detail: &str) {
        let answer = self.get(uri).await;
        let said = (answer.cache().forward(), answer.reason());
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

async fn settled(connection: &mut MySqlConnection) -> u64 {
    number(connection, "SELECT MAX(settled) FROM cache_invalidations_state").await
}

/// A transaction that is opened now is rolled back, and then the gap that it leaves in the log is closed. So the task
/// that closes gaps has seen every older gap too.
async fn a_later_gap_closes(node: &Node<MySqlStore>, database: &TestDatabase) {
    let before = node.store.stats().await.unwrap().log_gaps;
    let mut writer = database.connection().await;
    let mut tx = writer.begin().await.unwrap();
    execute(&mut tx, "INSERT INTO cache_invalidations (tag) VALUES ('rolled back')").await;
    // a row above it, so that it is a gap
    node.handle.invalidate_tags(["above"]).await.unwrap();
    let gaps = async || node.store.stats().await.unwrap().log_gaps;
    eventually("the gap is known", async || gaps().await == before + 1).await;
    tx.rollback().await.unwrap();
    eventually("it is closed", async || gaps().await == before).await;
}

async fn largest(connection: &mut MySqlConnection) -> u64 {
    number(connection, "SELECT MAX(id) FROM cache_invalidations").await
}

mod commits;
mod damage;
mod emptied;
mod gaps;
mod packets;
mod pruning;
mod tags;
mod triggers;

/// Requests the page until it is a hit. After the log was emptied, this can take until no transaction holds an id in
/// it.
async fn fill_again<St: Store>(node: &Node<St>, uri: &str) {
    eventually("it is served again", async || {
        let is_hit = node.get(uri).await.is_hit();
        node.handle.flush().await.unwrap();
        is_hit
    })
    .await;
}
