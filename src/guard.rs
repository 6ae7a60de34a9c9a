//! The guard: the outermost layer, which sees the head of a response as it leaves the application.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project::pin_project;
use tower::{Layer, Service};

use crate::engine::consent::Watch;

/// The outermost layer of an application in which layers outside the cache add cookies: sessions, CSRF tokens,
/// flash messages.
///
/// The cache sees only the responses of the layers and handlers that it wraps. If a layer outside adds a
/// `Set-Cookie`, the cache does not store this cookie. But the page may have been made for that one session, and the
/// cache would serve it to everyone. With a guard around all of them, the cache stores a response only after the
/// guard has seen its final head:
///
/// ```
/// use axum::{Router, routing::get};
/// use std::time::Duration;
/// use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore};
/// use tower_sessions::{MemoryStore as Sessions, SessionManagerLayer};
///
/// const PAGE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
///
/// let cache = CacheLayer::new(MemoryStore::new()).prefix("shop");
/// let app: Router = Router::new()
///     .route("/", get(|| async { "a slow page" }).layer(cache.with_policy(PAGE)))
///     .layer(SessionManagerLayer::new(Sessions::default()))
///     .layer(cache.guard()); // the last one is the outermost
/// ```
///
/// The response is not stored if a layer between the guard and the cache does one of these. The reasons are counted
/// in [`CacheHandle::reasons`](crate::CacheHandle::reasons).
///
/// | reason | what the guard has seen |
/// |---|---|
/// | `set-cookie-outside` | a `Set-Cookie` that the cache's own response does not have, and the policy does not [strip](crate::CachePolicy::strip_set_cookies) |
/// | `private-outside`, `no-store-outside` | `private` or `no-store`, added to `Cache-Control`, to any field whose name ends with `-cache-control`, or to one of the policy's [`targeted`](crate::CachePolicy::targeted) fields |
/// | `vary-outside` | `Vary: *`, or a field name added to `Vary`, other than `Accept-Encoding`, `Origin`, and the `Access-Control-Request-` fields: the stored response is not selected by it |
/// | `replaced-outside` | another response, or another status; also a new response without the extensions of the old one |
/// | `aborted` | no head: the request was dropped, or a layer panicked |
///
/// The guard delays neither the response nor its body, and it does not delay hits. Followers wait until the guard has
/// decided, and call the handler if the response must not be stored. The cache writes `Cache-Status` before the guard
/// decides, so the field does not contain `stored`; its detail is `guarded`, if there is no other reason.
///
/// Behind a guard, the cache does not refresh in the background, because the guard would not see such a response.
/// Instead, if a page is within `stale-while-revalidate` or is refreshed early:
///
/// - One request waits for the handler, and the others are served the stored response.
/// - If the handler fails, or takes longer than [`handler_timeout`](crate::CachePolicy::handler_timeout), this
///   request is served the stored response too.
/// - A handler that takes longer is dropped, as if its client had disconnected, and its response is not stored.
///
/// One guard serves all caches inside it. If there are several guards, the outermost decides.
/// [`CacheLayer::guard`](crate::CacheLayer::guard) makes a guard.
#[derive(Clone, Copy, Debug)]
pub struct CacheGuard(());

impl CacheGuard {
    pub(crate) fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for CacheGuard {
    type Service = GuardService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        GuardService { inner }
    }
}

/// The service of a [`CacheGuard`].
///
/// ```
/// use tower::Layer;
/// use tower_mysql_cache::service::GuardService;
/// use tower_mysql_cache::{CacheLayer, MemoryStore};
///
/// let cache = CacheLayer::new(MemoryStore::new());
/// # let application = tower::service_fn(|_: ()| async { Ok::<_, std::convert::Infallible>(()) });
/// let service: GuardService<_> = cache.guard().layer(application);
/// # let _ = service;
/// ```
#[derive(Clone, Debug)]
pub struct GuardService<S> {
    inner: S,
}

impl<S, B, RB> Service<Request<B>> for GuardService<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = GuardFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let watch = Watch::begin(request.extensions_mut());
        GuardFuture { watch, future: self.inner.call(request) }
    }
}

/// The future of a [`GuardService`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use tower::{Layer, Service};
/// use tower_mysql_cache::service::GuardFuture;
/// use tower_mysql_cache::{CacheLayer, MemoryStore};
///
/// # let application = tower::service_fn(|_: http::Request<()>| async {
/// #     Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::<bytes::Bytes>::default()))
/// # });
/// let mut service = CacheLayer::new(MemoryStore::new()).guard().layer(application);
/// let future: GuardFuture<_> = service.call(http::Request::new(()));
/// let response = future.await.unwrap();
/// # }
/// ```
#[pin_project]
pub struct GuardFuture<F> {
    /// Must be declared before the future, so that it is dropped first. Then what the future drops is counted as
    /// `aborted`, because the guard is gone.
    watch: Option<Watch>,
    #[pin]
    future: F,
}

impl<F, RB, E> Future for GuardFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.future.poll(cx))?;
        if let Some(watch) = this.watch {
            watch.sees(&mut response);
        }
        Poll::Ready(Ok(response))
    }
}

impl<F> fmt::Debug for GuardFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuardFuture")
    }
}
