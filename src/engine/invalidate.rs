//! Making stored responses untrue: rows of the invalidation log.

use std::collections::HashSet;
use std::sync::Arc;

use super::background::whole;
use super::{Engine, Route};
use crate::key::{KeyRange, TargetKey};
use crate::store::{InvalidationLog as _, Store, StoreError};
use crate::tag::{Invalidation, LogRecord, Scope, Subject};
use crate::telemetry::count_many;

impl<St: Store> Engine<St> {
    /// The rows that say what an application wants to have invalidated.
    pub(crate) fn records(
        route: &Route,
        wanted: &Invalidation,
    ) -> Result<Vec<LogRecord>, StoreError> {
        wanted.check()?;
        let mut scopes = Vec::with_capacity(wanted.subjects.len());
        for subject in &wanted.subjects {
            match subject {
                Subject::Tag(tag) => scopes.push(Scope::Tag(tag.clone())),
                Subject::All => scopes.push(route.keys.scope_of_prefix()),
                Subject::Path(path) => scopes.push(route.keys.scope_of_path(path)?),
                Subject::Uri(uri) => {
                    let (targets, with_origin) = route.keys.targets_of_uri(uri)?;
                    for target in targets {
                        let targets = route.keys.under_both_schemes(target);
                        scopes.extend(targets.map(|target| route.keys.scope(&target, with_origin)));
                    }
                }
            }
        }
        let record = |scope| LogRecord { scope, soft: wanted.soft, reason: wanted.reason.clone() };
        Ok(scopes.into_iter().map(record).collect())
    }

    /// Appends rows to the log and returns their ids.
    pub(crate) async fn append(&self, records: Vec<LogRecord>) -> Result<Vec<u64>, StoreError> {
        let count = records.len() as u64;
        let outcome = self.store.log().append(records).await;
        self.count_rows(count, outcome.is_ok());
        outcome
    }

    /// Appends rows on a connection of the caller's.
    #[cfg(feature = "mysql")]
    pub(crate) async fn append_on(
        &self,
        connection: &mut sqlx::MySqlConnection,
        records: Vec<LogRecord>,
    ) -> Result<(), StoreError> {
        let count = records.len() as u64;
        let outcome = self.store.log().append_on(connection, records).await;
        self.count_rows(count, outcome.is_ok());
        outcome
    }

    fn count_rows(&self, count: u64, written: bool) {
        let counters = &self.counters;
        let counter = if written { &counters.invalidations } else { &counters.invalidation_errors };
        count_many(counter, count);
    }

    /// Invalidates in a task of its own: dropping this future does not stop it half way.
    pub(crate) async fn invalidate(
        self: &Arc<Self>,
        route: &Arc<Route>,
        wanted: Invalidation,
    ) -> Result<(), StoreError> {
        let (engine, route) = (Arc::clone(self), Arc::clone(route));
        whole(async move {
            let records = Self::records(&route, &wanted)?;
            engine.append(records).await.map(drop)
        })
        .await
    }

    /// The same for targets, and for other scopes beside them: each once.
    pub(crate) async fn invalidate_targets(
        self: &Arc<Self>,
        route: &Route,
        targets: &[TargetKey],
        beside: Vec<Scope>,
    ) -> Result<Vec<u64>, StoreError> {
        let mut seen = HashSet::new();
        let scopes = targets.iter().map(|target| route.keys.scope(target, true)).chain(beside);
        let scopes = scopes.filter(|scope| seen.insert(scope.clone()));
        let records = scopes.map(LogRecord::hard).collect();
        let engine = Arc::clone(self);
        whole(async move { engine.append(records).await }).await
    }

    /// Invalidates, then removes from the store what lies in a range of keys, what is on its way to it
    /// included. Returns how many entries there were.
    pub(crate) async fn erase(
        self: &Arc<Self>,
        route: &Arc<Route>,
        wanted: Invalidation,
        range: KeyRange,
    ) -> Result<u64, StoreError> {
        let (engine, route) = (Arc::clone(self), Arc::clone(route));
        whole(async move {
            engine.append(Self::records(&route, &wanted)?).await?;
            engine.remove(&range).await
        })
        .await
    }

    /// The same for what is stored for one URI.
    pub(crate) async fn erase_uri(
        self: &Arc<Self>,
        route: &Arc<Route>,
        uri: String,
    ) -> Result<u64, StoreError> {
        let (engine, route) = (Arc::clone(self), Arc::clone(route));
        whole(async move {
            let (targets, with_origin) = route.keys.targets_of_uri(&uri)?;
            let records = Self::records(&route, &Invalidation::uri(uri))?;
            let scopes = records.iter().map(|record| record.scope.clone()).collect();
            engine.append(records).await?;
            let custom = route.keys.range_of_custom();
            engine.hide(&custom).await;
            let mut removed = engine.store.remove_named(custom, scopes).await?;
            for target in
                targets.into_iter().flat_map(|target| route.keys.under_both_schemes(target))
            {
                for target in engine.spellings(&route, &target).await? {
                    removed += engine.remove(&route.keys.range(&target, with_origin)).await?;
                }
            }
            Ok(removed)
        })
        .await
    }

    /// Removes a range of keys from the store, and from what is on its way to it.
    pub(super) async fn remove(&self, range: &KeyRange) -> Result<u64, StoreError> {
        self.hide(range).await;
        self.store.remove(range.clone()).await
    }

    /// Hides what is on its way to the store, and waits until it is there or has failed: before a removal begins.
    async fn hide(&self, range: &KeyRange) {
        self.pending.withdraw(range);
        self.pending.settled_in(range).await;
    }
}
