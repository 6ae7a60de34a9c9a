//! What a log row names: a tag of responses, or the beginning of their keys.
//!
//! Prefix, path and target of a response are beginnings of its key. So they are not stored as tags: a log row
//! contains the beginning of the keys that it invalidates.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use super::Tag;

/// The number of segments of a path that are compared. A deeper path is truncated to its first 32 segments. This can
/// only invalidate more.
const MAX_DEPTH: usize = 32;

/// Which responses a log row names. The `tag` column of the log contains it in one of these forms:
///
/// | scope | column |
/// |---|---|
/// | a tag | its bytes; if they begin with a colon, another colon is put in front |
/// | all responses of all caches that share the log | `:everything` |
/// | all responses under a prefix | `:all shop` |
/// | a target on all origins | `:uri shop:1:/products?page=2` |
/// | a target on one origin | `:uri shop:1:/products http://shop.example` |
/// | all responses at and below a path | `:path shop:1:/products` |
/// | a cache group of an origin (RFC 9875) | `:group http://shop.example news` |
///
/// Any other value that begins with a colon counts as `:everything`: a newer release may have written it, and to
/// invalidate too much is safe.
///
/// ```
/// use tower_mysql_cache::invalidation::{Scope, Tag};
///
/// let page = Scope::from_column(&":path shop:1:/products".into());
/// assert_eq!(page.to_column(), ":path shop:1:/products");
/// assert!(page.names(b"shop:1:/products/7 http://shop.example", &[]));
/// assert!(Scope::Tag(Tag::from("a")).names(b"shop:1:/", &[Tag::from("a")]));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// All responses with this tag.
    Tag(Tag),
    /// All responses of all caches that share the log.
    Everything,
    /// All responses under a prefix, of all versions.
    Prefix(Bytes),
    /// A target: all responses whose key is these bytes, or continues them with a space. Also all responses on the
    /// same path that may answer other queries (`No-Vary-Search`).
    Uri(Bytes),
    /// A path: all responses whose target is these bytes, or whose key continues them with `/` or `?`. Made by
    /// [`Invalidation::path`](super::Invalidation::path), and read from the `tag` column.
    #[non_exhaustive]
    Path(Bytes),
}

const EVERYTHING: &[u8] = b":everything";
const PREFIX: &[u8] = b":all ";
const URI: &[u8] = b":uri ";
const PATH: &[u8] = b":path ";
const GROUP: &[u8] = b":group ";

/// The tag of responses that may also answer other queries of their path (`No-Vary-Search`). A row that names the
/// path with any query names them.
const ANY_QUERY: &[u8] = b":any query";

/// The beginning of a tag of responses under a custom key. The rest of the tag is the beginning of the key that the
/// response would have under its request's URI. A row that names such a key names the response.
const AT: &[u8] = b":at ";

impl Scope {
    /// The tag for a response under a custom key. `uri_key` is the beginning of the keys of the request's URI.
    pub(crate) fn at(uri_key: &[u8]) -> Tag {
        Tag::new([AT, uri_key].concat())
    }

    /// A cache group of an origin, as a tag.
    pub(crate) fn group(scheme: &str, authority: &str, group: &str) -> Tag {
        Tag::new(format!(":group {scheme}://{authority} {group}"))
    }

    /// The tag of responses that may also answer other queries of their path.
    pub(crate) fn any_query() -> Tag {
        Tag::new(Bytes::from_static(ANY_QUERY))
    }

    /// The value for the log's `tag` column.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::Scope;
    /// assert_eq!(Scope::Prefix("shop".into()).to_column(), ":all shop");
    /// ```
    #[must_use]
    pub fn to_column(&self) -> Bytes {
        let with = |start: &[u8], rest: &[u8]| Bytes::from([start, rest].concat());
        match self {
            Self::Tag(tag) if tag.as_bytes().starts_with(GROUP) => tag.to_bytes(),
            Self::Tag(tag) if tag.as_bytes().starts_with(b":") => with(b":", tag.as_bytes()),
            Self::Tag(tag) => tag.to_bytes(),
            Self::Everything => Bytes::from_static(EVERYTHING),
            Self::Prefix(prefix) => with(PREFIX, prefix),
            Self::Uri(start) => with(URI, start),
            Self::Path(start) => with(PATH, start),
        }
    }

