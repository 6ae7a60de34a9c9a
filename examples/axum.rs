//! The example of the README: an axum application whose responses are cached.
//!
//! ```sh
//! DATABASE_URL=mysql://user:password@127.0.0.1/shop cargo run --example axum
//! curl -i http://127.0.0.1:3000/products
//! curl -i http://127.0.0.1:3000/products/1
//! curl -i -X PUT --json 450 http://127.0.0.1:3000/products/1
//! ```
//!
//! Without `DATABASE_URL` the responses are stored in the process. `LISTEN` is the address to listen
//! on (default: `127.0.0.1:3000`).

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tower_mysql_cache::{
    BoxStore, CacheHandle, CacheLayer, CacheOverride, CachePolicy, MemoryStore, MySqlStore,
};

const CATALOGUE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(300));

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cache = CacheLayer::new(store().await?).prefix("shop").with_policy(CATALOGUE);
    let prices = Arc::new(Mutex::new(BTreeMap::from([(1, 399), (2, 1250)])));

    let app = Router::new()
        .route("/products", get(list).layer(cache.clone()))
        // the layer is on both methods: a PUT invalidates what GET has stored
        .route("/products/{id}", get(show).put(update).layer(cache.clone()))
        .with_state(Shop { prices, cache: cache.handle() });

    let address = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

/// The table in the database if there is one, else the memory of this process.
async fn store() -> Result<BoxStore, Box<dyn Error>> {
    let Ok(url) = env::var("DATABASE_URL") else { return Ok(BoxStore::new(MemoryStore::new())) };
    let store = MySqlStore::connect(&url).await?;
    store.migrate().await?;
    Ok(BoxStore::new(store))
}

#[derive(Clone)]
struct Shop {
    prices: Arc<Mutex<BTreeMap<u32, u32>>>,
    cache: CacheHandle<BoxStore>,
}

/// Stored for as long as the policy says.
async fn list(State(shop): State<Shop>) -> Json<BTreeMap<u32, u32>> {
    Json(shop.prices.lock().await.clone())
}

/// Stored for 30 seconds, whatever the policy says. An error is not stored.
async fn show(State(shop): State<Shop>, Path(id): Path<u32>) -> impl IntoResponse {
    match shop.prices.lock().await.get(&id) {
        Some(price) => Ok((CacheOverride::ttl(Duration::from_secs(30)), Json(*price))),
        None => Err(StatusCode::NOT_FOUND),
    }
}

/// The layer invalidates this product by itself; that the list has changed too only we know.
async fn update(
    State(shop): State<Shop>,
    Path(id): Path<u32>,
    Json(price): Json<u32>,
) -> StatusCode {
    shop.prices.lock().await.insert(id, price);
    match shop.cache.invalidate_uri("/products").await {
        Ok(_) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
