//! Locks whose data stays whole whatever panics (a poisoned lock is used like any other), and waiting for a condition.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

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
