//! Lists of names that a policy made at run time refers to.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{LazyLock, Mutex};

use super::CachePolicy;
use crate::sync::lock;

/// Each list that was asked for, once.
pub(super) type Lists<T> = LazyLock<Mutex<HashSet<&'static [T]>>>;

static NAMES: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);
static LISTS: Lists<&'static str> = LazyLock::new(Mutex::default);

impl CachePolicy {
    /// A list of names for a policy that is made at run time, for example from the environment:
    /// [`tags`](Self::tags), [`invalidates`](Self::invalidates), [`strip_set_cookies`](Self::strip_set_cookies) and
    /// the lists of [`Cookies`](crate::Cookies) take it. The process keeps each list until it ends, and equal lists
    /// once. So call this where the application starts, not for each request, and not with what clients send.
    ///
    /// [`statuses`](Self::statuses) and [`targeted`](Self::targeted) take lists of other types: use `Vec::leak`, or
    /// read the whole policy from a file (feature `serde`).
    ///
    /// ```
    /// use tower_mysql_cache::{CachePolicy, Cookies};
    ///
    /// let configured = "theme,currency".split(',');
    /// let policy = CachePolicy::new().cookies(Cookies::Key(CachePolicy::names(configured)));
    /// assert_eq!(policy, CachePolicy::new().cookies(Cookies::Key(&["theme", "currency"])));
    /// ```
    #[must_use]
    pub fn names(names: impl IntoIterator<Item: AsRef<str>>) -> &'static [&'static str] {
        kept(&LISTS, names.into_iter().map(|name| kept_name(name.as_ref())).collect())
    }
}

fn kept_name(name: &str) -> &'static str {
    let mut known = lock(&NAMES);
    known.get(name).copied().unwrap_or_else(|| {
        let name: &'static str = Box::leak(name.into());
        known.insert(name);
        name
    })
}

/// The list, for as long as the process lives.
pub(super) fn kept<T: Eq + Hash>(lists: &Lists<T>, list: Vec<T>) -> &'static [T] {
    let mut known = lock(lists);
    known.get(list.as_slice()).copied().unwrap_or_else(|| {
        let list: &'static [T] = list.leak();
        known.insert(list);
        list
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_are_kept_once() {
        let names = || CachePolicy::names(["equal", "lists"].map(String::from));
        assert!(std::ptr::eq(names(), names()));
        assert_eq!(names(), ["equal", "lists"]);
        assert_ne!(names(), CachePolicy::names(["lists", "equal"]));
    }
}
