//! Locks without poisoning, and tasks. The data behind a lock is valid even if a thread panics while it holds the lock.

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
