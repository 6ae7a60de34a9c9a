//! The README's example: an axum application whose responses are cached.
//!
//! ```sh
//! DATABASE_URL=mysql://user:password@127.0.0.1/shop cargo run --example axum
//! curl -i http://127.0.0.1:3000/products/7
//! curl -i -X PUT http://127.0.0.1:3000/products/7
//! ```
//!
//! Without `DATABASE_URL`, the process stores the responses in its memory. `LISTEN` is the address to listen on
//! (default: `127.0.0.1:3000`).

use std::time::Duration;

use axum::{Router, extract::Path, routing::get};
use tower_mysql_cache::store::BoxStore;
use tower_mysql_cache::{CacheLayer, CacheOverride, CachePolicy, MemoryStore, MySqlStore};

const CATALOGUE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(300));

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cache = CacheLayer::new(store().await?).prefix("shop");
    let handle = cache.handle();
    let app = Router::new()
        .route("/products", get(|| async { "all products" }).layer(cache.with_policy(CATALOGUE)))
        .route("/products/{id}", get(show).put(update).layer(cache)); // a PUT invalidates the GET
    let listen = std::env::var("LISTEN").unwrap_or("127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let ctrl_c = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    axum::serve(listener, app).with_graceful_shutdown(ctrl_c).await?;
    Ok(handle.flush().await?) // what is on its way to the table is written
}

async fn show(Path(id): Path<u32>) -> (CacheOverride, String) {
    (CacheOverride::new().ttl(Duration::from_secs(30)), format!("product {id}"))
}

async fn update(Path(id): Path<u32>) -> String {
    format!("product {id} has changed")
}

async fn store() -> Result<BoxStore, Box<dyn std::error::Error>> {
    let Ok(url) = std::env::var("DATABASE_URL") else {
        return Ok(BoxStore::new(MemoryStore::new()));
    };
    let store = MySqlStore::connect(&url).await?;
    store.migrate().await?;
    Ok(BoxStore::new(store))
}
