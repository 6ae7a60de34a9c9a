//! Which differences between queries do not matter (draft-ietf-httpbis-no-vary-search)?
//!
//! A response without a valid field answers one query, compared byte by byte. With a valid field that is not the
//! default, queries are compared as decoded forms: `a`, `a=` and `%61=&&` are then the same. This module is only about
//! queries; the rest of the target, `Vary` and freshness count as usual.
//!
//! The draft has changed several times. This is the form with two lists, of which a field has at most one. The boolean
//! `params` of earlier drafts is invalid, so the field has no effect.

use std::borrow::Cow;
use std::convert::Infallible;

use http::header::{HeaderMap, HeaderName};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sfv::visitor::{
    DictionaryVisitor, EntryVisitor, Ignored, InnerListVisitor, ItemVisitor, ParameterVisitor,
};
use sfv::{BareItemFromInput, KeyRef};

use super::targeted::each_line;

pub(crate) const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");

/// What stays unescaped in a canonical query, as in the URL standard's serializer for forms. But a space is `%20`
/// here.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');

/// How the queries that a response answers may differ. Default: not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NoVarySearch {
    /// The order of names does not matter; the order of the values of one name does.
    key_order: bool,
    params: Params,
}

/// Which parameters distinguish responses. The names are decoded, sorted and unique, so fields with the same meaning
/// are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Params {
    /// All parameters except these.
    Without(Vec<String>),
    /// Only these parameters.
    Only(Vec<String>),
}

impl Default for Params {
    fn default() -> Self {
        Self::Without(Vec::new())
    }
}

impl NoVarySearch {
    /// How many bytes of memory the value takes.
    pub(crate) fn held_bytes(&self) -> usize {
        let (Params::Without(names) | Params::Only(names)) = &self.params;
        let names: usize = names.iter().map(|name| size_of::<String>() + name.len() + 16).sum();
        size_of::<Self>() + names
    }

    /// Reads `No-Vary-Search` (section 5.1). The result is the default if the field is absent or invalid: not a
    /// dictionary, a member of the wrong type, or both lists. Other members are ignored.
    pub(crate) fn parse(headers: &HeaderMap) -> Self {
        let mut field = Field::default();
        let valid = each_line(headers, &NO_VARY_SEARCH, |line| {
            line.parse_dictionary_with_visitor(&mut field)
        });
        valid.and_then(|()| field.meaning()).unwrap_or_default()
    }

    /// Whether the whole query counts.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn distinguishes(&self, name: &str) -> bool {
        let listed =
            |names: &[String]| names.binary_search_by(|key| key.as_str().cmp(name)).is_ok();
        match &self.params {
            Params::Without(names) => !listed(names),
            Params::Only(names) => listed(names),
        }
    }

    /// The names and values that count, in the order in which they are compared.
    fn pairs<'a>(&self, query: Option<&'a str>) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let mut pairs: Vec<_> = pairs.filter(|(name, _)| self.distinguishes(name)).collect();
        if self.key_order {
            // Any fixed order of names will do. Section 6 asks for a stable sort.
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        pairs
    }
}

/// Whether a response to one query answers the other (section 6). `None` is a target without a question mark; by
/// default, `/a` and `/a?` are not the same.
#[cfg(any(test, fuzzing))]
pub(crate) fn equivalent(nvs: &NoVarySearch, a: Option<&str>, b: Option<&str>) -> bool {
    if nvs.is_default() { a == b } else { nvs.pairs(a) == nvs.pairs(b) }
}

/// The end of a target, with its question mark. It is the same for equivalent queries, and only for them. It is empty
/// if no parameter counts, and by default it is the query as it was sent.
pub(crate) fn canonical(nvs: &NoVarySearch, query: Option<&str>) -> String {
    if nvs.is_default() {
        return query.map(|query| format!("?{query}")).unwrap_or_default();
    }
    let mut canonical = String::new();
    for (name, value) in nvs.pairs(query) {
        canonical.push(if canonical.is_empty() { '?' } else { '&' });
        canonical.extend(utf8_percent_encode(&name, ENCODED));
        canonical.push('=');
        canonical.extend(utf8_percent_encode(&value, ENCODED));
    }
    canonical
}

