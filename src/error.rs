//! Settings that cannot work.

use std::fmt;
use std::time::Duration;

/// A setting that cannot work, found when it is made: the setting, its value, and what is allowed.
///
/// ```
/// use tower_mysql_cache::MemoryStore;
/// let error = MemoryStore::builder().max_bytes(100).build().unwrap_err();
/// assert_eq!(error.to_string(), "max_bytes is 100; it must be at least 4096, or no response fits");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value}; {rule}")]
pub struct ConfigError {
    setting: &'static str,
    value: String,
    rule: &'static str,
}

impl ConfigError {
    /// The rule says what is allowed, and what to do next where that is not the same.
    pub(crate) fn new(setting: &'static str, value: impl Value, rule: &'static str) -> Self {
        Self { setting, value: value.shown(), rule }
    }

    /// The name of the setting.
    ///
    /// ```
    /// use tower_mysql_cache::MemoryStore;
    /// let error = MemoryStore::builder().max_bytes(100).build().unwrap_err();
    /// assert_eq!(error.setting(), "max_bytes");
    /// ```
    #[must_use]
    pub fn setting(&self) -> &'static str {
        self.setting
    }
}

/// A value as people read it: text in quotes, times with their unit.
pub(crate) trait Value {
    fn shown(&self) -> String;
}

/// Words about a value, in place of the value.
pub(crate) struct About<T>(pub(crate) T);

impl<T: fmt::Display> Value for About<T> {
    fn shown(&self) -> String {
        self.0.to_string()
    }
}

impl Value for &str {
    fn shown(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for String {
    fn shown(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for Duration {
    /// `0 ns`, `1.5 s`
    fn shown(&self) -> String {
        let shown = format!("{self:?}");
        let unit = shown.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(shown.len());
        let (number, unit) = shown.split_at(unit);
        format!("{number} {unit}")
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl Value for $number {
            fn shown(&self) -> String {
                self.to_string()
            }
        })*
    };
}

numbers!(u8, u16, u32, u64, usize, f32, f64);

#[cfg(test)]
mod tests {
    use std::panic::{self, AssertUnwindSafe, Location};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::tag::{Invalidation, Tag};
    use crate::{CacheLayer, CachePolicy, MemoryStore};

    fn layer() -> CacheLayer<MemoryStore> {
        CacheLayer::new(MemoryStore::new())
    }

    /// Errors of every part that has settings.
    fn every() -> Vec<ConfigError> {
        const NEW: CachePolicy = CachePolicy::new();
        let policies = [
            NEW.ttl(Duration::ZERO),
            NEW.ttl(Duration::MAX),
            NEW.max_body_bytes(0),
            NEW.statuses(&[http::StatusCode::CONTINUE]),
            NEW.stale_if_error(Duration::MAX),
            NEW.handler_timeout(Duration::ZERO),
            NEW.early_refresh(0.0),
            NEW.ttl_jitter(91),
            NEW.collapse_wait(Duration::MAX),
            NEW.unshareable_for(Duration::MAX),
            NEW.lease(Duration::ZERO),
        ];
        let mut errors: Vec<_> =
            policies.iter().map(|policy| policy.validate().unwrap_err()).collect();
        errors.push(layer().try_prefix("a b").unwrap_err());
        let used = layer();
        drop(used.handle());
        errors.push(used.try_prefix("late").unwrap_err());
        errors.push(MemoryStore::builder().max_bytes(1).build().unwrap_err());
        errors.push(Tag::from("").check().unwrap_err());
        errors.push(Tag::from("x".repeat(256)).check().unwrap_err());
        errors.push(Invalidation::tags([""; 0]).check().unwrap_err());
        #[cfg(feature = "mysql")]
        errors.extend(of_mysql());
        errors
    }

    #[cfg(feature = "mysql")]
    fn of_mysql() -> Vec<ConfigError> {
        use crate::{MySqlStore, StoreError};
        let config = |error| match error {
            StoreError::Config(error) => error,
            error => panic!("{error}"),
        };
        let urls = ["", "http://h/d", "mysql://h", "mysql://h:port/d"];
        let mut errors: Vec<_> =
            urls.iter().map(|url| config(MySqlStore::builder(url).err().unwrap())).collect();
        errors.push(MySqlStore::ddl_for("a b").unwrap_err());
        let connecting = MySqlStore::connect("mysql://h/d");
        let mut connecting = std::pin::pin!(connecting);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let std::task::Poll::Ready(Err(error)) = connecting.as_mut().poll(&mut context) else {
            panic!("there is no runtime")
        };
        errors.push(config(error));
        errors
    }

    #[test]
    fn every_error_says_value_and_rule() {
        for error in every() {
            let text = error.to_string();
            let (what, rule) = text.split_once("; ").unwrap_or_else(|| panic!("{text}"));
            assert!(what.starts_with(&format!("{} is ", error.setting())), "{text}");
            assert!(rule.contains(" must ") || rule.contains(" need "), "{text}");
            assert!(!text.ends_with('.') && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn values_are_shown_as_people_write_them() {
        let shown = |value: &dyn Value| value.shown();
        assert_eq!(shown(&Duration::ZERO), "0 ns");
        assert_eq!(shown(&Duration::from_millis(1_500)), "1.5 s");
        assert_eq!(shown(&"a b"), "\"a b\"");
        assert_eq!(shown(&7_u32), "7");
        assert_eq!(shown(&About("missing")), "missing");
    }

    /// Where a panic points.
    fn place_of(panics: impl FnOnce()) -> Option<(String, u32)> {
        let (place, thread) = (Arc::new(Mutex::new(None)), std::thread::current().id());
        let (seen, before) = (Arc::clone(&place), panic::take_hook());
        panic::set_hook(Box::new(move |info| {
            if std::thread::current().id() == thread {
                let at = info.location().map(|at| (at.file().to_owned(), at.line()));
                *seen.lock().unwrap() = at;
            }
        }));
        let outcome = panic::catch_unwind(AssertUnwindSafe(panics));
        panic::set_hook(before);
        assert!(outcome.is_err());
        let mut place = place.lock().unwrap();
        place.take()
    }

    #[test]
    fn builders_panic_at_their_caller() {
        let here = Location::caller().file();
        let layer = layer();
        let calls: [&dyn Fn(); 11] = [
            &|| drop(layer.clone().prefix("a b")),
            &|| drop(layer.with_policy(CachePolicy::new().ttl(Duration::ZERO))),
            &|| drop(layer.clone().scheme("ftp")),
            &|| drop(layer.clone().hosts(["a b"])),
            &|| drop(layer.clone().key_secret("short")),
            &|| drop(layer.clone().credential_headers(["a b"])),
            &|| drop(layer.clone().without_credential_headers(["a b"])),
            // limits that the clones share, so they come first
            &|| drop(layer.clone().queue_bytes(1)),
            &|| drop(layer.clone().recording_bytes(1)),
            &|| drop(layer.clone().max_refreshes(1)),
            &|| {
                drop(layer.handle());
                drop(layer.clone().version(2));
            },
        ];
        for call in calls {
            assert_eq!(place_of(call).unwrap().0, here);
        }
    }
}
