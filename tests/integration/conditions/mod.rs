//! Conditional requests from clients and to the handler, ranges, HEAD, and the strict mode.

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, StatusCode};
use tower::Layer;
use tower_mysql_cache::invalidation::Invalidation;
use tower_mysql_cache::key::TargetKey;
use tower_mysql_cache::status::Forward;
use tower_mysql_cache::store::BoxStore;
use tower_mysql_cache::{CacheLayer, CachePolicy, MySqlStore};

use crate::kit::{
    Answer, App, Kit, Seen, cached, get, in_memory, on_every_store, over, request, response,
    scripted, send,
};
use crate::support::{self, eventually};

mod clients;
mod ranges;
mod strict;
mod validation;

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
const FRESH: (&str, &str) = ("cache-control", "max-age=60");
/// Stored, and stale at once.
const STALE: (&str, &str) = ("cache-control", "max-age=0");
const ETAG: (&str, &str) = ("etag", "\"1\"");
const MODIFIED: (&str, &str) = ("last-modified", "Tue, 15 Nov 1994 12:45:26 GMT");

async fn with(app: &App, fields: &[(&str, &str)]) -> Answer {
    send(app, get("/", fields)).await
}
