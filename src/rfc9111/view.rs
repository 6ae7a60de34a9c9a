//! What do the rules need to know of a stored response?

use http::StatusCode;
use http::header::{HeaderMap, HeaderName};

/// A stored response as the rules see it. Times are in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredView<'a> {
    /// The status code.
    pub(crate) status: StatusCode,
    /// The stored header fields.
    pub(crate) headers: &'a HeaderMap,
    /// When the response arrived (`response_time` of RFC 9111 4.2.3).
    pub(crate) received_ms: u64,
    /// The response's age on arrival, in milliseconds (`corrected_initial_age` of RFC 9111 4.2.3).
    pub(crate) initial_age_ms: u64,
    /// The first moment at which the response is stale.
    pub(crate) fresh_until_ms: u64,
    /// How long it took to generate the response, in milliseconds.
    pub(crate) gen_ms: u32,
    /// The response may answer requests with credentials (RFC 9111 3.5).
    pub(crate) shared: bool,
    /// The selecting header fields of the request that it was stored for (RFC 9111 4.1).
    pub(crate) vary: &'a [SelectingField],
}

/// A request header field that selects a variant (`Vary`).
///
/// ```
/// use http::header::ACCEPT_LANGUAGE;
/// use tower_mysql_cache::store::SelectingField;
///
/// // selects requests without `Accept-Language`
/// let field = SelectingField::new(ACCEPT_LANGUAGE, None);
/// # let _ = field;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SelectingField {
    /// The name of the field.
    pub name: HeaderName,
    /// A 128-bit hash of its normalised value. `None` if the request does not have the field; absent matches only
    /// absent.
    pub value: Option<[u8; 16]>,
}

impl SelectingField {
    /// A field with the hash of its value.
    ///
    /// ```
    /// use http::header::ACCEPT_LANGUAGE;
    /// use tower_mysql_cache::store::SelectingField;
    ///
    /// let absent = SelectingField::new(ACCEPT_LANGUAGE, None);
    /// # let _ = absent;
    /// ```
    #[must_use]
    pub fn new(name: HeaderName, value: Option<[u8; 16]>) -> Self {
        Self { name, value }
    }
}
