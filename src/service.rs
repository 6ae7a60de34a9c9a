//! The service: asks whether the cache handles a request, and passes the request to the engine or to the inner
//! service.

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower::util::Oneshot;
use tower::{Service, ServiceExt};

#[cfg(feature = "axum")]
use crate::axum::target_uri;
pub use crate::body::CacheBody;
use crate::engine::{self, Admission, Engine, Finish, Route, consent, nesting};
pub use crate::future::ResponseFuture;
pub use crate::guard::{GuardFuture, GuardService};
use crate::status::{CacheStatus, Forward};
use crate::store::Store;
use crate::telemetry::count;

/// The service of a [`CacheLayer`](crate::CacheLayer): it caches the responses of the inner service.
///
/// This service is always ready, so a busy inner service does not delay hits. If a request needs the inner service,
/// it waits until a clone of the inner service is ready.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::convert::Infallible;
/// use std::time::Duration;
///
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_mysql_cache::{CacheLayer, CachePolicy, CacheStatus, MemoryStore};
///
/// const PAGE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
///
/// let service = ServiceBuilder::new()
///     .layer(CacheLayer::new(MemoryStore::new()).with_policy(PAGE))
///     .service_fn(|_: Request<()>| async {
///         Ok::<_, Infallible>(Response::new(Full::<bytes::Bytes>::from("a slow page")))
///     });
/// let request = || Request::get("http://shop.example/").body(()).unwrap();
/// service.clone().oneshot(request()).await.unwrap();
/// let second = service.oneshot(request()).await.unwrap();
/// assert!(second.extensions().get::<CacheStatus>().unwrap().is_hit());
/// # }
/// ```
pub struct CacheService<S, St> {
    inner: S,
    engine: Arc<Engine<St>>,
    route: Arc<Route>,
}

impl<S, St> CacheService<S, St> {
    pub(crate) fn new(inner: S, engine: Arc<Engine<St>>, route: Arc<Route>) -> Self {
        Self { inner, engine, route }
    }
}

impl<S, St, B, RB> Service<Request<B>> for CacheService<S, St>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    RB: Body<Error: Send> + Send + 'static,
    St: Store,
{
    type Response = Response<CacheBody<RB>>;
    type Error = S::Error;
    type Future = ResponseFuture<Oneshot<S, Request<B>>, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let body_follows = body_follows(&body);
        let nested = nesting::is_inside(&self.engine, &parts);
        let (consent, promise) = consent::ask(&parts.extensions, &self.route.policy);
        let admission = engine::admit(&self.route, target_uri(&parts), &parts, body_follows);
        let counters = &self.engine.counters;
        let finish = match admission {
            Admission::Exchange(mut plan) => {
                (plan.nested, plan.consent) = (nested.is_some(), consent);
                let (engine, route) = (Arc::clone(&self.engine), Arc::clone(&self.route));
                let (request, inner) = ((parts, body), self.inner.clone());
                let exchange = engine::exchange(engine, route, plan, request, inner);
                return ResponseFuture::engine(exchange, nested, promise);
            }
            Admission::WriteThrough(mut target) => {
                count(&counters.other_methods);
                if let Some(plan) = target.as_mut().and_then(|write| write.plan.as_mut()) {
                    plan.consent = consent;
                }
                let (engine, route) = (Arc::clone(&self.engine), Arc::clone(&self.route));
                let inner = self.inner.clone();
                let request = Request::from_parts(parts, body);
                let write = engine::write_through(engine, route, target, request, inner);
                return ResponseFuture::engine(write, nested, promise);
            }
            Admission::Untouched => None,
            Admission::Bypass(reason) => {
                count(&counters.bypassed);
                let status = CacheStatus::forwarded(Forward::Bypass, Some(reason));
                self.engine.explain(&status);
                Some(Finish::new(&self.route, status))
            }
            Admission::Forward => {
                count(&counters.other_methods);
                let status = CacheStatus::forwarded(Forward::Method, None);
                self.engine.explain(&status);
                Some(Finish::new(&self.route, status))
            }
        };
        let request = Request::from_parts(parts, body);
        ResponseFuture::direct(self.inner.clone().oneshot(request), finish, nested)
    }
}

/// Whether the request has a body, if the type of its body can tell. Over HTTP/2, the header fields may not tell it.
fn body_follows<B: 'static>(body: &B) -> bool {
    let body: &dyn Any = body;
    if let Some(body) = body.downcast_ref::<hyper::body::Incoming>() {
        return !body.is_end_stream();
    }
    #[cfg(feature = "axum")]
    if let Some(body) = body.downcast_ref::<::axum::body::Body>() {
        return !body.is_end_stream();
    }
    false
}

/// The target URI. Without axum, this is always the request's URI, because only axum's `nest` changes it.
#[cfg(not(feature = "axum"))]
fn target_uri(request: &http::request::Parts) -> crate::key::TargetUri<'_> {
    crate::key::TargetUri::Known(&request.uri)
}

impl<S: Clone, St> Clone for CacheService<S, St> {
    fn clone(&self) -> Self {
        let (engine, route) = (Arc::clone(&self.engine), Arc::clone(&self.route));
        Self { inner: self.inner.clone(), engine, route }
    }
}

impl<S: fmt::Debug, St> fmt::Debug for CacheService<S, St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("CacheService");
        debug.field("inner", &self.inner).field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// Guarantees for users, which the compiler checks here: the service is `Clone + Send + Sync`, its future is `Send`.
#[expect(dead_code, reason = "only compiled")]
fn promises<S, St, B>(mut service: CacheService<S, St>, request: Request<B>)
where
    S: Service<Request<B>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: Body<Error: Send> + Send + 'static,
    St: Store,
{
    fn is_send<T: Send>(_: &T) {}
    fn is_shareable<T: Clone + Send + Sync>(_: &T) {}
    fn is_future<F: Future + Send>(_: &F) {}
    is_shareable(&service);
    let future = service.call(request);
    is_send(&future);
    is_future(&future);
}
