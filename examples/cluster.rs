//! One call for all processes: if several processes are asked for a slow report at the same time, one of them makes it.
//! The others get it from the database.
//!
//! ```sh
//! export DATABASE_URL=mysql://user:password@127.0.0.1/shop
//! LISTEN=127.0.0.1:3000 cargo run --example cluster &
//! LISTEN=127.0.0.1:3001 cargo run --example cluster &
//! curl -H 'host: shop.example' http://127.0.0.1:3000/report & curl -H 'host: shop.example' http://127.0.0.1:3001/report
//! ```
//!
//! `SECONDS` is the time that a report takes (default: 2).

use std::time::Duration;

use axum::{Router, routing::get};
use tower_mysql_cache::policy::Collapse;
use tower_mysql_cache::{CacheLayer, CachePolicy, MySqlStore};

/// If a process dies, its lease ends after at most three seconds, and another process makes the report.
const REPORT: CachePolicy = CachePolicy::new()
    .ttl(Duration::from_secs(60))
    .collapse(Collapse::Cluster)
    .collapse_wait(Duration::from_secs(30))
    .lease(Duration::from_secs(3));

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let variable = |name: &str, default: &str| std::env::var(name).unwrap_or(default.into());
    let store =
        MySqlStore::connect(&variable("DATABASE_URL", "mysql://root@127.0.0.1/shop")).await?;
    store.migrate().await?;
    let cache = CacheLayer::new(store).prefix("shop").with_policy(REPORT);
    let handle = cache.handle();
    let takes = Duration::from_secs(variable("SECONDS", "2").parse()?);
    let report = move || async move {
        tokio::time::sleep(takes).await;
        format!("made by process {}", std::process::id())
    };
    let app = Router::new().route("/report", get(report).layer(cache));
    let listener = tokio::net::TcpListener::bind(variable("LISTEN", "127.0.0.1:3000")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let ctrl_c = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    axum::serve(listener, app).with_graceful_shutdown(ctrl_c).await?;
    Ok(handle.flush().await?)
}
