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
use sqlx::{Connection, Row};
use tower::{Layer, ServiceExt};
use tower_mysql_cache::key::CacheKey;
use tower_mysql_cache::policy::Collapse;
use tower_mysql_cache::store::{
    Admin, Entries, Entry, Fence, Lease, Leases, Store, Stored, StoredHead, StoredResponse,
};
use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore, MySqlStore, Tiered};

use crate::kit::{Answer, App, Calls, Crowd, Gate, gated_by, get, response, send, time_passes};
use crate::support::{self, TestDatabase, eventually, execute, number};

mod failures;
mod leases;
mod requests;

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

fn gate(permits: usize) -> (Calls, Gate) {
    (Calls::default(), Gate::with(permits))
}

/// An application whose handler needs a permit for each call.
fn app<St: Store>(
    layer: &CacheLayer<St>,
    calls: &Calls,
    gate: &Gate,
    answer: impl Fn(usize) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
) -> App<&'static str> {
    gated_by(layer, calls, gate, move |call, _| Ok(answer(call)))
}

fn requests(count: usize) -> impl Iterator<Item = Request<()>> {
    (0..count).map(|_| get("/", &[]))
}

fn start(app: &App<&'static str>, count: usize) -> Crowd {
    let mut crowd = Crowd::new();
    crowd.send(app, requests(count));
    crowd
}

fn granted(lease: Lease) -> u64 {
    let Lease::Granted(number) = lease else { panic!("{lease:?}") };
    number
}
