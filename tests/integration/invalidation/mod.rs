//! Invalidations of every kind, over every store: which pages are served afterwards.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use tower::{Layer, ServiceExt};
use tower_mysql_cache::invalidation::Invalidation;
use tower_mysql_cache::key::TargetKey;
use tower_mysql_cache::store::BoxStore;
use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore};

use crate::kit::{
    App, Calls, Gate, Kit, Slow, cached, get, in_memory, on_every_store, over, request, response,
    send,
};
use crate::support::eventually;

mod handle;
mod races;
mod writes;

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
const FRESH: (&str, &str) = ("cache-control", "max-age=60");

/// A page that shows its version, from 0. Each PUT makes the next version.
fn versioned(layer: &CacheLayer<BoxStore>) -> App {
    let version = Calls::default();
    let page = move |request: Request<()>| {
        if request.method() == "PUT" {
            version.add();
        }
        response(200, &[], &version.count().to_string())
    };
    cached(layer, page).0
}
