//! What the benchmarks share: services, stores, a database, and a table of ratios at the end.
#![allow(dead_code, unused_imports, reason = "each benchmark uses a part")]

mod report;
pub(crate) mod watch;

use std::convert::Infallible;
use std::env;
use std::fmt::Display;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt};
use tower_mysql_cache::invalidation::{LogPosition, LogRecord, LogRow, Validity};
use tower_mysql_cache::key::{CacheKey, KeyRange};
use tower_mysql_cache::store::{
    Admin, Entries, Entry, HeadUpdate, InvalidationLog, MySqlStoreBuilder, Store, Stored,
    StoredHead,
};
use tower_mysql_cache::{CacheLayer, MySqlStore, StoreError};

pub(crate) use report::run;

use watch::Watch;

/// The prefix of every key that a benchmark makes; its rows are removed at the end.
pub(crate) const PREFIX: &str = "bench";

pub(crate) type Body = Full<Bytes>;
/// Boxed, so that the bare service and the cached ones are called in the same way.
pub(crate) type Boxed = BoxCloneSyncService<Request<Body>, Response<Bytes>, Infallible>;

/// A value, or the end of the run with the reason.
pub(crate) fn ok<T, E: Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| {
        eprintln!("benchmark: {error}");
        std::process::exit(1)
    })
}

pub(crate) fn runtime() -> Runtime {
    ok(Runtime::new())
}

/// `bytes` of something that does not compress: a stored body is not to be smaller than it looks.
pub(crate) fn body(bytes: usize) -> Bytes {
    let mut next = random(1);
    std::iter::repeat_with(|| (next() >> 48) as u8).take(bytes).collect()
}

/// The xorshift generator: numbers of 56 bits.
pub(crate) fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 8
    }
}

pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = |at: usize| values.get(at).copied().unwrap_or_default();
    f64::midpoint(middle(values.len().saturating_sub(1) / 2), middle(values.len() / 2))
}

/// A handler that costs nothing: its body is a handle on bytes that are there.
pub(crate) fn bare(body: Bytes) -> Boxed {
    boxed(handler(body))
}

/// The handler behind a layer.
pub(crate) fn cached<St: Store>(layer: &CacheLayer<St>, body: Bytes) -> Boxed {
    boxed(layer.layer(handler(body)))
}

fn handler(
    body: Bytes,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    tower::service_fn(move |_: Request<Body>| {
        let mut response = Response::new(Full::new(body.clone()));
        let headers = response.headers_mut();
        headers.insert("content-type", http::HeaderValue::from_static("application/octet-stream"));
        headers.insert("x-request-id", http::HeaderValue::from_static("0191d9f4"));
        async { Ok(response) }
    })
}

/// Reads the body as a server would, and drops nothing of the response before it.
fn boxed<S, RB>(service: S) -> Boxed
where
    S: Service<Request<Body>, Response = Response<RB>, Error = Infallible, Future: Send>,
    S: Clone + Send + Sync + 'static,
    RB: http_body::Body<Data = Bytes> + Send + 'static,
{
    let read = |response: Response<RB>| async move {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Ok(Response::from_parts(parts, body))
    };
    BoxCloneSyncService::new(service.and_then(read))
}

pub(crate) fn get(uri: &str) -> Request<Body> {
    ok(Request::get(uri).body(Body::default()))
}

/// Sends one request; the answer's body is read.
pub(crate) async fn send(service: &Boxed, request: Request<Body>) -> Response<Bytes> {
    ok(service.clone().oneshot(request).await)
}

