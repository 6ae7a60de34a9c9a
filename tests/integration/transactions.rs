//! Invalidation in the application's transactions: one handle type, whatever the store is.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use sqlx::MySqlPool;
use tower::{Layer, Service};
use tower_mysql_cache::invalidation::Invalidation;
use tower_mysql_cache::service::CacheBody;
use tower_mysql_cache::store::BoxStore;
use tower_mysql_cache::{CacheHandle, CacheLayer, CachePolicy};

use crate::kit::{Kit, get, on_every_store, request, response, send};

const MINUTE: CachePolicy =
    CachePolicy::new().ttl(Duration::from_secs(60)).tags(&["price"]).invalidates_on_write(false);

/// An application with one price in its database.
#[derive(Clone)]
struct Shop {
    pool: MySqlPool,
    cache: CacheHandle,
}

impl Shop {
    async fn open(kit: &mut Kit, layer: &CacheLayer<BoxStore>) -> Self {
        let pool = kit.pool().await;
        sqlx::query("CREATE TABLE price (price INT)").execute(&pool).await.unwrap();
        sqlx::query("INSERT INTO price VALUES (0)").execute(&pool).await.unwrap();
        Self { pool, cache: layer.handle() }
    }

    /// A transaction in which the price has changed and the pages are invalidated.
    async fn change(&self) -> sqlx::Transaction<'static, sqlx::MySql> {
        let mut tx = self.pool.begin().await.unwrap();
        sqlx::query("UPDATE price SET price = price + 1").execute(&mut *tx).await.unwrap();
        self.cache.invalidate_tags_on(&mut tx, ["price"]).await.unwrap();
        tx
    }

    /// GET shows the price; PUT raises it.
    fn app(
        &self,
        layer: &CacheLayer<BoxStore>,
    ) -> impl Service<Request<()>, Response = Response<CacheBody<Full<Bytes>>>, Error = Infallible>
    + Clone
    + use<> {
        let shop = self.clone();
        layer.layer(tower::service_fn(move |request: Request<()>| {
            let shop = shop.clone();
            async move {
                if request.method() == "PUT" {
                    shop.change().await.commit().await.unwrap();
                    return Ok(response(204, &[], ""));
                }
                let price: i32 = sqlx::query_scalar("SELECT price FROM price")
                    .fetch_one(&shop.pool)
                    .await
                    .unwrap();
                Ok(response(200, &[], &price.to_string()))
            }
        }))
    }
}

on_every_store! {
    async fn a_commit_in_a_handler_counts_at_once(mut kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let shop = Shop::open(&mut kit, &layer).await;
        let app = shop.app(&layer);
        for price in ["0", "1", "2"] {
            let miss = send(&app, get("/", &[])).await;
            assert_eq!((miss.text(), miss.is_hit()), (price, false));
            kit.settle(&shop.cache).await;
            let hit = send(&app, get("/", &[])).await;
            assert_eq!((hit.text(), hit.is_hit()), (price, true));
            send(&app, request("PUT", "/", &[])).await;
        }
    }

    async fn what_was_read_before_the_commit_is_not_served_after_it(mut kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let shop = Shop::open(&mut kit, &layer).await;
        let app = shop.app(&layer);
        send(&app, get("/stored", &[])).await;
        kit.settle(&shop.cache).await;
        let tx = shop.change().await;
        for page in ["/stored", "/new"] {
            assert_eq!(send(&app, get(page, &[])).await.text(), "0");
        }
        kit.settle(&shop.cache).await;
        tx.commit().await.unwrap();
        for page in ["/stored", "/new"] {
            assert_eq!(send(&app, get(page, &[])).await.text(), "1");
        }
        shop.cache.sync().await.unwrap();
        for hit in [false, true] {
            let answer = send(&app, get("/later", &[])).await;
            assert_eq!((answer.text(), answer.is_hit()), ("1", hit));
            kit.settle(&shop.cache).await;
        }
    }

    async fn statements_for_other_drivers_invalidate(mut kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let shop = Shop::open(&mut kit, &layer).await;
        let app = shop.app(&layer);
        send(&app, get("/", &[])).await;
        kit.settle(&shop.cache).await;
        let mut tx = shop.pool.begin().await.unwrap();
        sqlx::query("UPDATE price SET price = 9").execute(&mut *tx).await.unwrap();
        for statement in shop.cache.to_sql(&Invalidation::tags(["price"])).unwrap() {
            let query = sqlx::query(sqlx::AssertSqlSafe(statement.text));
            let query = statement.values.into_iter().fold(query, |query, value| query.bind(value));
            query.execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        shop.cache.sync().await.unwrap();
        assert_eq!(send(&app, get("/", &[])).await.text(), "9");
    }
}
