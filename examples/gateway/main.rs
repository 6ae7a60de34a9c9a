//! A caching reverse proxy in front of anything that speaks HTTP: to try the cache without writing a line.
//!
//! ```sh
//! cargo run --example gateway -- --origin http://127.0.0.1:8000 --listen 127.0.0.1:8080
//! curl -i http://127.0.0.1:8080/
//! ```
//!
//! It caches as RFC 9111 tells a shared cache to ([`CachePolicy::rfc9111`]), in the memory of the
//! process or, with `--database mysql://user:password@host/name`, in a table there. `--help` lists the
//! arguments. Ctrl-C or SIGTERM ends it: open requests are answered, and what is on its way to the
//! store is written.
//!
//! What goes through it (RFC 9110 7.6):
//! - Bodies are streamed both ways. One that fails half way is cut off for the client too.
//! - The client's `Host` is passed on and is part of the key; the address of `--origin` is only where
//!   requests are sent. A request of HTTP/1.0 without one is for the origin's own authority.
//! - Fields that concern one connection are taken off, those that `Connection` names included; a
//!   connection is not upgraded. `Via` is added to requests. Nothing else is added or removed, except
//!   for what the cache itself says (`Age`, `Cache-Status`), and for the fields of requests that have `_` in their
//!   names: origins read `X_Forwarded_Host` as `X-Forwarded-Host`, so those fields are removed.
//! - Some fields say that a request was for another host, path or method than it seems: `X-Forwarded-Host`,
//!   `X-Original-URL`, `X-HTTP-Method-Override` and all that are named like them. The gateway passes them on and
//!   keeps an entry for each combination of their values. No client gets a response made with another client's fields.
//! - A target that is only a host (`GET shop.example HTTP/1.1`), and a host whose port is no number, are a 400.
//! - A request that this gateway has sent itself is a 508: the origin is this gateway.
//! - An origin that cannot be reached or answers nonsense is a 502, one that does not answer in time
//!   (`--timeout`) a 504. Both are made outside the cache: to the cache, they are errors.
//! - A connection without a request is closed after `--idle` seconds: one that sends nothing, part of a head or of an
//!   HTTP/2 preface, or a preface alone, and one that waits for its next request.
//! - `--connections` bounds the open connections. When the bound is reached, the gateway closes the connection that has
//!   been idle for the longest. While every connection has a request, new clients wait.

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
use tower_mysql_cache::{
    BoxStore, CacheLayer, CachePolicy, MemoryStore, MySqlStore, StatusField, TargetKey,
};

use crate::activity::Connections;
use crate::arguments::{Arguments, USAGE};
use crate::edge::Edge;
use crate::origin::Origin;

/// What the store in the process may hold.
const MEMORY_BYTES: u64 = 256 << 20;
/// How long open requests have to end, and then the writes to the store, when the gateway ends.
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
            eprintln!("gateway: {error}");
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
    // accepted, and there is no room for it yet
    let mut waiting = None;
    loop {
        if let Some(stream) = waiting.take_if(|_| !connections.are_full()) {
            let (edge, idle, stopping) = (edge.clone(), arguments.idle, stopping.clone());
            connections.spawn(|activity| connection::serve(stream, edge, idle, activity, stopping));
        }
        tokio::select! {
            accepted = listener.accept(), if waiting.is_none() => match accepted {
                Ok((stream, _)) => waiting = Some(stream),
                // too many open files, a client that has left already: others go on
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

/// The table in the database, if there is one.
async fn table(database: Option<&str>) -> Result<Option<MySqlStore>, Box<dyn Error>> {
    let Some(url) = database else { return Ok(None) };
    let store = MySqlStore::connect(url).await?;
    store.migrate().await?;
    Ok(Some(store))
}

/// That, else the memory of this process.
fn store(table: Option<MySqlStore>) -> Result<BoxStore, Box<dyn Error>> {
    match table {
        Some(table) => Ok(BoxStore::new(table)),
        None => Ok(BoxStore::new(MemoryStore::builder().max_bytes(MEMORY_BYTES).build()?)),
    }
}

/// Ends with ctrl-c or, where there is such a thing, SIGTERM.
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
