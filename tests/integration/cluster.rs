//! Request collapsing in all processes that share a database: one call of the handler for many requests.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, Row};
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceExt};
use tower_mysql_cache::key::CacheKey;
use tower_mysql_cache::policy::Collapse;
use tower_mysql_cache::service::CacheBody;
use tower_mysql_cache::store::{
    Admin, Entries, Entry, Fence, Lease, Leases, Store, Stored, StoredHead, StoredResponse,
};
use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore, MySqlStore, Tiered};

use crate::kit::{Answer, Calls, get, response, send};
use crate::support::{self, TestDatabase};

const SECOND: Duration = Duration::from_secs(1);
const CLUSTER: CachePolicy = CachePolicy::new().collapse(Collapse::Cluster);
const FRESH: (&str, &str) = ("cache-control", "max-age=60");

async fn migrated() -> TestDatabase {
    let database = support::database().await;
    store(&database).await.migrate().await.expect("migrates");
    database
}

/// The store of another process.
async fn store(database: &TestDatabase) -> MySqlStore {
    let builder = MySqlStore::builder(database.url()).expect("a URL").background_cull(false);
    builder.connect().await.expect("connects")
}

fn layer<St: Store>(store: St, policy: CachePolicy) -> CacheLayer<St> {
    // so that slow machines do not fail these tests
    CacheLayer::new(store).prefix("test").store_timeout(5 * SECOND).with_policy(policy)
}

/// An application whose handler needs a permit for each call.
fn app<St: Store>(
    layer: &CacheLayer<St>,
    calls: &Calls,
    gate: &Arc<Semaphore>,
    answer: impl Fn(usize) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
) -> impl Service<
    Request<()>,
    Response = Response<CacheBody<Full<Bytes>>>,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static {
    let (calls, gate) = (calls.clone(), Arc::clone(gate));
    layer.layer(tower::service_fn(move |_: Request<()>| {
        let (gate, answer, call) = (Arc::clone(&gate), answer.clone(), calls.add());
        async move {
            gate.acquire().await.expect("open").forget();
            Ok(answer(call))
        }
    }))
}

fn gate(permits: usize) -> (Calls, Arc<Semaphore>) {
    (Calls::default(), Arc::new(Semaphore::new(permits)))
}

fn start<S>(app: &S, count: usize) -> Vec<tokio::task::JoinHandle<Answer>>
where
    S: Service<
            Request<()>,
            Response = Response<CacheBody<Full<Bytes>>>,
            Error = std::convert::Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static,
{
    (0..count)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { Answer::of(app.oneshot(get("/", &[])).await.unwrap()).await })
        })
        .collect()
}

async fn answers(waiting: Vec<tokio::task::JoinHandle<Answer>>) -> Vec<Answer> {
    let all = tokio::time::timeout(60 * SECOND, join_all(waiting)).await.expect("no request hangs");
    all.into_iter().map(Result::unwrap).collect()
}

/// Waits until a condition holds.
async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + 20 * SECOND;
    while !reached().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn number(connection: &mut MySqlConnection, query: &str) -> i64 {
    let query = sqlx::query_scalar(AssertSqlSafe(query.to_owned()));
    query.fetch_one(connection).await.expect("a number")
}

fn entry(key: &CacheKey, now_ms: u64, body: &'static [u8]) -> Entry {
    let mut head = StoredHead::new(StatusCode::OK, HeaderMap::new(), now_ms);
    head.fresh_until_ms = now_ms + 60_000;
    let response = StoredResponse::new(head, Bytes::from_static(body));
    Entry::new(key.clone(), Stored::Response(response), now_ms + 60_000)
}

async fn body<St: Store>(store: &St, key: &CacheKey) -> Option<Bytes> {
    match store.get(key.clone()).await.expect("an answer") {
        Some(Stored::Response(response)) => Some(response.body),
        _ => None,
    }
}

