//! A cached site that checks every response.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use sqlx::MySqlConnection;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};
use tower_mysql_cache::service::CacheBody;
use tower_mysql_cache::store::MySqlStoreBuilder;
use tower_mysql_cache::{
    CacheHandle, CacheLayer, CachePolicy, CacheStatus, MySqlStore, StoreError,
};

use crate::support::{PATIENCE, eventually, execute, number};

/// `store_timeout` of the sites: long enough to tell one wait from two on a busy machine.
pub(crate) const WAIT: Duration = Duration::from_secs(1);

/// How long the handler of a `/slow` page takes.
pub(crate) const SLOW: Duration = Duration::from_millis(600);

const POLICY: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(600));

type App = BoxCloneSyncService<Request<()>, Response<CacheBody<Full<Bytes>>>, Infallible>;

/// A site whose pages show the state of the data. Each change makes a new state.
#[derive(Clone)]
pub(crate) struct Site {
    app: App,
    pub(crate) handle: CacheHandle,
    pub(crate) store: MySqlStore,
    calls: Arc<AtomicUsize>,
    state: Arc<AtomicU64>,
    /// The oldest state that a page may still show: that of its last successful invalidation.
    oldest: Arc<Mutex<HashMap<String, u64>>>,
}

/// A response that was checked.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) hit: bool,
    /// Why the handler was called.
    pub(crate) detail: Option<&'static str>,
    pub(crate) took: Duration,
}

impl Site {
    pub(crate) async fn at(url: &str) -> Self {
        Self::over(builder(url)).await
    }

    pub(crate) async fn over(store: MySqlStoreBuilder) -> Self {
        let store = store.connect().await.expect("connects");
        store.migrate().await.expect("migrates");
        Self::of(store)
    }

    pub(crate) fn of(store: MySqlStore) -> Self {
        Self::queueing(store, 64 << 20)
    }

    /// A site on which at most this many bytes may wait to be written.
    pub(crate) fn queueing(store: MySqlStore, bytes: usize) -> Self {
        let layer = CacheLayer::new(store.clone()).prefix("site").store_timeout(WAIT);
        let layer = layer.queue_bytes(bytes).with_policy(POLICY);
        let (calls, state) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(1)));
        let handler = {
            let (calls, state) = (Arc::clone(&calls), Arc::clone(&state));
            move |request: Request<()>| {
                calls.fetch_add(1, Ordering::SeqCst);
                let state = match *request.method() {
                    Method::GET => state.load(Ordering::SeqCst),
                    _ => state.fetch_add(1, Ordering::SeqCst) + 1,
                };
                let body = page(request.uri().path(), state);
                let slow = request.uri().path().starts_with("/slow");
                async move {
                    // how long a handler takes is what the tests of slow pages are about
                    tokio::time::sleep(if slow { SLOW } else { Duration::ZERO }).await;
                    Ok::<_, Infallible>(Response::new(Full::from(body)))
                }
            }
        };
        let handle = layer.handle();
        let app = BoxCloneSyncService::new(layer.layer(tower::service_fn(handler)));
        Self { app, handle, store, calls, state, oldest: Arc::default() }
    }

    /// The number of calls of the handler.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn send(&self, method: Method, path: &str) -> (String, CacheStatus, Duration) {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let since = Instant::now();
        let response = self.app.clone().oneshot(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        assert_eq!(parts.status, StatusCode::OK, "{path}");
        let body = body.collect().await.expect("a whole body").to_bytes();
        let cache = parts.extensions.get::<CacheStatus>().cloned().expect("a CacheStatus");
        (String::from_utf8(body.to_vec()).expect("text"), cache, since.elapsed())
    }

    /// `GET path`. Checks that the body is right and not too old, and that the response is in time.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        let oldest = self.oldest.lock().unwrap().get(path).copied().unwrap_or(0);
        let (body, cache, took) = self.send(Method::GET, path).await;
        let state = body.lines().next().and_then(|line| line.rsplit_once(' ')?.1.parse().ok());
        let state: u64 = state.unwrap_or_else(|| panic!("{path}: not a page: {body:.80}"));
        assert!(body == page(path, state), "{path}: not the page: {body:.80}");
        assert!(
            state >= oldest,
            "{path}: state {state} is served, {oldest} is said to be the oldest"
        );
        assert!(took < WAIT * 2, "{path}: waited {took:?}");
        Answer { hit: cache.is_hit(), detail: cache.reason().map(|reason| reason.as_str()), took }
    }

    /// Several of these at the same time.
    pub(crate) async fn get_all(&self, paths: impl IntoIterator<Item = String>) -> Vec<Answer> {
        let mut tasks = tokio::task::JoinSet::new();
        for path in paths {
            let site = self.clone();
            tasks.spawn(async move { site.get(&path).await });
        }
        tasks.join_all().await
    }

    /// `PUT path`: it is answered even if its invalidation fails.
    pub(crate) async fn put(&self, path: &str) -> Duration {
        let (body, _, took) = self.send(Method::PUT, path).await;
        assert!(body.starts_with(path));
        // an invalidation is waited for, but not for long
        assert!(took < WAIT * 5, "{path}: waited {took:?}");
        took
    }

    /// Changes the data and invalidates through the handle. After a successful invalidation, no older response may be
    /// served; [`Site::get`] checks this.
    pub(crate) async fn change(&self, path: &str) -> Result<(), StoreError> {
        let state = self.state.fetch_add(1, Ordering::SeqCst) + 1;
        let invalidation = self.handle.invalidate_uri(path);
        let outcome = tokio::time::timeout(PATIENCE, invalidation).await.expect("an outcome");
        outcome?;
        self.oldest.lock().unwrap().insert(path.to_owned(), state);
        Ok(())
    }

    /// Stores a page. After this, the page is served from the table.
    pub(crate) async fn fill(&self, path: &str) {
        self.get(path).await;
        self.handle.flush().await.expect("flushes");
        assert!(self.get(path).await.hit, "{path} has been stored");
    }

    /// The same after a fault. The page is asked for again if the store did not answer in time, or if an invalidation
    /// that had no answer reached the server only now.
    pub(crate) async fn fills(&self, path: &str) {
        eventually("it is stored", async || {
            self.get(path).await;
            // after this, a hit comes from the table, not from the responses that wait to be written
            self.handle.flush().await.is_ok() && self.get(path).await.hit
        })
        .await;
    }

    /// Waits until pages are stored and served from the table again, and invalidations succeed again.
    pub(crate) async fn comes_back(&self) {
        self.fills("/back").await;
        eventually("the cache invalidates again", async || self.change("/changed").await.is_ok())
            .await;
        // an attempt that failed is made up for
        self.owes_nothing().await;
        self.fills("/changed").await;
        self.change("/changed").await.expect("is done");
        assert!(!self.get("/changed").await.hit);
    }

    /// Waits until failed invalidations are made up for.
    pub(crate) async fn owes_nothing(&self) {
        eventually("nothing is owed", async || {
            let stats = self.handle.stats().await;
            stats.is_ok_and(|stats| stats.store.owed_invalidations == 0)
        })
        .await;
    }

    /// Sends requests until the breaker is open: `requests` at a time, each of which waits at most once.
    pub(crate) async fn opens_the_breaker(&self, requests: usize) {
        let mut round = 0;
        eventually("the breaker is open", async || {
            round += 1;
            self.get_all((0..requests).map(|n| format!("/opening/{round}/{n}"))).await;
            let counts = self.handle.counts();
            counts.breaker_opened > counts.breaker_closed
        })
        .await;
    }

    /// While the breaker is open, no request waits and no request asks the store.
    pub(crate) async fn waits_for_nothing(&self, requests: usize) {
        let (before, calls, since) = (self.handle.counts(), self.calls(), Instant::now());
        for n in 0..requests {
            let answer = self.get(&format!("/unasked/{n}")).await;
            assert!(!answer.hit);
            assert_eq!(answer.detail, Some("breaker-open"));
        }
        let counts = self.handle.counts();
        assert_eq!(counts.lookups_skipped - before.lookups_skipped, requests as u64);
        assert_eq!(counts.lookup_errors, before.lookup_errors, "no request waited for a lookup");
        assert_eq!(self.calls() - calls, requests);
        // one wait for each request would take ten times as long
        assert!(since.elapsed() < WAIT * requests as u32 / 10, "{:?}", since.elapsed());
    }
}

