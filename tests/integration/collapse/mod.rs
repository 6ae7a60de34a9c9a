//! Many requests for a page that is not cached yet: one call of the handler, and no request hangs, whatever happens.

use std::convert::Infallible;
use std::future::poll_fn;
use std::ops::RangeBounds;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::sync::mpsc;
use tower::{Layer, ServiceExt};
use tower_mysql_cache::policy::Collapse;
use tower_mysql_cache::service::CacheBody;
use tower_mysql_cache::status::Forward;
use tower_mysql_cache::store::BoxStore;
use tower_mysql_cache::{CacheLayer, CachePolicy, Cookies};

use crate::kit::{
    self, App, Calls, Crowd, Gate, Kit, gated, get, on_every_store, request, response, send,
};
use crate::support::eventually;

mod bodies;
mod failures;
mod released;
mod sharing;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
const FRESH: (&str, &str) = ("cache-control", "max-age=60");

/// Sends these requests, and waits until all of them wait for something, and all but one for the response to another
/// request.
async fn start(
    layer: &CacheLayer<BoxStore>,
    app: &App<&'static str>,
    requests: impl IntoIterator<Item = Request<()>>,
) -> Crowd {
    let before = layer.handle().followers();
    let crowd = Crowd::of(app, requests);
    followers(layer, before + crowd.len() - 1..).await;
    crowd.settle(&layer.handle()).await;
    crowd
}

/// Waits until so many requests wait for the response to another one.
async fn followers(layer: &CacheLayer<BoxStore>, expected: impl RangeBounds<usize>) {
    let handle = layer.handle();
    eventually("they wait", async || expected.contains(&handle.followers())).await;
}

/// Sends these requests, each of which may call its handler.
async fn start_apart(
    layer: &CacheLayer<BoxStore>,
    app: &App<&'static str>,
    requests: impl IntoIterator<Item = Request<()>>,
) -> Crowd {
    let crowd = Crowd::of(app, requests);
    crowd.settle(&layer.handle()).await;
    crowd
}

/// Lets the first call end. Lets the other calls end when all other requests wait for the second call.
async fn second_call(layer: &CacheLayer<BoxStore>, waiting: &Crowd, calls: &Calls, gate: &Gate) {
    gate.let_pass(1);
    eventually("the handler is called again", async || calls.count() >= 2).await;
    followers(layer, waiting.len() - 2..).await;
    waiting.settle(&layer.handle()).await;
    gate.open();
}

/// A layer in memory, for tests with a driven clock.
fn memory() -> CacheLayer<BoxStore> {
    kit::in_memory().with_policy(MINUTE)
}
