//! Which tasks run, and on which runtime? On the runtime in which the store connected, and after its end, on a
//! caller's.
//!
//! A runtime that ends drops its tasks at any point. Calls that wait for them fail at once, and the next call starts
//! them again on its own runtime. So a `static` store works in one `#[tokio::test]` after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use rand::RngExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::conn::{Connection, Link, Role};
use super::log::LogReader;
use super::lookup::lane;
use super::maintain::{Estimates, Maintenance};
use super::write::Writer;
use super::{Inner, MAX_COMMANDS};
use crate::store::StoreError;
use crate::sync::lock;

#[derive(Debug, Default)]
pub(super) struct Running {
    /// Whether a task has been dropped, readable without the lock.
    gone: AtomicBool,
    /// The number of the last start.
    generation: Mutex<u64>,
    starting: tokio::sync::Mutex<()>,
}

/// A running task. If it is dropped before the store is closed, its runtime has ended, or it has panicked.
struct Alive {
    inner: Weak<Inner>,
    generation: u64,
}

impl Drop for Alive {
    fn drop(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        let generation = lock(&inner.running.generation);
        if *generation == self.generation && !*inner.stop.borrow() {
            inner.running.gone.store(true, Ordering::Release);
            inner.writes.down();
            inner.large.refuse(&StoreError::Unavailable);
            inner.log.down(&StoreError::Unavailable);
        }
    }
}

impl Inner {
    /// Starts the tasks again on this runtime, if they were dropped.
    ///
    /// # Errors
    /// [`StoreError::Closed`] if the store was closed, or outside of a runtime.
    pub(super) async fn running(self: &Arc<Self>) -> Result<(), StoreError> {
        if !self.running.gone.load(Ordering::Acquire) {
            return Ok(());
        }
        let runtime = Handle::try_current().map_err(|_| StoreError::Closed)?;
        let inner = Arc::clone(self);
        // in a task, so that it completes even if the caller is dropped
        let started = runtime.spawn(async move {
            let _one = inner.running.starting.lock().await;
            if *inner.stop.borrow() {
                return Err(StoreError::Closed);
            }
            if inner.running.gone.load(Ordering::Acquire) {
                let opening = Connection::open(&inner.shared.settings, Role::Lookups);
                let first = opening.await.map_err(|e| inner.shared.failed("connecting", &e));
                inner.start_tasks(first.ok());
            }
            Ok(())
        });
        started.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Starts the tasks on this runtime. With a connection, lookups do not wait for one.
    pub(super) fn start_tasks(self: &Arc<Self>, first: Option<Connection>) {
        let Self { shared, lookups, large, writes, log, owned, .. } = &**self;
        let settings = &shared.settings;
        // if one task has panicked, the others still run
        std::mem::take(&mut *lock(&self.tasks)).iter().for_each(JoinHandle::abort);
        let mut generation = lock(&self.running.generation);
        *generation += 1;
        let mut tasks = lock(&self.tasks);
        writes.up();
        log.up();
        let mut first = Some(first.map(|connection| (connection, lookups.lane_up())));
        for _ in 0..settings.read_connections {
            let (shared, lookups) = (Arc::clone(shared), Arc::clone(lookups));
            let task = lane(shared, lookups, first.take(), self.stop.subscribe());
            tasks.push(self.start_task(*generation, task));
        }
        let task = lane(Arc::clone(shared), Arc::clone(large), None, self.stop.subscribe());
        tasks.push(self.start_task(*generation, task));
        let reader = LogReader {
            shared: Arc::clone(shared),
            log: Arc::clone(log),
            history_queries: log.history_queries(),
            stop: self.stop.subscribe(),
        };
        tasks.push(self.start_task(*generation, reader.run()));
        let writer = Writer {
            shared: Arc::clone(shared),
            queue: Arc::clone(writes),
            owned: Arc::clone(owned),
            log: Arc::clone(log),
            random: rand::make_rng(),
            // 0 means that there is no owner
            owner: rand::rng().random::<u64>() | 1,
            stop: self.stop.subscribe(),
        };
        tasks.push(self.start_task(*generation, writer.run()));
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
        *lock(&self.commands) = commands;
        let maintenance = Maintenance {
            shared: Arc::clone(shared),
            owned: Arc::clone(owned),
            commands: receiver,
            random: rand::make_rng(),
            stop: self.stop.subscribe(),
            estimates: Estimates::default(),
            next: rand::rng().random(),
            next_lease: rand::rng().random(),
            pruned: 0,
            link: Link::default(),
        };
        tasks.push(self.start_task(*generation, maintenance.run()));
        self.running.gone.store(false, Ordering::Release);
    }

    fn start_task(
        self: &Arc<Self>,
        generation: u64,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let alive = Alive { inner: Arc::downgrade(self), generation };
        tokio::spawn(async move {
            let _alive = alive;
            task.await;
        })
    }
}
