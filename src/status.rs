//! What the cache did with a request: the `Cache-Status` field (RFC 9211) and the [`CacheStatus`] extension.

use std::fmt::Write;

use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue};

pub use crate::reason::Reason;
pub use crate::telemetry::Counts;

/// `Cache-Status` (RFC 9211).
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// How much the `Cache-Status` field of a response says, for
/// [`CacheLayer::status_field`](crate::CacheLayer::status_field).
///
/// ```
/// use tower_mysql_cache::status::StatusField;
/// use tower_mysql_cache::{CacheLayer, MemoryStore};
/// let cache = CacheLayer::new(MemoryStore::new()).status_field(StatusField::Debug);
/// # let _ = cache;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StatusField {
    /// No field. The [`CacheStatus`] extension is still present.
    Off,
    /// `hit` or `fwd`, `ttl`, `stored`, `collapsed`. The default.
    #[default]
    On,
    /// Also `key` and `detail`, for debugging. Clients see how the cache works, so do not use this in production.
    Debug,
}

/// Why the handler was called: `fwd` of RFC 9211 2.2.
///
/// ```
/// use tower_mysql_cache::status::Forward;
/// assert_eq!(Forward::UriMiss.as_str(), "uri-miss");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forward {
    /// The cache does not handle this request; [`CacheStatus::reason`] says why.
    Bypass,
    /// The cache does not handle this method.
    Method,
    /// No response is stored for the target.
    UriMiss,
    /// Responses are stored for the target, but none for these request fields (`Vary`).
    VaryMiss,
    /// The store did not answer.
    Miss,
    /// The request's own directives require it.
    Request,
    /// The stored response is stale.
    Stale,
}

impl Forward {
    /// The token of RFC 9211 2.2.
    ///
    /// ```
    /// use tower_mysql_cache::status::Forward;
    /// assert_eq!(Forward::VaryMiss.as_str(), "vary-miss");
    /// ```
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Miss => "miss",
            Self::Request => "request",
            Self::Stale => "stale",
        }
    }
}

/// What the cache did with one request. The layer adds it to the extensions of every response that it handles, for
/// logs and tests.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::time::Duration;
///
/// use axum::{Router, body::Body, http::Request, routing::get};
/// use tower::ServiceExt;
/// use tower_mysql_cache::status::Forward;
/// use tower_mysql_cache::{CacheLayer, CachePolicy, CacheStatus, MemoryStore};
///
/// const PAGE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
///
/// let cache = CacheLayer::new(MemoryStore::new()).with_policy(PAGE);
/// let app: Router = Router::new().route("/", get(|| async { "a slow page" })).layer(cache);
/// let request = || Request::get("/").body(Body::empty()).unwrap();
///
/// let first = app.clone().oneshot(request()).await.unwrap();
/// let status: &CacheStatus = first.extensions().get().unwrap();
/// assert_eq!(status.forward(), Some(Forward::UriMiss));
/// assert!(status.is_stored());
///
/// let second = app.oneshot(request()).await.unwrap();
/// let status: &CacheStatus = second.extensions().get().unwrap();
/// assert!(status.is_hit() && status.ttl_secs() > Some(50));
/// # });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheStatus {
    pub(crate) outcome: Outcome,
    pub(crate) reason: Option<Reason>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Hit { ttl_s: i64 },
    Forwarded { forward: Forward, status: Option<u16>, stored: bool, collapsed: bool },
}

impl CacheStatus {
    pub(crate) fn hit(ttl_s: i64) -> Self {
        Self { outcome: Outcome::Hit { ttl_s }, reason: None }
    }

    /// A stored response that is served although it is stale. `why` is the reason.
    pub(crate) fn stale(ttl_s: i64, why: Reason) -> Self {
        Self { outcome: Outcome::Hit { ttl_s }, reason: Some(why) }
    }

    pub(crate) fn forwarded(forward: Forward, reason: Option<Reason>) -> Self {
        let outcome = Outcome::Forwarded { forward, status: None, stored: false, collapsed: false };
        Self { outcome, reason }
    }

