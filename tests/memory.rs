//! The memory that a cache takes, as the kernel counts it. Each test runs in its own process, so that nothing else is
//! counted.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};
use tower_mysql_cache::invalidation::Tag;
use tower_mysql_cache::key::CacheKey;
use tower_mysql_cache::store::{Admin, Entries, Entry, Stored, StoredHead, StoredResponse};
use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore};

const HOUR: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(3600));

/// Runs a test in its own process.
fn alone(name: &str, test: impl Future<Output = ()>) {
    const ALONE: &str = "TMC_MEMORY";
    if std::env::var_os(ALONE).is_some() {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
        return;
    }
    let this = std::env::current_exe().unwrap();
    let output = Command::new(this).args(["--exact", name, "--nocapture"]).env(ALONE, "1").output();
    let output = output.unwrap();
    let (said, error) = (output.stdout, output.stderr);
    let [said, error] = [said, error].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success() && said.contains("1 passed"), "{said}{error}");
    println!("{error}");
}

/// The memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Typical header fields.
fn fields() -> HeaderMap {
    let fields = [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "public, max-age=3600"),
        ("etag", "\"33a64df551425fcc55e4d42a148795d9f25f89d4\""),
        ("x-request-id", "5f9b2c1e-7a40-4f0c-9d0a-0c7f1b1f3e11"),
    ];
    let fields = fields.map(|(name, value)| (name, value.to_owned()));
    fields
        .map(|(name, value)| (name.parse().unwrap(), value.try_into().unwrap()))
        .into_iter()
        .collect()
}

/// A page as the layer passes it to a store.
fn entry(n: usize, headers: HeaderMap, tags: Vec<Tag>, body: Bytes) -> Entry {
    let mut head = StoredHead::new(StatusCode::OK, headers, 0);
    head.fresh_until_ms = u64::MAX;
    head.tags = tags;
    let stored = Stored::Response(StoredResponse::new(head, body));
    let key = CacheKey::new(format!("shop:1:/products/{n}?page=1 http://shop.example"));
    Entry::new(key, stored, u64::MAX)
}

/// Fills a store with more than its limit, and checks the memory that the process has taken.
async fn keeps_its_bound(entry: impl Fn(usize) -> Entry) {
    const BOUND: u64 = 16 << 20;
    let store = MemoryStore::builder().max_bytes(BOUND).build().unwrap();
    let before = resident();
    let mut full = 0;
    for n in 0.. {
        store.put(entry(n)).await.unwrap();
        if n % 1_000 == 0 {
            full += u32::from(store.stats().await.unwrap().bytes > BOUND * 9 / 10);
            if full > 10 {
                break;
            }
        }
    }
    let (grown, stats) = (resident() - before, store.stats().await.unwrap());
    let (entries, bytes) = (stats.entries, stats.bytes);
    eprintln!(
        "{entries} entries of {} bytes, as is said, and {} measured",
        bytes / entries,
        grown / entries
    );
    assert!(bytes <= BOUND, "{bytes}");
    assert!(grown < BOUND * 3 / 2, "{grown} bytes");
    // and the store does not report much more than it takes
    assert!(grown > BOUND * 2 / 3, "{grown} bytes");
}

#[test]
fn a_memory_store_keeps_its_limit_with_small_pages() {
    alone("a_memory_store_keeps_its_limit_with_small_pages", async {
        let page = |n| entry(n, fields(), Vec::new(), Bytes::from(vec![b'x'; 100]));
        keeps_its_bound(page).await;
    });
}

#[test]
fn a_memory_store_keeps_its_limit_with_empty_pages() {
    alone("a_memory_store_keeps_its_limit_with_empty_pages", async {
        keeps_its_bound(|n| entry(n, HeaderMap::new(), Vec::new(), Bytes::new())).await;
    });
}

#[test]
fn a_memory_store_keeps_its_limit_with_many_fields() {
    alone("a_memory_store_keeps_its_limit_with_many_fields", async {
        let page = |n| {
            let mut headers = HeaderMap::new();
            for field in 0..30 {
                let name = HeaderName::try_from(format!("x-field-{field}")).unwrap();
                headers.append(&name, format!("value {n} {field}").try_into().unwrap());
                headers.append(&name, "another".try_into().unwrap());
            }
            let tags = (0..20).map(|tag| Tag::from(format!("product:{n}:{tag}"))).collect();
            entry(n, headers, tags, Bytes::new())
        };
        keeps_its_bound(page).await;
    });
}

