//! What a row of the log names: the tag of a response, or a part of its key.
//!
//! The tags that every response has without being told, its target, its prefix and the paths above it,
//! are beginnings of its key. So nothing of them is stored with a response, and a row names them by
//! those beginnings.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use super::Tag;

/// How far down a path its beginnings are told apart; one that goes deeper is named by its first 32
/// segments, which only invalidates more.
const MAX_DEPTH: usize = 32;

/// What an invalidation names. In the log's `tag` column each has a form of its own:
///
/// | scope | column |
/// |---|---|
/// | a tag | its bytes; one that begins with a colon gets another one in front |
/// | everything in all caches of the log | `:everything` |
/// | everything under a prefix | `:all shop` |
/// | a target on all origins | `:uri shop:1:/products?page=2` |
/// | a target on one origin | `:uri shop:1:/products http://shop.example` |
/// | everything at and below a path | `:path shop:1:/products` |
/// | a cache group of an origin (RFC 9875) | `:group http://shop.example news` |
///
/// A row that begins with a colon and is none of these counts as `:everything`: it is a newer
/// release's, and to invalidate too much is safe.
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// Every response with this tag.
    Tag(Tag),
    /// Every response of every cache that uses the log.
    Everything,
    /// Every response under a prefix, whatever its version.
    Prefix(Bytes),
    /// Every response whose key is this, or continues it with a space: a target. And, whatever its query,
    /// every response on the same path that may answer for other queries (`No-Vary-Search`).
    Uri(Bytes),
    /// Every response whose key continues this with `/` or `?`, or whose target it is.
    Path(Bytes),
}

const EVERYTHING: &[u8] = b":everything";
const PREFIX: &[u8] = b":all ";
const URI: &[u8] = b":uri ";
const PATH: &[u8] = b":path ";
const GROUP: &[u8] = b":group ";

/// The tag of responses that may answer other queries of their path as well (`No-Vary-Search`): a row that
/// names one query of the path names them, whatever theirs is.
const ANY_QUERY: &[u8] = b":any query";

/// The tag of responses under a key of the application's own: what their keys would begin with if they were
/// stored under the request's URI. What names that names them.
const AT: &[u8] = b":at ";

impl Scope {
    /// The tag of a response under a key of the application's own, to a request whose URI has this key.
    pub(crate) fn at(home: &[u8]) -> Tag {
        Tag::new([AT, home].concat())
    }

    /// A cache group of an origin, as a tag.
    pub(crate) fn group(scheme: &str, authority: &str, group: &str) -> Tag {
        Tag::new(format!(":group {scheme}://{authority} {group}"))
    }

    /// The tag of responses that a row names which names any query of their path.
    pub(crate) fn any_query() -> Tag {
        Tag::new(Bytes::from_static(ANY_QUERY))
    }

    /// What the `tag` column holds.
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

    /// What a `tag` column says.
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

    /// The target, on one origin or all, whose keys begin with this.
    pub(crate) fn uri(start: impl Into<Bytes>) -> Self {
        Self::Uri(start.into())
    }

    /// Everything at and below a path, whose keys begin with `start`, which ends in the path. A path
    /// that goes deeper than can be told apart stands for what is above it.
    pub(crate) fn path(start: &[u8]) -> Self {
        let mut cut = start;
        while let Some(shorter) = cut.strip_suffix(b"/") {
            cut = shorter;
        }
        let at = slashes(cut).nth(MAX_DEPTH);
        let cut = at.and_then(|at| cut.get(..at)).unwrap_or(cut);
        Self::Path(Bytes::copy_from_slice(cut))
    }

    /// Whether this names a response by its key and tags.
    #[must_use]
    pub fn names(&self, key: &[u8], tags: &[Tag]) -> bool {
        match self {
            Self::Tag(tag) => tags.contains(tag),
            Self::Uri(start) if has_any_query(tags) => {
                of_path(key, tags).any(|own| own == path_of(start))
            }
            own => implied_by(key, tags).any(|implied| implied.is(own)),
        }
    }
}

/// Whether a response may answer other queries of its path as well.
pub(crate) fn has_any_query(tags: &[Tag]) -> bool {
    tags.iter().any(|tag| tag.as_bytes() == ANY_QUERY)
}

/// The path that a target's beginning is on, without the query, with the origin if it has one.
pub(crate) fn path_of(start: &[u8]) -> Cow<'_, [u8]> {
    let target = start.iter().position(|&byte| byte == b' ').unwrap_or(start.len());
    let (target, origin) = start.split_at_checked(target).unwrap_or((start, &[]));
    match target.iter().position(|&byte| byte == b'?') {
        None => Cow::Borrowed(start),
        Some(at) => Cow::Owned([target.get(..at).unwrap_or(target), origin].concat()),
    }
}

