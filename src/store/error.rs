//! What can go wrong in a store, by name.

use std::error::Error as StdError;
use std::sync::Arc;

use crate::error::ConfigError;

/// Why a store could not do what it was asked. To a client of the cached service each of these is a
/// miss.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server cannot be reached, or refused the login.
    #[error("cannot connect to the cache database: {0}")]
    Connect(#[source] Source),
    /// There is no connection now; one is being made.
    #[error("no connection to the cache database at the moment")]
    Unavailable,
    /// The server did not answer in time.
    #[error("the cache database did not answer in time")]
    Timeout,
    /// A queue in front of the store is full.
    #[error("the cache's queue is full")]
    Overloaded,
    /// The entry is larger than the store takes.
    #[error("an entry of {size} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// The entry's size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The table is missing or is not of the expected shape.
    #[error("table `{table}` {problem}")]
    Schema {
        /// The table.
        table: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// The server answered with an error.
    #[error("the cache database failed: {0}")]
    Database(#[source] Source),
    /// The store does not have this ability.
    #[error("this store cannot {0}")]
    Unsupported(&'static str),
    /// The store was shut down.
    #[error("the cache store is closed")]
    Closed,
    /// Anything else, for stores of other crates.
    #[error("the cache store failed: {0}")]
    Other(#[source] Source),
}

/// A shared source of an error: one failure answers everybody who waited in the batch.
pub type Source = Arc<dyn StdError + Send + Sync>;

impl StoreError {
    /// The error as a short name for logs, counters and `Cache-Status` details.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Connect(_) => "connect",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::TooLarge { .. } => "too-large",
            Self::Schema { .. } => "schema",
            Self::Database(_) => "database",
            Self::Unsupported(_) => "unsupported",
            Self::Closed => "closed",
            Self::Other(_) => "other",
        }
    }
}
