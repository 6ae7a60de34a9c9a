//! Which differences between queries do not matter (draft-ietf-httpbis-no-vary-search).
//!
//! A response that says nothing, or nothing valid, is for one query, compared to the letter. One that
//! gives way in anything has its queries compared as the names and values that they stand for, the way
//! forms are decoded: `a`, `a=` and `%61=&&` are the same then. Nothing but the query is judged here:
//! the rest of the target, `Vary` and freshness count as ever.
//!
//! The draft has changed on its way. This is the form with two lists, of which a field has one at most;
//! the boolean `params` of earlier drafts, alone or beside `except`, is not valid and means nothing.

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

/// What stays as it is in a canonical query: what the serializer for forms of the URL standard leaves.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');

/// How the queries that a response answers may differ. By default, not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NoVarySearch {
    /// The order of names does not matter; the order of the values of one name does.
    key_order: bool,
    params: Params,
}

/// Which parameters tell responses apart. The names are decoded, sorted, and each is there once, so
/// that fields with one meaning are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Params {
    /// All but these.
    Without(Vec<String>),
    /// These only.
    Only(Vec<String>),
}

impl Default for Params {
    fn default() -> Self {
        Self::Without(Vec::new())
    }
}

impl NoVarySearch {
    /// Bytes of memory that this takes up.
    pub(crate) fn held_bytes(&self) -> usize {
        let (Params::Without(names) | Params::Only(names)) = &self.params;
        let names: usize = names.iter().map(|name| size_of::<String>() + name.len() + 16).sum();
        size_of::<Self>() + names
    }

    /// Reads `No-Vary-Search` (section 5.1). The default where it is absent or not valid: it is no
    /// dictionary, a member has the wrong type, or both lists are there. Other members are ignored.
    pub(crate) fn parse(headers: &HeaderMap) -> Self {
        let mut field = Field::default();
        let valid = each_line(headers, &NO_VARY_SEARCH, |line| {
            line.parse_dictionary_with_visitor(&mut field)
        });
        valid.and_then(|()| field.meaning()).unwrap_or_default()
    }

    /// Whether it gives way in nothing.
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
            // Any order of names will do, as long as it is one. It is stable, as section 6 asks.
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        pairs
    }
}

/// Whether a response to one query answers the other (section 6). `None` is a target without a question
/// mark; by default `/a` and `/a?` are not the same.
#[cfg(any(test, fuzzing))]
pub(crate) fn equivalent(nvs: &NoVarySearch, a: Option<&str>, b: Option<&str>) -> bool {
    if nvs.is_default() { a == b } else { nvs.pairs(a) == nvs.pairs(b) }
}

/// The end of a target, question mark and all, that is the same for equivalent queries and for no
/// others. It is empty where no parameter is left, and by default the query as it was sent.
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

/// The parameter that a name in the field means (section 5.3): decoded as in a form. `form_urlencoded` has no function
/// for this: it would split the name at `&` and `=`.
fn decoded(name: &str) -> String {
    percent_decode_str(&name.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// The members as the field has them; the last one of a name counts (RFC 9651 4.2.2).
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
            // One of them is no list, or section 3: they must not be there both.
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
