//! The future of a [`CacheService`](crate::service::CacheService).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project::pin_project;

use crate::body::CacheBody;
use crate::engine::consent::Promise;
use crate::engine::{Finish, nesting};

/// The future of a [`CacheService`](crate::service::CacheService): `F` is the inner service's future, and `T` the output.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use tower::{Layer, Service};
/// use tower_mysql_cache::service::ResponseFuture;
/// use tower_mysql_cache::{CacheLayer, MemoryStore};
///
/// # let application = tower::service_fn(|_: http::Request<()>| async {
/// #     Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::<bytes::Bytes>::default()))
/// # });
/// let mut service = CacheLayer::new(MemoryStore::new()).layer(application);
/// let future: ResponseFuture<_, _> = service.call(http::Request::new(()));
/// let response = future.await.unwrap();
/// # }
/// ```
#[pin_project]
pub struct ResponseFuture<F, T> {
    #[pin]
    state: State<F, T>,
    /// Set if an outer layer of the same cache waits for the response.
    nested: Option<nesting::Id>,
    /// Set if a guard waits for the response.
    promise: Option<Promise>,
}

#[pin_project(project = StateProjection)]
enum State<F, T> {
    /// The inner service's future, for a request that the cache does not handle. Nothing is boxed.
    Direct {
        #[pin]
        future: F,
        finish: Option<Finish>,
    },
    Engine(Pin<Box<dyn Future<Output = T> + Send>>),
}

impl<F, T> ResponseFuture<F, T> {
    pub(crate) fn direct(future: F, finish: Option<Finish>, nested: Option<nesting::Id>) -> Self {
        Self { state: State::Direct { future, finish }, nested, promise: None }
    }

    pub(crate) fn engine(
        future: impl Future<Output = T> + Send + 'static,
        nested: Option<nesting::Id>,
        promise: Option<Promise>,
    ) -> Self {
        Self { state: State::Engine(Box::pin(future)), nested, promise }
    }
}

impl<F, RB, E> Future for ResponseFuture<F, Result<Response<CacheBody<RB>>, E>>
where
    F: Future<Output = Result<Response<RB>, E>>,
{
    type Output = Result<Response<CacheBody<RB>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match this.state.project() {
            StateProjection::Engine(future) => {
                let mut response = ready!(future.as_mut().poll(cx))?;
                if let Some(promise) = this.promise.take() {
                    promise.attach(&mut response);
                }
                response
            }
            StateProjection::Direct { future, finish } => {
                let response = ready!(future.poll(cx))?;
                match finish.take() {
                    Some(finish) => finish.apply(response),
                    None => response.map(CacheBody::passthrough),
                }
            }
        };
        if let Some(cache) = *this.nested {
            nesting::answered(cache, response.extensions_mut());
        }
        Poll::Ready(Ok(response))
    }
}

impl<F, T> fmt::Debug for ResponseFuture<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
