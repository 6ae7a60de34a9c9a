//! What making a key costs: the hash, and the layer's way from a request to its key.
//!
//! ```sh
//! cargo bench --bench key
//! ```

mod common;

use std::hint::black_box;

use common::{Boxed, NoStore, PREFIX, bare, body, cached, ok, send};
use criterion::{Criterion, Throughput};
use http::request::Parts;
use http::{Method, Request};
use tower_mysql_cache::key::{CacheKey, TargetKey};
use tower_mysql_cache::{CacheLayer, CachePolicy, Cookies};

const PLAIN: &str = "http://shop.example/products?page=2";
const LONG: &str = "http://shop.example/search?utm_source=mail&q=green+tea&utm_campaign=x&page=2&gclid=1\
                    &sort=price&from=100&to=900&colour=red&colour=blue&session=0191d9f4";

fn main() {
    let runtime = common::runtime();
    common::run(|criterion| {
        hashes(criterion);
        derivation(criterion, &runtime);
    });
}

/// `CacheKey::new`: a copy, SHA-256, and for long keys a second SHA-256.
fn hashes(criterion: &mut Criterion) {
    for bytes in [50, 200, 1000, 4000] {
        let mut group = criterion.benchmark_group(format!("CacheKey::new, {bytes} bytes"));
        group.throughput(Throughput::Bytes(bytes as u64));
        let text = "x".repeat(bytes);
        group.bench_function("copy", |b| {
            b.iter(|| bytes::Bytes::copy_from_slice(black_box(text.as_bytes())));
        });
        group.bench_function("key", |b| {
            b.iter(|| CacheKey::new(bytes::Bytes::copy_from_slice(black_box(text.as_bytes()))));
        });
    }
}

/// A HEAD request that finds nothing: admission, key, lookup, and nothing to record. The store
/// answers at once, so what is left over the bypass is the key.
fn derivation(criterion: &mut Criterion, runtime: &tokio::runtime::Runtime) {
    let cache = CacheLayer::new(NoStore).prefix(PREFIX);
    let off = cache.with_policy(CachePolicy::bypass());
    let layers = [
        ("bypass, no key", off),
        ("target only", cache.clone().key_builder(|_: &Parts, _: TargetKey| None)),
        ("whole query", cache.clone()),
        ("without tracking", cache.clone().without_tracking_query()),
        ("only three, sorted", cache.clone().only_query(["q", "page", "sort"]).sort_query()),
        ("partition", cache.clone().partition_by("tenant", |_: &Parts| Some("tenant-7"))),
        (
            "keyed cookies",
            cache.with_policy(CachePolicy::new().cookies(Cookies::Key(&["theme", "lang"]))),
        ),
    ];
    for (name, uri) in [("short", PLAIN), ("long", LONG)] {
        let mut group = criterion.benchmark_group(format!("key of a {name} URI"));
        let mut measure = |name: &str, service: Boxed| {
            group.bench_function(name, |b| b.to_async(runtime).iter(|| send(&service, head(uri))));
        };
        measure("bare handler", bare(body(64)));
        for (name, layer) in &layers {
            measure(name, cached(layer, body(64)));
        }
    }
}

fn head(uri: &str) -> Request<common::Body> {
    let request = Request::builder().method(Method::HEAD).uri(uri);
    ok(request.header("cookie", "theme=dark; _ga=1").body(common::Body::default()))
}
