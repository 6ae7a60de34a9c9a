//! One axum application behind one cache. `scripts/compare` starts it once for each cache and measures it.
//!
//! ```sh
//! cargo run --release -- memory     # prints its port, and runs until standard input ends
//! ```
//!
//! `DATABASE_URL` and `REDIS_URL` name the servers of the caches that need one.

mod by_hand;
mod handler;
mod layers;

use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};
use tower_mysql_cache::CacheHandle;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
type Built = Pin<Box<dyn Future<Output = Result<App, Error>>>>;

/// The pages behind a cache, and the handle of the cache if it is ours.
pub(crate) struct App {
    pub(crate) pages: Router,
    pub(crate) handle: Option<CacheHandle>,
}

impl App {
    pub(crate) fn new(pages: Router) -> Self {
        Self { pages, handle: None }
    }
}

/// A database for this process only, on the server of `DATABASE_URL`.
pub(crate) async fn database() -> Result<String, Error> {
    let url = std::env::var("DATABASE_URL")?;
    let name = format!("compare_{}", std::process::id());
    let mut server = MySqlConnection::connect(&url).await?;
    let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::query(create).execute(&mut server).await?;
    let server = url.rsplit_once('/').map_or(url.as_str(), |(server, _)| server);
    Ok(format!("{server}/{name}"))
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Error> {
    let name = std::env::args().nth(1).unwrap_or_default();
    let pages = handler::Pages::new();
    let App { pages: router, handle } = build(&name, Arc::clone(&pages)).await?;
    let app = router.merge(control(pages, handle));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new()); // the script is gone, or wants this process to end
        std::process::exit(0);
    });
    Ok(axum::serve(listener, app).await?)
}

fn build(name: &str, pages: Arc<handler::Pages>) -> Built {
    let routes = handler::routes(Arc::clone(&pages));
    match name {
        "bare" => Box::pin(async { Ok(App::new(routes)) }),
        "memory" => Box::pin(async { layers::memory(routes) }),
        "tiered" => Box::pin(layers::tiered(routes, false)),
        "tiered-strict" => Box::pin(layers::tiered(routes, true)),
        "store-mariadb" | "store-mysql" => Box::pin(layers::mysql(routes, true)),
        "store-mariadb-plain" => Box::pin(layers::mysql(routes, false)),
        "statement-mariadb" | "statement-mysql" => Box::pin(by_hand::statement(pages)),
        "redis-multiplexed" => Box::pin(by_hand::redis_multiplexed(pages)),
        "redis-pool" => Box::pin(by_hand::redis_pool(pages)),
        "tower-http-cache-memory" => {
            Box::pin(async { Ok(layers::tower_http_cache_memory(routes)) })
        }
        "tower-http-cache-redis" => Box::pin(layers::tower_http_cache_redis(routes)),
        "hitbox-memory" => Box::pin(async { Ok(layers::hitbox_memory(routes)) }),
        "hitbox-redis" => Box::pin(async { layers::hitbox_redis(routes) }),
        "axum-response-cache" => Box::pin(async { Ok(layers::axum_response_cache(routes)) }),
        "http-cache-tower-server" => {
            Box::pin(async { Ok(layers::http_cache_tower_server(routes)) })
        }
        _ => {
            let why = format!("unknown cache '{name}'; scripts/compare --list prints the names");
            Box::pin(async { Err(why.into()) })
        }
    }
}

/// `/calls`: how often the handler made a page. `/flush`: waits until everything is written.
fn control(pages: Arc<handler::Pages>, handle: Option<CacheHandle>) -> Router {
    let flush = |State(handle): State<Option<CacheHandle>>| async move {
        match handle {
            Some(handle) if handle.flush().await.is_err() => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::OK,
        }
    };
    let calls = move || async move { pages.calls().to_string() };
    Router::new().route("/calls", get(calls)).route("/flush", get(flush)).with_state(handle)
}
