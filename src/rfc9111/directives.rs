//! What does `Cache-Control` say (RFC 9111 5.2)?
//!
//! The parser accepts any bytes, unknown directives, and directives with invalid syntax. If the meaning is uncertain,
//! it counts against reuse, never for it.

use std::borrow::Cow;

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, PRAGMA};

use super::fields::is_decisive;
use super::syntax::{argument, delta_seconds, is_token_byte, members, split_unquoted};

/// A directive that can stand alone or name header fields: `no-cache` and `private`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Qualified {
    /// The directive is absent.
    #[default]
    No,
    /// It is only about these fields.
    Fields(Vec<HeaderName>),
    /// It is about the whole response.
    All,
}

impl Qualified {
    fn add(&mut self, argument: &Argument<'_>) {
        let names = match argument {
            Argument::Value(value) => field_names(value),
            Argument::None | Argument::Malformed => None,
        };
        match (names, &mut *self) {
            (Some(names), Self::No) => *self = Self::Fields(names),
            (Some(names), Self::Fields(fields)) => fields.extend(names),
            (Some(_), Self::All) => {}
            (None, _) => *self = Self::All,
        }
    }

    /// The fields that the directive names; none if it stands alone or is absent.
    pub(crate) fn fields(&self) -> &[HeaderName] {
        match self {
            Self::Fields(fields) => fields,
            Self::No | Self::All => &[],
        }
    }
}

/// The field names in an argument. `None` if there is no name, if one is invalid, or if the cache needs one of the
/// fields for its decisions. The directive then counts as one without an argument: leaving out only the other fields
/// would not be what the origin meant.
pub(super) fn field_names(value: &[u8]) -> Option<Vec<HeaderName>> {
    let names: Vec<_> = split_unquoted(value, b',')
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty())
        .map(|name| HeaderName::from_bytes(name).ok().filter(|name| !is_decisive(name)))
        .collect::<Option<_>>()?;
    (!names.is_empty()).then_some(names)
}

/// The directives of a response (RFC 9111 5.2.2). Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResponseDirectives {
    /// The response has `Cache-Control`, or a targeted field in its place.
    pub(crate) present: bool,
    /// The directives come from a targeted field. `Cache-Control` and `Expires` are then ignored (RFC 9213 2.2).
    pub(crate) targeted: bool,
    pub(crate) no_store: bool,
    pub(crate) no_cache: Qualified,
    pub(crate) private: Qualified,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) must_understand: bool,
    pub(crate) no_transform: bool,
    pub(crate) immutable: bool,
    /// `Some(0)` if the value is invalid.
    pub(crate) max_age: Option<u64>,
    /// `Some(0)` if the value is invalid.
    pub(crate) s_maxage: Option<u64>,
    /// RFC 5861 3.
    pub(crate) stale_while_revalidate: Option<u64>,
    /// RFC 5861 4.
    pub(crate) stale_if_error: Option<u64>,
}

impl ResponseDirectives {
    /// Reads all lines of `Cache-Control` as one list.
    pub(crate) fn parse(headers: &HeaderMap) -> Self {
        let mut directives =
            Self { present: headers.contains_key(CACHE_CONTROL), ..Self::default() };
        each_directive(headers, |name, argument| directives.add(name, &argument));
        directives
    }

    fn add(&mut self, name: &str, argument: &Argument<'_>) {
        // A restriction counts whatever its argument is. A permission counts only if its syntax is valid.
        let bare = matches!(argument, Argument::None);
        match name {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache.add(argument),
            "private" => self.private.add(argument),
            "public" => self.public |= bare,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand |= bare,
            "no-transform" => self.no_transform = true,
            "immutable" => self.immutable |= bare,
            // RFC 9111 4.2.1: invalid freshness information is stale
            "max-age" => first_or_stale(&mut self.max_age, argument.seconds().unwrap_or(0)),
            "s-maxage" => first_or_stale(&mut self.s_maxage, argument.seconds().unwrap_or(0)),
            "stale-while-revalidate" => {
                shortest(&mut self.stale_while_revalidate, argument.seconds().unwrap_or(0));
            }
            "stale-if-error" => {
                shortest(&mut self.stale_if_error, argument.seconds().unwrap_or(0));
            }
            // RFC 9111 5.2.3: a cache ignores unknown directives
            _ => {}
        }
    }

    /// Whether a stale response must not be served without validation, even if a client or the policy permits it (RFC
    /// 9111 4.2.4). `s-maxage` implies `proxy-revalidate` (5.2.2.10).
    pub(crate) fn forbids_stale(&self) -> bool {
        self.no_cache == Qualified::All
            || self.must_revalidate
            || self.proxy_revalidate
            || self.s_maxage.is_some()
    }
}

/// RFC 9111 4.2.1: of several values, the first counts, or the response is stale. Here the first counts, unless a
/// later one is shorter; then the response is stale.
fn first_or_stale(slot: &mut Option<u64>, value: u64) {
    *slot = Some(match *slot {
        None => value,
        Some(first) if first <= value => first,
        Some(_) => 0,
    });
}