    /// Whether the response is a stored one. A stale hit is a hit too.
    ///
    /// ```
    /// fn log<B>(response: &http::Response<B>) {
    ///     if let Some(status) = response.extensions().get::<tower_mysql_cache::CacheStatus>() {
    ///         println!("hit={}", status.is_hit());
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn is_hit(&self) -> bool {
        matches!(self.outcome, Outcome::Hit { .. })
    }

    /// Why the handler was called; `None` for a hit.
    ///
    /// ```
    /// use tower_mysql_cache::status::Forward;
    /// use tower_mysql_cache::CacheStatus;
    ///
    /// /// Whether the store was in trouble.
    /// fn store_failed(status: &CacheStatus) -> bool {
    ///     status.forward() == Some(Forward::Miss)
    /// }
    /// ```
    #[must_use]
    pub fn forward(&self) -> Option<Forward> {
        match self.outcome {
            Outcome::Hit { .. } => None,
            Outcome::Forwarded { forward, .. } => Some(forward),
        }
    }

    /// Whether the response was stored before its head was sent. This is `false` for a body that is still streaming,
    /// which is stored later; then [`reason`](Self::reason) is [`Reason::Streamed`].
    ///
    /// ```
    /// use tower_mysql_cache::status::Reason;
    /// use tower_mysql_cache::CacheStatus;
    ///
    /// fn will_be_stored(status: &CacheStatus) -> bool {
    ///     status.is_stored() || status.reason() == Some(Reason::Streamed)
    /// }
    /// ```
    #[must_use]
    pub fn is_stored(&self) -> bool {
        matches!(self.outcome, Outcome::Forwarded { stored: true, .. })
    }

    /// Whether the request was a follower: it waited for the handler's response to another request, and got this
    /// response (`collapsed`, RFC 9211 2.6).
    ///
    /// ```
    /// use tower_mysql_cache::CacheStatus;
    ///
    /// /// Whether the handler ran for this request.
    /// fn handler_ran(status: &CacheStatus) -> bool {
    ///     !status.is_hit() && !status.is_collapsed()
    /// }
    /// ```
    #[must_use]
    pub fn is_collapsed(&self) -> bool {
        matches!(self.outcome, Outcome::Forwarded { collapsed: true, .. })
    }

    /// For how many more seconds a hit is fresh. Negative for a stale hit, `None` if the response is no hit.
    ///
    /// ```
    /// use tower_mysql_cache::CacheStatus;
    ///
    /// fn is_stale_hit(status: &CacheStatus) -> bool {
    ///     status.ttl_secs().is_some_and(|secs| secs < 0)
    /// }
    /// ```
    #[must_use]
    pub fn ttl_secs(&self) -> Option<i64> {
        match self.outcome {
            Outcome::Hit { ttl_s } => Some(ttl_s),
            Outcome::Forwarded { .. } => None,
        }
    }

    pub(crate) fn set_stored(&mut self) {
        if let Outcome::Forwarded { stored, .. } = &mut self.outcome {
            *stored = true;
        }
    }

    /// The same, for a follower.
    pub(crate) fn collapsed(mut self) -> Self {
        if let Outcome::Forwarded { collapsed, .. } = &mut self.outcome {
            *collapsed = true;
        }
        self
    }

    /// Notes the handler's status, if the client gets another one (RFC 9211 2.3).
    pub(crate) fn with_fwd_status(mut self, code: http::StatusCode) -> Self {
        if let Outcome::Forwarded { status, .. } = &mut self.outcome {
            *status = Some(code.as_u16());
        }
        self
    }

