//! The guard: the outermost layer, which sees what the layers around the cache make of a response.

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
/// A cache sees the responses of what is inside of it. A `Set-Cookie` that a layer around it adds is never stored;
/// but the page may have been made for that one session all the same, and would be served to everyone. With a
/// guard around both, nothing is stored before the guard has seen the head that leaves the application:
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
///     .route("/", get(|| async { "a dear page" }).layer(cache.with_policy(PAGE)))
///     .layer(SessionManagerLayer::new(Sessions::default()))
///     .layer(cache.guard()); // the last one is the outermost
/// ```
///
/// What a layer between the guard and the cache does calls the storing off, for a named reason (counted in
/// [`CacheHandle::reasons`](crate::CacheHandle::reasons)):
///
/// | reason | what the guard has seen |
/// |---|---|
/// | `set-cookie-outside` | a `Set-Cookie` that the cache's own response does not have, and the policy does not [strip](crate::CachePolicy::strip_set_cookies) |
/// | `private-outside`, `no-store-outside` | `private` or `no-store`, added to `Cache-Control`, to any field whose name ends with `-cache-control`, or to one of the policy's [`targeted`](crate::CachePolicy::targeted) fields |
/// | `vary-outside` | `Vary: *`, or a field name added to `Vary`, other than `Accept-Encoding`, `Origin`, and the `Access-Control-Request-` fields: what is stored is not selected by it |
/// | `replaced-outside` | another response, or another status. A layer that makes a new response without the extensions of the old one counts as such |
/// | `aborted` | nothing: the request was dropped, or a layer panicked, before there was a head |
///
/// Neither the response nor its body is delayed. Requests that wait for another one's response wait for the guard as
/// well, and call the handler where it says no. The cache says in its own head, before the guard has seen it,
/// neither `stored` nor why not: the detail in `Cache-Status` is `guarded`. Hits are not held up.
///
/// Nothing outside sees the response to a refresh in the background, so behind a guard there is none. Of the requests
/// for a page that is within `stale-while-revalidate`, or that is refreshed early, one waits for the handler, and the
/// others are served what is stored. If the handler fails, or takes longer than
/// [`handler_timeout`](crate::CachePolicy::handler_timeout), that one is served what is stored too; a handler that
/// takes longer is dropped, as if its client had left, and its answer is not stored.
///
/// One guard serves all caches inside of it; of several, the outermost decides. It is made by
/// [`CacheLayer::guard`](crate::CacheLayer::guard).
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

/// A service whose responses are seen before they are stored: what [`CacheGuard`] makes.
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

/// The response of a [`GuardService`], on its way.
#[pin_project]
pub struct GuardFuture<F> {
    /// Before the future: where both are dropped, what that one drops is nobody's any more.
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
