//! What encoding and decoding cost, measured through a store. Responses have few or many fields, and bodies that
//! compress or do not. Each is put into the table and read back. Every figure contains the round trip to the
//! database: compare it with the first one.
//!
//! ```sh
//! cargo bench --bench codec
//! ```

mod common;

use bytes::Bytes;
use common::{PREFIX, ok};
use criterion::Criterion;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::runtime::Runtime;
use tower_mysql_cache::MemoryStore;
use tower_mysql_cache::key::{CacheKey, KeyRange};
use tower_mysql_cache::store::{Entry, Store, Stored, StoredHead, StoredResponse};

/// Only text is compressed.
const TEXT: &str = "text/html; charset=utf-8";
const NOISE: &str = "application/octet-stream";

fn main() {
    let runtime = common::runtime();
    common::run(|criterion| {
        in_store(criterion, &runtime, "memory", &MemoryStore::new());
        if let Some(store) = common::mysql(&runtime) {
            in_store(criterion, &runtime, "mysql", &store);
        }
    });
}

fn in_store<St: Store>(criterion: &mut Criterion, runtime: &Runtime, name: &str, store: &St) {
    let text = Bytes::from("<li class=\"product\">green tea, 100 g</li>\n".repeat(1_600));
    let shapes = [
        ("5 fields, 1 KiB", NOISE, 5, common::body(1 << 10)),
        ("30 fields, 1 KiB", NOISE, 30, common::body(1 << 10)),
        ("100 fields, 1 KiB", NOISE, 100, common::body(1 << 10)),
        ("5 fields, 64 KiB noise", NOISE, 5, common::body(text.len())),
        ("5 fields, 64 KiB noise called text", TEXT, 5, common::body(text.len())),
        ("5 fields, 64 KiB text", TEXT, 5, text),
    ];
    let mut group = criterion.benchmark_group(format!("put, {name}"));
    for (shape, media, fields, body) in &shapes {
        let entry = entry(store, shape, media, *fields, body);
        group.bench_function(*shape, |b| {
            b.to_async(runtime).iter(|| async { ok(store.put(entry.clone()).await) });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group(format!("get, {name}"));
    for (shape, media, fields, body) in &shapes {
        let entry = entry(store, shape, media, *fields, body);
        let key = entry.key.clone();
        ok(runtime.block_on(store.put(entry)));
        group.bench_function(*shape, |b| {
            b.to_async(runtime).iter(|| async { ok(store.get(key.clone()).await) });
        });
    }
    group.finish();
    ok(runtime.block_on(store.remove(KeyRange::starting_with(format!("{PREFIX}:")))));
}

fn entry<St: Store>(
    store: &St,
    shape: &str,
    media: &'static str,
    fields: usize,
    body: &Bytes,
) -> Entry {
    let now_ms = store.now_ms();
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static(media));
    for n in 1..fields {
        let name = ok(HeaderName::try_from(format!("x-field-{n}")));
        headers.insert(name, ok(HeaderValue::try_from(format!("value {n} of a field"))));
    }
    let mut head = StoredHead::new(StatusCode::OK, headers, now_ms);
    head.fresh_until_ms = now_ms + 3_600_000;
    head.gen_ms = 12;
    let stored = StoredResponse::new(head, body.clone());
    let key = CacheKey::new(format!("{PREFIX}:1:/{} http://shop.example", shape.replace(' ', "-")));
    Entry::new(key, Stored::Response(stored), now_ms + 3_600_000)
}
