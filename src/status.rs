//! What the cache did with a request: the `Cache-Status` field (RFC 9211) and its extension.

use std::fmt::Write;

use http::{HeaderName, HeaderValue};

use crate::reason::Reason;

/// `Cache-Status` (RFC 9211).
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// How much the layer says about itself in the `Cache-Status` field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StatusField {
    /// No field. The [`CacheStatus`] extension is there all the same.
    Off,
    /// `hit` or `fwd`, `ttl`, `stored`, `collapsed`. The default.
    #[default]
    On,
    /// Also `key` and `detail`, for debugging: they show how the cache works inside.
    Debug,
}

/// Why a request went inside (`fwd` of RFC 9211 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forward {
    /// The cache was not to handle this request.
    Bypass,
    /// The method requires it.
    Method,
    /// Nothing is stored for the target.
    UriMiss,
    /// Something is stored for the target, but no variant for these request fields.
    VaryMiss,
    /// The store could not be asked.
    Miss,
    /// The request's own directives require it.
    Request,
    /// The stored response is stale.
    Stale,
}

impl Forward {
    /// The token of RFC 9211 2.2.
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

/// What the cache did with one request. An extension of every response that the layer handled, for
/// logs and tests.
///
/// ```
/// use tower_mysql_cache::CacheStatus;
/// fn log<B>(response: &http::Response<B>) {
///     if let Some(status) = response.extensions().get::<CacheStatus>() {
///         println!("hit={} reason={:?}", status.is_hit(), status.reason());
///     }
/// }
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

    /// A response out of the store that is served although it is stale, and why.
    pub(crate) fn stale(ttl_s: i64, why: Reason) -> Self {
        Self { outcome: Outcome::Hit { ttl_s }, reason: Some(why) }
    }

    pub(crate) fn forwarded(forward: Forward, reason: Option<Reason>) -> Self {
        let outcome = Outcome::Forwarded { forward, status: None, stored: false, collapsed: false };
        Self { outcome, reason }
    }

    /// Whether the response came out of the store.
    #[must_use]
    pub fn is_hit(&self) -> bool {
        matches!(self.outcome, Outcome::Hit { .. })
    }

    /// Why the request went inside, `None` for a hit.
    #[must_use]
    pub fn forward(&self) -> Option<Forward> {
        match self.outcome {
            Outcome::Hit { .. } => None,
            Outcome::Forwarded { forward, .. } => Some(forward),
        }
    }

    /// Whether the response has been stored. A body that is streamed is stored only after its head
    /// has been sent, so that this is `false` for it; the reason is then [`Reason::Streamed`].
    #[must_use]
    pub fn is_stored(&self) -> bool {
        matches!(self.outcome, Outcome::Forwarded { stored: true, .. })
    }

    /// Whether the request was answered by the response to another one that was inside at the same time
    /// (`collapsed`, RFC 9211 2.6).
    #[must_use]
    pub fn is_collapsed(&self) -> bool {
        matches!(self.outcome, Outcome::Forwarded { collapsed: true, .. })
    }

    /// For how many more seconds a hit is fresh; negative when it is stale.
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

    /// Another request's response answers this one.
    pub(crate) fn collapsed(mut self) -> Self {
        if let Outcome::Forwarded { collapsed, .. } = &mut self.outcome {
            *collapsed = true;
        }
        self
    }

    /// The handler's status, where the client is sent another (RFC 9211 2.3).
    pub(crate) fn with_fwd_status(mut self, code: http::StatusCode) -> Self {
        if let Outcome::Forwarded { status, .. } = &mut self.outcome {
            *status = Some(code.as_u16());
        }
        self
    }

    /// The named reason why the cache was bypassed, why the response was not stored, or why a stale one was
    /// served.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// This cache's member of the `Cache-Status` list (RFC 9211 2).
    pub(crate) fn field(
        &self,
        cache: &str,
        key: Option<&[u8]>,
        debug: bool,
    ) -> Option<HeaderValue> {
        let mut value = member_name(cache);
        match self.outcome {
            Outcome::Hit { ttl_s } => {
                let _ = write!(value, "; hit; ttl={ttl_s}");
            }
            Outcome::Forwarded { forward, status, stored, collapsed } => {
                let _ = write!(value, "; fwd={}", forward.as_str());
                if let Some(status) = status {
                    let _ = write!(value, "; fwd-status={status}");
                }
                value.push_str(if stored { "; stored" } else { "" });
                value.push_str(if collapsed { "; collapsed" } else { "" });
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
        HeaderValue::try_from(value).ok()
    }
}

/// A name as a Token, or as a String where it cannot be one (RFC 8941 3.3.3, 3.3.4).
fn member_name(name: &str) -> String {
    let is_token = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b));
    if is_token { name.to_owned() } else { quoted(name) }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(status: &CacheStatus, debug: bool) -> String {
        let field = status.field("shop", Some(b"shop:1:/\"\\ http://h"), debug).unwrap();
        field.to_str().unwrap().to_owned()
    }

    #[test]
    fn says_hit_with_the_time_left() {
        assert_eq!(text(&CacheStatus::hit(30), false), "shop; hit; ttl=30");
        assert_eq!(text(&CacheStatus::hit(-2), false), "shop; hit; ttl=-2");
    }

    #[test]
    fn says_why_it_went_inside_and_whether_the_answer_is_stored() {
        let status = CacheStatus::forwarded(Forward::UriMiss, None);
        assert_eq!(text(&status, false), "shop; fwd=uri-miss");
        assert_eq!(text(&status.collapsed(), false), "shop; fwd=uri-miss; collapsed");
        let mut status = CacheStatus::forwarded(Forward::Stale, None);
        status.set_stored();
        let status = status.with_fwd_status(http::StatusCode::NOT_MODIFIED);
        assert_eq!(text(&status, false), "shop; fwd=stale; fwd-status=304; stored");
    }

    #[test]
    fn shows_key_and_detail_in_debug_mode_only() {
        let status = CacheStatus::forwarded(Forward::Bypass, Some(Reason::Cookie));
        assert_eq!(text(&status, false), "shop; fwd=bypass");
        let shown = r#"shop; fwd=bypass; key="shop:1:/\\\"\\\\ http://h"; detail=cookie"#;
        assert_eq!(text(&status, true), shown);
    }

    #[test]
    fn a_name_that_is_no_token_becomes_a_string() {
        assert_eq!(member_name("tower-mysql-cache"), "tower-mysql-cache");
        assert_eq!(member_name("1shop"), "\"1shop\"");
    }
}
