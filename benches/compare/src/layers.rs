//! The layers: this crate's with each store, and those of others as their documentation recommends.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::error_handling::HandleErrorLayer;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL};
use axum::http::{Request, Response, StatusCode};
use hitbox::policy::PolicyConfig;
use hitbox::predicate::PredicateExt;
use hitbox_backend::format::BincodeFormat;
use hitbox_http::BufferedBody;
use hitbox_http::extractors::{Method, path::PathExtractor, query::QueryExtractor};
use hitbox_http::predicates::header::{Header, Operation};
use hitbox_http::predicates::response::StatusCode as Status;
use hitbox_moka::MokaBackend;
use hitbox_redis::{ConnectionMode, RedisBackend};
use http_body_util::{BodyExt, Full};
use http_cache::{MokaCache, MokaManager};
use http_cache_tower_server::{QueryKeyer, ServerCacheLayer};
use tower::ServiceBuilder;
use tower::util::{AndThenLayer, MapRequestLayer};
use tower_http_cache::backend::CacheBackend;
use tower_http_cache::backend::memory::InMemoryBackend;
use tower_http_cache::backend::redis::RedisBackend as TowerHttpCacheRedis;
use tower_mysql_cache::store::{Compression, Consistency, Store};
use tower_mysql_cache::{CacheLayer, MemoryStore, MySqlStore, Tiered};

use crate::{App, Error, by_hand};

const TTL: Duration = Duration::from_secs(3600);
/// No cache in memory may evict anything.
const BYTES: u64 = 1 << 30;
const ENTRIES: u64 = 1 << 20;
const MAX_BODY: usize = 16 << 20;

// ------------------------------------------------------------------------------------------------ this crate

fn ours<St: Store>(routes: Router, store: St) -> App {
    let cache = CacheLayer::new(store).prefix("compare");
    let handle = Some(cache.handle());
    App { pages: routes.layer(cache), handle }
}

fn memory_store() -> Result<MemoryStore, Error> {
    Ok(MemoryStore::builder().max_bytes(BYTES).build()?)
}

async fn table(compressed: bool) -> Result<MySqlStore, Error> {
    let builder = MySqlStore::builder(&crate::database().await?)?;
    let builder = if compressed { builder } else { builder.compression(Compression::Off) };
    let store = builder.connect().await?;
    store.migrate().await?;
    Ok(store)
}

pub(crate) fn memory(routes: Router) -> Result<App, Error> {
    Ok(ours(routes, memory_store()?))
}

pub(crate) async fn mysql(routes: Router, compressed: bool) -> Result<App, Error> {
    Ok(ours(routes, table(compressed).await?))
}

pub(crate) async fn tiered(routes: Router, strict: bool) -> Result<App, Error> {
    let consistency = if strict { Consistency::Strict } else { Consistency::Bounded };
    Ok(ours(routes, Tiered::new(memory_store()?, table(true).await?).consistency(consistency)))
}

// ----------------------------------------------------------------------------------------------------- others

async fn failed(error: Error) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// It asks for bodies that are `Sync`, which those of axum are not, so the body of a miss is read whole.
async fn whole(response: Response<Body>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    Ok(Response::from_parts(head, Full::new(body)))
}

fn tower_http_cache<B: CacheBackend>(routes: Router, backend: B) -> App {
    let cache = tower_http_cache::prelude::CacheLayer::builder(backend)
        .ttl(TTL)
        .max_body_size(Some(MAX_BODY))
        .respect_cache_control(true)
        .build();
    let stack = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(failed))
        .layer(cache)
        .layer(AndThenLayer::new(whole));
    App::new(routes.layer(stack))
}

pub(crate) fn tower_http_cache_memory(routes: Router) -> App {
    tower_http_cache(routes, InMemoryBackend::new(ENTRIES))
}

pub(crate) async fn tower_http_cache_redis(routes: Router) -> Result<App, Error> {
    Ok(tower_http_cache(routes, TowerHttpCacheRedis::new(by_hand::manager().await?)))
}

pub(crate) fn axum_response_cache(routes: Router) -> App {
    App::new(routes.layer(axum_response_cache::CacheLayer::with_lifespan(TTL)))
}

pub(crate) fn http_cache_tower_server(routes: Router) -> App {
    let manager = MokaManager::new(MokaCache::new(ENTRIES));
    let stack = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(failed))
        .layer(ServerCacheLayer::with_keyer(manager, QueryKeyer));
    App::new(routes.layer(stack))
}

/// It knows no rules of HTTP; the application says what may be stored. These are the conditions of its documentation.
macro_rules! hitbox {
    ($routes:expr, $backend:expr) => {{
        let no_cache = Header::new(Operation::Contains(CACHE_CONTROL, "no-cache".into())).not();
        let anonymous = Header::new(Operation::Exist(AUTHORIZATION)).not();
        let config = hitbox::Config::builder()
            .request_predicate(no_cache.and(anonymous))
            .response_predicate(Status::new(StatusCode::OK))
            .extractor(Method::new().path("/{path}*").query("q".to_owned()))
            .policy(PolicyConfig::builder().ttl(TTL).build())
            .build();
        let cache = hitbox_tower::Cache::builder().backend($backend).config(config).build();
        let body = |request: Request<BufferedBody<Body>>| request.map(Body::new);
        App::new(
            $routes.layer(ServiceBuilder::new().layer(cache).layer(MapRequestLayer::new(body))),
        )
    }};
}

pub(crate) fn hitbox_memory(routes: Router) -> App {
    hitbox!(routes, MokaBackend::builder().max_entries(ENTRIES).value_format(BincodeFormat).build())
}

pub(crate) fn hitbox_redis(routes: Router) -> Result<App, Error> {
    let connection = ConnectionMode::single(std::env::var("REDIS_URL")?);
    Ok(hitbox!(routes, RedisBackend::builder().connection(connection).build()?))
}