/// If a permission is given twice, the shorter one counts.
fn shortest(slot: &mut Option<u64>, value: u64) {
    *slot = Some(slot.map_or(value, |other| other.min(value)));
}

/// How stale a response the client accepts (RFC 9111 5.2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MaxStale {
    /// Stale by any time.
    Any,
    /// Stale by at most this many seconds.
    Secs(u64),
}

/// The directives of a request (RFC 9111 5.2.1). Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestDirectives {
    pub(crate) no_store: bool,
    /// Also set by `Pragma: no-cache` if there is no `Cache-Control` (RFC 9111 5.4).
    pub(crate) no_cache: bool,
    pub(crate) only_if_cached: bool,
    /// `Some(0)` if the value is invalid.
    pub(crate) max_age: Option<u64>,
    pub(crate) min_fresh: Option<u64>,
    pub(crate) max_stale: Option<MaxStale>,
    /// RFC 5861 4.
    pub(crate) stale_if_error: Option<u64>,
}

impl RequestDirectives {
    /// Reads all lines of `Cache-Control` as one list, or `Pragma` if there is no `Cache-Control`.
    pub(crate) fn parse(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        if headers.contains_key(CACHE_CONTROL) {
            each_directive(headers, |name, argument| directives.add(name, &argument));
        } else {
            // RFC 9111 5.4
            directives.no_cache =
                members(headers, PRAGMA).any(|member| member.eq_ignore_ascii_case(b"no-cache"));
        }
        directives
    }

    fn add(&mut self, name: &str, argument: &Argument<'_>) {
        let seconds = argument.seconds();
        match name {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => shortest(&mut self.max_age, seconds.unwrap_or(0)),
            "min-fresh" => {
                let seconds = seconds.unwrap_or(0);
                self.min_fresh = Some(self.min_fresh.map_or(seconds, |other| other.max(seconds)));
            }
            "max-stale" => {
                let value = match argument {
                    Argument::None => MaxStale::Any,
                    _ => MaxStale::Secs(seconds.unwrap_or(0)),
                };
                self.max_stale = Some(match (self.max_stale, value) {
                    (None | Some(MaxStale::Any), value) => value,
                    (Some(other), MaxStale::Any) => other,
                    (Some(MaxStale::Secs(a)), MaxStale::Secs(b)) => MaxStale::Secs(a.min(b)),
                });
            }
            "stale-if-error" => shortest(&mut self.stale_if_error, seconds.unwrap_or(0)),
            _ => {}
        }
    }
}

/// What follows the name of a directive.
enum Argument<'a> {
    None,
    /// A token, or the content of a quoted string: RFC 9111 5.2 allows both forms.
    Value(Cow<'a, [u8]>),
    /// Neither a token nor a quoted string.
    Malformed,
}

impl Argument<'_> {
    fn seconds(&self) -> Option<u64> {
        match self {
            Self::Value(value) => delta_seconds(value),
            Self::None | Self::Malformed => None,
        }
    }
}

/// Calls `found` with the name in lower case and the argument of each directive, in order.
fn each_directive(headers: &HeaderMap, mut found: impl FnMut(&str, Argument<'_>)) {
    for member in members(headers, CACHE_CONTROL) {
        let (name, rest) = split_name(member);
        let argument = match rest.split_first() {
            None => Argument::None,
            // RFC 9111 5.2: no space is allowed around the "=", and none is part of either form.
            Some((b'=', value)) => argument(value).map_or(Argument::Malformed, Argument::Value),
            Some(_) => Argument::Malformed,
        };
        let malformed = matches!(argument, Argument::Malformed);
        with_lower_case(name, |name| found(name, argument));
        if malformed && rest.contains(&b'"') {
            // A misplaced quote may have hidden other directives. Their syntax counts as invalid too, so they can
            // restrict but not permit.
            for piece in rest.split(|&byte| byte == b',').skip(usize::from(!name.is_empty())) {
                let piece = piece.trim_ascii();
                let (name, _) = split_name(piece.strip_prefix(b"\"").unwrap_or(piece));
                with_lower_case(name, |name| found(name, Argument::Malformed));
            }
        }
    }
}

/// Splits a member after the token at its start.
fn split_name(member: &[u8]) -> (&[u8], &[u8]) {
    let end = member.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(member.len());
    member.split_at_checked(end).unwrap_or((member, &[]))
}

/// Calls `found` with the name in lower case (RFC 9111 5.2), without an allocation. A name that is longer than all
/// known names is skipped.
fn with_lower_case(name: &[u8], found: impl FnOnce(&str)) {
    const LONGEST: usize = "stale-while-revalidate".len();
    let mut buffer = [0; LONGEST];
    let Some(lower) = buffer.get_mut(..name.len()) else { return };
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    if let Ok(lower) = std::str::from_utf8(lower) {
        found(lower);
    }
}

#[cfg(test)]
mod tests;
