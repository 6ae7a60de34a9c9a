//! Locks without poisoning, tasks, and waiting for a condition. The data behind a lock is valid even if a thread panics
//! while it holds the lock.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Poll, Waker};

use tokio::runtime::Handle;
use tokio::sync::Notify;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// The runtime of the current task, if there is one.
pub(crate) fn runtime() -> Option<Handle> {
    Handle::try_current().ok()
}

/// Runs `task` to its end, even if the caller is dropped. Without a runtime, `task` ends with the caller. `None` if `task`
/// panics.
pub(crate) async fn whole<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    match runtime() {
        Some(runtime) => runtime.spawn(task).await.ok(),
        None => Some(task.await),
    }
}

/// The waker of the current task. With it, functions that are not async can poll a body once: an async function holds
/// its arguments twice, so a chain of them would make large futures.
pub(crate) async fn waker() -> Waker {
    poll_fn(|cx| Poll::Ready(cx.waker().clone())).await
}

/// Waits until the condition holds. `changed` must be notified after every change that can make it hold.
pub(crate) async fn until(changed: &Notify, holds: impl Fn() -> bool) {
    loop {
        let mut change = pin!(changed.notified());
        // registered before the condition is checked, so that no change is missed
        change.as_mut().enable();
        if holds() {
            return;
        }
        change.await;
    }
}
