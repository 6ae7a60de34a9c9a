//! Stale responses: served while one request refreshes them, and instead of errors; never if the response forbids it,
//! and never after their window. The handler's `Age` makes a response stale, so no test waits for a clock.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use tower::{Layer, ServiceExt};
use tower_mysql_cache::status::Forward;
use tower_mysql_cache::store::{BoxStore, ManualClock};
use tower_mysql_cache::{
    CacheHandle, CacheLayer, CacheOverride, CachePolicy, CacheStatus, MemoryStore,
};

use crate::kit::{
    Answer, App, Gate, Kit, Seen, get, in_memory, on_every_store, over, request, response, send,
};
use crate::support::eventually;

type Fields = &'static [(&'static str, &'static str)];

const SECOND: Duration = Duration::from_secs(1);
const ETAG: (&str, &str) = ("etag", "\"1\"");
const FRESH: (&str, &str) = ("cache-control", "max-age=60");
/// Ten seconds stale, with a lifetime of 60 s.
const OLD: (&str, &str) = ("age", "70");
const SAFE: CachePolicy = CachePolicy::new();
const STRICT: CachePolicy = CachePolicy::rfc9111();

/// What the handler does with a call.
enum Step {
    Say(u16, Fields, &'static str),
    /// The same, with an override.
    Override(CacheOverride, Fields, &'static str),
    Fail,
    Hang,
    /// Answers when the gate lets it pass.
    Wait(Gate, Fields, &'static str),
}

use Step::{Fail, Hang, Override, Say, Wait};

mod errors;
mod permission;
mod refreshes;

/// A handler that does one of these steps per call, and fails if it is called too often.
fn handler(
    layer: &CacheLayer<BoxStore>,
    steps: impl IntoIterator<Item = Step>,
) -> (App<&'static str>, Seen) {
    let seen = Seen::default();
    let record = seen.clone();
    let steps = Arc::new(Mutex::new(steps.into_iter().collect::<VecDeque<_>>()));
    let service = layer.layer(tower::service_fn(move |request: Request<()>| {
        record.add(request);
        let step = steps.lock().unwrap().pop_front();
        async move {
            match step {
                Some(Say(status, fields, body)) => Ok(response(status, fields, body)),
                Some(Override(overrides, fields, body)) => {
                    let mut response = response(200, fields, body);
                    response.extensions_mut().insert(overrides);
                    Ok(response)
                }
                Some(Wait(gate, fields, body)) => {
                    gate.pass().await;
                    Ok(response(200, fields, body))
                }
                Some(Hang) => pending().await,
                Some(Fail) => Err("broken"),
                None => Err("once too often"),
            }
        }
    }));
    (App::new(service), seen)
}

/// A response that is stored, and ten seconds stale.
fn stored(cache_control: &'static str) -> Step {
    let fields = vec![("cache-control", cache_control), OLD, ETAG, ("x-a", "1")];
    Say(200, fields.leak(), "old")
}

/// Waits until a `handler_timeout` that begins now is over, so all that began before are over too: for a request that
/// is answered stale because of it.
async fn past_the_limit(limit: Duration) {
    let layer = in_memory().with_policy(SAFE.stale_if_error(30 * SECOND).handler_timeout(limit));
    let (app, _) = handler(&layer, [stored("max-age=60"), Hang]);
    send(&app, get("/", &[])).await;
    settled(layer.handle()).await;
    assert_stale(&send(&app, get("/", &[])).await, "handler-timeout");
}

async fn settled(handle: CacheHandle) {
    handle.flush().await.expect("flushes");
}

/// Asserts that the answer is the stored response, with its true age and a negative `ttl`.
#[track_caller]
fn assert_stale(answer: &Answer, why: &str) {
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "old"), "{answer:?}");
    let age: u64 = answer.field("age").parse().unwrap();
    assert!((70..75).contains(&age), "{age}");
    let ttl = answer.cache().ttl_secs().unwrap();
    assert!((-15..=-10).contains(&ttl), "{ttl}");
    assert_eq!(answer.field("cache-status"), format!("test; hit; ttl={ttl}"));
    assert_eq!(answer.reason(), Some(why));
}
