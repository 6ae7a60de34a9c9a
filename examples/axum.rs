//! The README's example: an axum application whose responses live in a MySQL or MariaDB table.
//!
//! ```sh
//! DATABASE_URL=mysql://user:password@127.0.0.1/shop cargo run --example axum
//! curl -i http://127.0.0.1:3000/products/7
//! curl -i -X PUT http://127.0.0.1:3000/products/7
//! ```
//!
//! `LISTEN` is the address to listen on. Default: `127.0.0.1:3000`.

use std::time::Duration;

use axum::{Router, extract::Path, routing::get};
use tower_mysql_cache::{CacheLayer, CacheOverride, CachePolicy, MySqlStore};

const CATALOGUE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(300));

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = MySqlStore::connect(&std::env::var("DATABASE_URL")?).await?;
    store.migrate().await?;
    let cache = CacheLayer::new(store).prefix("shop");

    let app = Router::new()
        .route("/products", get(|| async { "all products" }).layer(cache.with_policy(CATALOGUE)))
        .route("/products/{id}", get(show).put(update).layer(cache)); // a PUT invalidates the GET
    let listen = std::env::var("LISTEN").unwrap_or("127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

async fn show(Path(id): Path<u32>) -> (CacheOverride, String) {
    (CacheOverride::ttl(Duration::from_secs(30)), format!("product {id}"))
}

async fn update(Path(id): Path<u32>) -> String {
    format!("product {id} has changed")
}
