//! The guard: fields that layers outside the cache add decide whether a response is stored.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get as on_get;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use http::header::{CACHE_CONTROL, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_cookies::{Cookie, CookieManagerLayer, Cookies};
use tower_mysql_cache::policy::Collapse;
use tower_mysql_cache::store::{BoxStore, Store};
use tower_mysql_cache::{CacheHandle, CacheLayer, CachePolicy};
use tower_sessions::{MemoryStore as Sessions, Session, SessionManagerLayer};

use crate::kit::{self, Answer, Calls, Gate, Kit, Site, send};
use crate::support::PATIENCE;

mod fields;
mod refreshes;
mod sessions;
mod waiting;

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
static SURROGATE: [HeaderName; 1] = [HeaderName::from_static("surrogate-control")];
const OURS: [&str; 5] = [
    "set-cookie-outside",
    "private-outside",
    "no-store-outside",
    "vary-outside",
    "replaced-outside",
];

fn memory(policy: CachePolicy) -> CacheLayer<BoxStore> {
    kit::in_memory().with_policy(policy)
}

fn request(method: &str, uri: &str, fields: &[(&str, &str)]) -> Request {
    kit::request(method, uri, fields)
}

async fn get(app: &Router, uri: &str) -> Answer {
    let answer = send(app, request("GET", uri, &[]));
    tokio::time::timeout(PATIENCE, answer).await.expect("no request hangs")
}

/// How often each of the guard's reasons prevented storing.
fn called_off(handle: &CacheHandle) -> Vec<(&'static str, u64)> {
    handle.reasons().into_iter().filter(|(reason, _)| OURS.contains(reason)).collect()
}

/// A body in two pieces; the second one comes later.
fn streamed() -> Body {
    let pieces = stream::unfold(0, |sent| async move {
        if sent == 1 {
            tokio::task::yield_now().await;
        }
        let piece = ["pa", "ge"].get(sent).copied()?;
        Some((Ok::<_, Infallible>(Bytes::from_static(piece.as_bytes())), sent + 1))
    });
    Body::from_stream(pieces)
}

/// A router with one cached page at every path: complete at once below `/whole`, streamed elsewhere.
fn pages<St: Store>(cache: &CacheLayer<St>) -> (Router, Calls) {
    let calls = Calls::default();
    let counted = calls.clone();
    let page = move |request: Request| {
        counted.add();
        let whole = request.uri().path().starts_with("/whole");
        async move { if whole { Body::from("page") } else { streamed() } }
    };
    (Router::new().route("/{*path}", on_get(page).layer(cache.clone())), calls)
}

fn with(name: &'static str, value: &'static str) -> impl Fn(Response) -> Response + Clone {
    move |mut response: Response| {
        response.headers_mut().append(name, HeaderValue::from_static(value));
        response
    }
}

/// A layer outside the cache that changes responses.
fn outside(
    app: Router,
    change: impl Fn(Response) -> Response + Clone + Send + Sync + 'static,
) -> Router {
    app.layer(axum::middleware::map_response(move |response: Response| {
        let changed = change(response);
        async move { changed }
    }))
}

/// Lets all other tasks run as far as they can.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