    /// The named reason why the cache was bypassed, why the response was not stored, or why a stale response was
    /// served.
    ///
    /// ```
    /// fn log<B>(response: &http::Response<B>) {
    ///     if let Some(status) = response.extensions().get::<tower_mysql_cache::CacheStatus>() {
    ///         println!("reason={}", status.reason().map_or("-", |reason| reason.as_str()));
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// This cache's member of the `Cache-Status` list (RFC 9211 2).
    pub(crate) fn field(
        &self,
        values: &mut FieldValues,
        cache: &str,
        key: Option<&[u8]>,
        debug: bool,
    ) -> Option<HeaderValue> {
        let value = &mut values.0;
        push_name(value, cache);
        match self.outcome {
            Outcome::Hit { ttl_s } => {
                value.extend_from_slice(b"; hit; ttl=");
                if ttl_s < 0 {
                    value.put_u8(b'-');
                }
                push_number(value, ttl_s.unsigned_abs());
            }
            Outcome::Forwarded { forward, status, stored, collapsed } => {
                let _ = write!(value, "; fwd={}", forward.as_str());
                if let Some(status) = status {
                    let _ = write!(value, "; fwd-status={status}");
                }
                value.extend_from_slice(if stored { b"; stored" } else { b"" });
                value.extend_from_slice(if collapsed { b"; collapsed" } else { b"" });
            }
        }
        if debug {
            if let Some(key) = key {
                let _ = write!(value, "; key={}", quoted(&key.escape_ascii().to_string()));
            }
            if let Some(reason) = self.reason {
                let _ = write!(value, "; detail={reason}");
            }
        }
        values.take()
    }
}

/// Field values that are written one after the other into one buffer.
pub(crate) struct FieldValues(BytesMut);

impl FieldValues {
    /// Room for the fields of a hit; more is possible.
    pub(crate) fn new() -> Self {
        Self(BytesMut::with_capacity(96))
    }

    pub(crate) fn number(&mut self, number: u64) -> Option<HeaderValue> {
        push_number(&mut self.0, number);
        self.take()
    }

    /// What has been written since the last value.
    fn take(&mut self) -> Option<HeaderValue> {
        HeaderValue::from_maybe_shared(self.0.split().freeze()).ok()
    }
}

/// Decimal digits.
fn push_number(out: &mut BytesMut, number: u64) {
    if number >= 10 {
        push_number(out, number / 10);
    }
    out.put_u8(b'0' + (number % 10) as u8);
}

/// A name as a Token, or as a String if it is no valid Token (RFC 8941 3.3.3, 3.3.4).
fn push_name(out: &mut BytesMut, name: &str) {
    let is_token = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b));
    match is_token {
        true => out.extend_from_slice(name.as_bytes()),
        false => out.extend_from_slice(quoted(name).as_bytes()),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(status: &CacheStatus, debug: bool) -> String {
        let key = Some(&b"shop:1:/\"\\ http://h"[..]);
        let field = status.field(&mut FieldValues::new(), "shop", key, debug).unwrap();
        field.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_hit_shows_the_remaining_ttl() {
        assert_eq!(text(&CacheStatus::hit(30), false), "shop; hit; ttl=30");
        assert_eq!(text(&CacheStatus::hit(-2), false), "shop; hit; ttl=-2");
    }

    #[test]
    fn a_miss_shows_why_and_whether_the_response_is_stored() {
        let status = CacheStatus::forwarded(Forward::UriMiss, None);
        assert_eq!(text(&status, false), "shop; fwd=uri-miss");
        assert_eq!(text(&status.collapsed(), false), "shop; fwd=uri-miss; collapsed");
        let mut status = CacheStatus::forwarded(Forward::Stale, None);
        status.set_stored();
        let status = status.with_fwd_status(http::StatusCode::NOT_MODIFIED);
        assert_eq!(text(&status, false), "shop; fwd=stale; fwd-status=304; stored");
    }

    #[test]
    fn key_and_detail_are_shown_only_for_debugging() {
        let status = CacheStatus::forwarded(Forward::Bypass, Some(Reason::Cookie));
        assert_eq!(text(&status, false), "shop; fwd=bypass");
        let shown = r#"shop; fwd=bypass; key="shop:1:/\\\"\\\\ http://h"; detail=cookie"#;
        assert_eq!(text(&status, true), shown);
    }

    #[test]
    fn a_name_that_is_no_token_becomes_a_string() {
        let name = |name: &str| {
            let mut out = BytesMut::new();
            push_name(&mut out, name);
            out
        };
        assert_eq!(name("tower-mysql-cache"), "tower-mysql-cache");
        assert_eq!(name("1shop"), "\"1shop\"");
    }

    #[test]
    fn numbers_are_written_in_decimal_digits() {
        let mut values = FieldValues::new();
        for number in [0, 9, 10, 1_000, u64::MAX] {
            assert_eq!(values.number(number).unwrap(), number.to_string().as_str());
        }
    }
}
