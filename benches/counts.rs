//! How many allocations, bytes and instructions does a hit cost, in addition to the bare handler? And a miss in memory?
//!
//! `scripts/bench --instructions` runs this program twice: alone for the allocations, and in callgrind for the
//! instructions. Counts hardly depend on the machine, so `benches/counts.txt` keeps the expected ones.
//!
//! It prints a line for each measurement, with tabs: name, allocations, bytes, nanoseconds (median). With the argument
//! `once`, it measures no time.

mod common;

use std::alloc::System;
use std::cell::Cell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Body, Boxed, PREFIX, assert_hit, bare, body, cached, ok, send};
use http::{HeaderName, HeaderValue, Request, Uri};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::runtime::Runtime;
use tower_mysql_cache::store::Store;
use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore, Tiered};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PAGE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(3600));
const URIS: [(&str, &str); 2] = [
    ("plain", "http://shop.example/products/teapots"),
    ("query", "http://shop.example/products?page=2&sort=price"),
];
/// The fields that a browser sends with a GET.
const FIELDS: [(&str, &str); 13] = [
    ("host", "shop.example"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("referer", "http://shop.example/products"),
    ("connection", "keep-alive"),
    ("cookie", "_ga=GA1.2.1234567890.1700000000"),
    ("upgrade-insecure-requests", "1"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-site", "same-origin"),
    ("priority", "u=0, i"),
];
/// Requests of one measurement.
const REQUESTS: usize = 200;
/// Measurements of time, of which the median counts.
const TIMES: usize = 51;

fn main() {
    let times = if std::env::args().any(|argument| argument == "once") { 0 } else { TIMES };
    // all tasks of a store on this thread, so that their work counts too
    let runtime = ok(tokio::runtime::Builder::new_current_thread().enable_all().build());
    let page = body(1 << 10);
    print(&runtime, "handler", &bare(page.clone()), times);
    print(&runtime, "memory", &warm(&runtime, MemoryStore::new(), &page), times);
    let tiered = Tiered::new(MemoryStore::new(), MemoryStore::new());
    print(&runtime, "tiered", &warm(&runtime, tiered, &page), times);
    print_misses(&runtime, &page, times);
    if let Some(store) = common::mysql(&runtime) {
        print(&runtime, "mysql", &warm(&runtime, store.clone(), &page), times);
        ok(runtime.block_on(layer(store).handle().erase()));
    }
}

fn layer<St: Store>(store: St) -> CacheLayer<St> {
    CacheLayer::new(store).prefix(PREFIX).with_policy(PAGE)
}

/// A service that has stored the responses to all [`URIS`].
fn warm<St: Store>(runtime: &Runtime, store: St, page: &Bytes) -> Boxed {
    let layer = layer(store);
    let service = cached(&layer, page.clone());
    runtime.block_on(async {
        for (_, uri) in URIS {
            send(&service, get(uri)).await;
            ok(layer.handle().flush().await);
            assert_hit(&service, uri).await;
        }
    });
    service
}

/// Hits: the requests ask for the same page.
fn print(runtime: &Runtime, name: &str, service: &Boxed, times: usize) {
    for (kind, uri) in URIS {
        let requests = || (0..REQUESTS).map(|_| get(uri)).collect();
        print_line(runtime, &format!("{name}/{kind}"), service, (&requests, &|| ()), times);
    }
}

/// Misses: each request asks for a page of its own. Counts until all responses are stored in memory.
fn print_misses(runtime: &Runtime, page: &Bytes, times: usize) {
    let layer = layer(MemoryStore::new());
    let next = Cell::new(0_u64);
    let request = || {
        next.set(next.get() + 1);
        get(&format!("http://shop.example/products/{}", next.get()))
    };
    let requests = || (0..REQUESTS).map(|_| request()).collect();
    let flush = || ok(runtime.block_on(layer.handle().flush()));
    let service = cached(&layer, page.clone());
    print_line(runtime, "memory-miss/plain", &service, (&requests, &flush), times);
}

fn print_line(
    runtime: &Runtime,
    name: &str,
    service: &Boxed,
    (requests, end): (&dyn Fn() -> Vec<Request<Body>>, &dyn Fn()),
    times: usize,
) {
    runtime.block_on(all(service, requests())); // caches and tables have grown then
    end();
    let requests_to_count = requests();
    let region = Region::new(ALLOCATOR);
    measured(runtime, service, requests_to_count, end);
    let used = region.change();
    let mut nanos: Vec<_> = (0..times)
        .map(|_| {
            let requests = requests();
            let began = Instant::now();
            runtime.block_on(all(service, requests));
            end();
            began.elapsed().as_nanos() / REQUESTS as u128
        })
        .collect();
    nanos.sort_unstable();
    let median = nanos.get(times / 2).copied().unwrap_or_default();
    let allocations = (used.allocations + used.reallocations) / REQUESTS;
    println!("{name}\t{allocations}\t{}\t{median}", used.bytes_allocated / REQUESTS);
}

/// The part that is counted. In callgrind, each call of this function is one profile.
#[inline(never)]
fn measured(runtime: &Runtime, service: &Boxed, requests: Vec<Request<Body>>, end: &dyn Fn()) {
    runtime.block_on(all(service, requests));
    end();
}

async fn all(service: &Boxed, requests: Vec<Request<Body>>) {
    for request in requests {
        send(service, request).await;
    }
}

/// A request as a server makes it: its URI and values are parts of a shared buffer.
fn get(uri: &str) -> Request<Body> {
    let texts: String = FIELDS.iter().map(|(_, value)| *value).chain([uri]).collect();
    let mut buffer = Bytes::from(format!("{texts} "));
    let _end = buffer.split_off(texts.len());
    let mut request = Request::new(Body::default());
    for (name, value) in FIELDS {
        let value = ok(HeaderValue::from_maybe_shared(buffer.split_to(value.len())));
        request.headers_mut().insert(HeaderName::from_static(name), value);
    }
    *request.uri_mut() = ok(Uri::from_maybe_shared(buffer));
    request
}
