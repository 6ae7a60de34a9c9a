//! Which work goes on after a response has been sent? At most a limited number of tasks, each for a minute at most.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::sync;

/// The longest time for one piece of work. So a handler that hangs does not occupy a slot, and delay `flush`,
/// forever.
const LIMIT: Duration = Duration::from_secs(60);

tokio::task_local! {
    /// The slot of the work that this task runs: the address of its [`Background`], and its number.
    static CURRENT: (usize, u64);
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

/// The right to do one piece of work in the background. The work counts as ended when the slot is dropped.
pub(super) struct Slot {
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

    /// Takes a slot. `None` if `limit` slots are taken, or if there is no runtime.
    pub(super) fn reserve(&self, limit: usize) -> Option<Slot> {
        let runtime = sync::runtime()?;
        let mut state = self.state();
        if state.open.len() >= limit {
            return None;
        }
        state.last += 1;
        let number = state.last;
        state.open.insert(number);
        Some(Slot { background: self.clone(), runtime, number })
    }

    /// Waits until all work that has begun so far has ended. If background work calls this itself (a handler that
    /// calls `flush` during a refresh), it does not wait for itself.
    pub(super) async fn settled(&self) {
        let last = self.state().last;
        let here = self.id();
        let own = CURRENT.try_with(|(at, own)| (*at == here).then_some(*own)).ok().flatten();
        let ended = || self.state().open.range(..=last).all(|number| Some(*number) == own);
        sync::until(&self.0.ended, ended).await;
    }
}

impl Slot {
    /// Does the work in a task. After [`LIMIT`], it drops the work and calls `on_timeout`.
    pub(super) fn run(
        self,
        work: impl Future<Output = ()> + Send + 'static,
        on_timeout: impl FnOnce() + Send + 'static,
    ) {
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            let work = CURRENT
                .scope((self.background.id(), self.number), tokio::time::timeout(LIMIT, work));
            if work.await.is_err() {
                on_timeout();
            }
            drop(self);
        });
    }
}

impl Drop for Slot {
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
    async fn there_are_at_most_limit_slots() {
        let background = Background::default();
        let slot = background.reserve(1);
        assert!(slot.is_some() && background.reserve(1).is_none());
        drop(slot);
        assert!(background.reserve(1).is_some());
        assert!(background.reserve(0).is_none());
    }

    #[test]
    fn without_a_runtime_there_is_no_slot() {
        assert!(Background::default().reserve(1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn settled_waits_for_earlier_work_which_ends_in_a_minute() {
        let background = Background::default();
        let timed_out = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&timed_out);
        let began = tokio::time::Instant::now();
        let slot = background.reserve(9).unwrap();
        slot.run(std::future::pending(), move || flag.store(true, Ordering::SeqCst));
        let settled = tokio::spawn({
            let background = background.clone();
            async move { background.settled().await }
        });
        tokio::task::yield_now().await;
        let later = background.reserve(9);
        settled.await.unwrap();
        assert!(later.is_some() && timed_out.load(Ordering::SeqCst));
        assert_eq!(began.elapsed().as_secs(), 60);
    }

    #[tokio::test]
    async fn work_that_panics_frees_its_slot() {
        let background = Background::default();
        background.reserve(1).unwrap().run(async { panic!("on purpose") }, || {});
        background.settled().await;
        assert!(background.reserve(1).is_some());
    }
}