    /// Reads a value of the log's `tag` column.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::Scope;
    ///
    /// assert_eq!(Scope::from_column(&":all shop".into()), Scope::Prefix("shop".into()));
    /// // a form of a newer release
    /// assert_eq!(Scope::from_column(&":unknown".into()), Scope::Everything);
    /// ```
    #[must_use]
    pub fn from_column(column: &Bytes) -> Self {
        let after = |start: &[u8]| column.starts_with(start).then(|| column.slice(start.len()..));
        if !column.starts_with(b":") {
            return Self::Tag(Tag::new(column.clone()));
        }
        if column.starts_with(GROUP) {
            return Self::Tag(Tag::new(column.clone()));
        }
        after(b"::")
            .map(|rest| Self::Tag(Tag::new([b":", &rest[..]].concat())))
            .or_else(|| after(PREFIX).map(Self::Prefix))
            .or_else(|| after(URI).map(Self::Uri))
            .or_else(|| after(PATH).map(Self::Path))
            .unwrap_or(Self::Everything)
    }

    /// The target whose keys begin with `start`, on one origin or on all.
    pub(crate) fn uri(start: impl Into<Bytes>) -> Self {
        Self::Uri(start.into())
    }

    /// All responses at and below a path. `start` is the beginning of their keys, up to the end of the path. A path
    /// of more than [`MAX_DEPTH`] segments is truncated.
    pub(crate) fn path(start: &[u8]) -> Self {
        let mut cut = start;
        while let Some(shorter) = cut.strip_suffix(b"/") {
            cut = shorter;
        }
        let at = slashes(cut).nth(MAX_DEPTH);
        let cut = at.and_then(|at| cut.get(..at)).unwrap_or(cut);
        Self::Path(Bytes::copy_from_slice(cut))
    }

    /// Whether this names the response with this key and these tags.
    ///
    /// ```
    /// use tower_mysql_cache::invalidation::Scope;
    ///
    /// let page = Scope::Uri("shop:1:/products".into());
    /// assert!(page.names(b"shop:1:/products http://shop.example", &[]));
    /// assert!(!page.names(b"shop:1:/products?page=2 http://shop.example", &[]));
    /// ```
    #[must_use]
    pub fn names(&self, key: &[u8], tags: &[Tag]) -> bool {
        match self {
            Self::Tag(tag) => tags.contains(tag),
            Self::Uri(start) if has_any_query(tags) => {
                paths_of(key, tags).any(|own| own == without_query(start))
            }
            own => implied_by(key, tags).any(|implied| implied.is(own)),
        }
    }
}

/// Whether a response may also answer other queries of its path.
pub(crate) fn has_any_query(tags: &[Tag]) -> bool {
    tags.iter().any(|tag| tag.as_bytes() == ANY_QUERY)
}

/// Removes the query from the beginning of a target's keys. The origin stays, if there is one.
pub(crate) fn without_query(start: &[u8]) -> Cow<'_, [u8]> {
    let target = start.iter().position(|&byte| byte == b' ').unwrap_or(start.len());
    let (target, origin) = start.split_at_checked(target).unwrap_or((start, &[]));
    match target.iter().position(|&byte| byte == b'?') {
        None => Cow::Borrowed(start),
        Some(at) => Cow::Owned([target.get(..at).unwrap_or(target), origin].concat()),
    }
}

/// The path of a response, as the beginning of keys: on all origins, and on its own.
pub(crate) fn paths_of<'a>(
    key: &'a [u8],
    tags: &'a [Tag],
) -> impl Iterator<Item = Cow<'a, [u8]>> + 'a {
    implied_by(key, tags).filter_map(|implied| match implied {
        Implied::Uri(start) => Some(without_query(start)),
        _ => None,
    })
}

/// The `tag` columns of all rows that name the path of `key` with a query, as a half-open range. Rows for other
/// origins are in the range too.
#[cfg(feature = "mysql")]
pub(crate) fn queries_of_path(key: &[u8]) -> Option<(Bytes, Bytes)> {
    let path = paths_of(key, &[]).next()?;
    let column = |end: &[u8]| Bytes::from([URI, &path[..], end].concat());
    Some((column(b"?"), column(b"@"))) // the byte after the question mark
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({})", self.to_column().escape_ascii())
    }
}

