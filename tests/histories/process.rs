//! One process of the application: a few writers, a few readers on each tier, one store.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{AssertSqlSafe, MySqlConnection, MySqlPool};
use tokio::task::JoinSet;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};
use tower_mysql_cache::policy::Collapse;
use tower_mysql_cache::service::CacheBody;
use tower_mysql_cache::store::{Consistency, Store};
use tower_mysql_cache::{
    CacheHandle, CacheLayer, CacheOverride, CachePolicy, CacheStatus, MemoryStore, MySqlStore,
    Tiered,
};

use crate::board::{Board, Count, ITEMS};
use crate::chance::Chance;
use crate::writer::Writer;

/// Items on one page of a list.
pub(crate) const PAGE: usize = 5;
/// Writers of one process.
pub(crate) const WRITERS: usize = 4;
/// Readers of one process on each tier.
const READERS: usize = 3;
pub(crate) const TIERS: [&str; 4] =
    ["database", "strict front", "bounded front", "stale when allowed"];
const BOUNDED: usize = 2;
/// Here a soft invalidation, an age and a failing handler let stale responses through, and nothing else may.
pub(crate) const STALE: usize = 3;
/// Its prefix.
const OTHER: &str = "s";
/// Calls of the handler.
static CALLS: AtomicUsize = AtomicUsize::new(0);
const POLL: Duration = Duration::from_millis(100);

pub(crate) type Service =
    BoxCloneSyncService<Request<()>, Response<CacheBody<Full<Bytes>>>, Infallible>;

/// What its tasks share.
pub(crate) struct Process {
    pub(crate) number: usize,
    pub(crate) board: Board,
    pub(crate) stop: AtomicBool,
    pub(crate) pool: MySqlPool,
    /// Versions that this process has committed through the handle of the bounded front.
    pub(crate) own: Vec<AtomicU64>,
    /// What had been published, and when that was known, oldest first.
    known: Mutex<VecDeque<(Instant, Vec<u64>)>>,
}

