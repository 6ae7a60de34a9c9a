//! How are stored responses invalidated and erased? Invalidations are rows of the invalidation log.

use std::collections::HashSet;
use std::sync::Arc;

use super::find::lookup_targets;
use super::keep::{remove, withdraw};
use super::{Engine, Route};
use crate::key::{KeyRange, TargetKey};
use crate::store::{InvalidationLog as _, Store, StoreError};
use crate::sync::whole;
use crate::tag::{Invalidation, LogRecord, Scope, Subject};
use crate::telemetry::count_many;

/// The log rows of an invalidation by the application.
pub(crate) fn log_records(
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

/// Appends log rows and returns their ids.
async fn append<St: Store>(
    engine: &Engine<St>,
    records: Vec<LogRecord>,
) -> Result<Vec<u64>, StoreError> {
    let rows = records.len();
    let outcome = engine.store.log().append(records).await;
    count_rows(engine, rows, outcome.is_ok());
    outcome
}

/// Appends log rows on the application's connection.
#[cfg(feature = "mysql")]
pub(crate) async fn append_on<St: Store>(
    engine: &Engine<St>,
    connection: &mut sqlx::MySqlConnection,
    records: Vec<LogRecord>,
) -> Result<(), StoreError> {
    let rows = records.len();
    let outcome = engine.store.log().append_on(connection, records).await;
    count_rows(engine, rows, outcome.is_ok());
    outcome
}

fn count_rows<St>(engine: &Engine<St>, rows: usize, written: bool) {
    let counters = &engine.counters;
    let counter = if written { &counters.invalidations } else { &counters.invalidation_errors };
    count_many(counter, rows as u64);
}

/// Invalidates in a task, so that dropping this future does not stop it half way.
pub(crate) async fn invalidate<St: Store>(
    engine: &Arc<Engine<St>>,
    route: &Route,
    wanted: &Invalidation,
) -> Result<(), StoreError> {
    let (engine, records) = (Arc::clone(engine), log_records(route, wanted)?);
    closed(whole(async move { append(&engine, records).await.map(drop) }).await)
}

/// Invalidates targets and other scopes, each once. Returns the ids of the log rows.
pub(crate) async fn invalidate_targets<St: Store>(
    engine: &Arc<Engine<St>>,
    route: &Route,
    targets: &[TargetKey],
    other_scopes: Vec<Scope>,
) -> Result<Vec<u64>, StoreError> {
    let mut seen = HashSet::new();
    let scopes = targets.iter().map(|target| route.keys.scope(target, true)).chain(other_scopes);
    let scopes = scopes.filter(|scope| seen.insert(scope.clone()));
    let records = scopes.map(LogRecord::hard).collect();
    let engine = Arc::clone(engine);
    closed(whole(async move { append(&engine, records).await }).await)
}

/// Invalidates, then deletes a range of keys: entries in the store, and pending ones. Returns the number of entries.
pub(crate) async fn erase<St: Store>(
    engine: &Arc<Engine<St>>,
    route: &Route,
    wanted: &Invalidation,
    range: KeyRange,
) -> Result<u64, StoreError> {
    let (engine, records) = (Arc::clone(engine), log_records(route, wanted)?);
    let erased = whole(async move {
        append(&engine, records).await?;
        remove(&engine, &range).await
    });
    closed(erased.await)
}

/// The same, for the entries of one URI.
pub(crate) async fn erase_uri<St: Store>(
    engine: &Arc<Engine<St>>,
    route: &Arc<Route>,
    uri: String,
) -> Result<u64, StoreError> {
    let (engine, route) = (Arc::clone(engine), Arc::clone(route));
    let erased = whole(async move {
        let (targets, with_origin) = route.keys.targets_of_uri(&uri)?;
        let records = log_records(&route, &Invalidation::uri(uri))?;
        let scopes = records.iter().map(|record| record.scope.clone()).collect();
        append(&engine, records).await?;
        let custom = route.keys.range_of_custom();
        withdraw(&engine, &custom).await;
        let mut removed = engine.store.remove_named(custom, scopes).await?;
        for target in targets.into_iter().flat_map(|target| route.keys.under_both_schemes(target)) {
            for target in lookup_targets(&engine, &route, &target).await? {
                removed += remove(&engine, &route.keys.range(&target, with_origin)).await?;
            }
        }
        Ok(removed)
    });
    closed(erased.await)
}

fn closed<T>(outcome: Option<Result<T, StoreError>>) -> Result<T, StoreError> {
    outcome.unwrap_or(Err(StoreError::Closed))
}
