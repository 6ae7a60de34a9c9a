//! How long may a response be served stale?

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::super::Route;
use super::translate::MAX_LIFETIME;
use crate::overrides::{CacheOverride, STALE_FIELD};
use crate::policy::Mode;
use crate::rfc9111::stale::{Asking, Given, Windows};
use crate::rfc9111::{RequestDirectives, ResponseDirectives};
use crate::stored::StoredHead;
use crate::tag::Validity;

/// The field of a stored head with the windows of the override. The override is gone when they are needed.
const FIELD: HeaderName = HeaderName::from_static(STALE_FIELD);

impl Route {
    /// The stale windows of a response from the handler, or of a stored one.
    pub(in crate::engine) fn windows(
        &self,
        overrides: Option<&CacheOverride>,
        headers: &HeaderMap,
        directives: &ResponseDirectives,
    ) -> Windows {
        let overridden = overrides.map(windows_of_override);
        let overridden = overridden.filter(|given| *given != Given::default());
        let overridden = overridden.unwrap_or_else(|| read_override(headers));
        let policy = Given {
            while_revalidate: self.policy.stale_while_revalidate,
            if_error: self.policy.stale_if_error,
        };
        Windows::of(overridden, directives, policy)
    }

    pub(in crate::engine) fn windows_of(&self, head: &StoredHead) -> Windows {
        self.windows(None, &head.headers, &self.directives(&head.headers))
    }

    /// What decides whether this stored response may be served stale. In safe mode request directives do not count,
    /// because clients must not cause load (RFC 9111 5.2.1).
    pub(in crate::engine) fn asking<'a>(
        &self,
        head: &StoredHead,
        directives: &'a RequestDirectives,
        validity: Validity,
    ) -> Asking<'a> {
        let strict = self.policy.mode == Mode::Strict;
        let windows = self.windows_of(head);
        let invalidated = validity == Validity::Invalid;
        Asking { windows, request: strict.then_some(directives), disconnected: strict, invalidated }
    }

    /// The end of a lifetime, earlier by a random part if the policy says so.
    pub(in crate::engine) fn jittered(&self, fresh_until_ms: u64, received_ms: u64) -> u64 {
        let lifetime_ms = fresh_until_ms.saturating_sub(received_ms);
        let share = f64::from(self.policy.ttl_jitter_percent) / 100.0 * random_fraction();
        let less_ms = (lifetime_ms as f64 * share) as u64;
        fresh_until_ms.saturating_sub(less_ms.min(lifetime_ms))
    }
}

/// Writes the override's windows into a head that will be stored. If the handler has set this field itself, it is
/// removed.
pub(in crate::engine) fn write_override(
    headers: &mut HeaderMap,
    overrides: Option<&CacheOverride>,
) {
    headers.remove(FIELD);
    let overridden = overrides.map(windows_of_override).unwrap_or_default();
    let ms = |window: Option<Duration>| {
        window.map_or("-".to_owned(), |window| window.min(MAX_LIFETIME).as_millis().to_string())
    };
    if overridden != Given::default() {
        let value = format!("{} {}", ms(overridden.while_revalidate), ms(overridden.if_error));
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(FIELD, value);
        }
    }
}

/// The same for a confirmed head. Without windows in the override, the stored ones stay.
pub(in crate::engine) fn update_override(
    headers: &mut HeaderMap,
    overrides: Option<&CacheOverride>,
) {
    if overrides.map(windows_of_override).unwrap_or_default() != Given::default() {
        write_override(headers, overrides);
    }
}

fn read_override(headers: &HeaderMap) -> Given {
    let field = headers.get(FIELD).and_then(|value| value.to_str().ok());
    let Some((while_revalidate, if_error)) = field.and_then(|field| field.split_once(' ')) else {
        return Given::default();
    };
    let window = |ms: &str| ms.parse().ok().map(Duration::from_millis);
    Given { while_revalidate: window(while_revalidate), if_error: window(if_error) }
}

fn windows_of_override(overrides: &CacheOverride) -> Given {
    let CacheOverride { stale_while_revalidate, stale_if_error, .. } = *overrides;
    Given { while_revalidate: stale_while_revalidate, if_error: stale_if_error }
}

/// A number from 0 to 1 that clients cannot guess.
pub(in crate::engine) fn random_fraction() -> f64 {
    let random = RandomState::new().hash_one(0_u8);
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::CachePolicy;

    #[test]
    fn windows_of_an_override_are_stored_in_the_head() {
        let ms = Duration::from_millis;
        let cases = [
            CacheOverride::new(),
            CacheOverride::new().stale_while_revalidate(ms(1)),
            CacheOverride::new().stale_if_error(ms(0)),
            CacheOverride::new().stale_while_revalidate(ms(1_500)).stale_if_error(ms(20)),
        ];
        for overrides in cases {
            let mut headers = HeaderMap::from_iter([(FIELD, HeaderValue::from_static("9 9"))]);
            write_override(&mut headers, Some(&overrides));
            assert_eq!(read_override(&headers), windows_of_override(&overrides), "{headers:?}");
        }
        for nonsense in ["", "-", "1", "a b", "-1 99999999999999999999999"] {
            let headers = HeaderMap::from_iter([(FIELD, HeaderValue::from_static(nonsense))]);
            assert_eq!(read_override(&headers), Given::default(), "{nonsense}");
        }
    }

    #[test]
    fn jitter_shortens_a_lifetime_by_its_share_at_most() {
        let mut route = Route::default();
        assert_eq!(route.jittered(2_000, 1_000), 2_000);
        route.set_policy(CachePolicy::new().ttl_jitter(20));
        let ends: Vec<_> = (0..1_000).map(|_| route.jittered(2_000, 1_000)).collect();
        assert!(ends.iter().all(|end| (1_800..=2_000).contains(end)), "{ends:?}");
        assert!(ends.iter().max() > ends.iter().min().map(|min| min + 100).as_ref());
        assert_eq!(route.jittered(500, 1_000), 500, "stale on arrival");
    }

    #[test]
    fn random_fractions_are_spread_over_zero_to_one() {
        let fractions: Vec<_> = (0..1_000).map(|_| random_fraction()).collect();
        assert!(fractions.iter().all(|fraction| (0.0..=1.0).contains(fraction)));
        let low = fractions.iter().filter(|fraction| **fraction < 0.5).count();
        assert!((350..650).contains(&low), "{low}");
    }
}