impl Process {
    pub(crate) async fn start(number: usize, url: &str, board: Board) -> (Arc<Self>, JoinSet<()>) {
        let pool =
            MySqlPoolOptions::new().max_connections(12).acquire_timeout(Duration::from_secs(3));
        let process = Arc::new(Self {
            number,
            board,
            stop: AtomicBool::new(false),
            pool: pool.connect_lazy(url).expect("a URL"),
            own: (0..ITEMS).map(|_| AtomicU64::new(0)).collect(),
            known: Mutex::default(),
        });
        // the bounded front has a store of its own: what others ask of the log does not bring it forward
        let (store, alone) = (connect(url).await, connect(url).await);
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&process).sample());
        let fresh = CachePolicy::new().ttl(Duration::from_secs(600));
        let stale = CachePolicy::new()
            .ttl(Duration::from_secs(1))
            .ttl_jitter(20)
            .early_refresh(1.0)
            .stale_while_revalidate(Duration::from_secs(5))
            .stale_if_error(Duration::from_secs(5))
            .handler_timeout(Duration::from_millis(12))
            .collapse(Collapse::Cluster);
        let tiered =
            |store, consistency| Tiered::new(MemoryStore::new(), store).consistency(consistency);
        let strict = tiered(store.clone(), Consistency::Strict);
        let (service, handle) = process.layer(store, "h", fresh);
        let (stale, other) = process.layer(strict.clone(), OTHER, stale);
        let (strict, _) = process.layer(strict, "h", fresh);
        let (bounded, front) = process.layer(tiered(alone, Consistency::Bounded), "h", fresh);
        let writes = bounded.clone();
        for (tier, service) in [service, strict, bounded, stale].into_iter().enumerate() {
            for reader in 0..READERS {
                let random = Chance::new(number * 100 + tier * 10 + reader);
                tasks.spawn(Arc::clone(&process).read(tier, service.clone(), random));
            }
        }
        for writer in 0..WRITERS {
            // through one handle or another: all lead to the same log
            let random = Chance::new(number * 1000 + writer);
            let place = number * WRITERS + writer;
            let (process, other) = (Arc::clone(&process), (other.clone(), writes.clone()));
            if writer % 2 == 0 {
                let handles = (handle.clone(), other.0, other.1);
                let writer = Writer::new(process, handles, false, url.to_owned(), place, random);
                tasks.spawn(writer.run());
            } else {
                let handles = (front.clone(), other.0, other.1);
                let writer = Writer::new(process, handles, true, url.to_owned(), place, random);
                tasks.spawn(writer.run());
            }
        }
        (process, tasks)
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn layer<St: Store>(
        self: &Arc<Self>,
        store: St,
        prefix: &str,
        policy: CachePolicy,
    ) -> (Service, CacheHandle) {
        let layer = CacheLayer::new(store)
            .prefix(prefix)
            .store_timeout(Duration::from_secs(5))
            .with_policy(policy);
        let (process, fails) = (Arc::clone(self), prefix == OTHER);
        let inner = tower::service_fn(move |request: Request<()>| {
            let process = Arc::clone(&process);
            async move {
                Ok::<_, Infallible>(match *request.method() {
                    Method::POST => process.write(request.uri().path()).await,
                    _ => process.handle(&request, fails).await,
                })
            }
        });
        (BoxCloneSyncService::new(layer.layer(inner)), layer.handle())
    }

    /// `POST /w/<item>-<item>...` changes these items and tells the cache by plain SQL, as an application with
    /// another driver does. Answers with `<item>:<version>` for each, and with any status.
    async fn write(&self, path: &str) -> Response<Full<Bytes>> {
        let mut random = Chance::new(CALLS.fetch_add(1, Ordering::Relaxed));
        let items = path.trim_start_matches("/w/").split('-');
        let items: Vec<usize> = items.map(|item| item.parse().expect("an item")).collect();
        let written = self.change(&items).await;
        let written: Vec<String> =
            written.iter().flatten().map(|(item, version)| format!("{item}:{version}")).collect();
        let mut response = Response::new(Full::from(written.join(",")));
        *response.status_mut() = [200, 303, 404, 500]
            .map(|status| http::StatusCode::from_u16(status).expect("a status"))
            [random.below(4) as usize];
        response
    }

    async fn change(&self, items: &[usize]) -> Result<Vec<(usize, u64)>, sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        let mut written = Vec::new();
        for &item in items {
            let insert = "INSERT INTO cache_invalidations (tag) VALUES (?)";
            sqlx::query(insert).bind(tag(item)).execute(&mut *tx).await?;
            written.push((item, raise(&mut tx, item).await?));
        }
        tx.commit().await?;
        Ok(written)
    }

    /// `/i/<item>`, or `/g/<page>`: `<item>:<version>` for each item, out of the table.
    async fn handle(&self, request: &Request<()>, fails: bool) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let mut random = Chance::new(CALLS.fetch_add(1, Ordering::Relaxed));
        let failed = || {
            let mut failed = Response::new(Full::default());
            *failed.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            failed
        };
        // handlers are slow at random: before and after they read the table
        if random.one_in(4) {
            tokio::time::sleep(Duration::from_millis(random.below(15))).await;
        }
        let items = items(path);
        let sql = format!(
            "SELECT CAST(id AS UNSIGNED), version FROM items WHERE id BETWEEN {} AND {} ORDER BY id",
            items.start,
            items.end - 1
        );
        let rows: Result<Vec<(u64, u64)>, _> =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&self.pool).await;
        let Ok(rows) = rows else { return failed() };
        if fails && random.one_in(10) {
            return failed();
        }
        if random.one_in(4) {
            tokio::time::sleep(Duration::from_millis(random.below(15))).await;
        }
        let body: Vec<String> =
            rows.iter().map(|(id, version)| format!("{id}:{version}")).collect();
        let mut response = validated(request, &rows, body.join(","));
        let tags: Vec<String> = rows.iter().map(|(id, _)| tag(*id as usize)).collect();
        response.extensions_mut().insert(CacheOverride::new().tags(tags));
        response
    }

    /// Remembers what had been published when, for the tier that may be a moment behind.
    async fn sample(self: Arc<Self>) {
        while !self.stopped() {
            let all = self.board.all();
            // known to have been published by now
            let now = Instant::now();
            {
                let mut known = self.known.lock().expect("no panic");
                known.push_back((now, all));
                while known.get(1).is_some_and(|(at, _)| now.duration_since(*at) > POLL) {
                    known.pop_front();
                }
            }
            // a sample many times in each interval
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What a request that begins now must see of an item.
    fn required(&self, tier: usize, item: usize) -> u64 {
        match tier {
            BOUNDED => {}
            STALE => return self.board.published_hard(item),
            _ => return self.board.published(item),
        }
        let now = Instant::now();
        let known = self.known.lock().expect("no panic");
        let mut old = known.iter().rev().filter(|(at, _)| now.duration_since(*at) > POLL);
        let others = old.next().map_or(0, |(_, all)| all[item]);
        others.max(self.own[item].load(Ordering::SeqCst))
    }

    async fn read(self: Arc<Self>, tier: usize, service: Service, mut random: Chance) {
        let (mut hits, mut misses) = (0, 0);
        while !self.stopped() {
            let path = match random.one_in(3) {
                true => format!("/g/{}", random.below((ITEMS / PAGE) as u64)),
                false => format!("/i/{}", random.below(ITEMS as u64)),
            };
            let required: Vec<(usize, u64)> =
                items(&path).map(|item| (item, self.required(tier, item))).collect();
            let request = Request::get(format!("http://h{path}")).body(()).expect("a request");
            let response = service.clone().oneshot(request).await.expect("an answer");
            let (parts, body) = response.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            if parts.status != http::StatusCode::OK {
                if tier != STALE {
                    self.board.count(self.number, Count::Failed, 1);
                }
                // a reader without a database does not spin
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
            let status = parts.extensions.get::<CacheStatus>().expect("a status");
            self.check(tier, status, &required, std::str::from_utf8(&body).expect("text"));
            *(if status.is_hit() { &mut hits } else { &mut misses }) += 1;
            if hits + misses >= 32 {
                self.board.count(self.number, Count::Hits(tier), hits);
                self.board.count(self.number, Count::Misses(tier), misses);
                (hits, misses) = (0, 0);
                match tier {
                    // it never needs to wait
                    BOUNDED => tokio::time::sleep(Duration::from_millis(3)).await,
                    _ => tokio::task::yield_now().await,
                }
            }
        }
    }

    fn check(&self, tier: usize, status: &CacheStatus, required: &[(usize, u64)], body: &str) {
        let shown = parse(body);
        for (item, version) in required {
            let shows = shown.iter().find(|(id, _)| id == item).map(|(_, shows)| *shows);
            if shows.is_none_or(|shows| shows < *version) {
                self.board.count(self.number, Count::Violations, 1);
                eprintln!(
                    "VIOLATION: process {}, {}: item {item} in version {shows:?}, and {version} had been \
                     committed before the request; {status:?}",
                    self.number, TIERS[tier]
                );
            }
        }
    }
}

/// The page with an `ETag`, with a `Last-Modified` alone, or with neither, by its first item; or a 304 where the
/// request has the validator. Ten versions share a second.
fn validated(request: &Request<()>, rows: &[(u64, u64)], body: String) -> Response<Full<Bytes>> {
    let item = rows.first().map_or(0, |(item, _)| *item);
    let version = rows.iter().map(|(_, version)| *version).max().unwrap_or_default();
    let second = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + version / 10);
    let (field, condition, validator) = match item % 3 {
        0 => ("etag", "if-none-match", format!("\"{body}\"")),
        1 => ("last-modified", "if-modified-since", httpdate::fmt_http_date(second)),
        _ => return Response::new(Full::from(body)),
    };
    let is_same = request.headers().get(condition).is_some_and(|asked| *asked == *validator);
    let response = Response::builder().header(field, validator);
    let response = match is_same {
        true => response.status(http::StatusCode::NOT_MODIFIED).body(Full::default()),
        false => response.body(Full::from(body)),
    };
    response.expect("a response")
}

/// Changes an item, and returns its new version.
pub(crate) async fn raise(tx: &mut MySqlConnection, item: usize) -> Result<u64, sqlx::Error> {
    let update = format!("UPDATE items SET version = version + 1 WHERE id = {item}");
    sqlx::query(AssertSqlSafe(update)).execute(&mut *tx).await?;
    let version = format!("SELECT version FROM items WHERE id = {item}");
    sqlx::query_scalar(AssertSqlSafe(version)).fetch_one(&mut *tx).await
}

/// `<item>:<version>` for each of a list of items.
pub(crate) fn parse(shown: &str) -> Vec<(usize, u64)> {
    let items = shown.split(',').filter(|item| !item.is_empty());
    let items = items.map(|item| item.split_once(':').expect("an item"));
    let number = |(id, version): (&str, &str)| {
        (id.parse().expect("an id"), version.parse().expect("a version"))
    };
    items.map(number).collect()
}

/// The items that a path shows.
fn items(path: &str) -> std::ops::Range<usize> {
    let (kind, number) = path.trim_start_matches('/').split_once('/').expect("two parts");
    let number: usize = number.parse().expect("a number");
    match kind {
        "g" => number * PAGE..(number + 1) * PAGE,
        _ => number..number + 1,
    }
}

pub(crate) fn tag(item: usize) -> String {
    format!("item:{item}")
}

/// Connects, also while the server is being restarted.
async fn connect(url: &str) -> MySqlStore {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let builder = MySqlStore::builder(url)
            .expect("a URL")
            .poll_interval(POLL)
            .gap_grace(Duration::from_secs(1))
            .query_timeout(Duration::from_secs(10));
        match builder.connect().await {
            Ok(store) => return store,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
