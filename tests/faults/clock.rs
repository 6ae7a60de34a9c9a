//! Wrong clocks: the clock of a process is off by an hour, and the clock of the database steps.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};
use tower_mysql_cache::key::CacheKey;
use tower_mysql_cache::policy::Collapse;
use tower_mysql_cache::service::CacheBody;
use tower_mysql_cache::store::{Fence, Lease, Leases};
use tower_mysql_cache::{CacheHandle, CacheLayer, CachePolicy, CacheStatus, MySqlStore};

use crate::kit::WAIT;
use crate::process::Process;
use crate::support::{self, eventually, example};

/// In seconds.
const HOUR: i64 = 3600;

/// A directory with a library that shifts a process's clock, and with the size of the shift.
struct Shift(PathBuf);

impl Shift {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tmc-clock.{}.{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/clock.c");
        // the compiler that Rust uses for linking
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.join("clock.so")).arg(source);
        assert!(cc.status().expect("there is a C compiler").success());
        let shift = Self(folder);
        shift.set(0);
        shift
    }

    fn set(&self, seconds: i64) {
        // atomically, so that no process reads half of it
        std::fs::write(self.0.join("new"), seconds.to_string()).unwrap();
        std::fs::rename(self.0.join("new"), self.0.join("seconds")).unwrap();
    }

    fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.0.join("clock.so")), ("CLOCK_SHIFT", self.0.join("seconds"))]
    }

    fn of<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.envs(self.environment())
    }
}

