//! The open connections, and how long each has been idle.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;

/// How long the gateway waits before it looks again for an idle connection.
const AGAIN: Duration = Duration::from_millis(50);

/// The open connections. If there are too many, the gateway closes the connection that has been idle for the longest.
pub(crate) struct Connections {
    limit: usize,
    tasks: JoinSet<u64>,
    activities: BTreeMap<u64, Arc<Activity>>,
    next: u64,
}

/// The activity of one connection.
pub(crate) struct Activity {
    state: Mutex<State>,
    /// Notified when the connection must end to make room for another.
    leave: Notify,
}

struct State {
    /// Requests whose responses are not complete.
    requests: usize,
    /// The time of the last activity.
    since: Instant,
}

/// A request in progress. It ends when this value is dropped.
pub(crate) struct Answering(Arc<Activity>);

impl Connections {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, tasks: JoinSet::new(), activities: BTreeMap::new(), next: 0 }
    }

    pub(crate) fn are_full(&self) -> bool {
        self.tasks.len() >= self.limit
    }

    /// Starts a task that serves a connection until the connection ends.
    pub(crate) fn spawn<F>(&mut self, serve: impl FnOnce(Arc<Activity>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (number, activity) = (self.next, Arc::new(Activity::new()));
        self.next += 1;
        self.activities.insert(number, Arc::clone(&activity));
        let serve = serve(activity);
        self.tasks.spawn(async move {
            serve.await;
            number
        });
    }

    /// Asks the connection that has been idle for the longest to end. Then waits until a connection has ended, but only for
    /// a short time, because there may be no idle connection.
    pub(crate) async fn make_room(&mut self) {
        self.close_an_idle_one();
        let _ = tokio::time::timeout(AGAIN, self.ended()).await;
    }

    /// Waits until a connection has ended. If a new connection waits, first asks an idle connection to end, and waits only
    /// for a short time.
    pub(crate) async fn next(&mut self, one_waits: bool) {
        if one_waits { self.make_room().await } else { self.ended().await }
    }

    async fn ended(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(number)) => drop(self.activities.remove(&number)),
            // a task that panicked returns no number, but it has dropped its handle
            Some(Err(_)) => self.activities.retain(|_, activity| Arc::strong_count(activity) > 1),
            None => std::future::pending().await,
        }
    }

    fn close_an_idle_one(&self) {
        let idle =
            self.activities.values().filter_map(|activity| Some((activity.idle()?, activity)));
        if let Some((_, activity)) = idle.max_by_key(|(idle, _)| *idle) {
            activity.leave.notify_one();
        }
    }

    /// Waits until all connections have ended.
    pub(crate) async fn finish(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Activity {
    fn new() -> Self {
        let state = Mutex::new(State { requests: 0, since: Instant::now() });
        Self { state, leave: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a new request. The request ends when the returned value is dropped.
    pub(crate) fn answers(self: &Arc<Self>) -> Answering {
        self.state().requests += 1;
        Answering(Arc::clone(self))
    }

    /// Notes activity: part of a response was sent, or the client was told that the connection ends.
    pub(crate) fn begins_again(&self) {
        self.state().since = Instant::now();
    }

    /// How long the connection has been without a request. `None` while it has a request.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let state = self.state();
        (state.requests == 0).then(|| state.since.elapsed())
    }

    /// Waits until the connection has been without a request for `limit`.
    pub(crate) async fn idle_for(&self, limit: Duration) {
        loop {
            let left = limit.checked_sub(self.idle().unwrap_or_default());
            match left {
                Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
                _ => return,
            }
        }
    }

    /// Waits until the connection must end to make room for another.
    pub(crate) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        state.since = Instant::now();
    }
}
