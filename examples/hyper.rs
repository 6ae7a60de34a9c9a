//! Plain hyper and tower, without a framework: one cached service behind an HTTP/1 server.
//!
//! ```sh
//! DATABASE_URL=mysql://user:password@127.0.0.1/shop cargo run --example hyper
//! curl -i http://127.0.0.1:3000/primes?below=1000000
//! ```
//!
//! Without `DATABASE_URL`, the process stores the responses in its memory. `LISTEN` is the address to listen on (default:
//! `127.0.0.1:3000`). Ctrl-C ends the server, after it has answered open requests and written all pending responses to the
//! store.

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceBuilder;
use tower_mysql_cache::store::BoxStore;
use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore, MySqlStore};

const PRIMES: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(3600));

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let table = table().await?;
    let store = table.clone().map_or_else(|| BoxStore::new(MemoryStore::new()), BoxStore::new);
    let cache = CacheLayer::new(store).prefix("primes").with_policy(PRIMES).only_query(["below"]);
    let handle = cache.handle();
    let service = ServiceBuilder::new().layer(cache).service_fn(primes);

    let address = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);

    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut ctrl_c = pin!(tokio::signal::ctrl_c());
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            Some(_) = connections.join_next() => continue,
            _ = &mut ctrl_c => break,
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service.clone()));
        let mut stopping = stopping.clone();
        connections.spawn(async move {
            let mut connection = pin!(connection);
            let served = tokio::select! {
                served = &mut connection => served,
                _ = stopping.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = served {
                eprintln!("connection failed: {error}");
            }
        });
    }
    drop(stop);
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_secs(5), ended).await;
    handle.flush().await?;
    if let Some(table) = table {
        table.close().await;
    }
    println!("{:?}", handle.counts());
    Ok(())
}

/// The store in the database. `None` without `DATABASE_URL`: then the store is the memory of this process.
async fn table() -> Result<Option<MySqlStore>, Box<dyn Error>> {
    let Ok(url) = env::var("DATABASE_URL") else { return Ok(None) };
    let store = MySqlStore::connect(&url).await?;
    store.migrate().await?;
    Ok(Some(store))
}

/// A slow page: it counts the primes below a number.
async fn primes(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let query = request.uri().query().unwrap_or_default();
    let below = query.split('&').find_map(|pair| pair.strip_prefix("below="));
    let below = below.map_or(Ok(1000), str::parse::<u32>).ok().filter(|below| *below <= 2_000_000);
    let (status, text) = match (request.method(), request.uri().path(), below) {
        (&Method::GET | &Method::HEAD, "/primes", Some(below)) => {
            let count = tokio::task::spawn_blocking(move || count_primes(below)).await;
            (StatusCode::OK, format!("{} primes below {below}\n", count.unwrap_or_default()))
        }
        (_, "/primes", _) => (StatusCode::BAD_REQUEST, "GET /primes?below=2000000\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    Ok(response)
}

fn count_primes(below: u32) -> usize {
    let is_prime = |n: &u32| (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (2..below).filter(is_prime).count()
}