/// At least `iterations` calls by tasks of the runtime, as a server would make them; the time of the
/// whole for `iterations` of them.
pub(crate) fn together<F>(
    runtime: &Runtime,
    iterations: u64,
    callers: u64,
    call: impl Fn() -> F + Clone + Send + 'static,
) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    let each = iterations.div_ceil(callers);
    let all = runtime.spawn(async move {
        let began = Watch::start();
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let call = call.clone();
            tasks.spawn(async move {
                for _ in 0..each {
                    call().await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        began.elapsed()
    });
    let total = ok(runtime.block_on(all));
    total.mul_f64(iterations as f64 / (each * callers) as f64)
}

/// Stops the run when `uri` is not answered out of the store: a benchmark of hits must be one.
pub(crate) async fn assert_hit(service: &Boxed, uri: &str) {
    let response = send(service, get(uri)).await;
    if !is_hit(&response) {
        let status = response.headers().get("cache-status");
        eprintln!("benchmark: {uri} should be a hit, but says {status:?}");
        std::process::exit(1)
    }
}

pub(crate) fn is_hit(response: &Response<Bytes>) -> bool {
    let status = response.headers().get("cache-status");
    status.is_some_and(|s| s.as_bytes().windows(5).any(|w| w == b"; hit"))
}

/// A store that answers at once and holds nothing: what the layer costs without one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoStore;

impl Entries for NoStore {
    async fn get_many(&self, keys: Vec<CacheKey>) -> Result<Vec<Option<Stored>>, StoreError> {
        Ok(vec![None; keys.len()])
    }
    async fn put_many(&self, _: Vec<Entry>) -> Result<(), StoreError> {
        Ok(())
    }
    async fn freshen(&self, _: HeadUpdate) -> Result<bool, StoreError> {
        Ok(false)
    }
    async fn remove(&self, _: KeyRange) -> Result<u64, StoreError> {
        Ok(0)
    }
}

impl InvalidationLog for NoStore {
    fn position(&self) -> Arc<LogPosition> {
        Arc::default()
    }
    async fn append(&self, _: Vec<LogRecord>) -> Result<Vec<u64>, StoreError> {
        Ok(Vec::new())
    }
    async fn validity(&self, _: &CacheKey, _: &StoredHead) -> Result<Validity, StoreError> {
        Ok(Validity::Valid)
    }
    async fn tail(&self, _: usize) -> Result<Vec<LogRow>, StoreError> {
        Ok(Vec::new())
    }
}

impl Admin for NoStore {}

impl Store for NoStore {
    type Log = Self;
    fn log(&self) -> &Self {
        self
    }
}

/// The database of `TEST_DATABASE_URL` or `DATABASE_URL`, else a private server that ends with this
/// process; `None`, and a line on standard error, when there is none to be had.
pub(crate) fn database() -> Option<&'static str> {
    static URL: OnceLock<Option<(String, Option<Child>)>> = OnceLock::new();
    let found = URL.get_or_init(|| {
        let named =
            ["TEST_DATABASE_URL", "DATABASE_URL"].iter().find_map(|name| env::var(name).ok());
        let found = named.map(|url| (url, None)).or_else(private_server);
        if found.is_none() {
            eprintln!("benchmark: no database (scripts/db install mariadb): figures without MySQL");
        }
        found
    });
    found.as_ref().map(|(url, _)| url.as_str())
}

/// `scripts/db run` ends the server when its standard input closes, which it does with us.
fn private_server() -> Option<(String, Option<Child>)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/db");
    let mut run = Command::new(script);
    run.args(["run", "mariadb"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = run.spawn().ok()?;
    let mut url = String::new();
    BufReader::new(child.stdout.as_mut()?).read_line(&mut url).ok()?;
    let url = url.trim_end().to_owned();
    (!url.is_empty()).then_some((url, Some(child)))
}

/// A store on [`database`], with its table.
pub(crate) fn mysql(runtime: &Runtime) -> Option<MySqlStore> {
    let url = database()?;
    let store = async { open(MySqlStore::builder(url)?).await };
    Some(ok(runtime.block_on(store)))
}

/// The store, with its tables.
pub(crate) async fn open(builder: MySqlStoreBuilder) -> Result<MySqlStore, StoreError> {
    let store = builder.connect().await?;
    store.migrate().await?;
    Ok(store)
}
