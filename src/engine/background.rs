//! Work behind responses that have been served: bounded, and waited for at the end.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::sync;

/// The longest that a piece of work may take: a minute. A handler that hangs must not hold a place, and
/// `flush`, for ever.
const LIMIT: Duration = Duration::from_secs(60);

tokio::task_local! {
    /// Where the task has a place, and its number.
    static OWN: (usize, u64);
}

#[derive(Clone, Default)]
pub(super) struct Background(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Default)]
struct State {
    last: u64,
    open: BTreeSet<u64>,
}

/// A place; giving it up, in whatever way, ends the work.
pub(super) struct Place {
    background: Background,
    runtime: Handle,
    number: u64,
}

impl Background {
    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.0.state)
    }

    fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// A place among at most `limit`.
    pub(super) fn begin(&self, limit: usize) -> Option<Place> {
        let runtime = sync::runtime()?;
        let mut state = self.state();
        if state.open.len() >= limit {
            return None;
        }
        state.last += 1;
        let number = state.last;
        state.open.insert(number);
        Some(Place { background: self.clone(), runtime, number })
    }

    /// Waits until everything that has begun so far has ended, but for the piece of work that waits here
    /// itself: a handler in a refresh.
    pub(super) async fn settled(&self) {
        let last = self.state().last;
        let here = self.id();
        let own = OWN.try_with(|(at, own)| (*at == here).then_some(*own)).ok().flatten();
        let ended = || self.state().open.range(..=last).all(|number| Some(*number) == own);
        sync::until(&self.0.ended, ended).await;
    }
}

impl Place {
    /// Does the work, for no longer than a minute; `late` is called when that was too short.
    pub(super) fn run(
        self,
        work: impl Future<Output = ()> + Send + 'static,
        late: impl FnOnce() + Send + 'static,
    ) {
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            let work =
                OWN.scope((self.background.id(), self.number), tokio::time::timeout(LIMIT, work));
            if work.await.is_err() {
                late();
            }
            drop(self);
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.background.state().open.remove(&self.number);
        self.background.0.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn there_are_no_more_places_than_the_limit() {
        let background = Background::default();
        let place = background.begin(1);
        assert!(place.is_some() && background.begin(1).is_none());
        drop(place);
        assert!(background.begin(1).is_some());
        assert!(background.begin(0).is_none());
    }

    #[test]
    fn without_a_runtime_there_is_no_place() {
        assert!(Background::default().begin(1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn settled_waits_for_what_had_begun_and_work_ends_after_a_minute() {
        let background = Background::default();
        let late = Arc::new(AtomicBool::new(false));
        let said = Arc::clone(&late);
        let began = tokio::time::Instant::now();
        let place = background.begin(9).unwrap();
        place.run(std::future::pending(), move || said.store(true, Ordering::SeqCst));
        let settled = tokio::spawn({
            let background = background.clone();
            async move { background.settled().await }
        });
        tokio::task::yield_now().await;
        let later = background.begin(9);
        settled.await.unwrap();
        assert!(later.is_some() && late.load(Ordering::SeqCst));
        assert_eq!(began.elapsed().as_secs(), 60);
    }

    #[tokio::test]
    async fn work_that_panics_gives_its_place_up() {
        let background = Background::default();
        background.begin(1).unwrap().run(async { panic!("on purpose") }, || {});
        background.settled().await;
        assert!(background.begin(1).is_some());
    }
}
