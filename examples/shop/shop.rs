//! The shop: its routes, each with a policy of its own.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::header::{
    ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_TYPE, COOKIE, ETAG, IF_NONE_MATCH,
    LOCATION, SET_COOKIE, VARY,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use http_body::Frame;
use tokio::sync::Mutex;
use tokio::time::Interval;
use tower_mysql_cache::status::StatusField;
use tower_mysql_cache::store::BoxStore;
use tower_mysql_cache::{CacheHandle, CacheLayer, CacheOverride, CachePolicy, Cookies};

/// The prefix of the shop's keys in the table.
pub(crate) const PREFIX: &str = "demo";

const fn fresh_for(seconds: u64) -> CachePolicy {
    CachePolicy::new().ttl(Duration::from_secs(seconds))
}

/// The home page reads no cookies, so it is the same for all visitors.
const HOME: CachePolicy = fresh_for(300).cookies(Cookies::Ignore);
/// The greeting depends on the visitor's theme. Its handler reads no other cookie.
const GREETING: CachePolicy = fresh_for(300).cookies(Cookies::Key(&["theme"]));
/// The defaults: for a request with a session cookie, the handler is called.
const CATALOGUE: CachePolicy = fresh_for(300);
const SEARCH: CachePolicy = fresh_for(60);
const NEWS: CachePolicy = fresh_for(3);
const REPORT: CachePolicy = fresh_for(600);
const IMAGES: CachePolicy = fresh_for(3600).max_body_bytes(2 << 20);

/// The products of the shop, and the number of calls of handlers. Each page shows the number of the call that made it.
pub(crate) struct Goods {
    products: Mutex<BTreeMap<u32, Product>>,
    calls: AtomicU64,
}

struct Product {
    name: String,
    price: String,
}

impl Goods {
    pub(crate) fn new() -> Arc<Self> {
        let products = [("tea", "3.99"), ("coffee", "12.50"), ("cocoa", "7.20")];
        let product =
            |(name, price): (&str, &str)| Product { name: name.into(), price: price.into() };
        let products = Mutex::new((1..).zip(products.map(product)).collect());
        Arc::new(Self { products, calls: AtomicU64::new(0) })
    }

    /// The number of calls of handlers so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

/// The state that the handlers share.
#[derive(Clone)]
pub(crate) struct Shop {
    goods: Arc<Goods>,
    cache: CacheHandle,
}

impl Shop {
    /// A shop whose cache uses `store`.
    pub(crate) fn open(store: BoxStore, goods: Arc<Goods>) -> (Router, CacheHandle) {
        // in debug mode, Cache-Status also has the key and the name of the reason
        let cache = CacheLayer::new(store).prefix(PREFIX).status_field(StatusField::Debug);
        let shop = Self { goods, cache: cache.handle() };

        let catalogue = cache.with_policy(CATALOGUE);
        // A handler sets the only cookie, so the cache sees it. An application with a session layer around the router adds
        // `.layer(cache.guard())` last: see `examples/sessions.rs`.
        let router = Router::new()
            .route("/", get(home).layer(cache.with_policy(HOME)))
            .route("/greeting", get(greeting).layer(cache.with_policy(GREETING)))
            .route("/products", get(list).post(add).layer(catalogue.clone()))
            .route("/products/{id}", get(show).put(reprice).layer(catalogue.clone()))
            .route("/search", get(search).layer(cache.with_policy(SEARCH).without_tracking_query()))
            .route("/news", get(news).layer(cache.with_policy(NEWS)))
            .route("/stock", get(stock).layer(catalogue.clone()))
            .route("/report", get(report).layer(cache.with_policy(REPORT)))
            .route("/image", get(image).layer(cache.with_policy(IMAGES)))
            .route("/account", get(account).layer(catalogue.clone()))
            .route("/cart", get(cart).layer(catalogue.clone()))
            .route("/broken", get(broken).layer(catalogue.clone()))
            .route("/events", get(events).layer(catalogue))
            .with_state(shop);
        (router, cache.handle())
    }