/// A store that waits four times as long for the database as a request waits for the store, which is the default.
pub(crate) fn builder(url: &str) -> MySqlStoreBuilder {
    MySqlStore::builder(url).unwrap().query_timeout(WAIT * 4)
}

/// A page of a site. A `/large` page has two megabytes that cannot be compressed.
fn page(path: &str, state: u64) -> String {
    let mut text = format!("{path} in state {state}\n");
    let mut seed = path.bytes().fold(state, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
    let lines = if path.starts_with("/large") { 128 << 10 } else { 20 };
    for _ in 0..lines {
        // SplitMix64
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let _ = write!(text, "{:016x}", z ^ (z >> 31));
    }
    text
}

/// Waits until a statement of a store that begins like this is running in the connection's database, and is blocked.
pub(crate) async fn is_under_way(connection: &mut MySqlConnection, begins: &str) {
    // MySQL fails on the bytes in other statements; on MySQL, any statement of a store counts
    let sql = match number(connection, "VERSION() LIKE '%MariaDB%'").await {
        1 => format!(
            "SELECT CAST(COUNT(*) AS SIGNED) FROM information_schema.processlist \
             WHERE db = DATABASE() AND command = 'Execute' AND info LIKE '{begins}%' \
             AND id <> CONNECTION_ID() AND time_ms > 20"
        ),
        _ => "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_db = DATABASE() \
              AND processlist_command = 'Execute' AND processlist_id <> CONNECTION_ID()"
            .to_owned(),
    };
    eventually("a statement is under way", async || number(connection, &sql).await > 0).await;
}

/// An account without administrative rights, and the URL for it.
pub(crate) async fn plain_account(connection: &mut MySqlConnection, url: &str) -> String {
    execute(
        connection,
        "CREATE USER 'app'@'127.0.0.1' IDENTIFIED BY ''; GRANT ALL ON cache.* TO 'app'@'127.0.0.1'",
    )
    .await;
    url.replace("root@", "app@")
}