fn granted(lease: Lease) -> u64 {
    let Lease::Granted(number) = lease else { panic!("{lease:?}") };
    number
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_of_three_processes_cause_one_handler_call() {
    let database = migrated().await;
    let (calls, gate) = gate(0);
    let (mut layers, mut waiting) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let layer = layer(store(&database).await, CLUSTER.collapse_wait(30 * SECOND));
        let app = app(&layer, &calls, &gate, |_| response(200, &[FRESH], "hello"));
        waiting.extend(start(&app, 100));
        layers.push(layer);
    }
    until("the others are denied", async || {
        layers.iter().map(|layer| layer.handle().counts().lease_waits).sum::<u64>() >= 6
    })
    .await;
    assert_eq!(calls.count(), 1);
    gate.add_permits(300);
    let answers = answers(waiting).await;
    assert_eq!(calls.count(), 1);
    assert!(answers.iter().all(|answer| answer.text() == "hello"));
    let counts: Vec<_> = layers.iter().map(|layer| layer.handle().counts()).collect();
    assert_eq!(counts.iter().map(|counts| counts.misses).sum::<u64>(), 1);
    assert_eq!(counts.iter().map(|counts| counts.collapse_timeouts).sum::<u64>(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unshareable_response_releases_followers_everywhere() {
    let database = migrated().await;
    let (calls, gate) = gate(0);
    let (mut layers, mut waiting) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let layer = layer(store(&database).await, CLUSTER.collapse_wait(30 * SECOND));
        let private =
            |call: usize| response(200, &[("cache-control", "private")], &call.to_string());
        waiting.extend(start(&app(&layer, &calls, &gate, private), 10));
        layers.push(layer);
    }
    until("the others are denied", async || {
        layers.iter().map(|layer| layer.handle().counts().lease_waits).sum::<u64>() >= 2
    })
    .await;
    assert_eq!(calls.count(), 1);
    gate.add_permits(1);
    until("the handler runs for all of them", async || calls.count() == 30).await;
    gate.add_permits(29);
    let mut seen: Vec<usize> =
        answers(waiting).await.iter().map(|answer| answer.text().parse().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..=30).collect::<Vec<_>>(), "each got its own");
    // a process that does not know of it yet does not wait either
    let other = layer(store(&database).await, CLUSTER);
    gate.add_permits(1);
    let app = self::app(&other, &calls, &gate, |_| response(200, &[FRESH], "x"));
    let answer = send(&app, get("/", &[]));
    assert_eq!(answer.await.text(), "x");
    assert_eq!(other.handle().counts().leases, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_handler_is_called_twice_per_process() {
    let database = migrated().await;
    let (calls, gate) = gate(0);
    let (mut layers, mut apps, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
    let is_up = Arc::new(AtomicBool::new(false));
    for _ in 0..3 {
        let layer = layer(store(&database).await, CLUSTER.collapse_wait(30 * SECOND));
        let up = Arc::clone(&is_up);
        let app = app(&layer, &calls, &gate, move |_| match up.load(Ordering::SeqCst) {
            false => response(503, &[], "down"),
            true => response(200, &[FRESH], "up"),
        });
        waiting.extend(start(&app, 10));
        apps.push(app);
        layers.push(layer);
    }
    until("the others are denied", async || {
        layers.iter().map(|layer| layer.handle().counts().lease_waits).sum::<u64>() >= 2
    })
    .await;
    assert_eq!(calls.count(), 1);
    gate.add_permits(200);
    assert!(answers(waiting).await.iter().all(|answer| answer.text() == "down"));
    let before = calls.count();
    assert!(before <= 12, "{before} calls");
    // the key is not marked as unshareable
    is_up.store(true, Ordering::SeqCst);
    let waiting: Vec<_> = apps.iter().flat_map(|app| start(app, 10)).collect();
    assert!(answers(waiting).await.iter().all(|answer| answer.text() == "up"));
    assert_eq!(calls.count() - before, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_gets_the_response_of_another_process() {
    let database = migrated().await;
    let policy = CLUSTER.lease(SECOND).collapse_wait(30 * SECOND);
    let slow = layer(store(&database).await, policy);
    let body = || {
        // a client that does not read an endless body
        let stream = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
        Response::builder()
            .header(FRESH.0, FRESH.1)
            .header("content-length", "3")
            .body(StreamBody::new(stream))
    };
    let calls = Calls::default();
    let counted = calls.clone();
    let first = slow.layer(tower::service_fn(move |_: Request<()>| {
        counted.add();
        async move { Ok::<_, Infallible>(body().unwrap()) }
    }));
    let _leads = first.clone().oneshot(get("/", &[])).await.unwrap();
    let (others, gate) = gate(0);
    let other = layer(store(&database).await, policy);
    let second = app(&other, &others, &gate, |_| response(200, &[FRESH], "new"));
    let waiting = start(&second, 1);
    until("the lease has passed on", async || others.count() == 1).await;
    let follower = tokio::spawn(async move { send(&first, get("/", &[])).await });
    until("it is denied", async || slow.handle().counts().lease_waits > 0).await;
    gate.add_permits(1);
    assert_eq!(answers(waiting).await[0].text(), "new");
    let answer = tokio::time::timeout(20 * SECOND, follower).await.expect("soon").unwrap();
    assert_eq!((answer.text(), calls.count() + others.count()), ("new", 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_anonymous_clients_have_separate_leases() {
    let database = migrated().await;
    let (calls, gate) = gate(0);
    let policy = CLUSTER.cookies(tower_mysql_cache::Cookies::Bypass).collapse_wait(30 * SECOND);
    let (one, two) = (layer(store(&database).await, policy), layer(store(&database).await, policy));
    let who = |layer: &CacheLayer<MySqlStore>| {
        let (calls, gate) = (calls.clone(), Arc::clone(&gate));
        layer.layer(tower::service_fn(move |request: Request<()>| {
            let who = request.headers().get("cookie").map_or("all", |who| who.to_str().unwrap());
            let answer = response(200, &[FRESH], who);
            let gate = Arc::clone(&gate);
            calls.add();
            async move {
                gate.acquire().await.expect("open").forget();
                Ok::<_, std::convert::Infallible>(answer)
            }
        }))
    };
    let (first, second) = (who(&one), who(&two));
    let ask = |app: &_, cookie: Option<String>| {
        let app = Clone::clone(app);
        tokio::spawn(async move {
            let cookie = cookie.as_deref().map(|cookie| ("cookie", cookie));
            send(&app, get("/", cookie.as_slice())).await
        })
    };
    let mut waiting = vec![ask(&first, Some("s=1".to_owned()))];
    until("the handler is called", async || calls.count() == 1).await;
    // the public page does not wait for it
    waiting.push(ask(&second, None));
    until("both handlers are called", async || calls.count() == 2).await;
    waiting.push(ask(&second, Some("s=2".to_owned())));
    waiting.push(ask(&first, None));
    gate.add_permits(100);
    let texts: Vec<String> =
        answers(waiting).await.iter().map(|answer| answer.text().to_owned()).collect();
    assert_eq!(texts, ["s=1", "all", "s=2", "all"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_refreshes_a_page_that_all_serve_stale() {
    let database = migrated().await;
    let (calls, gate) = gate(1);
    let policy = CLUSTER.stale_while_revalidate(60 * SECOND);
    let (mut layers, mut apps) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let layer = layer(store(&database).await, policy);
        let stale = ("cache-control", "max-age=1");
        apps.push(app(&layer, &calls, &gate, move |call| {
            response(200, &[stale], &call.to_string())
        }));
        layers.push(layer);
    }
    send(&apps[0], get("/", &[])).await;
    layers[0].handle().flush().await.unwrap();
    let first = calls.count();
    tokio::time::sleep(SECOND * 3 / 2).await;
    for app in apps.iter().chain(&apps) {
        let answer = send(app, get("/", &[])).await;
        assert!(answer.is_hit(), "{:?}", answer.cache);
    }
    until("one has the lease, the others know", async || {
        let counts = layers.iter().map(|layer| layer.handle().counts());
        counts.map(|counts| counts.lease_waits).sum::<u64>() >= 2
    })
    .await;
    assert_eq!(calls.count(), first + 1, "one refresh for all");
    gate.add_permits(10);
    until("all serve what is new", async || {
        let mut texts = Vec::new();
        for app in &apps {
            texts.push(send(app, get("/", &[])).await.text().to_owned());
        }
        texts.iter().all(|text| *text != first.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leaders_lease_ends_and_another_process_leads() {
    let database = migrated().await;
    let policy = CLUSTER.lease(2 * SECOND).collapse_wait(30 * SECOND);
    let (calls, hangs) = gate(0);
    let dead = store(&database).await;
    let first = app(&layer(dead.clone(), policy), &calls, &hangs, |_| response(200, &[FRESH], "?"));
    let leading = start(&first, 1);
    until("the handler is called", async || calls.count() == 1).await;
    // it can no longer give its lease back
    dead.close().await;
    let other = layer(store(&database).await, policy);
    let began = Instant::now();
    let (calls, gate) = gate(1);
    let second = app(&other, &calls, &gate, |_| response(200, &[FRESH], "hello"));
    let answers = answers(start(&second, 20)).await;
    assert!(answers.iter().all(|answer| answer.text() == "hello"));
    assert_eq!(calls.count(), 1);
    let waited = began.elapsed();
    assert!(waited < 15 * SECOND, "{waited:?}");
    assert!(other.handle().counts().lease_waits > 0);
    leading.iter().for_each(|task| task.abort());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_leader_does_not_replace_a_newer_response() {
    let database = migrated().await;
    let policy = CLUSTER.lease(SECOND).collapse_wait(30 * SECOND);
    let slow = layer(store(&database).await, policy);
    let (calls, paused) = gate(0);
    let waiting = start(&app(&slow, &calls, &paused, |_| response(200, &[FRESH], "old")), 1);
    until("the handler is called", async || calls.count() == 1).await;
    let quick = layer(store(&database).await, policy);
    let (_, free) = gate(1);
    let app = self::app(&quick, &calls, &free, |_| response(200, &[FRESH], "new"));
    let answer = send(&app, get("/", &[]));
    assert_eq!(answer.await.text(), "new");
    quick.handle().flush().await.unwrap();
    paused.add_permits(1);
    let answers = answers(waiting).await;
    assert_eq!((answers[0].text(), answers[0].cache.is_stored()), ("old", false));
    slow.handle().flush().await.unwrap();
    assert_eq!(slow.handle().counts().leases_lost, 1);
    assert_eq!(slow.handle().reasons().get("lease-lost"), Some(&1));
    let third = layer(store(&database).await, policy);
    let (_, shut) = gate(0);
    let app = self::app(&third, &calls, &shut, |_| response(200, &[FRESH], "?"));
    let answer = send(&app, get("/", &[]));
    let answer = answer.await;
    assert!(answer.is_hit());
    assert_eq!(answer.text(), "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_lease_table_each_process_calls_the_handler() {
    let database = migrated().await;
    let mut connection = database.connection().await;
    sqlx::raw_sql("DROP TABLE cache_leases").execute(&mut connection).await.unwrap();
    let (calls, gate) = gate(0);
    let (mut layers, mut waiting) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let layer = layer(store(&database).await, CLUSTER);
        let app = app(&layer, &calls, &gate, |_| response(200, &[FRESH], "hello"));
        waiting.extend(start(&app, 10));
        layers.push(layer);
    }
    until("both handlers are called", async || calls.count() == 2).await;
    gate.add_permits(100);
    let answers = answers(waiting).await;
    assert!(answers.iter().all(|answer| answer.text() == "hello"));
    let said = |answer: &&Answer| {
        answer.cache.reason().map(|reason| reason.as_str()) == Some("lease-error")
    };
    assert_eq!(answers.iter().filter(said).count(), 2);
    for layer in &layers {
        layer.handle().flush().await.unwrap();
        let counts = layer.handle().counts();
        assert_eq!((counts.lease_errors, counts.flights, counts.stored), (1, 1, 1));
    }
    assert_eq!(calls.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_lease_row_costs_only_store_timeout() {
    let database = migrated().await;
    let first = layer(store(&database).await, CLUSTER).store_timeout(SECOND / 4);
    let (calls, gate) = gate(100);
    let app = app(&first, &calls, &gate, |_| response(200, &[("cache-control", "max-age=0")], "x"));
    assert_eq!(send(&app, get("/", &[])).await.text(), "x");
    let mut connection = database.connection().await;
    until("there is a row", async || {
        number(&mut connection, "SELECT COUNT(*) FROM cache_leases").await == 1
    })
    .await;
    let mut transaction = connection.begin().await.unwrap();
    let lock = "SELECT * FROM cache_leases FOR UPDATE";
    sqlx::query(lock).fetch_all(&mut *transaction).await.unwrap();
    let second = layer(store(&database).await, CLUSTER).store_timeout(SECOND / 4);
    let other = self::app(&second, &calls, &gate, |_| response(200, &[FRESH], "y"));
    let answer = send(&other, get("/", &[])).await;
    assert_eq!(answer.text(), "y");
    assert_eq!(second.handle().counts().lease_errors, 1);
    transaction.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_cluster_no_statement_uses_the_lease_table() {
    let server = support::own_server(None).await;
    let store = MySqlStore::builder(server.url()).unwrap();
    let store = store.idle_cull_interval(SECOND / 20).connect().await.unwrap();
    store.migrate().await.unwrap();
    let mut connection = server.connection().await;
    let log = "SET GLOBAL log_output = 'TABLE'; SET GLOBAL general_log = 1";
    sqlx::raw_sql(log).execute(&mut connection).await.unwrap();
    // except this one
    let said = "SELECT COUNT(*) FROM mysql.general_log WHERE CONVERT(argument USING utf8mb4) \
                LIKE '%`cache\\_leases`%' AND CONVERT(argument USING utf8mb4) NOT LIKE '%general%'";
    for (policy, touches) in [(CLUSTER.collapse(Collapse::Process), false), (CLUSTER, true)] {
        let prefix = if touches { "on" } else { "off" };
        let layer = layer(store.clone(), policy).prefix(prefix);
        let (calls, gate) = gate(100);
        let app = app(&layer, &calls, &gate, |_| response(200, &[FRESH], "hello"));
        answers(start(&app, 10)).await;
        layer.handle().flush().await.unwrap();
        assert_eq!(calls.count(), 1);
        let culls = store.stats().await.unwrap().culls;
        until("it culls", async || store.stats().await.unwrap().culls > culls + 1).await;
        let all = number(&mut connection, "SELECT COUNT(*) FROM mysql.general_log").await;
        assert!(all > 5, "the server writes its log");
        assert_eq!(number(&mut connection, said).await > 0, touches);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_has_one_holder_and_its_fences_grow() {
    let database = migrated().await;
    let (one, two) = (store(&database).await, store(&database).await);
    let key = CacheKey::new("test:1:/");
    let long = 60 * SECOND;
    let first = granted(one.lease(&key, long).await.unwrap());
    assert_eq!(two.lease(&key, long).await.unwrap(), Lease::Held);
    assert_eq!(one.lease(&key, long).await.unwrap(), Lease::Held, "not even to itself");
    granted(two.lease(&CacheKey::new("test:1:/other"), long).await.unwrap());
    let fence = |number| Fence::new(key.clone(), number);
    two.release(&fence(first + 1), None).await.unwrap();
    assert_eq!(two.lease(&key, long).await.unwrap(), Lease::Held, "no process gave it back");
    one.release(&fence(first), None).await.unwrap();
    let second = granted(two.lease(&key, long).await.unwrap());
    assert!(second > first);
    one.release(&fence(first), Some(long)).await.unwrap();
    assert_eq!(one.lease(&key, long).await.unwrap(), Lease::Held, "it was another's");
    two.release(&fence(second), Some(long)).await.unwrap();
    let marked = one.lease(&key, long).await.unwrap();
    let Lease::Unshareable(left) = marked else { panic!("{marked:?}") };
    assert!(left <= long && left > long / 2, "{left:?}");
    let mut connection = database.connection().await;
    let end = "UPDATE cache_leases SET until_ms = 0";
    sqlx::raw_sql(end).execute(&mut connection).await.unwrap();
    let third = granted(one.lease(&key, long).await.unwrap());
    assert!(third > second);
    let gone = "DELETE FROM cache_leases";
    sqlx::raw_sql(gone).execute(&mut connection).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(granted(one.lease(&key, long).await.unwrap()) > third, "also without the row");
}

/// Values that a clock step or an UPDATE may leave in a row. None of them blocks a lease permanently.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_lease_row_does_not_block_the_lease() {
    const MAX: u64 = u64::MAX;
    const DAY: u64 = 86_400_000;
    let database = migrated().await;
    let store = store(&database).await;
    let mut connection = database.connection().await;
    let now_ms = store.now_ms();
    let rows = [
        (7, now_ms, MAX),              // an end in the far future
        (7, now_ms, now_ms + 600_000), // granted before the clock stepped back by ten minutes
        (7, MAX, MAX),
        (7, MAX - 1, 0),
        (0, now_ms, MAX), // an endless time without sharing
        (0, now_ms, now_ms + 2 * DAY),
        (7, now_ms + DAY, 0), // given back before the clock stepped back by a day
    ];
    for (n, (owner, fence, until_ms)) in rows.into_iter().enumerate() {
        let key = CacheKey::new(format!("test:1:/{n}"));
        let insert = sqlx::query("INSERT INTO cache_leases VALUES (?, ?, ?, ?)");
        let insert = insert.bind(key.hash().to_vec()).bind(owner).bind(fence).bind(until_ms);
        insert.execute(&mut connection).await.unwrap();
        let number = granted(store.lease(&key, 10 * SECOND).await.unwrap());
        assert!(number > fence || fence >= MAX - 1, "{n}: {number}");
        assert_eq!(store.lease(&key, 10 * SECOND).await.unwrap(), Lease::Held, "{n}: by one");
        let entry = entry(&key, now_ms, b"a");
        let fence = Fence::new(key.clone(), number);
        assert!(store.put_fenced(vec![entry], &fence).await.unwrap(), "{n}: the holder writes");
        store.release(&fence, None).await.unwrap();
        granted(store.lease(&key, 10 * SECOND).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_requests_for_a_lease_one_succeeds() {
    let database = migrated().await;
    let mut stores = Vec::new();
    for _ in 0..3 {
        stores.push(store(&database).await);
    }
    for round in 0..50 {
        let key = CacheKey::new(format!("test:1:/{round}"));
        let asked = stores.iter().cycle().take(9).map(|store| store.lease(&key, 60 * SECOND));
        let got = join_all(asked).await.into_iter().map(Result::unwrap);
        assert_eq!(got.filter(|lease| *lease != Lease::Held).count(), 1, "{round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_write_succeeds_until_another_gets_the_lease() {
    let database = migrated().await;
    let (one, two) = (store(&database).await, store(&database).await);
    let front = Tiered::new(MemoryStore::new(), one.clone());
    let key = CacheKey::new("test:1:/");
    let (other, now_ms) = (CacheKey::new("test:1:/other"), one.now_ms());
    let fence = |number| Fence::new(key.clone(), number);
    // bytes that are not UTF-8
    const BYTES: &[u8] = &[0xff, 0xfe, 0, 0x80, 0xc3, 0x28];
    let first = granted(one.lease(&key, Duration::from_millis(1)).await.unwrap());
    let entries = |body| vec![entry(&key, now_ms, body), entry(&other, now_ms, body)];
    assert!(one.put_fenced(entries(BYTES), &fence(first)).await.unwrap());
    assert_eq!(body(&two, &key).await.as_deref(), Some(BYTES));
    assert_eq!(body(&two, &other).await.as_deref(), Some(BYTES));
    // the lease has ended, but no other process has got it, so the write still succeeds
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(one.put_fenced(entries(b"b"), &fence(first)).await.unwrap());
    let second = granted(two.lease(&key, 60 * SECOND).await.unwrap());
    assert!(!one.put_fenced(entries(b"c"), &fence(first)).await.unwrap());
    assert!(!front.put_fenced(entries(b"c"), &fence(first)).await.unwrap());
    assert_eq!(body(&two, &key).await.as_deref(), Some(&b"b"[..]));
    assert_eq!(body(&front, &key).await.as_deref(), Some(&b"b"[..]), "nor is it in front");
    assert!(two.put_fenced(entries(b"d"), &fence(second)).await.unwrap());
    assert!(!one.put_fenced(entries(b"e"), &fence(first)).await.unwrap());
    assert_eq!(body(&two, &other).await.as_deref(), Some(&b"d"[..]));
    // a write without a fence is not checked
    one.put_many(entries(b"f")).await.unwrap();
    assert_eq!(body(&two, &key).await.as_deref(), Some(&b"f"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_leases_that_ended_long_ago_are_deleted() {
    let database = migrated().await;
    let store = MySqlStore::builder(database.url()).unwrap();
    let store = store.idle_cull_interval(SECOND / 50).connect().await.unwrap();
    let mut connection = database.connection().await;
    let now_ms = store.now_ms();
    let rows = [
        (1_u8, 1, now_ms - 3_700_000),
        (2, 1, now_ms - 3_500_000),
        (3, 1, 5),
        (4, 1, now_ms),
        (5, now_ms, 0), // given back
        (6, now_ms - 3_700_000, 0),
        (7, 1, u64::MAX), // damaged
        (8, u64::MAX, 5),
    ];
    for (n, fence, until_ms) in rows {
        let insert = "INSERT INTO cache_leases VALUES (?, 1, ?, ?)";
        let insert = sqlx::query(insert).bind([n; 16].to_vec()).bind(fence).bind(until_ms);
        insert.execute(&mut connection).await.unwrap();
    }
    // only a store that uses leases deletes them
    let culls = store.stats().await.unwrap().culls;
    until("it culls", async || store.stats().await.unwrap().culls > culls + 1).await;
    assert_eq!(number(&mut connection, "SELECT COUNT(*) FROM cache_leases").await, 8);
    granted(store.lease(&CacheKey::new("test:1:/"), SECOND).await.unwrap());
    until("the old ones are gone", async || {
        number(&mut connection, "SELECT COUNT(*) FROM cache_leases").await == 4
    })
    .await;
    let rows = sqlx::query("SELECT key_hash FROM cache_leases").fetch_all(&mut connection);
    let rows: Vec<Vec<u8>> = rows.await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!([2, 4, 5].iter().all(|n| rows.contains(&vec![*n; 16])), "{rows:?}");
}
