//! An invalidation that commits together with the data: one transaction changes a price and invalidates the pages that show
//! it. The example creates its own table, sends requests to its own application, prints what the cache did with each request,
//! and ends:
//!
//! ```sh
//! DATABASE_URL=mysql://root@127.0.0.1/test cargo run --example transaction
//! ```

use std::error::Error;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http_body_util::BodyExt;
use sqlx::{AssertSqlSafe, MySqlPool, Row};
use tower::ServiceExt;
use tower_mysql_cache::{
    CacheHandle, CacheLayer, CacheOverride, CachePolicy, CacheStatus, MemoryStore, MySqlStore,
    Tiered,
};

const PRODUCT: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(300));
/// Every response of the list's route has this tag.
const LIST: CachePolicy = PRODUCT.tags(&["products"]);

#[derive(Clone)]
struct Shop {
    products: MySqlPool,
    cache: CacheHandle,
}

/// Any error of the database is a 500.
struct Failed(Box<dyn Error>);

impl<E: Error + 'static> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.0.to_string()).into_response()
    }
}

/// The page of one product. It has the product's tag.
async fn show(
    State(shop): State<Shop>,
    Path(id): Path<u32>,
) -> Result<(CacheOverride, String), Failed> {
    let row = sqlx::query("SELECT name, price FROM tmc_example_products WHERE id = ?")
        .bind(id)
        .fetch_one(&shop.products)
        .await?;
    let (name, price): (String, u32) = (row.try_get(0)?, row.try_get(1)?);
    let tag = format!("product:{id}");
    Ok((CacheOverride::new().tag(tag), format!("{name} {price}")))
}

/// The list of products. It has the tag of its route.
async fn list(State(shop): State<Shop>) -> Result<String, Failed> {
    let rows = sqlx::query("SELECT name, price FROM tmc_example_products ORDER BY id")
        .fetch_all(&shop.products)
        .await?;
    let line = |row: &sqlx::mysql::MySqlRow| -> Result<String, sqlx::Error> {
        Ok(format!("{} {}", row.try_get::<String, _>(0)?, row.try_get::<u32, _>(1)?))
    };
    Ok(rows.iter().map(line).collect::<Result<Vec<_>, _>>()?.join(", "))
}

/// Commits the new price together with the invalidation, or neither of them. A price over 1000 is a mistake, which this
/// handler finds only at the end.
async fn reprice(
    State(shop): State<Shop>,
    Path(id): Path<u32>,
    Json(price): Json<u32>,
) -> Result<StatusCode, Failed> {
    let mut tx = shop.products.begin().await?;
    sqlx::query("UPDATE tmc_example_products SET price = ? WHERE id = ?")
        .bind(price)
        .bind(id)
        .execute(&mut *tx)
        .await?;
    let tags = [format!("product:{id}"), "products".to_owned()];
    shop.cache.invalidate_tags_on(&mut tx, tags).await?;
    if price > 1000 {
        tx.rollback().await?;
        return Ok(StatusCode::UNPROCESSABLE_ENTITY);
    }
    tx.commit().await?;
    // from here on, this node serves the old price to no client
    Ok(StatusCode::NO_CONTENT)
}

/// A node of the shop: the routes, with a separate cache on the same database.
async fn node(url: &str) -> Result<(Router, CacheHandle), Box<dyn Error>> {
    let behind =
        MySqlStore::builder(url)?.poll_interval(Duration::from_millis(100)).connect().await?;
    behind.migrate().await?;
    let cache = CacheLayer::new(Tiered::new(MemoryStore::new(), behind)).prefix("tx-example");
    let shop = Shop { products: MySqlPool::connect(url).await?, cache: cache.handle() };
    let router = Router::new()
        .route("/products", get(list).layer(cache.with_policy(LIST)))
        .route("/products/{id}", get(show).layer(cache.with_policy(PRODUCT)))
        // without the cache layer, so that only the transaction invalidates
        .route("/price/{id}", axum::routing::put(reprice))
        .with_state(shop.clone());
    Ok((router, shop.cache))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).or_else(|| std::env::var("DATABASE_URL").ok());
    let url = url.ok_or("name a database: DATABASE_URL, or the first argument")?;
    let pool = MySqlPool::connect(&url).await?;
    for text in [
        "DROP TABLE IF EXISTS tmc_example_products",
        "CREATE TABLE tmc_example_products (id INT PRIMARY KEY, name VARCHAR(20), price INT UNSIGNED)",
        "INSERT INTO tmc_example_products VALUES (7, 'tea', 4), (8, 'coffee', 12)",
    ] {
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&pool).await?;
    }
    let (one, cache) = node(&url).await?;
    let (two, _) = node(&url).await?;
    cache.erase().await?;

    for (heading, node, line) in [
        ("The first node fills the cache", &one, "GET /products/7"),
        ("", &one, "GET /products/8"),
        ("", &one, "GET /products"),
        ("The second node gets the page from the table", &two, "GET /products/7"),
        ("A transaction that is rolled back invalidates nothing", &one, "PUT /price/7 9999"),
        ("", &one, "GET /products/7"),
        (
            "A committed transaction: the handler is called again for product 7 and the list",
            &one,
            "PUT /price/7 5",
        ),
        ("", &one, "GET /products/7"),
        ("", &one, "GET /products"),
        ("Product 8 is still a hit", &one, "GET /products/8"),
    ] {
        say(heading);
        ask(node, line).await?;
    }
    // the front tier learns of commits of other processes after its poll interval at the latest
    tokio::time::sleep(Duration::from_millis(150)).await;
    cache.flush().await?;
    say("The second node has noticed");
    ask(&two, "GET /products/7").await?;
    say("The newest rows of the invalidation log");
    for row in cache.invalidations(2).await? {
        println!("  {:<22} {:?}", row.id, row.scope);
    }
    cache.erase().await?;
    sqlx::raw_sql("DROP TABLE tmc_example_products").execute(&pool).await?;
    Ok(())
}

fn say(heading: &str) {
    if !heading.is_empty() {
        println!("\n{heading}");
    }
}

async fn ask(node: &Router, line: &str) -> Result<(), Box<dyn Error>> {
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or("GET"), words.next().unwrap_or("/"));
    let body = words.next().map_or_else(Body::empty, |text| Body::from(text.to_owned()));
    let request = Request::builder().method(method).uri(target);
    let request = request.header("content-type", "application/json").body(body)?;
    let response = node.clone().oneshot(request).await?;
    let status = response.extensions().get::<CacheStatus>().cloned();
    let (code, body) = (response.status(), response.into_body().collect().await?.to_bytes());
    let did = match status {
        Some(status) if status.is_hit() => "hit".to_owned(),
        Some(status) => {
            let why = status.forward().map_or("", |forward| forward.as_str());
            format!("handler ({})", status.reason().map(|reason| reason.as_str()).unwrap_or(why))
        }
        None => "no cache here".to_owned(),
    };
    println!("  {line:<22} {} {did:<30} {}", code.as_u16(), String::from_utf8_lossy(&body));
    Ok(())
}