/// The parameter that a name in the field means, decoded as in a form (section 5.3). `form_urlencoded` has no function
/// for this: it would split the name at `&` and `=`.
fn decoded(name: &str) -> String {
    percent_decode_str(&name.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// The members of the field; the last one of each name counts (RFC 9651 4.2.2).
#[derive(Default)]
struct Field {
    key_order: Member<bool>,
    params: Member<Vec<String>>,
    except: Member<Vec<String>>,
}

#[derive(Default)]
enum Member<T> {
    #[default]
    Absent,
    WrongType,
    Is(T),
}

impl Field {
    fn meaning(self) -> Option<NoVarySearch> {
        let key_order = match self.key_order {
            Member::Absent => false,
            Member::Is(value) => value,
            Member::WrongType => return None,
        };
        let params = match (self.params, self.except) {
            (Member::Absent, Member::Absent) => Params::default(),
            (Member::Is(names), Member::Absent) => Params::Without(sorted(names)),
            (Member::Absent, Member::Is(names)) => Params::Only(sorted(names)),
            // one of them is not a list, or both are there (section 3)
            _ => return None,
        };
        Some(NoVarySearch { key_order, params })
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names.dedup();
    names
}

impl<'de> DictionaryVisitor<'de> for &mut Field {
    type Out = ();
    type Error = Infallible;

    fn entry(&mut self, key: &'de KeyRef) -> Result<impl EntryVisitor<'de>, Infallible> {
        Ok(match key.as_str() {
            "key-order" => Some(Slot::Flag(&mut self.key_order)),
            "params" => Some(Slot::Names(&mut self.params)),
            "except" => Some(Slot::Names(&mut self.except)),
            _ => None,
        })
    }

    fn finish(self) -> Result<(), Infallible> {
        Ok(())
    }
}

enum Slot<'a> {
    Flag(&'a mut Member<bool>),
    Names(&'a mut Member<Vec<String>>),
}

/// Parameters are ignored everywhere (section 5.1).
impl<'de> EntryVisitor<'de> for Slot<'_> {
    type Error = Infallible;

    fn item(self) -> Result<impl ItemVisitor<'de>, Infallible> {
        Ok(move |item: BareItemFromInput<'de>| {
            match (self, item) {
                (Self::Flag(flag), BareItemFromInput::Boolean(value)) => *flag = Member::Is(value),
                (Self::Flag(flag), _) => *flag = Member::WrongType,
                (Self::Names(names), _) => *names = Member::WrongType,
            }
            Ok::<_, Infallible>(Ignored)
        })
    }

    fn inner_list(self) -> Result<impl InnerListVisitor<'de>, Infallible> {
        Ok(match self {
            Self::Flag(flag) => {
                *flag = Member::WrongType;
                None
            }
            Self::Names(names) => {
                *names = Member::Is(Vec::new());
                Some(Names(names))
            }
        })
    }
}

struct Names<'a>(&'a mut Member<Vec<String>>);

impl<'de> InnerListVisitor<'de> for Names<'_> {
    type Error = Infallible;

    fn item(&mut self) -> Result<impl ItemVisitor<'de>, Infallible> {
        Ok(|item: BareItemFromInput<'de>| {
            match (&mut *self.0, item) {
                (Member::Is(names), BareItemFromInput::String(name)) => {
                    names.push(decoded(name.as_str()));
                }
                (member, _) => *member = Member::WrongType,
            }
            Ok::<_, Infallible>(Ignored)
        })
    }

    fn finish(self) -> Result<impl ParameterVisitor<'de>, Infallible> {
        Ok(Ignored)
    }
}

#[cfg(test)]
mod tests;
