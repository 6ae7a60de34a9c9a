//! The future of a [`CacheService`](crate::CacheService).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project::pin_project;

use crate::body::CacheBody;
use crate::engine::Finish;

/// The response of a [`CacheService`](crate::CacheService), on its way.
#[pin_project]
pub struct ResponseFuture<F, T> {
    #[pin]
    state: State<F, T>,
}

#[pin_project(project = StateProjection)]
enum State<F, T> {
    /// The inner service's own future, without anything around it.
    Inside {
        #[pin]
        future: F,
        finish: Option<Finish>,
    },
    Engine(Pin<Box<dyn Future<Output = T> + Send>>),
}

impl<F, T> ResponseFuture<F, T> {
    pub(crate) fn inside(future: F, finish: Option<Finish>) -> Self {
        Self { state: State::Inside { future, finish } }
    }

    pub(crate) fn engine(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self { state: State::Engine(Box::pin(future)) }
    }
}

impl<F, RB, E> Future for ResponseFuture<F, Result<Response<CacheBody<RB>>, E>>
where
    F: Future<Output = Result<Response<RB>, E>>,
{
    type Output = Result<Response<CacheBody<RB>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Engine(future) => future.as_mut().poll(cx),
            StateProjection::Inside { future, finish } => {
                let response = ready!(future.poll(cx))?;
                Poll::Ready(Ok(match finish.take() {
                    Some(finish) => finish.apply(response),
                    None => response.map(CacheBody::passthrough),
                }))
            }
        }
    }
}

impl<F, T> fmt::Debug for ResponseFuture<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
