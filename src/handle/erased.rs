//! The engine of a cache, whatever its store: what a handle needs of it.

use std::fmt;
use std::sync::Arc;

use crate::engine::{self, Engine, Route};
use crate::key::TargetKey;
use crate::store::{Admin, DynLog, Store, StoreError, StoreFuture};
use crate::stored::Inspected;
use crate::tag::{Invalidation, LogRecord};
use crate::telemetry::{Counters, Reasons};

/// An [`Engine`] without its store's type. It is not part of a hit.
pub(super) trait AnyEngine: fmt::Debug + Send + Sync {
    fn log(&self) -> &dyn DynLog;
    fn admin(&self) -> &dyn Admin;
    fn counters(&self) -> &Counters;
    fn reasons(&self) -> &Reasons;
    fn followers(&self) -> usize;
    fn records(&self, route: &Route, wanted: &Invalidation) -> Result<Vec<LogRecord>, StoreError>;
    fn invalidate(self: Arc<Self>, route: &Arc<Route>, wanted: Invalidation)
    -> StoreFuture<'_, ()>;
    fn invalidate_key<'a>(
        self: Arc<Self>,
        route: &'a Route,
        key: &'a TargetKey,
    ) -> StoreFuture<'a, ()>;
    #[cfg(feature = "mysql")]
    fn append_on<'a>(
        &'a self,
        connection: &'a mut sqlx::MySqlConnection,
        records: Vec<LogRecord>,
    ) -> StoreFuture<'a, ()>;
    fn erase(self: Arc<Self>, route: &Arc<Route>) -> StoreFuture<'_, u64>;
    fn erase_uri(self: Arc<Self>, route: &Arc<Route>, uri: String) -> StoreFuture<'_, u64>;
    fn inspect<'a>(&'a self, route: &'a Route, uri: &'a str) -> StoreFuture<'a, Vec<Inspected>>;
    fn flush(&self) -> StoreFuture<'_, ()>;
}

impl<St: Store> AnyEngine for Engine<St> {
    fn log(&self) -> &dyn DynLog {
        self.store.log()
    }

    fn admin(&self) -> &dyn Admin {
        &self.store
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn reasons(&self) -> &Reasons {
        &self.reasons
    }

    fn followers(&self) -> usize {
        Self::followers(self)
    }

    fn records(&self, route: &Route, wanted: &Invalidation) -> Result<Vec<LogRecord>, StoreError> {
        engine::log_records(route, wanted)
    }

    fn invalidate(
        self: Arc<Self>,
        route: &Arc<Route>,
        wanted: Invalidation,
    ) -> StoreFuture<'_, ()> {
        Box::pin(async move { engine::invalidate(&self, route, &wanted).await })
    }

    fn invalidate_key<'a>(
        self: Arc<Self>,
        route: &'a Route,
        key: &'a TargetKey,
    ) -> StoreFuture<'a, ()> {
        let (key, beside) = (std::slice::from_ref(key), Vec::new());
        Box::pin(
            async move { engine::invalidate_targets(&self, route, key, beside).await.map(drop) },
        )
    }

    #[cfg(feature = "mysql")]
    fn append_on<'a>(
        &'a self,
        connection: &'a mut sqlx::MySqlConnection,
        records: Vec<LogRecord>,
    ) -> StoreFuture<'a, ()> {
        Box::pin(engine::append_on(self, connection, records))
    }

    fn erase(self: Arc<Self>, route: &Arc<Route>) -> StoreFuture<'_, u64> {
        let range = route.keys.range_of_prefix();
        Box::pin(async move { engine::erase(&self, route, &Invalidation::all(), range).await })
    }

    fn erase_uri(self: Arc<Self>, route: &Arc<Route>, uri: String) -> StoreFuture<'_, u64> {
        Box::pin(async move { engine::erase_uri(&self, route, uri).await })
    }

    fn inspect<'a>(&'a self, route: &'a Route, uri: &'a str) -> StoreFuture<'a, Vec<Inspected>> {
        Box::pin(engine::inspect(self, route, uri))
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        Box::pin(Self::flush(self))
    }
}
