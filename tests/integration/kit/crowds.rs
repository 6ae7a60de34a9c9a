//! Many requests at the same time.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use http::Request;
use tokio::task::{JoinError, JoinHandle};
use tower::ServiceExt;
use tower_mysql_cache::CacheHandle;

use super::{Answer, App, Calls};
use crate::support::{PATIENCE, eventually};

/// Requests on their way.
pub(crate) struct Crowd {
    requests: Vec<JoinHandle<Result<Answer, &'static str>>>,
    /// The requests that have been polled.
    begun: Arc<AtomicUsize>,
    /// How often they have been polled.
    polls: Arc<AtomicUsize>,
}

impl Crowd {
    pub(crate) fn new() -> Self {
        Self { requests: Vec::new(), begun: Arc::default(), polls: Arc::default() }
    }

    /// Sends these requests.
    pub(crate) fn of(
        app: &App<&'static str>,
        requests: impl IntoIterator<Item = Request<()>>,
    ) -> Self {
        let mut crowd = Self::new();
        crowd.send(app, requests);
        crowd
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Sends these requests too.
    pub(crate) fn send(
        &mut self,
        app: &App<&'static str>,
        requests: impl IntoIterator<Item = Request<()>>,
    ) {
        for request in requests {
            let (begun, polls) = (Arc::clone(&self.begun), Arc::clone(&self.polls));
            let call = app.clone().oneshot(request);
            self.requests.push(tokio::spawn(async move {
                let mut answer = pin!(async { Ok(Answer::of(call.await?).await) });
                begun.fetch_add(1, Ordering::SeqCst);
                std::future::poll_fn(|cx| {
                    polls.fetch_add(1, Ordering::SeqCst);
                    answer.as_mut().poll(cx)
                })
                .await
            }));
        }
    }

    /// Waits until no request makes progress: all have begun, and none has been polled while the store answered
    /// several lookups that came after theirs.
    pub(crate) async fn settle(&self, handle: &CacheHandle) {
        let mut quiet = 0;
        while quiet < 5 {
            let before = self.polls.load(Ordering::SeqCst);
            handle.inspect("http://h/nothing").await.expect("an answer");
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            let all_have_begun = self.begun.load(Ordering::SeqCst) == self.requests.len();
            let none_goes_on = self.polls.load(Ordering::SeqCst) == before;
            quiet = if all_have_begun && none_goes_on { quiet + 1 } else { 0 };
        }
    }

    /// Asserts that the handler has been called this often when no request makes progress any more.
    pub(crate) async fn assert_calls(&self, handle: &CacheHandle, calls: &Calls, expected: usize) {
        eventually("the handler is called", async || calls.count() >= expected).await;
        self.settle(handle).await;
        assert_eq!(calls.count(), expected, "calls of the handler");
    }

    /// What each client got; an error also if the handler panicked.
    pub(crate) async fn outcomes(self) -> Vec<Result<Result<Answer, &'static str>, JoinError>> {
        let all = join_all(self.requests);
        tokio::time::timeout(PATIENCE, all).await.expect("no request hangs")
    }

    pub(crate) async fn answers(self) -> Vec<Answer> {
        self.outcomes().await.into_iter().map(|answer| answer.unwrap().unwrap()).collect()
    }
}
