//! A cache without a layer: the handler asks Redis or a table itself, and fills it when it finds nothing.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{AsyncCommands, Client, RedisError};
use sqlx::MySqlPool;
use sqlx::mysql::MySqlPoolOptions;

use crate::handler::{self, Pages};
use crate::{App, Error};

const SECONDS: u64 = 3600;

trait Cache: Clone + Send + Sync + 'static {
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Bytes>, Error>> + Send;
    fn set(&self, key: &str, body: &Bytes) -> impl Future<Output = Result<(), Error>> + Send;
}

async fn find<C: Cache>(cache: &C, pages: &Pages, path: &str) -> Result<Bytes, Error> {
    if let Some(body) = cache.get(path).await? {
        return Ok(body);
    }
    let body =
        if path.starts_with("/miss/") { pages.make_slowly().await } else { pages.make(path) };
    cache.set(path, &body).await?;
    Ok(body)
}

fn app<C: Cache>(cache: C, pages: Arc<Pages>) -> App {
    let page = |State((cache, pages)): State<(C, Arc<Pages>)>, uri: Uri| async move {
        match find(&cache, &pages, uri.path()).await {
            Ok(body) => handler::page(body),
            Err(error) => failed(&error),
        }
    };
    let router =
        Router::new().route("/page/{size}/{key}", get(page)).route("/miss/{key}", get(page));
    App::new(router.with_state((cache, pages)))
}

fn failed(error: &Error) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}

#[derive(Clone)]
struct Table(MySqlPool);

impl Cache for Table {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let query = sqlx::query_scalar("SELECT body FROM pages WHERE id = ?").bind(key.as_bytes());
        Ok(query.fetch_optional(&self.0).await?.map(|body: Vec<u8>| Bytes::from(body)))
    }

    async fn set(&self, key: &str, body: &Bytes) -> Result<(), Error> {
        let query = sqlx::query("REPLACE INTO pages (id, body) VALUES (?, ?)");
        query.bind(key.as_bytes()).bind(&body[..]).execute(&self.0).await?;
        Ok(())
    }
}

/// One statement for each request, through a pool of ten connections.
pub(crate) async fn statement(pages: Arc<Pages>) -> Result<App, Error> {
    let options = MySqlPoolOptions::new().min_connections(10).max_connections(10);
    let pool = options.connect(&crate::database().await?).await?;
    let table =
        "CREATE TABLE IF NOT EXISTS pages (id VARBINARY(255) PRIMARY KEY, body LONGBLOB NOT NULL)";
    sqlx::query(table).execute(&pool).await?;
    Ok(app(Table(pool), pages))
}

#[derive(Clone)]
struct Multiplexed(ConnectionManager);

impl Cache for Multiplexed {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        Ok(self.0.clone().get(key).await?)
    }

    async fn set(&self, key: &str, body: &Bytes) -> Result<(), Error> {
        Ok(self.0.clone().set_ex(key, &body[..], SECONDS).await?)
    }
}

fn client() -> Result<Client, Error> {
    Ok(Client::open(std::env::var("REDIS_URL")?)?)
}

/// One connection that reconnects and that all requests share. Without the 500 ms for an answer, which are too few for
/// bodies of 8 MiB on a busy machine.
pub(crate) async fn manager() -> Result<ConnectionManager, Error> {
    let config = ConnectionManagerConfig::new().set_response_timeout(None);
    Ok(client()?.get_connection_manager_with_config(config).await?)
}

pub(crate) async fn redis_multiplexed(pages: Arc<Pages>) -> Result<App, Error> {
    Ok(app(Multiplexed(manager().await?), pages))
}

struct Connect(Client);

impl bb8::ManageConnection for Connect {
    type Connection = MultiplexedConnection;
    type Error = RedisError;

    async fn connect(&self) -> Result<Self::Connection, RedisError> {
        self.0.get_multiplexed_async_connection().await
    }

    async fn is_valid(&self, connection: &mut Self::Connection) -> Result<(), RedisError> {
        redis::cmd("PING").query_async(connection).await
    }

    fn has_broken(&self, _: &mut Self::Connection) -> bool {
        false
    }
}

#[derive(Clone)]
struct Pool(bb8::Pool<Connect>);

impl Cache for Pool {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        Ok(self.0.get().await?.get(key).await?)
    }

    async fn set(&self, key: &str, body: &Bytes) -> Result<(), Error> {
        Ok(self.0.get().await?.set_ex(key, &body[..], SECONDS).await?)
    }
}

/// A pool of ten connections, each for one request at a time, without a PING before each use.
pub(crate) async fn redis_pool(pages: Arc<Pages>) -> Result<App, Error> {
    let pool = bb8::Pool::builder().max_size(10).test_on_check_out(false);
    Ok(app(Pool(pool.build(Connect(client()?)).await?), pages))
}