/// A scope that follows from a response's key alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Implied<'a> {
    Everything,
    Prefix(&'a [u8]),
    Uri(&'a [u8]),
    Path(&'a [u8]),
}

impl Implied<'_> {
    fn is(&self, scope: &Scope) -> bool {
        match (self, scope) {
            (Self::Everything, Scope::Everything) => true,
            (Self::Prefix(own), Scope::Prefix(other))
            | (Self::Uri(own), Scope::Uri(other))
            | (Self::Path(own), Scope::Path(other)) => own == other,
            _ => false,
        }
    }

    /// The `tag` column of the rows that name this scope.
    #[cfg(feature = "mysql")]
    pub(crate) fn to_column(self) -> Bytes {
        let with = |start: &[u8], rest: &[u8]| Bytes::from([start, rest].concat());
        match self {
            Self::Everything => Bytes::from_static(EVERYTHING),
            Self::Prefix(prefix) => with(PREFIX, prefix),
            Self::Uri(start) => with(URI, start),
            Self::Path(start) => with(PATH, start),
        }
    }
}

/// The scopes that follow from a response's key. For a custom key, also those of its request's URI.
pub(crate) fn implied_by<'a>(
    key: &'a [u8],
    tags: &'a [Tag],
) -> impl Iterator<Item = Implied<'a>> + 'a {
    implied(key).chain(uri_keys(tags).flat_map(implied))
}

/// For a response under a custom key: the beginning of the keys of its request's URI.
pub(crate) fn uri_keys(tags: &[Tag]) -> impl Iterator<Item = &[u8]> {
    tags.iter().filter_map(|tag| tag.as_bytes().strip_prefix(AT))
}

/// The scopes that follow from a key `prefix:version:/path?query origin ...`.
fn implied(key: &[u8]) -> impl Iterator<Item = Implied<'_>> {
    let prefix = key.split(|&b| b == b':').next().unwrap_or(key);
    let mut spaces = key.iter().enumerate().filter(|(_, byte)| **byte == b' ').map(|(at, _)| at);
    let target = spaces.next().unwrap_or(key.len());
    let origin = spaces.next().unwrap_or(key.len());
    let until = |end: usize| key.get(..end).unwrap_or(key);
    let uris = [until(target), until(origin)];
    let uris = uris.into_iter().take(if target == origin { 1 } else { 2 });
    let query = until(target).iter().position(|&byte| byte == b'?').unwrap_or(target);
    let path = until(query);
    // a custom key has no path
    let is_path = path_at(path).is_some();
    let above = slashes(path).chain(std::iter::once(path.len())).take(MAX_DEPTH + 1);
    let whole = path.len();
    // a path that ends with a slash would be listed twice
    let above = above.filter(move |&end| is_path && (end != whole || !path.ends_with(b"/")));
    [Implied::Everything, Implied::Prefix(prefix)]
        .into_iter()
        .chain(uris.map(Implied::Uri))
        .chain(above.map(until).map(Implied::Path))
}

/// The position of the path in a key, after `prefix:version:`. `None` for a custom key.
fn path_at(start: &[u8]) -> Option<usize> {
    let mut colons = start.iter().enumerate().filter(|(_, byte)| **byte == b':');
    let at = colons.nth(1)?.0 + 1;
    (start.get(at) == Some(&b'/')).then_some(at)
}

