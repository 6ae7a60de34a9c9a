//! A caching reverse proxy in front of any HTTP server: with it you can try the cache without writing code.
//!
//! ```sh
//! cargo run --example gateway -- --origin http://127.0.0.1:8000 --listen 127.0.0.1:8080
//! curl -i http://127.0.0.1:8080/
//! ```
//!
//! The gateway caches as RFC 9111 requires of a shared cache ([`CachePolicy::rfc9111`]). It stores responses in its memory or,
//! with `--database mysql://user:password@host/name`, in a table. `--help` lists the arguments. Ctrl-C or SIGTERM ends the
//! gateway, after it has answered open requests and written all pending responses to the store.
//!
//! What the gateway passes on (RFC 9110 7.6):
//! - Bodies are streamed in both directions. If a body fails half way, it is cut off for the client too.
//! - The client's `Host` is passed on and is part of the key. `--origin` only says where requests are sent. An HTTP/1.0
//!   request without `Host` gets the origin's authority.
//! - Fields for one connection are removed, including those that `Connection` names. Connections are not upgraded.
//! - `Via` is added to requests, and the cache's own fields (`Age`, `Cache-Status`) to responses.
//! - Request fields with `_` in their names are removed: origins read `X_Forwarded_Host` as `X-Forwarded-Host`.
//! - No other fields are added or removed.
//! - Some fields say that a request was for another host, path or method: `X-Forwarded-Host`, `X-Original-URL`,
//!   `X-HTTP-Method-Override` and fields with similar names. The gateway passes them on and keeps an entry for each combination
//!   of their values. No client gets a response made with another client's fields.
//!
//! What the gateway answers itself:
//! - 400, if `Host` is missing, repeated or invalid (such as a port that is not a number), the target is only a host
//!   (`GET shop.example HTTP/1.1`), or the client's body fails.
//! - 501, if the method is `CONNECT` or the transfer coding is unknown.
//! - 200 to `OPTIONS` and 405 to `TRACE`, if `Max-Forwards` is 0.
//! - 508, if the gateway has sent the request itself: then the origin is this gateway.
//! - 502, if the origin cannot be reached or its response is invalid.
//! - 504, if the origin does not answer in time (`--timeout`).
//!
//! The 502 and the 504 are made outside the cache. The cache sees errors of its inner service.
//!
//! How connections end:
//! - A connection without a request is closed after `--idle` seconds. Such a connection may have sent nothing, part of a head,
//!   or the HTTP/2 preface or a part of it; or it waits for its next request.
//! - `--connections` limits the open connections. At the limit, the gateway closes the connection that has been idle for the
//!   longest. While every connection has a request, new clients wait.

mod activity;
mod arguments;
mod connection;
mod edge;
mod fields;
mod origin;

use std::error::Error;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use http::request::Parts;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::Layer;
use tower_mysql_cache::key::TargetKey;
use tower_mysql_cache::status::StatusField;
use tower_mysql_cache::store::BoxStore;
use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore, MySqlStore};

use crate::activity::Connections;
use crate::arguments::{Arguments, USAGE};
use crate::edge::Edge;
use crate::origin::Origin;

/// The limit of the store in memory.
const MEMORY_BYTES: u64 = 256 << 20;
/// When the gateway ends: how long it waits for open requests, and then again for the writes to the store.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("gateway: {error} (--help lists the arguments)");
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gateway: {}", whole(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let table = table(arguments.database.as_deref()).await?;
    let mut cache = CacheLayer::new(store(table.clone())?)
        .prefix("gateway")
        .with_policy(CachePolicy::rfc9111())
        .key_builder(|request: &Parts, target: TargetKey| {
            let said = fields::said_of_the_target(&request.headers);
            Some(if said.is_empty() { target } else { target.partition("said", said) })
        });
    if arguments.debug {
        cache = cache.status_field(StatusField::Debug);
    }
    let handle = cache.handle();
    let origin = Origin::new(arguments.origin.clone(), arguments.timeout);
    let edge = Edge::new(cache.layer(origin), arguments.origin.as_str())?;

    let listener = TcpListener::bind(&arguments.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", arguments.listen))?;
    println!("listening on http://{}", listener.local_addr()?);

    let (stop, stopping) = watch::channel(());
    let mut connections = Connections::new(arguments.connections);
    let mut told_to_end = pin!(told_to_end());
    // a connection that was accepted, but must wait for room
    let mut waiting = None;
    loop {
        if let Some(stream) = waiting.take_if(|_| !connections.are_full()) {
            let (edge, idle, stopping) = (edge.clone(), arguments.idle, stopping.clone());
            connections.spawn(|activity| connection::serve(stream, edge, idle, activity, stopping));
        }
        tokio::select! {
            accepted = listener.accept(), if waiting.is_none() => match accepted {
                Ok((stream, _)) => waiting = Some(stream),
                // such as too many open files, or a client that has left: the other connections go on
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    connections.make_room().await;
                }
            },
            () = connections.next(waiting.is_some()) => {}
            signal = &mut told_to_end => {
                signal?;
                break;
            }
        }
    }
    drop((listener, stop));
    if tokio::time::timeout(PATIENCE, connections.finish()).await.is_err() {
        tracing::warn!("some requests did not end and are cut off");
    }
    tokio::time::timeout(PATIENCE, handle.flush()).await??;
    if let Some(table) = table {
        table.close().await;
    }
    println!("{:?}", handle.counts());
    Ok(())
}

/// The store in the database, if there is one.
async fn table(database: Option<&str>) -> Result<Option<MySqlStore>, Box<dyn Error>> {
    let Some(url) = database else { return Ok(None) };
    let store = MySqlStore::connect(url).await?;
    store.migrate().await?;
    Ok(Some(store))
}

/// The store in the database, else in the memory of this process.
fn store(table: Option<MySqlStore>) -> Result<BoxStore, Box<dyn Error>> {
    match table {
        Some(table) => Ok(BoxStore::new(table)),
        None => Ok(BoxStore::new(MemoryStore::builder().max_bytes(MEMORY_BYTES).build()?)),
    }
}

/// Waits for Ctrl-C or, on Unix, SIGTERM.
async fn told_to_end() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

/// An error with the errors behind it.
fn whole(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
