//! Sessions and a cache: the guard prevents the cache from storing pages that begin a session. The example sends requests to
//! its own application, prints what the cache did with each request, and ends:
//!
//! ```sh
//! cargo run --example sessions
//! ```
//!
//! The session layer is outside the cache, because other routes need it as well. So the cache does not see the cookie that
//! the session layer adds. The guard is outside both layers and sees the cookie.

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{Request, StatusCode};
use axum::routing::get;
use tower::ServiceExt;
use tower_mysql_cache::{CacheLayer, CachePolicy, CacheStatus, MemoryStore};
use tower_sessions::{MemoryStore as Sessions, Session, SessionManagerLayer};

const PAGE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(300));

fn app(cache: &CacheLayer<MemoryStore>) -> Router {
    let pages = cache.with_policy(PAGE);
    Router::new()
        .route("/", get(welcome).layer(pages.clone()))
        .route("/about", get(|| async { "about us" }).layer(pages))
        .layer(SessionManagerLayer::new(Sessions::default()))
        .layer(cache.guard()) // the last layer is the outermost
}

/// Begins a session, and shows a page for this visitor only.
async fn welcome(session: Session) -> Result<String, (StatusCode, String)> {
    count(&session).await.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

async fn count(session: &Session) -> Result<String, tower_sessions::session::Error> {
    let visits = session.get::<u32>("visits").await?.unwrap_or(0) + 1;
    session.insert("visits", visits).await?;
    session.save().await?;
    let id = session.id().map(|id| id.to_string()).unwrap_or_default();
    Ok(format!("visit {visits} of visitor {id}"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cache = CacheLayer::new(MemoryStore::new()).prefix("shop");
    let app = app(&cache);
    let (ann, ann_has) = visit(&app, "/", None).await?;
    let (bob, _) = visit(&app, "/", None).await?;
    if ann == bob {
        return Err("two visitors got the same page".into());
    }
    // Ann comes back: her cookie is a credential, so her request skips the cache
    visit(&app, "/", ann_has).await?;
    visit(&app, "/about", None).await?;
    let (about, _) = visit(&app, "/about", None).await?;
    println!("reasons: {:?}", cache.handle().reasons());
    let counts = cache.handle().counts();
    if (about.as_str(), counts.hits, counts.stored) != ("about us", 1, 1) {
        return Err("the page without a session was not stored".into());
    }
    Ok(())
}

/// Sends one request. Returns the page, and the cookie that came with it.
async fn visit(
    app: &Router,
    path: &str,
    cookie: Option<String>,
) -> Result<(String, Option<String>), Box<dyn Error>> {
    let mut request = Request::get(path);
    if let Some(cookie) = cookie {
        request = request.header(COOKIE, cookie);
    }
    let response = app.clone().oneshot(request.body(Body::empty())?).await?;
    let status = response.extensions().get::<CacheStatus>().ok_or("no status")?;
    let said = if status.is_hit() {
        "hit"
    } else {
        status.reason().map(|reason| reason.as_str()).unwrap_or("miss")
    };
    let set = response.headers().get(SET_COOKIE).and_then(|cookie| cookie.to_str().ok());
    let set = set.and_then(|cookie| cookie.split(';').next()).map(str::to_owned);
    let page = String::from_utf8(to_bytes(response.into_body(), 1 << 20).await?.to_vec())?;
    println!("{path:7} {said:8} {page}");
    Ok((page, set))
}