    /// A text with the number of the call that made it.
    fn page(&self, text: impl std::fmt::Display) -> String {
        let call = self.goods.calls.fetch_add(1, Ordering::Relaxed) + 1;
        format!("{text} (call {call})\n")
    }
}

async fn home(State(shop): State<Shop>) -> String {
    shop.page("Welcome")
}

async fn greeting(State(shop): State<Shop>, headers: HeaderMap) -> String {
    let dark = cookies(&headers).split("; ").any(|cookie| cookie == "theme=dark");
    shop.page(if dark { "Good night" } else { "Good day" })
}

/// The list in the visitor's language: one variant for each `Accept-Language`.
async fn list(State(shop): State<Shop>, headers: HeaderMap) -> impl IntoResponse {
    let language = headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    let (language, title) = match language.and_then(|value| value.get(..2)) {
        Some("de") => ("de", "Unser Tee und mehr"),
        Some("fr") => ("fr", "Nos produits"),
        _ => ("en", "Our products"),
    };
    let products = shop.goods.products.lock().await;
    let rows = products.iter().map(|(id, p)| format!("\n  {id} {} {}", p.name, p.price));
    let text = rows.collect::<String>();
    // a tag for each product in the list, so that a change of a product invalidates the list as well
    let tags = CacheOverride::new().tags(products.keys().map(tag));
    let fields = [(VARY, "accept-language"), (CONTENT_LANGUAGE, language)];
    (tags, fields, shop.page(format!("{title}: {}{text}", products.len())))
}

/// POST to the list: the layer invalidates the list in all languages.
async fn add(State(shop): State<Shop>, name: String) -> impl IntoResponse {
    let mut products = shop.goods.products.lock().await;
    let id = products.keys().last().map_or(1, |last| last + 1);
    products.insert(id, Product { name, price: "1.00".into() });
    (StatusCode::CREATED, [(LOCATION, format!("/products/{id}"))], shop.page("Added"))
}

/// One product. It is fresh for 60 seconds, although the policy of its route says 300.
async fn show(State(shop): State<Shop>, Path(id): Path<u32>) -> impl IntoResponse {
    match shop.goods.products.lock().await.get(&id) {
        Some(Product { name, price }) => {
            let lifetime = CacheOverride::new().ttl(Duration::from_secs(60)).tag(tag(&id));
            Ok((lifetime, shop.page(format!("{name} {price}"))))
        }
        None => Err((StatusCode::NOT_FOUND, shop.page("No such product"))),
    }
}

/// The tag of all pages that show the product.
fn tag(id: &u32) -> String {
    format!("product:{id}")
}

/// PUT: the layer invalidates the page of this product. The list shows the price too, but only the shop knows that, so it
/// invalidates the tag. If your products are in the database, use `invalidate_tags_on` in the transaction that changes the
/// price: see the example `transaction`.
async fn reprice(
    State(shop): State<Shop>,
    Path(id): Path<u32>,
    price: String,
) -> impl IntoResponse {
    match shop.goods.products.lock().await.get_mut(&id) {
        Some(product) => product.price = price,
        None => return (StatusCode::NOT_FOUND, shop.page("No such product")),
    }
    if let Err(error) = shop.cache.invalidate_tags([tag(&id)]).await {
        tracing::error!(%error, "pages with this product may be out of date for a while");
    }
    (StatusCode::OK, shop.page("Repriced"))
}

async fn search(State(shop): State<Shop>, Query(query): Query<BTreeMap<String, String>>) -> String {
    let q = query.get("q").map_or("", String::as_str);
    let products = shop.goods.products.lock().await;
    let found = products.values().filter(|product| product.name.contains(q)).count();
    shop.page(format!("{found} found for {q}"))
}

/// The stock. Its response is fresh for three seconds and has an `ETag`, so the cache validates it afterwards.
async fn stock(State(shop): State<Shop>, headers: HeaderMap) -> impl IntoResponse {
    const VERSION: &str = "\"12-chests\"";
    let page = shop.page("12 chests of tea");
    let fields = [(CACHE_CONTROL, "max-age=3"), (ETAG, VERSION)];
    match headers.get(IF_NONE_MATCH) {
        Some(version) if version == VERSION => (StatusCode::NOT_MODIFIED, fields, String::new()),
        _ => (StatusCode::OK, fields, page),
    }
}

async fn news(State(shop): State<Shop>) -> String {
    shop.page("News")
}

/// A slow page.
async fn report(State(shop): State<Shop>) -> String {
    tokio::time::sleep(Duration::from_millis(300)).await;
    shop.page("Report")
}

/// A picture of a megabyte, as a BMP, which browsers can show.
async fn image(State(shop): State<Shop>) -> impl IntoResponse {
    const SIDE: u32 = 592; // the format requires rows of a multiple of four bytes
    const HEADER: u32 = 54;
    shop.page("");
    let size = HEADER + SIDE * SIDE * 3;
    let mut bmp = Vec::with_capacity(size as usize);
    bmp.extend_from_slice(b"BM");
    for word in [size, 0, HEADER, 40, SIDE, SIDE, 1 | 24 << 16, 0, size - HEADER, 2835, 2835, 0, 0]
    {
        bmp.extend_from_slice(&word.to_le_bytes());
    }
    for (y, x) in (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (y, x))) {
        bmp.extend_from_slice(&[(x / 3) as u8, (y / 3) as u8, (x * y / 997) as u8]);
    }
    ([(CONTENT_TYPE, "image/bmp"), (ETAG, "\"sunset\"")], bmp)
}

/// A page for one visitor. It says `private`. Even without that the cache would not store it, because the request has a
/// cookie.
async fn account(State(shop): State<Shop>, headers: HeaderMap) -> impl IntoResponse {
    let private = [(CACHE_CONTROL, "private")];
    match cookies(&headers).split_once("sid=") {
        Some((_, session)) => (StatusCode::OK, private, shop.page(format!("Account of {session}"))),
        None => (StatusCode::UNAUTHORIZED, private, shop.page("Who are you?")),
    }
}

/// The first visit starts a session. The page must not be stored, because its cookie is for one visitor.
async fn cart(State(shop): State<Shop>) -> impl IntoResponse {
    let page = shop.page("Empty cart");
    ([(SET_COOKIE, format!("sid={}; HttpOnly", shop.goods.calls()))], page)
}

async fn broken(State(shop): State<Shop>) -> impl IntoResponse {
    (StatusCode::INTERNAL_SERVER_ERROR, shop.page("Out of order"))
}

/// Server-sent events: one at once, then one every half second, without end.
async fn events(State(shop): State<Shop>) -> impl IntoResponse {
    let ticks = tokio::time::interval(Duration::from_millis(500));
    ([(CONTENT_TYPE, "text/event-stream")], Body::new(Events { shop, ticks, sent: 0 }))
}

struct Events {
    shop: Shop,
    ticks: Interval,
    sent: u64,
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        ready!(self.ticks.poll_tick(cx));
        if self.sent == 0 {
            self.shop.page("");
        }
        self.sent += 1;
        let event = format!("data: event {}\n\n", self.sent);
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }
}

fn cookies(headers: &HeaderMap) -> &str {
    headers.get(COOKIE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
