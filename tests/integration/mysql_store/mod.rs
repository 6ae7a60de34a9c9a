//! The store in MySQL and MariaDB: the table, the server, the connections.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sqlx::{MySqlConnection, Row};
use tower_mysql_cache::invalidation::{LogRecord, Scope, Tag};
use tower_mysql_cache::key::{CacheKey, KeyRange};
use tower_mysql_cache::store::{
    Admin, Compression, Entries, Entry, HeadUpdate, InvalidationLog, Leases, MySqlStoreBuilder,
    Stored, StoredHead, StoredResponse, VariantIndex,
};
use tower_mysql_cache::{MySqlStore, StoreError};

use crate::support::{
    self, TestDatabase, deadlocks, eventually, execute, kill_sessions, number, sessions, status,
};

mod binlog;
mod connecting;
mod culling;
mod load;
mod order;
mod rows;
mod table;

const HOUR: u64 = 3_600_000;

fn key(text: impl Into<String>) -> CacheKey {
    CacheKey::new(text.into())
}

fn response(now_ms: u64, body: impl Into<Bytes>) -> Stored {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/plain"));
    let mut head = StoredHead::new(StatusCode::OK, headers, now_ms);
    head.fresh_until_ms = now_ms + HOUR;
    head.gen_ms = 5;
    Stored::Response(StoredResponse::new(head, body.into()))
}

fn entry(store: &MySqlStore, key: CacheKey, body: impl Into<Bytes>) -> Entry {
    let now_ms = store.now_ms();
    Entry::new(key, response(now_ms, body), now_ms + HOUR)
}

fn body(found: Option<Stored>) -> Option<Bytes> {
    match found? {
        Stored::Response(response) => Some(response.body),
        other => panic!("{other:?}"),
    }
}

fn builder(database: &TestDatabase) -> MySqlStoreBuilder {
    MySqlStore::builder(database.url()).unwrap()
}

/// A store with its table on a fresh database.
async fn fresh() -> (TestDatabase, MySqlStore) {
    let database = support::database().await;
    let store = builder(&database).connect().await.unwrap();
    store.migrate().await.unwrap();
    (database, store)
}

async fn count(connection: &mut MySqlConnection) -> u64 {
    number(connection, "SELECT COUNT(*) FROM cache_entries").await
}

/// The source of an error, as text.
fn cause(error: &StoreError) -> String {
    std::error::Error::source(error).expect("a source").to_string()
}

/// The number of connections to another database than the test's.
async fn connections(connection: &mut MySqlConnection, database: &str) -> i64 {
    sessions(connection, &format!("db = '{database}'")).await.len() as i64
}

/// Polls once.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}
