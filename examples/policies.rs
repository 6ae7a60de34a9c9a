//! Policies from a file: an operator can change them without a new build. The example loads
//! `examples/policies.toml`, sends requests to its own application, and prints what the cache did:
//!
//! ```sh
//! cargo run --example policies --features serde
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::fs;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use axum::routing::any;
use tower::ServiceExt;
use tower_mysql_cache::{CacheLayer, CachePolicy, CacheStatus, MemoryStore};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/policies.toml");

/// Reads the policies, by name. An unknown setting and a value that cannot work are errors with the line in the file.
fn load(text: &str) -> Result<HashMap<String, CachePolicy>, toml::de::Error> {
    toml::from_str(text)
}

fn app(policies: &HashMap<String, CachePolicy>) -> Result<Router, String> {
    let cache = CacheLayer::new(MemoryStore::new()).prefix("shop");
    let layer = |name: &str| {
        let policy = policies.get(name).ok_or_else(|| format!("{FILE} has no policy [{name}]"))?;
        Ok::<_, String>(cache.with_policy(*policy))
    };
    Ok(Router::new()
        .route("/", any(|| async { "home" }).layer(layer("home")?))
        .route("/products", any(|| async { "products" }).layer(layer("products")?))
        .route("/search", any(|| async { "found" }).layer(layer("search")?))
        .route("/account", any(|| async { "account" }).layer(layer("account")?)))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = app(&load(&fs::read_to_string(FILE)?)?)?;
    for (method, uri, cookie) in [
        (Method::GET, "/", ""),
        (Method::GET, "/", "theme=dark"),
        (Method::GET, "/", "sid=1"),
        (Method::GET, "/products", ""),
        (Method::GET, "/products", ""),
        (Method::POST, "/products", ""),
        (Method::GET, "/products", ""),
        (Method::GET, "/search?q=tea", ""),
        (Method::GET, "/search?q=tea", ""),
        (Method::GET, "/account", ""),
    ] {
        let line = format!("{method} {uri} {cookie}");
        let request = Request::builder().method(method).uri(uri).header("cookie", cookie);
        let response = app.clone().oneshot(request.body(Body::empty())?).await?;
        let status = response.extensions().get::<CacheStatus>();
        let outcome = match status {
            Some(status) if status.is_hit() => "hit",
            Some(status) => status.reason().map_or("miss", |reason| reason.as_str()),
            None => "no cache",
        };
        println!("{line:<24} {outcome}");
    }
    for wrong in ["[home]\nttl = \"5 parsecs\"", "[home]\nttl = 0", "[home]\ntll = \"5m\""] {
        let error = load(wrong).err().ok_or("this file is wrong")?;
        println!("\n{error}");
    }
    Ok(())
}
