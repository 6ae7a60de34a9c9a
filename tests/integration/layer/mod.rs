//! The layer over every store: which responses are served from the store, and which are not stored.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tower::{Layer, ServiceExt};
use tower_mysql_cache::key::TargetKey;
use tower_mysql_cache::policy::Authorization;
use tower_mysql_cache::status::{Forward, StatusField};
use tower_mysql_cache::store::{Admin, ManualClock};
use tower_mysql_cache::{CacheLayer, CacheOverride, CachePolicy, Cookies, MemoryStore};

use crate::kit::{
    Calls, Kit, Slow, cached, get, in_memory, on_every_store, over, request, response, send,
};
use crate::support::eventually;

mod keys;
mod sharing;
mod storing;

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
const FRESH: (&str, &str) = ("cache-control", "max-age=60");