/// The paths that a response is on: on all origins, and on its own.
pub(crate) fn of_path<'a>(
    key: &'a [u8],
    tags: &'a [Tag],
) -> impl Iterator<Item = Cow<'a, [u8]>> + 'a {
    implied_by(key, tags).filter_map(|implied| match implied {
        Implied::Uri(start) => Some(path_of(start)),
        _ => None,
    })
}

/// The columns of rows that name a path with some query: from the first on, and before the second. Rows for
/// other origins are among them.
#[cfg(feature = "mysql")]
pub(crate) fn queries_of_path(key: &[u8]) -> Option<(Bytes, Bytes)> {
    let path = of_path(key, &[]).next()?;
    let column = |end: &[u8]| Bytes::from([URI, &path[..], end].concat());
    Some((column(b"?"), column(b"@"))) // the byte after the question mark
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({})", self.to_column().escape_ascii())
    }
}

/// A scope that a response is in by its key alone.
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

    /// What the `tag` column of a row holds that names this.
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

/// The scopes that a response is in by its key, and by its request's URI where the key is not that.
pub(crate) fn implied_by<'a>(
    key: &'a [u8],
    tags: &'a [Tag],
) -> impl Iterator<Item = Implied<'a>> + 'a {
    implied(key).chain(homes(tags).flat_map(implied))
}

/// What the keys of a response's URI begin with, where it is under a key of the application's own.
pub(crate) fn homes(tags: &[Tag]) -> impl Iterator<Item = &[u8]> {
    tags.iter().filter_map(|tag| tag.as_bytes().strip_prefix(AT))
}

/// The scopes that a key is in: `prefix:version:/path?query origin ...`.
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
    // a key of the application's own has no path
    let is_path = path_at(path).is_some();
    let above = slashes(path).chain(std::iter::once(path.len())).take(MAX_DEPTH + 1);
    let whole = path.len();
    // the root's own end would name it twice
    let above = above.filter(move |&end| is_path && (end != whole || !path.ends_with(b"/")));
    [Implied::Everything, Implied::Prefix(prefix)]
        .into_iter()
        .chain(uris.map(Implied::Uri))
        .chain(above.map(until).map(Implied::Path))
}

/// Where the path of a key begins: behind `prefix:version:`.
fn path_at(start: &[u8]) -> Option<usize> {
    let mut colons = start.iter().enumerate().filter(|(_, byte)| **byte == b':');
    let at = colons.nth(1)?.0 + 1;
    (start.get(at) == Some(&b'/')).then_some(at)
}

/// Where the slashes of the path are: each ends what is above it.
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
    fn a_key_is_in_all_its_beginnings() {
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
    fn a_path_names_what_is_at_and_below_it_and_no_neighbour() {
        let names = |path: &str, key: &str| Scope::path(path.as_bytes()).names(key.as_bytes(), &[]);
        for inside in ["s:1:/a http://h", "s:1:/a?q http://h", "s:1:/a/ x", "s:1:/a/b/c?d=/e x"] {
            assert!(names("s:1:/a", inside) && names("s:1:/a/", inside), "{inside}");
            assert!(names("s:1:/", inside) && names("s:1:", inside), "{inside}");
        }
        for outside in ["s:1:/ab x", "s:1:/b x", "s:2:/a x", "t:1:/a x", "s:1:=/a x", "s:1:?/a x"] {
            assert!(!names("s:1:/a", outside), "{outside}");
        }
    }

    #[test]
    fn what_may_answer_other_queries_is_named_by_each_of_them() {
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
    fn a_path_too_deep_stands_for_what_is_above_it() {
        let deep = format!("s:1:{}", "/d".repeat(100));
        let scope = Scope::path(deep.as_bytes());
        assert_eq!(scope, Scope::Path(format!("s:1:{}", "/d".repeat(32)).into()));
        assert!(scope.names(format!("{deep}/e http://h").as_bytes(), &[]));
        assert!(!scope.names(b"s:1:/d/d http://h", &[]));
    }

    #[test]
    fn a_column_says_what_was_written_and_tags_pose_as_nothing_else() {
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
        assert_eq!(Scope::from_column(&":of the future".into()), Scope::Everything);
    }

    #[test]
    fn tags_are_compared_to_the_letter() {
        let tags = [Tag::from("a"), Tag::from(":all shop")];
        assert!(Scope::Tag(Tag::from("a")).names(KEY, &tags));
        assert!(!Scope::Tag(Tag::from("A")).names(KEY, &tags));
        assert!(!Scope::Tag(Tag::from("a ")).names(KEY, &tags));
        assert!(Scope::Prefix("shop".into()).names(KEY, &[]), "by its key");
        assert!(!Scope::Prefix("sho".into()).names(KEY, &tags));
    }
}
