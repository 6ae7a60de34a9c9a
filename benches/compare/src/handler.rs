//! The handler that every cache has behind it, and the pages that show whether a cache follows the rules.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, SET_COOKIE, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, Uri};
use axum::routing::get;
use bytes::Bytes;

const SIZES: [usize; 5] = [1 << 10, 16 << 10, 256 << 10, 1 << 20, 8 << 20];
const MISS: usize = 16 << 10;
const WORK: Duration = Duration::from_millis(20);

pub(crate) struct Pages {
    bodies: Vec<Bytes>,
    calls: AtomicU64,
}

impl Pages {
    pub(crate) fn new() -> Arc<Self> {
        let make = if is_random() { random } else { text };
        let bodies = SIZES.iter().map(|size| make(*size)).collect();
        Arc::new(Self { bodies, calls: AtomicU64::new(0) })
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Makes the page of `/page/SIZE/KEY`. All keys of a size have the same body.
    pub(crate) fn make(&self, path: &str) -> Bytes {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let size = path.split('/').nth(2).and_then(|size| size.parse().ok()).unwrap_or(MISS);
        self.bodies.iter().find(|body| body.len() == size).cloned().unwrap_or_default()
    }

    /// The same for `/miss/KEY`, which takes 20 ms.
    pub(crate) async fn make_slowly(&self) -> Bytes {
        tokio::time::sleep(WORK).await;
        self.make("")
    }
}

pub(crate) fn routes(pages: Arc<Pages>) -> Router {
    let fast =
        |State(pages): State<Arc<Pages>>, uri: Uri| async move { page(pages.make(uri.path())) };
    let slow = |State(pages): State<Arc<Pages>>| async move { page(pages.make_slowly().await) };
    Router::new()
        .route("/page/{size}/{key}", get(fast))
        .route("/miss/{key}", get(slow))
        .route("/probe/{rule}/{key}", get(probe).post(probe))
        .with_state(pages)
}

/// With `COMPARE_BODY=random`, bodies are bytes that no cache can compress, of a type that none tries to compress.
fn is_random() -> bool {
    static RANDOM: LazyLock<bool> =
        LazyLock::new(|| std::env::var("COMPARE_BODY").is_ok_and(|body| body == "random"));
    *RANDOM
}

pub(crate) fn page(body: Bytes) -> Response<Body> {
    let mut response = response(body, "public, max-age=3600");
    if is_random() {
        let bytes = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(CONTENT_TYPE, bytes);
    }
    response
}

fn response(body: impl Into<Body>, cache_control: &'static str) -> Response<Body> {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
    response
}

/// The body says what a response to another request must not say again; `#` and a number tell calls apart.
async fn probe(
    State(pages): State<Arc<Pages>>,
    Path((rule, _)): Path<(String, String)>,
    uri: Uri,
    request: HeaderMap,
) -> Response<Body> {
    let call = pages.calls.fetch_add(1, Ordering::Relaxed);
    let field = |name: HeaderName| {
        request.get(name).and_then(|value| value.to_str().ok()).unwrap_or("none").to_owned()
    };
    let said = match rule.as_str() {
        "vary" => field(ACCEPT_LANGUAGE),
        "authorization" => field(AUTHORIZATION),
        "host" => field(HOST),
        "query" => uri.query().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    let lifetime = match rule.as_str() {
        "no-store" => "no-store",
        "private" => "private, max-age=60",
        "expired" => "max-age=1",
        _ => "max-age=60",
    };
    let mut response = response(format!("{said}#{call}"), lifetime);
    match rule.as_str() {
        "vary" => {
            drop(response.headers_mut().insert(VARY, HeaderValue::from_static("accept-language")))
        }
        "set-cookie" => {
            let cookie = HeaderValue::from_str(&format!("session={call}")).ok();
            response.headers_mut().extend(cookie.map(|cookie| (SET_COOKIE, cookie)));
        }
        _ => {}
    }
    response
}

/// The xorshift generator, with the same start in every process.
fn numbers() -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn random(bytes: usize) -> Bytes {
    let mut next = numbers();
    std::iter::repeat_with(|| next().to_be_bytes()[0]).take(bytes).collect()
}

/// Text that deflate makes about a third of, as it does with HTML.
fn text(bytes: usize) -> Bytes {
    let mut next = numbers();
    let letters = b"etaoinshrdlucmfwypvbgk";
    let words: Vec<Vec<u8>> = (0..4096)
        .map(|_| {
            let length = 2 + next() % 9;
            (0..length).map(|_| letters[(next() % letters.len() as u64) as usize]).collect()
        })
        .collect();
    let mut text = Vec::with_capacity(bytes + 32);
    while text.len() < bytes {
        // the product of two numbers: some words are frequent, most are rare
        let (a, b) = (next() % 64, next() % 64);
        text.extend_from_slice(&words[(a * b) as usize]);
        text.extend_from_slice(if next() % 12 == 0 { b"</p>\n<p>" } else { b" " });
    }
    text.truncate(bytes);
    text.into()
}
