//! What does a targeted field say in place of `Cache-Control` (RFC 9213)?
//!
//! A targeted field is a structured field, and their syntax is strict. A field that does not parse is ignored, and
//! `Cache-Control` counts again (2.1). This also happens if a directive has capital letters, because the keys of a
//! dictionary are in lower case, or if a number has more than fifteen digits.
//!
//! A directive whose value has the wrong type is ignored, whether it permits or restricts; the other directives still
//! count. So `max-age="10"` and `max-age=1.5` give no lifetime. `no-store=?0` and `no-store=1` do not forbid storing,
//! because the only value of `no-store` is true.

use std::convert::Infallible;

use http::header::{AsHeaderName, HeaderMap, HeaderName};
use sfv::visitor::{DictionaryVisitor, EntryVisitor, Ignored, InnerListVisitor, ItemVisitor};
use sfv::{BareItemFromInput, KeyRef, Parser};

use super::directives::{Qualified, ResponseDirectives, field_names};
use super::syntax::DELTA_MAX_SECS;

/// The directives of the first field in the list that is present, valid and not empty (RFC 9213 2.2). If there is one,
/// `Cache-Control` and `Expires` are ignored.
pub(crate) fn targeted_directives(
    list: &[HeaderName],
    headers: &HeaderMap,
) -> Option<ResponseDirectives> {
    list.iter().find_map(|name| {
        let mut field = Field::default();
        each_line(headers, name, |line| line.parse_dictionary_with_visitor(&mut field))?;
        let Field { empty, directives } = field;
        let of_itself = |named: Qualified| match named {
            // the field with the directives cannot be left out
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

/// Parses the lines of a structured field, one after the other; `None` if the field is invalid. All lines together are
/// one value, with commas between them. A line that is not a value itself, such as half of a string, may make the
/// field invalid (RFC 9651 4.2). An empty line beside others must, because two commas would follow each other.
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
        self.empty = false; // even if it is unknown: RFC 9213 3.1 has an example with an unknown directive
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

/// Sets a directive to the value of the last member of its name (RFC 9651 4.2.2). A value of the wrong type removes
/// it. `None` is an inner list, which is always the wrong type.
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
        // RFC 9213 2.2: unknown extensions are ignored
        _ => {}
    }
}

fn is_true(item: Option<&BareItemFromInput<'_>>) -> bool {
    matches!(item, Some(BareItemFromInput::Boolean(true)))
}

/// A value of the right type that makes no sense means stale (RFC 9111 4.2.1).
fn seconds(item: Option<&BareItemFromInput<'_>>) -> Option<u64> {
    match item {
        Some(BareItemFromInput::Integer(seconds)) => {
            Some(u64::try_from(i64::from(*seconds)).unwrap_or(0).min(DELTA_MAX_SECS))
        }
        _ => None,
    }
}

/// A directive alone, or with field names in a string (RFC 9213 2.1). A single name may also be a token, the other
/// form of an argument (RFC 9111 5.2).
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
