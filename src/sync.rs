//! Locks whose data stays whole whatever panics (a poisoned one is used like any other), and tasks.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::runtime::Handle;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// The runtime of the task that asks, if it runs on one.
pub(crate) fn runtime() -> Option<Handle> {
    Handle::try_current().ok()
}

/// Runs to its end, also if the task that waits is dropped, where there is a runtime. `None` if it panics.
pub(crate) async fn whole<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    match runtime() {
        Some(runtime) => runtime.spawn(task).await.ok(),
        None => Some(task.await),
    }
}
