//! A store in memory in front of the table: when hits in memory see invalidations, and what they wait for.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use http::Request;
use sqlx::{AssertSqlSafe, MySqlPool};
use tower::Layer;
use tower_mysql_cache::invalidation::Invalidation;
use tower_mysql_cache::key::CacheKey;
use tower_mysql_cache::store::{
    Admin, Entries, Entry, Fence, Lease, Store, StoreStats, Stored, VariantIndex,
};
use tower_mysql_cache::{
    CacheHandle, CacheLayer, CacheOverride, CachePolicy, MemoryStore, MySqlStore, StoreError,
    Tiered,
};

use crate::kit::{self, Answer, gated, get, patient, request, response, send};
use crate::support::{self, TestDatabase, eventually};

const HOUR: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(3600));
/// So long that no scheduled read of the log happens during a test.
const SELDOM: Duration = Duration::from_secs(60);

type Service = kit::App<std::io::Error>;
type Front = Tiered<MemoryStore, MySqlStore>;

/// One process with `Tiered` and its defaults. `GET /v` shows a version. `POST` increments it and writes a log row by
/// plain SQL. `POST /fails` is answered 500, `POST /breaks` with an error of the service.
struct Process {
    pool: MySqlPool,
    layer: CacheLayer<Front>,
    store: MySqlStore,
    version: Arc<AtomicUsize>,
}

impl Process {
    async fn new(database: &TestDatabase, poll_interval: Duration) -> Self {
        let builder = MySqlStore::builder(database.url()).unwrap().background_cull(false);
        let store = builder.poll_interval(poll_interval).connect().await.unwrap();
        store.migrate().await.unwrap();
        let front = Tiered::new(MemoryStore::new(), store.clone());
        let layer = patient(front);
        let pool = MySqlPool::connect(database.url()).await.unwrap();
        Self { pool, layer: layer.with_policy(HOUR), store, version: Arc::default() }
    }

    fn service(&self) -> Service {
        self.service_with(HOUR)
    }

    fn service_with(&self, policy: CachePolicy) -> Service {
        let (pool, version) = (self.pool.clone(), Arc::clone(&self.version));
        let layer = self.layer.clone().with_policy(policy);
        Service::new(layer.layer(tower::service_fn(move |request: Request<()>| {
            let (pool, version) = (pool.clone(), Arc::clone(&version));
            async move {
                if request.method() == "GET" {
                    let shown = version.load(Ordering::SeqCst).to_string();
                    let mut answer = response(200, &[], &shown);
                    answer.extensions_mut().insert(CacheOverride::new().tags(["v"]));
                    return Ok(answer);
                }
                commit(&pool, &version).await;
                match request.uri().path() {
                    "/fails" => Ok(response(500, &[], "")),
                    "/breaks" => Err(std::io::Error::other("broken")),
                    _ => Ok(response(303, &[], "")),
                }
            }
        })))
    }

    fn handle(&self) -> CacheHandle {
        self.layer.handle()
    }

    async fn stats(&self) -> StoreStats {
        self.store.stats().await.unwrap()
    }

    /// Requests the page until a hit comes from memory.
    async fn warm(&self, service: &Service) {
        send_to(service, get("http://h/v", &[])).await;
        self.handle().flush().await.unwrap();
        self.handle().sync().await.unwrap();
        assert!(send_to(service, get("http://h/v", &[])).await.is_hit());
    }
}

/// Increments the version, and writes the log row as any other driver would.
async fn commit(pool: &MySqlPool, version: &AtomicUsize) {
    let mut tx = pool.begin().await.unwrap();
    let insert = "INSERT INTO cache_invalidations (tag) VALUES ('v')";
    sqlx::query(insert).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    version.fetch_add(1, Ordering::SeqCst);
}

