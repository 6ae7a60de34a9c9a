//! Your own store: a sorted map behind a lock, in four methods. The example sends requests to its own service, prints
//! what the cache did with each request, checks it, and ends:
//!
//! ```sh
//! cargo run --example custom_store
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{ServiceBuilder, ServiceExt};
use tower_mysql_cache::key::{CacheKey, KeyRange};
use tower_mysql_cache::store::{
    Admin, Entries, Entry, HeadUpdate, MemoryLog, Store, StoreFuture, StoreStats, Stored,
};
use tower_mysql_cache::{CacheLayer, CachePolicy, CacheStatus, StoreError};

/// A handle: all clones share one map.
#[derive(Clone, Default)]
struct MapStore {
    map: Arc<Mutex<BTreeMap<Bytes, Entry>>>,
    log: MemoryLog,
}

impl MapStore {
    fn map(&self) -> MutexGuard<'_, BTreeMap<Bytes, Entry>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries for MapStore {
    // Returns one answer for each key, in the order of the keys. Expired entries are not found. A store must compare the
    // whole key, not only its hash.
    async fn get_many(&self, keys: Vec<CacheKey>) -> Result<Vec<Option<Stored>>, StoreError> {
        let (map, now_ms) = (self.map(), self.now_ms());
        let found = |key: &CacheKey| {
            let entry = map.get(key.as_bytes()).filter(|entry| entry.expires_ms > now_ms)?;
            Some(entry.stored.clone())
        };
        Ok(keys.iter().map(found).collect())
    }

    async fn put_many(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.map().extend(entries.into_iter().map(|entry| (entry.key.to_bytes(), entry)));
        Ok(())
    }

    // Replaces the head and keeps the body, unless another response has been stored since the caller read the old head.
    async fn freshen(&self, update: HeadUpdate) -> Result<bool, StoreError> {
        let (mut map, now_ms) = (self.map(), self.now_ms());
        let Some(entry) =
            map.get_mut(update.key.as_bytes()).filter(|entry| entry.expires_ms > now_ms)
        else {
            return Ok(false);
        };
        let Stored::Response(response) = &mut entry.stored else { return Ok(false) };
        if response.head != update.old {
            return Ok(false);
        }
        (response.head, entry.expires_ms) = (update.new, update.expires_ms);
        Ok(true)
    }

    // The range is half-open: it contains its start and not its end.
    async fn remove(&self, range: KeyRange) -> Result<u64, StoreError> {
        Ok(self.map().extract_if(range.start().clone()..range.end().clone(), |_, _| true).count()
            as u64)
    }
}

// An invalidation is a row of a log. The layer checks every response against the log before it serves the response.
// The crate's log in memory is enough for a store that one process uses.
impl Store for MapStore {
    type Log = MemoryLog;

    fn log(&self) -> &MemoryLog {
        &self.log
    }
}

// Every method of this role has a default. This store says how much it holds.
impl Admin for MapStore {
    fn stats(&self) -> StoreFuture<'_, StoreStats> {
        let mut stats = StoreStats::default();
        for (key, entry) in self.map().iter() {
            stats.entries += 1;
            stats.bytes += (key.len() + entry.stored.size_bytes()) as u64;
        }
        Box::pin(async move { Ok(stats) })
    }
}

const TEXTS: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = MapStore::default();
    let cache = CacheLayer::new(store.clone()).prefix("texts").with_policy(TEXTS);
    let handle = cache.handle();
    let service = ServiceBuilder::new().layer(cache).service_fn(text);

    let requests = [
        (Method::GET, "/texts/1", false),
        (Method::GET, "/texts/1", true),
        (Method::HEAD, "/texts/1", true),
        (Method::GET, "/texts/2", false),
        (Method::PUT, "/texts/1", false), // invalidates
        (Method::GET, "/texts/1", false),
        (Method::GET, "/texts/1", true),
    ];
    for (method, uri, hit) in requests {
        let line = format!("{method} {uri}");
        let request = Request::builder().method(method).uri(uri).body(Full::<Bytes>::default())?;
        let response = service.clone().oneshot(request).await?;
        let status = response.extensions().get::<CacheStatus>().ok_or("no status")?;
        assert_eq!(status.is_hit(), hit, "{line}");
        let status = response.headers().get("cache-status").cloned();
        let body = response.into_body().collect().await?.to_bytes();
        println!("{line:<16} {:<36} {body:?}", status.as_ref().map_or(Ok(""), |s| s.to_str())?);
    }

    println!("\nkeys in the map:");
    for key in store.map().keys() {
        println!("  {}", key.escape_ascii());
    }
    let stats = handle.stats().await?;
    println!("\n{stats:?}");
    assert_eq!((stats.store.entries, stats.layer.hits), (2, 3));
    let (erased, left) = (handle.erase().await?, store.map().len());
    println!("erased {erased} entries, {left} left");
    assert_eq!((erased, left), (2, 0));
    Ok(())
}

async fn text<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from(format!("text of {}", request.uri().path()))))
}
