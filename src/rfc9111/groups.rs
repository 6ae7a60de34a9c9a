//! Which stored responses are invalidated together (RFC 9875)?
//!
//! Two groups are the same if their strings are the same, including commas and spaces. A group belongs to one origin;
//! other origins have other groups (2.1).

use http::header::{HeaderMap, HeaderName};
use http::{Method, StatusCode};
use sfv::BareItemFromInput;
use sfv::visitor::{EntryVisitor, Ignored, InnerListVisitor, ItemVisitor, ListVisitor, Never};
use thiserror::Error;

use super::invalidation::invalidates;
use super::targeted::each_line;

pub(super) const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");
const CACHE_GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");

/// How many groups a field can name. RFC 9875 2 asks for at least 32. Groups after these are ignored.
pub(crate) const MAX_GROUPS: usize = 128;

/// How many characters a group can have. RFC 9875 2 asks for at least 32. A longer group is ignored, and not cut,
/// because cutting would turn it into another group.
pub(crate) const MAX_GROUP_CHARS: usize = 128;

/// The groups that a response belongs to (RFC 9875 2), each once, in order.
pub(crate) fn cache_groups(headers: &HeaderMap) -> Vec<String> {
    groups(headers, &CACHE_GROUPS)
}

/// The groups that a response to this method invalidates (RFC 9875 3), each once, in order. If the method is safe, the
/// field must be ignored. An error response invalidates no group, as it invalidates no target (RFC 9111 4.4). An
/// invalidated group does not invalidate other groups (RFC 9875 2.2.1).
pub(crate) fn invalidated_groups(
    method: &Method,
    status: StatusCode,
    headers: &HeaderMap,
) -> Vec<String> {
    if !invalidates(method, status) {
        return Vec::new();
    }
    groups(headers, &CACHE_GROUP_INVALIDATION)
}

/// The members of a list of strings. Parameters are ignored (RFC 9875 2). An invalid field is ignored completely (RFC
/// 9651 4.2), and so is a field with a member that is not a string.
fn groups(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let mut groups = Groups::default();
    let valid = each_line(headers, name, |line| line.parse_list_with_visitor(&mut groups));
    valid.map(|()| groups.0).unwrap_or_default()
}

#[derive(Default)]
struct Groups(Vec<String>);

impl Groups {
    fn add(&mut self, group: &str) {
        let room = self.0.len() < MAX_GROUPS && group.len() <= MAX_GROUP_CHARS;
        if room && !self.0.iter().any(|other| other == group) {
            self.0.push(group.to_owned());
        }
    }
}

#[derive(Debug, Error)]
#[error("a group is a string")]
struct NotAString;

impl<'de> ListVisitor<'de> for &mut Groups {
    type Out = ();
    type Error = NotAString;

    fn entry(&mut self) -> Result<impl EntryVisitor<'de>, NotAString> {
        Ok(Member(self))
    }

    fn finish(self) -> Result<(), NotAString> {
        Ok(())
    }
}

struct Member<'a>(&'a mut Groups);

impl<'de> EntryVisitor<'de> for Member<'_> {
    type Error = NotAString;

    fn item(self) -> Result<impl ItemVisitor<'de>, NotAString> {
        Ok(move |item: BareItemFromInput<'de>| match item {
            BareItemFromInput::String(group) => {
                self.0.add(group.as_str());
                Ok(Ignored)
            }
            _ => Err(NotAString),
        })
    }

    fn inner_list(self) -> Result<impl InnerListVisitor<'de>, NotAString> {
        Err::<Never, _>(NotAString)
    }
}

#[cfg(test)]
mod tests;
