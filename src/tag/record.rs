//! Invalidations: as the application asks for them, as rows to be appended, and as rows that are there.

use super::{Scope, Tag};
use crate::error::{About, ConfigError};

/// The longest reason that a row keeps, in characters; the rest is cut off.
const MAX_REASON_CHARS: usize = 255;

/// What an application wants to have invalidated. Several subjects are one request.
///
/// ```
/// use tower_mysql_cache::Invalidation;
/// let prices = Invalidation::tags(["prices", "product:7"]).soft().reason("price import");
/// let page = Invalidation::uri("/products?page=2");
/// # let _ = (prices, page);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "an invalidation does nothing until it is given to a handle"]
pub struct Invalidation {
    pub(crate) subjects: Vec<Subject>,
    pub(crate) soft: bool,
    pub(crate) reason: Option<String>,
}

/// What an invalidation is about, as the application says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Tag(Tag),
    Uri(String),
    Path(String),
    All,
}

impl Invalidation {
    fn of(subjects: Vec<Subject>) -> Self {
        Self { subjects, soft: false, reason: None }
    }

    /// Everything with one of these tags, in all caches that share the log, whatever their prefix.
    pub fn tags(tags: impl IntoIterator<Item: Into<Tag>>) -> Self {
        Self::of(tags.into_iter().map(|tag| Subject::Tag(tag.into())).collect())
    }

    /// One target, all its variants and partitions: an absolute URI, or a path with or without a query,
    /// which then means that path on every origin.
    pub fn uri(uri: impl Into<String>) -> Self {
        Self::of(vec![Subject::Uri(uri.into())])
    }

    /// Everything at and below a path, on every origin: `/products` is `/products`, `/products?page=2`
    /// and `/products/7`, and not `/products-old`.
    pub fn path(path: impl Into<String>) -> Self {
        Self::of(vec![Subject::Path(path.into())])
    }

    /// Everything under the layer's prefix, all versions included.
    pub fn all() -> Self {
        Self::of(vec![Subject::All])
    }

    /// These tags as well.
    pub fn and_tags(mut self, tags: impl IntoIterator<Item: Into<Tag>>) -> Self {
        self.subjects.extend(tags.into_iter().map(|tag| Subject::Tag(tag.into())));
        self
    }

    /// What it names counts as stale, not as invalid: it may still be served where a stale response
    /// may (`stale-while-revalidate`, `stale-if-error`).
    pub fn soft(mut self) -> Self {
        self.soft = true;
        self
    }

    /// Why, for people who read the log: up to 255 characters.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Checks its tags.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.subjects.is_empty() {
            return Err(ConfigError::new(
                "invalidation",
                About("empty"),
                "it must name at least one thing",
            ));
        }
        self.subjects.iter().try_for_each(|subject| match subject {
            Subject::Tag(tag) => tag.check(),
            _ => Ok(()),
        })
    }
}

/// A row to be appended to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRecord {
    /// What it names.
    pub scope: Scope,
    /// Whether what it names counts as stale rather than invalid.
    pub soft: bool,
    /// Why, for people.
    pub reason: Option<String>,
}

impl LogRecord {
    /// A hard one without a reason.
    #[must_use]
    pub fn hard(scope: Scope) -> Self {
        Self { scope, soft: false, reason: None }
    }
}

/// A row of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRow {
    /// Its number: later rows have larger ones, but for rows of transactions that overlap.
    pub id: u64,
    /// What it names.
    pub scope: Scope,
    /// Whether it is a soft one.
    pub soft: bool,
    /// Why.
    pub reason: Option<String>,
    /// When it was inserted, in milliseconds since the Unix epoch on the store's clock.
    pub at_ms: u64,
}

impl LogRow {
    #[cfg_attr(not(feature = "mysql"), allow(dead_code))]
    pub(crate) fn new(id: u64, record: LogRecord, at_ms: u64) -> Self {
        let LogRecord { scope, soft, reason } = record;
        Self { id, scope, soft, reason, at_ms }
    }
}

/// A reason as the column takes it.
pub(crate) fn reason_of(record: &LogRecord) -> Option<String> {
    let reason = record.reason.as_deref()?;
    Some(reason.chars().take(MAX_REASON_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_too_long_or_empty_is_an_error_that_says_so() {
        let long = "x".repeat(256);
        for (tags, says) in [(vec![""], "at least one byte"), (vec!["a", &long], "at most 255")] {
            let error = Invalidation::tags(tags).check().unwrap_err().to_string();
            assert!(error.contains("tag") && error.contains(says), "{error}");
        }
        let none: [&str; 0] = [];
        assert!(Invalidation::tags(none).check().is_err());
        assert!(Invalidation::tags(["x".repeat(255)]).and_tags(["a"]).check().is_ok());
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        let mut record = LogRecord::hard(Scope::Everything);
        record.reason = Some("\u{e9}".repeat(300));
        assert_eq!(reason_of(&record).unwrap().chars().count(), 255);
    }
}
