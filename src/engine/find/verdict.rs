//! What does the invalidation log say about a stored response?

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::key::CacheKey;
use crate::store::{InvalidationLog as _, Store, StoreError};
use crate::stored::{StoredHead, StoredResponse};
use crate::tag::Validity;

/// The log verdict on a response. The read of the log began no earlier than `since`, or no longer ago than the store
/// allows for a response in memory.
pub(in crate::engine) async fn log_verdict<St: Store>(
    store: &St,
    key: &CacheKey,
    response: &StoredResponse,
    since: Instant,
) -> Result<Validity, StoreError> {
    let at_most = store.max_staleness().max(since.elapsed());
    store.log().catch_up(key, &response.head, at_most).await?;
    store.log().validity(key, &response.head).await
}

/// Whether log rows that this process has already read invalidate a response. Each later use gets its own log
/// verdict. This one only avoids storing and sharing an invalid response.
pub(in crate::engine) fn is_known_invalid<St: Store>(
    store: &St,
    key: &CacheKey,
    head: &StoredHead,
) -> bool {
    let mut validity = pin!(store.log().validity(key, head));
    let known = validity.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    matches!(known, Poll::Ready(Ok(Validity::Invalid)))
}
