//! Invalidations: the request of the application, the row that is appended to the log, and the row that is read.

use super::{Scope, Tag};
use crate::error::{About, ConfigError};

/// The maximum length of a reason in characters, which is the width of the column. A longer one is truncated.
const MAX_REASON_CHARS: usize = 255;

/// Says which responses a [`CacheHandle`](crate::CacheHandle) must invalidate. One invalidation can name several
/// tags.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use tower_mysql_cache::invalidation::Invalidation;
/// use tower_mysql_cache::{CacheLayer, MemoryStore};
///
/// let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
/// let prices = Invalidation::tags(["prices", "product:7"]).soft().reason("price import");
/// cache.invalidate(prices).await?;
/// cache.invalidate(Invalidation::uri("/products?page=2")).await?;
/// # Ok::<(), tower_mysql_cache::StoreError>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "an invalidation does nothing until it is given to a handle"]
pub struct Invalidation {
    pub(crate) subjects: Vec<Subject>,
    pub(crate) soft: bool,
    pub(crate) reason: Option<String>,
}

/// One thing that an invalidation names, in the words of the application.
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

    /// All responses with at least one of these tags, in all caches that share the log, whatever their prefix.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::Invalidation;
    /// let product = Invalidation::tags(["product:7", "product-list"]);
    /// # let _ = product;
    /// ```
    pub fn tags(tags: impl IntoIterator<Item: Into<Tag>>) -> Self {
        Self::of(tags.into_iter().map(|tag| Subject::Tag(tag.into())).collect())
    }

    /// One target with all its variants and partitions. `uri` is an absolute URI, or a path with or without a query;
    /// a path means this path on all origins.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::Invalidation;
    /// let on_one_origin = Invalidation::uri("https://shop.example/products?page=2");
    /// let on_all_origins = Invalidation::uri("/products?page=2");
    /// # let _ = (on_one_origin, on_all_origins);
    /// ```
    pub fn uri(uri: impl Into<String>) -> Self {
        Self::of(vec![Subject::Uri(uri.into())])
    }

    /// All responses at and below a path, on all origins. `/products` covers `/products`, `/products?page=2` and
    /// `/products/7`, but not `/products-old`.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::Invalidation;
    /// let catalogue = Invalidation::path("/products").reason("new catalogue");
    /// # let _ = catalogue;
    /// ```
    pub fn path(path: impl Into<String>) -> Self {
        Self::of(vec![Subject::Path(path.into())])
    }

    /// All responses under the layer's prefix, of all versions.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::Invalidation;
    /// let everything = Invalidation::all().reason("new design");
    /// # let _ = everything;
    /// ```
    pub fn all() -> Self {
        Self::of(vec![Subject::All])
    }

    /// Adds tags to the invalidation.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::Invalidation;
    /// let page_and_lists = Invalidation::uri("/products/7").and_tags(["product-list"]);
    /// # let _ = page_and_lists;
    /// ```
    pub fn and_tags(mut self, tags: impl IntoIterator<Item: Into<Tag>>) -> Self {
        self.subjects.extend(tags.into_iter().map(|tag| Subject::Tag(tag.into())));
        self
    }

    /// Makes the responses stale instead of invalid. They may still be served where a stale response may be served
    /// (`stale-while-revalidate`, `stale-if-error`).
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::Invalidation;
    /// let rating_changed = Invalidation::tags(["product:7"]).soft();
    /// # let _ = rating_changed;
    /// ```
    pub fn soft(mut self) -> Self {
        self.soft = true;
        self
    }

    /// The reason, for people who read the log. At most 255 characters; a longer text is truncated.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::Invalidation;
    /// let import = Invalidation::tags(["prices"]).reason("price import of 2 May");
    /// # let _ = import;
    /// ```
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Checks that there is at least one subject, and that all tags are valid.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.subjects.is_empty() {
            let rule = "it must name at least one tag, URI or path";
            return Err(ConfigError::new("invalidation", About("empty"), rule));
        }
        self.subjects.iter().try_for_each(|subject| match subject {
            Subject::Tag(tag) => tag.check(),
            _ => Ok(()),
        })
    }
}

/// A row that a store appends to its invalidation log.
///
/// ```
/// use tower_mysql_cache::invalidation::{LogRecord, Scope, Tag};
///
/// let row = LogRecord::hard(Scope::Tag(Tag::from("product:7")));
/// assert!(!row.soft && row.reason.is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRecord {
    /// Which responses the row names.
    pub scope: Scope,
    /// `true` if these responses become stale instead of invalid.
    pub soft: bool,
    /// The reason, for people.
    pub reason: Option<String>,
}

impl LogRecord {
    /// A row that makes responses invalid (not only stale), without a reason.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::{LogRecord, Scope};
    /// let everything = LogRecord::hard(Scope::Everything);
    /// # let _ = everything;
    /// ```
    #[must_use]
    pub fn hard(scope: Scope) -> Self {
        Self { scope, soft: false, reason: None }
    }
}

/// A row of the invalidation log, as [`CacheHandle::invalidations`](crate::CacheHandle::invalidations) shows it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use tower_mysql_cache::invalidation::Invalidation;
/// use tower_mysql_cache::{CacheLayer, MemoryStore};
///
/// let cache = CacheLayer::new(MemoryStore::new()).prefix("shop").handle();
/// cache.invalidate(Invalidation::tags(["prices"]).reason("price import")).await?;
/// for row in cache.invalidations(10).await? {
///     println!("{} {:?}: {:?}", row.at_ms, row.scope, row.reason);
/// }
/// # Ok::<(), tower_mysql_cache::StoreError>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRow {
    /// The id of the row. Later rows have larger ids; only rows of overlapping transactions can become visible in
    /// another order.
    pub id: u64,
    /// Which responses the row names.
    pub scope: Scope,
    /// `true` if these responses became stale instead of invalid.
    pub soft: bool,
    /// The reason, for people.
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

/// The reason, truncated to the width of the column.
pub(crate) fn reason_of(record: &LogRecord) -> Option<String> {
    let reason = record.reason.as_deref()?;
    Some(reason.chars().take(MAX_REASON_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_or_too_long_tag_is_an_error_with_the_rule() {
        let long = "x".repeat(256);
        for tags in [vec![""], vec!["a", &long]] {
            let error = Invalidation::tags(tags).check().unwrap_err().to_string();
            assert!(error.starts_with("tag is") && error.contains("1 to 255 bytes"), "{error}");
        }
        let none: [&str; 0] = [];
        assert!(Invalidation::tags(none).check().is_err());
        assert!(Invalidation::tags(["x".repeat(255)]).and_tags(["a"]).check().is_ok());
    }

    #[test]
    fn a_long_reason_is_truncated_at_a_character() {
        let mut record = LogRecord::hard(Scope::Everything);
        record.reason = Some("\u{e9}".repeat(300));
        assert_eq!(reason_of(&record).unwrap().chars().count(), 255);
    }
}
