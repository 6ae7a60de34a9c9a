//! One test body for every store: in memory, boxed, and in a real database.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt};
use tower_mysql_cache::service::CacheBody;
use tower_mysql_cache::store::{BoxStore, Consistency};
use tower_mysql_cache::{CacheHandle, CacheLayer, CacheStatus, MemoryStore, MySqlStore, Tiered};

use crate::support::{self, TestDatabase};

/// A store of one kind, with its own database.
pub(crate) struct Kit {
    pub(crate) store: BoxStore,
    database: Option<TestDatabase>,
    /// Whether a store in memory is in front of the database.
    pub(crate) has_front: bool,
}

impl Kit {
    pub(crate) fn memory() -> Self {
        Self { store: BoxStore::new(MemoryStore::new()), database: None, has_front: false }
    }

    pub(crate) async fn mysql() -> Self {
        let database = support::database().await;
        // the suites count rows, and a random cull would change the counts
        let store = MySqlStore::builder(database.url()).expect("a URL").background_cull(false);
        let store = store.connect().await.expect("connects");
        store.migrate().await.expect("migrates");
        Self { store: BoxStore::new(store), database: Some(database), has_front: false }
    }

    /// The recommended set-up: a store in memory in front of a store in the database.
    pub(crate) async fn tiered() -> Self {
        let mut kit = Self::mysql().await;
        // invalidations of another process act at once
        let store = Tiered::new(MemoryStore::new(), kit.store).consistency(Consistency::Strict);
        (kit.store, kit.has_front) = (BoxStore::new(store), true);
        kit
    }

    /// Another process: another store on the same database, or the same store in memory.
    pub(crate) async fn neighbour(&self) -> BoxStore {
        match &self.database {
            Some(database) => {
                BoxStore::new(MySqlStore::connect(database.url()).await.expect("connects"))
            }
            None => self.store.clone(),
        }
    }

    /// The application's database: that of the store, if the store has one.
    pub(crate) async fn pool(&mut self) -> sqlx::MySqlPool {
        if self.database.is_none() {
            self.database = Some(support::database().await);
        }
        let url = self.database.as_ref().expect("a database").url();
        sqlx::MySqlPool::connect(url).await.expect("connects")
    }

    pub(crate) fn layer(&self) -> CacheLayer<BoxStore> {
        CacheLayer::new(self.store.clone()).prefix("test")
    }

    /// Waits until everything is written, so that the next lookup asks the store itself.
    pub(crate) async fn settle(&self, handle: &CacheHandle) {
        handle.flush().await.expect("flushes");
    }
}

/// Runs each test on every store.
macro_rules! on_every_store {
    ($(async fn $name:ident($($kit:ident)+: Kit) $body:block)*) => {
        $(async fn $name($($kit)+: Kit) $body)*

        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Kit::memory()).await;
            })*
        }

        mod mysql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Kit::mysql().await).await;
            })*
        }

        mod tiered {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Kit::tiered().await).await;
            })*
        }
    };
}
pub(crate) use on_every_store;

/// The number of calls of a handler.
#[derive(Clone, Default)]
pub(crate) struct Calls(Arc<AtomicUsize>);

impl Calls {
    pub(crate) fn add(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A response whose body has been read to the end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) cache: CacheStatus,
}

impl Answer {
    pub(crate) async fn of<B>(response: Response<CacheBody<B>>) -> Self
    where
        B: http_body::Body + 'static,
        B::Error: std::fmt::Debug,
    {
        let (parts, body) = response.into_parts();
        let cache = parts.extensions.get::<CacheStatus>().cloned().expect("a CacheStatus");
        let body = body.collect().await.expect("a whole body").to_bytes();
        Self { status: parts.status, headers: parts.headers, body, cache }
    }

    pub(crate) fn is_hit(&self) -> bool {
        self.cache.is_hit()
    }

    /// The lines of the field, joined.
    pub(crate) fn field(&self, name: &str) -> String {
        let lines = self.headers.get_all(name).iter().map(|line| line.to_str().unwrap_or("?"));
        lines.collect::<Vec<_>>().join(" | ")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }
}

/// `GET uri` with these fields.
pub(crate) fn get(uri: &str, fields: &[(&str, &str)]) -> Request<()> {
    request("GET", uri, fields)
}

pub(crate) fn request(method: &str, uri: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a field value");
        request = request.header(*name, value);
    }
    request.body(()).expect("a request")
}

/// A response with these fields.
pub(crate) fn response(status: u16, fields: &[(&str, &str)], body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(Full::from(body.to_owned())).expect("a response")
}

/// Sends one request through a clone of a service, and reads the response.
pub(crate) async fn send<S, B, RB>(service: &S, request: Request<B>) -> Answer
where
    S: Service<Request<B>, Response = Response<CacheBody<RB>>> + Clone,
    S::Error: std::fmt::Debug,
    RB: http_body::Body + 'static,
    RB::Error: std::fmt::Debug,
{
    Answer::of(service.clone().oneshot(request).await.expect("an answer")).await
}

/// A layer around a handler that is a plain function, and the number of its calls.
pub(crate) fn cached<F>(
    layer: &CacheLayer<BoxStore>,
    handler: F,
) -> (
    impl Service<
        Request<()>,
        Response = Response<CacheBody<Full<Bytes>>>,
        Error = std::convert::Infallible,
        Future: Send,
    > + Clone
    + Send
    + use<F>,
    Calls,
)
where
    F: Fn(Request<()>) -> Response<Full<Bytes>> + Clone + Send + 'static,
{
    let calls = Calls::default();
    let counted = calls.clone();
    let service = layer.layer(tower::service_fn(move |request| {
        counted.add();
        let response = handler(request);
        async move { Ok(response) }
    }));
    (service, calls)
}

/// Requests as the handler received them.
pub(crate) type Seen = Arc<Mutex<Vec<HeaderMap>>>;

/// A handler that answers each call with the next of these responses. The last response repeats.
pub(crate) fn scripted(
    layer: &CacheLayer<BoxStore>,
    script: Vec<(u16, Vec<(&'static str, &'static str)>, &'static str)>,
) -> (
    impl Service<
        Request<()>,
        Response = Response<CacheBody<Full<Bytes>>>,
        Error = std::convert::Infallible,
    > + Clone
    + use<>,
    Seen,
) {
    let seen = Seen::default();
    let record = seen.clone();
    let service = layer.layer(tower::service_fn(move |request: Request<()>| {
        let mut calls = record.lock().unwrap();
        let (status, fields, body) = &script[calls.len().min(script.len() - 1)];
        calls.push(request.headers().clone());
        let response = response(*status, fields, body);
        async move { Ok(response) }
    }));
    (service, seen)
}
