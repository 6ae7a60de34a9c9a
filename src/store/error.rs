//! What can go wrong in a store?

use std::error::Error as StdError;
use std::sync::Arc;

use crate::error::ConfigError;

/// Why a store could not do what it was asked. For a client of the cached service, each of these is a miss.
///
/// The message does not repeat the error behind it, such as an error of sqlx. To see the whole chain, follow
/// [`source`](std::error::Error::source).
///
/// ```
/// use std::error::Error;
/// use tower_mysql_cache::StoreError;
///
/// fn whole(error: &StoreError) -> String {
///     let causes = std::iter::successors(error.source(), |&error| error.source());
///     causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
/// }
/// assert_eq!(whole(&StoreError::Closed), "the store is closed; connect again to use it");
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server cannot be reached, or refused the login.
    #[error(
        "cannot connect to the cache database; check its address and its credentials (the source of this error says more)"
    )]
    Connect(#[source] Source),
    /// There is no connection now; one is being made.
    #[error("there is no connection to the cache database; the store is connecting again")]
    Unavailable,
    /// The server did not answer in time.
    #[error(
        "the store did not answer in time; its limits are `store_timeout`, `query_timeout` and `write_timeout`"
    )]
    Timeout,
    /// A queue in front of the store is full.
    #[error("the store has too much to do; try again later, or enlarge its queue")]
    Overloaded,
    /// The entry is larger than the store takes.
    #[error("the entry has {size} bytes; the store takes at most {limit}")]
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
    #[error("the cache database refused a statement (the source of this error says why)")]
    Database(#[source] Source),
    /// The store does not have this ability.
    #[error("this store cannot {0}")]
    Unsupported(&'static str),
    /// The store was shut down.
    #[error("the store is closed; connect again to use it")]
    Closed,
    /// Anything else, for stores of other crates.
    #[error("the store failed (the source of this error says why)")]
    Other(#[source] Source),
}

/// A shared source of an error. One failure answers all lookups or writes of its batch.
///
/// ```
/// use std::sync::Arc;
/// use tower_mysql_cache::StoreError;
/// use tower_mysql_cache::store::Source;
///
/// let source: Source = Arc::new(std::io::Error::other("the disk is full"));
/// assert_eq!(StoreError::Other(source).as_str(), "other");
/// ```
pub type Source = Arc<dyn StdError + Send + Sync>;

impl StoreError {
    /// The error with its sources, for the trace.
    pub(crate) fn cause(&self) -> &(dyn StdError + 'static) {
        self
    }

    /// The error as a short name, for example for a metric of your own.
    ///
    /// ```
    /// use tower_mysql_cache::StoreError;
    /// assert_eq!(StoreError::TooLarge { size: 9, limit: 8 }.as_str(), "too-large");
    /// ```
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

#[cfg(test)]
mod tests {
    use super::*;

    fn every() -> Vec<StoreError> {
        let source = || -> Source { Arc::new(std::io::Error::other("the cause")) };
        let (table, problem) = ("t".to_owned(), "does not exist: call `migrate()`".to_owned());
        vec![
            ConfigError::new("lease", std::time::Duration::ZERO, "it must be over zero").into(),
            StoreError::Connect(source()),
            StoreError::Unavailable,
            StoreError::Timeout,
            StoreError::Overloaded,
            StoreError::TooLarge { size: 9, limit: 8 },
            StoreError::Schema { table, problem },
            StoreError::Database(source()),
            StoreError::Unsupported("invalidate in a transaction; invalidate after the commit"),
            StoreError::Closed,
            StoreError::Other(source()),
        ]
    }

    #[test]
    fn every_error_reads_as_a_sentence_without_its_source() {
        let mut names = std::collections::BTreeSet::new();
        for error in every() {
            let text = error.to_string();
            assert!(names.insert(error.as_str()), "{text}");
            assert!(text.contains(' ') && !text.ends_with('.') && !text.contains('\n'), "{text}");
            assert!(text.starts_with(|first: char| first.is_lowercase()), "{text}");
            if let Some(source) = error.source() {
                assert!(!text.contains(&source.to_string()), "{text}");
            }
        }
        assert_eq!(names.len(), 11);
    }

    #[test]
    fn a_cause_is_behind_what_has_one() {
        let with = every().into_iter().filter(|error| error.source().is_some());
        let with: Vec<_> = with.map(|error| error.as_str()).collect();
        assert_eq!(with, ["connect", "database", "other"]);
    }
}