impl Drop for Shift {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn shop(url: &str) -> Command {
    let mut command = Command::new(example("axum"));
    command.env("DATABASE_URL", url).env("LISTEN", "127.0.0.1:0");
    command
}

/// The difference between the process's clock and this one's, from the `Date` of a response that is not cached.
async fn ahead(process: &Process) -> i64 {
    let date = httpdate::parse_http_date(process.ask("/missing").await.field("date")).unwrap();
    match date.duration_since(SystemTime::now()) {
        Ok(ahead) => ahead.as_secs() as i64,
        Err(behind) => -(behind.duration().as_secs() as i64),
    }
}

async fn hits(process: &Process, path: &str) -> bool {
    let reply = process.get(path).await;
    if reply.is_hit() {
        // seconds since it was stored, not an hour more or less
        assert!(reply.field("age").parse::<u64>().unwrap() < 60, "{:?}", reply.headers);
        let (_, ttl) = reply.field("cache-status").split_once("ttl=").unwrap();
        assert!((1..=300).contains(&ttl.parse::<i64>().unwrap()), "{ttl}");
    }
    reply.is_hit()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_whose_clock_is_an_hour_off_agrees_with_others() {
    let database = support::database().await;
    let shift = Shift::new("process");
    shift.set(-HOUR);
    let (right, wrong) = tokio::task::block_in_place(|| {
        let right = Process::start(&mut shop(database.url()));
        (right, Process::start(shift.of(&mut shop(database.url()))))
    });
    assert!(ahead(&right).await.abs() < 60);
    assert!((ahead(&wrong).await + HOUR).abs() < 60, "the clock is wrong");
    // each process serves what the other has stored, with the right age
    right.get("/products").await;
    eventually("the other serves it", || hits(&wrong, "/products")).await;
    wrong.get("/products/7").await;
    eventually("the other serves it", || hits(&right, "/products/7")).await;
    // then the clock jumps by two hours while the process runs
    shift.set(HOUR);
    eventually("the clock has jumped", async || (ahead(&wrong).await - HOUR).abs() < 60).await;
    assert!(hits(&wrong, "/products").await && hits(&right, "/products").await);
    wrong.get("/products/8").await;
    eventually("the other serves it", || hits(&right, "/products/8")).await;
}

const MINUTES: CachePolicy =
    CachePolicy::new().ttl(Duration::from_secs(300)).collapse(Collapse::Cluster);

/// A process whose pages show the state of the data. It has read the database's clock at its start.
struct Shop {
    app: BoxCloneSyncService<Request<()>, Response<CacheBody<Full<Bytes>>>, Infallible>,
    handle: CacheHandle,
    store: MySqlStore,
}

impl Shop {
    async fn start(url: &str, state: &Arc<AtomicU64>) -> Self {
        let store = MySqlStore::connect(url).await.expect("connects");
        store.migrate().await.expect("migrates");
        let layer = CacheLayer::new(store.clone()).prefix("shop").store_timeout(WAIT * 5);
        let layer = layer.with_policy(MINUTES);
        let state = Arc::clone(state);
        let handler = move |_: Request<()>| {
            let body = Full::from(state.load(Ordering::SeqCst).to_string());
            async move { Ok::<_, Infallible>(Response::new(body)) }
        };
        let handle = layer.handle();
        let app = BoxCloneSyncService::new(layer.layer(tower::service_fn(handler)));
        Self { app, handle, store }
    }

    /// The state that a page shows, and whether it is a hit.
    async fn get(&self, path: &str) -> (u64, bool) {
        let request = Request::builder().uri(path).body(()).unwrap();
        let (parts, body) = self.app.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let status = parts.extensions.get::<CacheStatus>().expect("a CacheStatus");
        (std::str::from_utf8(&body).unwrap().parse().unwrap(), status.is_hit())
    }

    /// Requests a page that must not be a hit, and waits until it is stored.
    async fn fill(&self, path: &str) {
        assert!(!self.get(path).await.1, "{path}");
        self.handle.flush().await.unwrap();
    }

    async fn lease(&self, key: &CacheKey) -> Lease {
        self.store.lease(key, Duration::from_secs(10)).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_step_of_the_database_serves_nothing_old() {
    let shift = Shift::new("server");
    let server = support::own_server_under(shift.environment()).await;
    let state = Arc::new(AtomicU64::new(1));
    let mut ahead = 0;
    for (step, stays) in [(24 * HOUR, false), (-20, true), (-HOUR, false), (-24 * HOUR, false)] {
        let before = ahead;
        let page = |name: &str| format!("/{name}/{before}");
        let old = Shop::start(server.url(), &state).await;
        old.fill(&page("stays")).await;
        old.fill(&page("changed")).await;
        let key = CacheKey::new(page("lease"));
        let Lease::Granted(number) = old.lease(&key).await else { panic!("no process has it") };
        old.store.release(&Fence::new(key.clone(), number), None).await.unwrap();
        let held = CacheKey::new(page("held"));
        assert!(matches!(old.lease(&held).await, Lease::Granted(_)));
        let changed = state.fetch_add(1, Ordering::SeqCst) + 1;
        old.handle.invalidate_uri(&page("changed")).await.unwrap();

        ahead += step;
        shift.set(ahead);
        let new = Shop::start(server.url(), &state).await;
        let shown = new.get(&page("stays")).await;
        assert_eq!(shown.1, stays, "after a step of {step} s: its age is not known");
        assert_eq!(new.get(&page("changed")).await, (changed, false), "after {step} s");
        // a holder from before the step may be gone, together with the server whose clock was ahead
        assert!(matches!(new.lease(&key).await, Lease::Granted(_)), "given back before {step} s");
        assert!(matches!(new.lease(&held).await, Lease::Granted(_)), "held before {step} s");
        new.handle.flush().await.unwrap();
        assert_eq!(new.get(&page("changed")).await, (changed, true), "it is stored again");
        assert!(new.get(&page("stays")).await.1, "it is stored again");

        // the process that has not noticed the step invalidates, and then the other one
        let latest = state.fetch_add(1, Ordering::SeqCst) + 1;
        old.handle.invalidate_uri(&page("changed")).await.unwrap();
        new.handle.invalidate_uri(&page("stays")).await.unwrap();
        for shop in [&old, &new] {
            assert_eq!(shop.get(&page("changed")).await.0, latest, "after {step} s");
            assert_eq!(shop.get(&page("stays")).await.0, latest, "after {step} s");
            let counts = shop.handle.counts();
            // the lease is given back after the response, so the next request may come a moment too early
            let waits = (counts.lease_waits, counts.lease_errors, counts.collapse_timeouts);
            assert!(matches!(waits, (0..10, 0, 0)), "{waits:?} after {step} s");
        }
        old.store.close().await;
        new.store.close().await;
    }
}
