//! An axum page behind the layer. `measure.py` starts it once for each store.
//!
//! ```sh
//! page-cache-hits memory    # or mysql, with the database of DATABASE_URL, or none, without a layer
//! ```
//!
//! It prints its port, then answers lines on standard input, and ends when standard input does:
//! `hits KIB N` calls the application N times in this process, waits until all is stored, and prints `done`.
//! The calls go through the pages `/page/KIB/0` to `/page/KIB/31` in turn.
//! `BODIES` is the directory with the bodies, `CALLS` the file that gets a byte for each call of the handler behind a layer.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use http_body_util::BodyExt;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_mysql_cache::store::BoxStore;
use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore, MySqlStore};

type Error = Box<dyn std::error::Error + Send + Sync>;

const PAGE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(3600));
const PAGES: u64 = 32; // of each size
const CALLERS: u64 = 64;
/// Not the default of 250 ms: on a busy machine, it would make some of the hits calls of the handler.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Result<(), Error> {
    let store = store().await?;
    let pages = Arc::new(Pages::read(store.is_some())?);
    let mut app = Router::new().route("/page/{kib}/{number}", get(page)).with_state(pages);
    let mut handle = None;
    if let Some(store) = store {
        let cache = CacheLayer::new(store).store_timeout(PATIENCE).with_policy(PAGE);
        handle = Some(cache.handle());
        app = app.layer(cache);
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    let served = app.clone();
    tokio::spawn(async { axum::serve(listener, served).await });

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let (kib, number) =
            parse(&line).ok_or_else(|| format!("expected `hits KIB N`, not `{line}`"))?;
        hits(&app, kib, number).await?;
        if let Some(handle) = &handle {
            handle.flush().await?;
        }
        println!("done");
    }
    Ok(())
}

fn parse(line: &str) -> Option<(u32, u64)> {
    let (kib, number) = line.strip_prefix("hits ")?.split_once(' ')?;
    Some((kib.parse().ok()?, number.parse().ok()?))
}

async fn store() -> Result<Option<BoxStore>, Error> {
    match std::env::args().nth(1).as_deref() {
        Some("none") => Ok(None),
        Some("memory") => Ok(Some(BoxStore::new(MemoryStore::new()))),
        Some("mysql") => {
            let store = MySqlStore::builder(&std::env::var("DATABASE_URL")?)?;
            let store = store.query_timeout(PATIENCE).connect().await?;
            store.migrate().await?;
            Ok(Some(BoxStore::new(store)))
        }
        _ => Err("the store is `none`, `memory` or `mysql`".into()),
    }
}

struct Pages {
    bodies: HashMap<u32, Bytes>,
    calls: Option<File>,
}

impl Pages {
    fn read(with_calls: bool) -> Result<Self, Error> {
        let (mut bodies, directory) = (HashMap::new(), PathBuf::from(std::env::var("BODIES")?));
        for kib in [1, 16, 256] {
            bodies.insert(kib, std::fs::read(directory.join(kib.to_string()))?.into());
        }
        let calls = std::env::var("CALLS")?;
        let calls = with_calls.then(|| File::options().append(true).open(calls)).transpose()?;
        Ok(Self { bodies, calls })
    }
}

async fn page(
    State(pages): State<Arc<Pages>>,
    Path((kib, _)): Path<(u32, u64)>,
) -> Result<impl IntoResponse, StatusCode> {
    if let Some(mut calls) = pages.calls.as_ref() {
        calls.write_all(b".").map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    }
    let body = pages.bodies.get(&kib).cloned().ok_or(StatusCode::NOT_FOUND)?;
    Ok(([(header::CONTENT_TYPE, "text/html; charset=utf-8")], body))
}

/// At least `number` calls, by 64 callers at once.
async fn hits(app: &Router, kib: u32, number: u64) -> Result<(), Error> {
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let app = app.clone();
        callers.spawn(async move {
            for call in 0..number.div_ceil(CALLERS) {
                let path = format!("/page/{kib}/{}", (caller + call) % PAGES);
                let request =
                    Request::get(&path).header(header::HOST, "127.0.0.1").body(Body::empty())?;
                let response = app.clone().oneshot(request).await?;
                if response.status() != StatusCode::OK {
                    return Err(Error::from(format!("{path} answered {}", response.status())));
                }
                response.into_body().collect().await?;
            }
            Ok(())
        });
    }
    while let Some(result) = callers.join_next().await {
        result??;
    }
    Ok(())
}