#[test]
fn a_memory_store_keeps_no_buffers_of_connections() {
    alone("a_memory_store_keeps_no_buffers_of_connections", async {
        // values and a body that are slices of a read buffer
        let page = |n| {
            let mut buffer = vec![b'x'; 20_000];
            buffer[..6].copy_from_slice(format!("{n:06}").as_bytes());
            let buffer = Bytes::from(buffer);
            let value = HeaderValue::from_maybe_shared(buffer.slice(..6)).unwrap();
            let headers = HeaderMap::from_iter([(http::header::ETAG, value)]);
            let tags = vec![Tag::new(buffer.slice(1..4))];
            entry(n, headers, tags, buffer.slice(500..600))
        };
        keeps_its_bound(page).await;
    });
}

/// A body of this many equal frames, which then waits without an end.
struct Stalled {
    frame: Bytes,
    left: usize,
}

impl Body for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Pending;
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&self.frame)))))
    }
}

/// How much the process grows while this many clients have read all but the end of their bodies.
async fn grown_by_stalled(clients: usize, frame: Bytes, frames: usize) -> u64 {
    let layer = CacheLayer::new(MemoryStore::new()).with_policy(HOUR);
    let app = layer.layer(tower::service_fn(move |_: Request<()>| {
        let body = Stalled { frame: frame.clone(), left: frames };
        async move { Ok::<_, Infallible>(Response::new(body)) }
    }));
    let before = resident();
    let mut open = Vec::new();
    for n in 0..clients {
        let uri = format!("http://shop.example/{n}");
        let mut response = app.clone().oneshot(Request::get(uri).body(()).unwrap()).await.unwrap();
        for _ in 0..frames {
            response.body_mut().frame().await.unwrap().unwrap();
        }
        open.push(response);
    }
    let grown = resident().saturating_sub(before);
    eprintln!("{clients} clients: {} KB", grown >> 10);
    grown
}

#[test]
fn stalled_clients_hold_at_most_recording_bytes() {
    alone("stalled_clients_hold_at_most_recording_bytes", async {
        // 160 MB without a limit
        let grown = grown_by_stalled(40, Bytes::from(vec![b'x'; 64 << 10]), 64).await;
        assert!(grown < 72 << 20, "{grown} bytes");
    });
}

#[test]
fn tiny_frames_take_only_the_memory_of_their_bytes() {
    alone("tiny_frames_take_only_the_memory_of_their_bytes", async {
        let grown = grown_by_stalled(1, Bytes::from_static(b"x"), 1 << 20).await;
        assert!(grown < 3 << 20, "{grown} bytes");
    });
}

#[test]
fn a_layer_that_has_seen_many_targets_takes_little_memory() {
    alone("a_layer_that_has_seen_many_targets_takes_little_memory", async {
        const TARGETS: usize = 12_000;
        let store = MemoryStore::builder().max_bytes(256 << 10).build().unwrap();
        let layer = CacheLayer::new(store).with_policy(HOUR);
        let app = layer.layer(tower::service_fn(|request: Request<()>| async move {
            let mut response = Response::new(http_body_util::Empty::<Bytes>::new());
            let (name, value) = match request.uri().path().starts_with("/private") {
                true => ("cache-control", "no-store"),
                false => ("vary", "accept-language, accept-encoding"),
            };
            response.headers_mut().insert(name, value.parse().unwrap());
            Ok::<_, Infallible>(response)
        }));
        let ask = |n: usize, kind: &str| {
            let uri = format!("http://shop.example/{kind}/{n}?page=1");
            app.clone().oneshot(Request::get(uri).body(()).unwrap())
        };
        let before = resident();
        for n in 0..TARGETS {
            ask(n, "private").await.unwrap();
            ask(n, "varied").await.unwrap();
        }
        let grown = resident().saturating_sub(before);
        eprintln!("{} KB", grown >> 10);
        // 8 MiB for indexes, and 2 MiB for each of five other tables
        assert!(grown < 27 << 20, "{grown} bytes");
    });
}