/// The positions of the slashes in the path. Each is the end of a path above it.
fn slashes(start: &[u8]) -> impl Iterator<Item = usize> {
    let from = path_at(start).unwrap_or(start.len());
    let path = start.get(from..).unwrap_or_default();
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(move |(at, _)| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"shop:1:/a/b?x=/y http://h p=t v=1";

    #[cfg(feature = "mysql")]
    fn columns(key: &[u8]) -> Vec<String> {
        let text = |implied: Implied<'_>| String::from_utf8(implied.to_column().to_vec()).unwrap();
        implied(key).map(text).collect()
    }

    #[cfg(feature = "mysql")]
    #[test]
    fn a_key_is_in_the_scopes_of_all_its_beginnings() {
        let expected = [
            ":everything",
            ":all shop",
            ":uri shop:1:/a/b?x=/y",
            ":uri shop:1:/a/b?x=/y http://h",
            ":path shop:1:",
            ":path shop:1:/a",
            ":path shop:1:/a/b",
        ];
        assert_eq!(columns(KEY), expected);
        let root = [":everything", ":all ", ":uri :1:/", ":uri :1:/ http://h", ":path :1:"];
        assert_eq!(columns(b":1:/ http://h"), root);
        assert_eq!(columns(b"p:2:=own"), [":everything", ":all p", ":uri p:2:=own"]);
    }

    #[test]
    fn a_path_names_all_keys_at_and_below_it_and_no_others() {
        let names = |path: &str, key: &str| Scope::path(path.as_bytes()).names(key.as_bytes(), &[]);
        for below in ["s:1:/a http://h", "s:1:/a?q http://h", "s:1:/a/ x", "s:1:/a/b/c?d=/e x"] {
            assert!(names("s:1:/a", below) && names("s:1:/a/", below), "{below}");
            assert!(names("s:1:/", below) && names("s:1:", below), "{below}");
        }
        for other in ["s:1:/ab x", "s:1:/b x", "s:2:/a x", "t:1:/a x", "s:1:=/a x", "s:1:?/a x"] {
            assert!(!names("s:1:/a", other), "{other}");
        }
    }

    #[test]
    fn a_response_for_many_queries_is_named_by_any_query() {
        let (mark, none) = ([Tag::from("a"), Scope::any_query()], []);
        let names = |uri: &str, tags: &[Tag]| Scope::uri(uri.as_bytes().to_vec()).names(KEY, tags);
        for uri in ["s", "s?", "s?z=1", "s?z=1 http://h", "s http://h"] {
            let uri = uri.replacen('s', "shop:1:/a/b", 1);
            assert!(names(&uri, &mark) && !names(&uri, &none), "{uri}");
        }
        for uri in ["shop:1:/a?x=/y", "shop:1:/a/b?x=/y http://i", "shop:2:/a/b", "shop:1:/a/bb?x"]
        {
            assert!(!names(uri, &mark), "{uri}");
        }
        assert!(names("shop:1:/a/b?x=/y", &mark) && names("shop:1:/a/b?x=/y", &none));
    }

    #[test]
    fn a_response_under_a_custom_key_is_named_by_its_uri() {
        let tags = [Tag::from("a"), Scope::at(b"s:1:/a/b?x=1 http://h")];
        let names = |scope: Scope| scope.names(b"s:1:=own p:t=1", &tags);
        for uri in ["s:1:/a/b?x=1", "s:1:/a/b?x=1 http://h", "s:1:=own"] {
            assert!(names(Scope::uri(uri)), "{uri}");
        }
        for path in ["s:1:", "s:1:/a", "s:1:/a/b"] {
            assert!(names(Scope::path(path.as_bytes())), "{path}");
        }
        for uri in ["s:1:/a/b", "s:1:/a/b?x=1 http://i", "s:1:/a/b?x=2", "s:2:/a/b?x=1"] {
            assert!(!names(Scope::uri(uri)), "{uri}");
        }
        let with_any_query = [Scope::at(b"s:1:/a?x http://h"), Scope::any_query()];
        assert!(Scope::uri("s:1:/a?y").names(b"s:1:=own", &with_any_query));
    }

    #[test]
    fn a_path_that_is_too_deep_is_truncated() {
        let deep = format!("s:1:{}", "/d".repeat(100));
        let scope = Scope::path(deep.as_bytes());
        assert_eq!(scope, Scope::Path(format!("s:1:{}", "/d".repeat(32)).into()));
        assert!(scope.names(format!("{deep}/e http://h").as_bytes(), &[]));
        assert!(!scope.names(b"s:1:/d/d http://h", &[]));
    }

    #[test]
    fn a_scope_is_read_as_written_and_no_tag_can_imitate_it() {
        for scope in [
            Scope::Tag(Tag::from("product:7")),
            Scope::Tag(Tag::from(":everything")),
            Scope::Tag(Tag::from("::uri s:1:/")),
            Scope::Tag(Scope::group("http", "h", "a b")),
            Scope::Everything,
            Scope::Prefix("shop".into()),
            Scope::uri("shop:1:/a"),
            Scope::path(b"shop:1:/a"),
        ] {
            assert_eq!(Scope::from_column(&scope.to_column()), scope);
        }
        assert_eq!(Scope::Tag(Tag::from(":everything")).to_column(), "::everything");
        assert_eq!(Scope::from_column(&":form of a newer release".into()), Scope::Everything);
    }

    #[test]
    fn tags_are_compared_byte_by_byte() {
        let tags = [Tag::from("a"), Tag::from(":all shop")];
        assert!(Scope::Tag(Tag::from("a")).names(KEY, &tags));
        assert!(!Scope::Tag(Tag::from("A")).names(KEY, &tags));
        assert!(!Scope::Tag(Tag::from("a ")).names(KEY, &tags));
        assert!(Scope::Prefix("shop".into()).names(KEY, &[]), "the key has the prefix");
        assert!(!Scope::Prefix("sho".into()).names(KEY, &tags));
    }
}
