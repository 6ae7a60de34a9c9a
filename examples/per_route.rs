//! Several routes, each with its own policy and key. The example sends requests to its own application, prints what the
//! cache did with each request, and ends:
//!
//! ```sh
//! cargo run --example per_route
//! ```

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Request, StatusCode, Uri};
use axum::routing::get;
use tower::ServiceExt;
use tower_mysql_cache::key::TargetKey;
use tower_mysql_cache::policy::Authorization;
use tower_mysql_cache::{
    CacheLayer, CacheOverride, CachePolicy, CacheStatus, Cookies, MemoryStore,
};

/// Policies are constants beside the routes, because a policy is the same for every request.
const PAGE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(300));
/// The page is drawn in the visitor's theme; the handler reads no other cookie.
const THEMED: CachePolicy = PAGE.cookies(Cookies::Key(&["theme"]));
/// The handler reads no cookies.
const STATIC: CachePolicy = PAGE.cookies(Cookies::Ignore);
/// Each user has a different feed.
const FEED: CachePolicy = PAGE.authorization(Authorization::Key);
/// A 404 is stored as well.
const DOCUMENT: CachePolicy = PAGE.statuses(&[StatusCode::OK, StatusCode::NOT_FOUND]);

fn app() -> Router {
    let cache = CacheLayer::new(MemoryStore::new()).prefix("routes").with_policy(PAGE);

    let search = cache.clone().only_query(["q", "page"]).sort_query();
    let landing = cache.clone().without_tracking_query();
    let tenants = cache.clone().partition_by("tenant", |request: &Parts| {
        Some(request.headers.get("x-tenant")?.as_bytes().to_vec())
    });
    // one entry for /today and /now, which are the same page
    let today =
        cache.clone().key_builder(|_: &Parts, _: TargetKey| Some(TargetKey::custom("today")));

    Router::new()
        .route("/search", get(echo).layer(search))
        .route("/landing", get(echo).layer(landing))
        .route("/report", get(echo).layer(tenants))
        .route("/today", get(echo).layer(today.clone()))
        .route("/now", get(echo).layer(today))
        .route("/", get(echo).layer(cache.with_policy(THEMED)))
        .route("/about", get(echo).layer(cache.with_policy(STATIC)))
        .route("/feed", get(echo).layer(cache.with_policy(FEED)))
        .route(
            "/missing",
            get(axum::http::StatusCode::NOT_FOUND).layer(cache.with_policy(DOCUMENT)),
        )
        .route("/account", get(echo).layer(cache.with_policy(CachePolicy::bypass())))
        .route("/offers", get(echo).layer(cache.clone()))
        .route("/rates", get(rates).layer(cache.clone()))
        .route("/terms", get(terms).layer(cache))
}

async fn echo(uri: Uri, headers: HeaderMap) -> String {
    format!("{uri} {} fields", headers.len())
}

/// The override counts, not the policy: this response is fresh for 5 seconds, not for 300.
async fn rates() -> (CacheOverride, &'static str) {
    (CacheOverride::new().ttl(Duration::from_secs(5)), "1.08")
}

/// The response's own `Cache-Control` counts, not the policy.
async fn terms() -> ([(&'static str, &'static str); 1], &'static str) {
    ([("cache-control", "max-age=86400")], "terms")
}

/// The requests, one a line: the target, then request fields.
const REQUESTS: &[(&str, &[&str])] = &[
    (
        "only the parameters q and page count, in any order",
        &["/search?q=tea&page=2", "/search?page=2&q=tea&session=41", "/search?q=coffee&page=2"],
    ),
    (
        "tracking parameters do not count",
        &["/landing?offer=3", "/landing?offer=3&utm_source=mail&gclid=x"],
    ),
    (
        "each tenant has its own entries; without a tenant there is no key",
        &["/report x-tenant:blue", "/report x-tenant:blue", "/report x-tenant:red", "/report"],
    ),
    ("two routes, one key", &["/today", "/now"]),
    (
        "the theme is in the key, the session is not",
        &["/ cookie:theme=dark;sid=1", "/ cookie:theme=dark;sid=2", "/ cookie:theme=light;sid=1"],
    ),
    ("cookies are ignored", &["/about cookie:sid=1", "/about cookie:sid=2"]),
    (
        "the default: with a session cookie, the handler is called",
        &["/offers", "/offers cookie:sid=1", "/offers cookie:_ga=1"],
    ),
    (
        "credentials are in the key",
        &[
            "/feed authorization:Bearer-ann",
            "/feed authorization:Bearer-ann",
            "/feed authorization:Bearer-bob",
        ],
    ),
    ("404 is stored here", &["/missing", "/missing"]),
    ("never cached", &["/account", "/account"]),
    ("the response decides: an override, Cache-Control", &["/rates", "/rates", "/terms", "/terms"]),
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = app();
    for (heading, lines) in REQUESTS {
        println!("\n{heading}");
        for line in *lines {
            let mut words = line.split(' ');
            let mut request = Request::get(words.next().unwrap_or_default());
            for (name, value) in words.filter_map(|word| word.split_once(':')) {
                request = request.header(name, value);
            }
            let response = app.clone().oneshot(request.body(Body::empty())?).await?;
            println!("  {line:<42} {}", outcome(response.extensions().get::<CacheStatus>()));
        }
    }
    Ok(())
}

/// Describes the `CacheStatus` that the layer adds to each response.
fn outcome(status: Option<&CacheStatus>) -> String {
    let Some(status) = status else { return "no layer".to_owned() };
    match (status.forward(), status.ttl_secs()) {
        (Some(forward), _) => {
            let stored = if status.is_stored() { ", stored" } else { "" };
            let detail = status
                .reason()
                .map(|reason| reason.as_str())
                .map(|detail| format!(" ({detail})"))
                .unwrap_or_default();
            format!("handler: {}{detail}{stored}", forward.as_str())
        }
        (None, Some(ttl)) => format!("hit, fresh for {ttl} s"),
        (None, None) => "hit".to_owned(),
    }
}
