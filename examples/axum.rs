//! The example of the README: an axum application whose responses are cached.
//!
//! ```sh
//! DATABASE_URL=mysql://user:password@127.0.0.1/shop cargo run --example axum
//! curl -i http://127.0.0.1:3000/products
//! curl -i http://127.0.0.1:3000/products/1
//! curl -i -X PUT http://127.0.0.1:3000/products/1
//! ```
//!
//! Without `DATABASE_URL` the responses are stored in the process. `LISTEN` is the address to listen
//! on (default: `127.0.0.1:3000`).

use std::env;
use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use tower_mysql_cache::{
    BoxStore, CacheHandle, CacheLayer, CacheOverride, CachePolicy, MemoryStore, MySqlStore,
};

const CATALOGUE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(300));

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cache = CacheLayer::new(store().await?).prefix("shop");

    let app = Router::new()
        .route("/products", get(list).layer(cache.with_policy(CATALOGUE)))
        .route("/products/{id}", get(show).put(update).layer(cache.clone())) // a PUT invalidates the GET
        .with_state(cache.handle());
    let listen = env::var("LISTEN").unwrap_or("127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

/// Stored for as long as the policy says.
async fn list() -> &'static str {
    "all products\n"
}

/// Stored because the response says for how long: this route has no policy.
async fn show(Path(id): Path<u32>) -> (CacheOverride, String) {
    (CacheOverride::ttl(Duration::from_secs(30)), format!("product {id}\n"))
}

/// What is stored for this product goes by itself; that the list has changed as well only we know.
async fn update(
    State(cache): State<CacheHandle<BoxStore>>,
    Path(id): Path<u32>,
) -> (StatusCode, String) {
    match cache.invalidate_uri("/products").await {
        Ok(_) => (StatusCode::OK, format!("product {id} has changed\n")),
        Err(error) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("the list may be out of date: {error}\n"))
        }
    }
}

/// The table in the database if there is one, else the memory of this process.
async fn store() -> Result<BoxStore, Box<dyn Error>> {
    let Ok(url) = env::var("DATABASE_URL") else { return Ok(BoxStore::new(MemoryStore::new())) };
    let store = MySqlStore::connect(&url).await?;
    store.migrate().await?;
    Ok(BoxStore::new(store))
}
