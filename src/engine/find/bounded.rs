//! How long does a request wait for the store?

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::store::StoreError;

/// The store's answer, or [`StoreError::Timeout`] after `limit`. An answer that is ready at once needs no timer and
/// no runtime.
pub(in crate::engine) async fn bounded<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let mut answer = pin!(answer);
    let at_once = poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => Poll::Ready(None),
    });
    match at_once.await {
        Some(result) => result,
        None => tokio::time::timeout(limit, answer).await.unwrap_or(Err(StoreError::Timeout)),
    }
}
