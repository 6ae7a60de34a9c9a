//! What a targeted field says in place of `Cache-Control` (RFC 9213).
//!
//! A targeted field is a structured field, and those are read to the letter: a field that does not
//! parse is no field (2.1), so that `Cache-Control` counts again; so is one with a directive in
//! capitals, since the keys of a dictionary are in lower case, or with a number of more than fifteen
//! digits. A directive whose value has another type than its own is left out, whether it permits or
//! restricts, and the others still count: `max-age="10"` and `max-age=1.5` are no lifetimes, and
//! `no-store=?0` and `no-store=1` do not forbid storing, for the only value of `no-store` is true.

use std::convert::Infallible;

use http::header::{AsHeaderName, HeaderMap, HeaderName};
use sfv::visitor::{DictionaryVisitor, EntryVisitor, Ignored, InnerListVisitor, ItemVisitor};
use sfv::{BareItemFromInput, KeyRef, Parser};

use super::directives::{Qualified, ResponseDirectives, field_names};
use super::syntax::DELTA_MAX_SECS;

/// The directives of the first field on the list, in the order of the list, that is there, valid and
/// not empty (RFC 9213 2.2). Where there is one, `Cache-Control` and `Expires` say nothing.
pub(crate) fn targeted_directives(
    list: &[HeaderName],
    headers: &HeaderMap,
) -> Option<ResponseDirectives> {
    list.iter().find_map(|name| {
        let mut field = Field::default();
        each_line(headers, name, |line| line.parse_dictionary_with_visitor(&mut field))?;
        let Field { empty, directives } = field;
        let of_itself = |named: Qualified| match named {
            // what is decided by cannot be left out
            Qualified::Fields(names) if names.iter().any(|name| list.contains(name)) => {
                Qualified::All
            }
            named => named,
        };
        (!empty).then_some(ResponseDirectives {
            present: true,
            targeted: true,
            no_cache: of_itself(directives.no_cache),
            private: of_itself(directives.private),
            ..directives
        })
    })
}

/// Parses the lines of a structured field in turn, if there are any; `None` when the field is not
/// valid. Lines make one value, with commas between them: one that is no value by itself, such as half
/// of a string, may fail the field (RFC 9651 4.2), and an empty one beside others has to, since two
/// commas follow each other then.
pub(super) fn each_line(
    headers: &HeaderMap,
    name: impl AsHeaderName,
    mut parse: impl FnMut(Parser<'_>) -> Result<(), sfv::Error>,
) -> Option<()> {
    let lines = headers.get_all(name);
    let several = lines.iter().nth(1).is_some();
    lines.iter().map(|line| line.as_bytes().trim_ascii()).try_for_each(|line| {
        if several && line.is_empty() {
            return None;
        }
        parse(Parser::new(line)).ok()
    })
}

struct Field {
    empty: bool,
    directives: ResponseDirectives,
}

impl Default for Field {
    fn default() -> Self {
        Self { empty: true, directives: ResponseDirectives::default() }
    }
}

impl<'de> DictionaryVisitor<'de> for &mut Field {
    type Out = ();
    type Error = Infallible;

    fn entry(&mut self, key: &'de KeyRef) -> Result<impl EntryVisitor<'de>, Infallible> {
        self.empty = false; // whatever it is: RFC 9213 3.1 has an example with an unknown directive
        Ok(Member { directives: &mut self.directives, name: key.as_str() })
    }

    fn finish(self) -> Result<(), Infallible> {
        Ok(())
    }
}

struct Member<'a, 'de> {
    directives: &'a mut ResponseDirectives,
    name: &'de str,
}

impl<'de> EntryVisitor<'de> for Member<'_, 'de> {
    type Error = Infallible;

    fn item(self) -> Result<impl ItemVisitor<'de>, Infallible> {
        Ok(move |item: BareItemFromInput<'de>| {
            set(self.directives, self.name, Some(&item));
            Ok::<_, Infallible>(Ignored) // RFC 9213 2.1: parameters are ignored
        })
    }

    fn inner_list(self) -> Result<impl InnerListVisitor<'de>, Infallible> {
        set(self.directives, self.name, None);
        Ok(Ignored)
    }
}

/// Sets a directive to what the last member of its name says (RFC 9651 4.2.2), which is nothing when it
/// has the wrong type. `None` stands for an inner list, which no directive is.
fn set(directives: &mut ResponseDirectives, name: &str, item: Option<&BareItemFromInput<'_>>) {
    match name {
        "no-store" => directives.no_store = is_true(item),
        "no-cache" => directives.no_cache = qualified(item),
        "private" => directives.private = qualified(item),
        "public" => directives.public = is_true(item),
        "must-revalidate" => directives.must_revalidate = is_true(item),
        "proxy-revalidate" => directives.proxy_revalidate = is_true(item),
        "must-understand" => directives.must_understand = is_true(item),
        "no-transform" => directives.no_transform = is_true(item),
        "immutable" => directives.immutable = is_true(item),
        "max-age" => directives.max_age = seconds(item),
        "s-maxage" => directives.s_maxage = seconds(item),
        "stale-while-revalidate" => directives.stale_while_revalidate = seconds(item),
        "stale-if-error" => directives.stale_if_error = seconds(item),
        // RFC 9213 2.2: extensions that are not known are ignored
        _ => {}
    }
}

fn is_true(item: Option<&BareItemFromInput<'_>>) -> bool {
    matches!(item, Some(BareItemFromInput::Boolean(true)))
}

/// The right type with a value that makes no sense is stale (RFC 9111 4.2.1).
fn seconds(item: Option<&BareItemFromInput<'_>>) -> Option<u64> {
    match item {
        Some(BareItemFromInput::Integer(seconds)) => {
            Some(u64::try_from(i64::from(*seconds)).unwrap_or(0).min(DELTA_MAX_SECS))
        }
        _ => None,
    }
}

/// Alone, or with names of fields in a string (RFC 9213 2.1). A single name may also be a token, the
/// other form that RFC 9111 5.2 knows for an argument.
fn qualified(item: Option<&BareItemFromInput<'_>>) -> Qualified {
    let names = match item {
        Some(BareItemFromInput::Boolean(true)) => return Qualified::All,
        Some(BareItemFromInput::String(names)) => names.as_str(),
        Some(BareItemFromInput::Token(name)) => name.as_str(),
        _ => return Qualified::No,
    };
    field_names(names.as_bytes()).map_or(Qualified::All, Qualified::Fields)
}

#[cfg(test)]
mod tests;
