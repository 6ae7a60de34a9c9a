//! Handlers that are plain functions, in a cache.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use tower::Layer;
use tower::util::BoxCloneSyncService;
use tower_mysql_cache::CacheLayer;
use tower_mysql_cache::service::CacheBody;
use tower_mysql_cache::store::Store;

use super::response;

/// A handler in a cache, with bodies of one kind.
pub(crate) type App<E = Infallible, B = Full<Bytes>> =
    BoxCloneSyncService<Request<()>, Response<CacheBody<B>>, E>;

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

/// A layer around a handler that is a plain function, and the number of its calls.
pub(crate) fn cached<St: Store>(
    layer: &CacheLayer<St>,
    handler: impl Fn(Request<()>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
) -> (App, Calls) {
    let calls = Calls::default();
    let counted = calls.clone();
    let service = layer.layer(tower::service_fn(move |request| {
        counted.add();
        let response = handler(request);
        async move { Ok(response) }
    }));
    (App::new(service), calls)
}

/// Requests as the handler received them.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<Parts>>>);

impl Seen {
    /// Adds a request; returns how many there were before.
    pub(crate) fn add(&self, request: Request<()>) -> usize {
        let mut seen = self.lock();
        seen.push(request.into_parts().0);
        seen.len() - 1
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// The header of a request, by the request's number from 0.
    pub(crate) fn fields(&self, request: usize) -> HeaderMap {
        self.lock()[request].headers.clone()
    }

    pub(crate) fn last(&self) -> Parts {
        self.lock().last().cloned().expect("a request")
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Parts>> {
        self.0.lock().expect("no test panics in it")
    }
}

/// A handler that answers each call with the next of these responses. The last response repeats.
pub(crate) fn scripted<St: Store>(
    layer: &CacheLayer<St>,
    script: Vec<(u16, Vec<(&'static str, &'static str)>, &'static str)>,
) -> (App, Seen) {
    let seen = Seen::default();
    let record = seen.clone();
    let service = layer.layer(tower::service_fn(move |request: Request<()>| {
        let call = record.add(request);
        let (status, fields, body) = &script[call.min(script.len() - 1)];
        let response = response(*status, fields, body);
        async move { Ok(response) }
    }));
    (App::new(service), seen)
}