async fn send_to(service: &Service, request: Request<()>) -> Answer {
    let answer = tower::ServiceExt::oneshot(service.clone(), request).await;
    Answer::of(answer.expect("an answer")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_sql_in_a_write_request_affects_the_next_hit() {
    let database = support::database().await;
    let app = Process::new(&database, SELDOM).await;
    let (reads, writes) = (app.service(), app.service_with(CachePolicy::bypass()));
    app.warm(&reads).await;
    let mut stale = 0;
    for round in 0..200 {
        // with any policy, and however the request ends
        let service = if round % 2 == 0 { &reads } else { &writes };
        let path = ["/elsewhere", "/fails", "/breaks"][round % 3];
        let post = request("POST", &format!("http://h{path}"), &[]);
        let _ = tower::ServiceExt::oneshot(service.clone(), post).await;
        let shown = send_to(&reads, get("http://h/v", &[])).await;
        let version = app.version.load(Ordering::SeqCst).to_string();
        stale += usize::from(shown.text() != version);
    }
    assert_eq!(stale, 0, "of 200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_write_request_affects_the_next_hit() {
    let database = support::database().await;
    let app = Process::new(&database, SELDOM).await;
    let service = app.service();
    app.warm(&service).await;
    let (pool, version) = (app.pool.clone(), Arc::clone(&app.version));
    let (committed, is_committed) = tokio::sync::oneshot::channel();
    let committed = Arc::new(std::sync::Mutex::new(Some(committed)));
    let never = app.layer.layer(tower::service_fn(move |_: Request<()>| {
        let (pool, version) = (pool.clone(), Arc::clone(&version));
        let committed = committed.lock().unwrap().take();
        async move {
            commit(&pool, &version).await;
            committed.unwrap().send(()).unwrap();
            std::future::pending::<()>().await;
            Ok::<_, Infallible>(response(200, &[], ""))
        }
    }));
    let post = request("POST", "http://h/elsewhere", &[]);
    let writing = tokio::spawn(tower::ServiceExt::oneshot(never, post));
    is_committed.await.unwrap();
    writing.abort();
    assert!(writing.await.is_err());
    assert_eq!(send_to(&service, get("http://h/v", &[])).await.text(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_burst_of_writes_the_log_is_read_once() {
    let database = support::database().await;
    let app = Process::new(&database, SELDOM).await;
    let service = app.service();
    app.warm(&service).await;
    // a write that is answered 404 invalidates nothing
    let silent = app.layer.layer(tower::service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(response(404, &[], ""))
    }));
    for _ in 0..100 {
        send(&silent, request("POST", "http://h/x", &[])).await;
    }
    let before = app.stats().await.log_reads;
    for _ in 0..100 {
        assert!(send_to(&service, get("http://h/v", &[])).await.is_hit());
    }
    assert_eq!(app.stats().await.log_reads - before, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_sync_hits_see_commits_of_other_connections() {
    let database = support::database().await;
    let app = Process::new(&database, SELDOM).await;
    let service = app.service();
    app.warm(&service).await;
    commit(&app.pool, &app.version).await;
    app.handle().sync().await.unwrap();
    assert_eq!(send_to(&service, get("http://h/v", &[])).await.text(), "1");
    app.store.close().await;
    assert!(matches!(app.handle().sync().await, Err(StoreError::Closed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_for_other_drivers_invalidate() {
    let database = support::database().await;
    let app = Process::new(&database, SELDOM).await;
    let (service, handle) = (app.service(), app.handle());
    let all_bytes: Vec<u8> = (0..=254).collect();
    for wanted in [
        Invalidation::tags([b"v".to_vec(), all_bytes]).reason("it's \u{e9} \"?\""),
        Invalidation::tags((0..200).map(|n| format!("n:{n}"))).and_tags(["v"]),
        Invalidation::uri("/v"),
        Invalidation::path("/"),
        Invalidation::all(),
    ] {
        app.warm(&service).await;
        for statement in handle.to_sql(&wanted).unwrap() {
            assert!(statement.values.len() <= 128, "short lists");
            let mut query = sqlx::query(AssertSqlSafe(statement.text));
            for value in statement.values {
                query = query.bind(value);
            }
            query.execute(&app.pool).await.unwrap();
        }
        handle.sync().await.unwrap();
        let answer = send_to(&service, get("http://h/v", &[])).await;
        assert!(!answer.is_hit(), "{wanted:?}");
    }
    let rows = handle.invalidations(1_000).await.unwrap();
    assert_eq!(rows.len(), 2 + 201 + 3);
    assert_eq!(rows.last().unwrap().reason.as_deref(), Some("it's \u{e9} \"?\""));
    assert!(handle.to_sql(&Invalidation::tags([""])).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hits_in_memory_do_not_wait_for_the_database() {
    let database = support::database().await;
    // half of this time is the tolerance for late reads on a busy machine
    let app = Process::new(&database, Duration::from_millis(800)).await;
    let service = app.service();
    app.warm(&service).await;
    let before = app.stats().await;
    eventually("the log has been read four times", async || {
        assert!(send_to(&service, get("http://h/v", &[])).await.is_hit());
        app.stats().await.log_reads >= before.log_reads + 4
    })
    .await;
    assert_eq!(app.stats().await.log_waits, before.log_waits);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_write_reaches_the_front_after_the_back() {
    let database = support::database().await;
    let app = Process::new(&database, SELDOM).await;
    let memory = MemoryStore::new();
    let front = Tiered::new(memory.clone(), app.store.clone());
    let key = CacheKey::new("test:1:/slow http://h");
    let stored = Stored::Variants(Arc::new(VariantIndex::default()));
    let entry = Entry::new(key.clone(), stored, u64::MAX >> 1);
    let is_in_front = async || memory.get(key.clone()).await.unwrap().is_some();
    let lease = async |time| match front.leases().lease(&key, time).await {
        Ok(Lease::Granted(number)) => Some(Fence::new(key.clone(), number)),
        _ => None,
    };
    let first = lease(Duration::from_millis(1)).await.unwrap();
    let second = loop {
        if let Some(fence) = lease(Duration::from_secs(60)).await {
            break fence;
        }
    };
    // dropped half way
    let mut writing = Box::pin(front.put_fenced(vec![entry.clone()], &second));
    let mut nobody = Context::from_waker(Waker::noop());
    assert!(writing.as_mut().poll(&mut nobody).is_pending());
    assert!(!is_in_front().await, "while it is being written");
    drop(writing);
    assert!(!front.put_fenced(vec![entry.clone()], &first).await.unwrap());
    assert!(!is_in_front().await, "another process has the lease");
    assert!(front.put_fenced(vec![entry.clone()], &second).await.unwrap());
    assert!(is_in_front().await);
    app.store.close().await;
    assert!(front.put_fenced(vec![entry], &second).await.is_err());
    assert!(!is_in_front().await, "what is behind is not known");
}

/// The handler of the other process has read the data before the erasure, and its response is stored after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_stored_during_an_erasure_is_not_served() {
    let database = support::database().await;
    let one = Process::new(&database, SELDOM).await;
    let two = Process::new(&database, SELDOM).await;
    let (slow, _, gate) =
        gated(&one.layer, |_, _| Ok(response(200, &[("etag", "\"1\"")], "personal data")));
    let filling = tokio::spawn(async move { send(&slow, get("http://h/me", &[])).await });
    gate.arrival().await;
    two.handle().erase_uri("http://h/me").await.unwrap();
    gate.let_pass(1);
    assert!(filling.await.unwrap().cache().is_stored());
    one.handle().flush().await.unwrap();
    let rows = async || {
        let rows = "SELECT COUNT(*) FROM cache_entries WHERE INSTR(cache_key, '/me') > 0";
        sqlx::query_scalar::<_, i64>(rows).fetch_one(&one.pool).await.unwrap()
    };
    assert_eq!(rows().await, 1, "it was completed before its process knew");
    for app in [&one, &two] {
        app.handle().sync().await.unwrap();
        let answer = send_to(&app.service(), get("http://h/me", &[])).await;
        assert_ne!(answer.text(), "personal data");
        app.handle().flush().await.unwrap();
    }
    two.handle().erase_uri("http://h/me").await.unwrap();
    assert_eq!(rows().await, 0);
}
