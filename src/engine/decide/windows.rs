//! How long may a response be served stale?

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::super::Route;
use super::translate::MAX_LIFETIME;
use crate::overrides::CacheOverride;
use crate::policy::Mode;
use crate::rfc9111::stale::{Asking, Given, Windows};
use crate::rfc9111::{RequestDirectives, ResponseDirectives};
use crate::stored::StoredHead;
use crate::tag::Validity;

impl Route {
    /// The stale windows of a response: those of its override, or else of its directives, or else of the policy.
    pub(in crate::engine) fn windows(
        &self,
        overridden: Given,
        directives: &ResponseDirectives,
    ) -> Windows {
        let policy = Given {
            while_revalidate: self.policy.stale_while_revalidate,
            if_error: self.policy.stale_if_error,
        };
        Windows::of(overridden, directives, policy)
    }

    pub(in crate::engine) fn windows_of(&self, head: &StoredHead) -> Windows {
        self.windows(overridden(head), &self.directives(&head.headers))
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

/// The windows of an override, if it gives any.
pub(super) fn given(overrides: Option<&CacheOverride>) -> Option<Given> {
    let CacheOverride { stale_while_revalidate, stale_if_error, .. } = overrides?;
    let given = Given { while_revalidate: *stale_while_revalidate, if_error: *stale_if_error };
    (given != Given::default()).then_some(given)
}

/// The windows of the override of a stored response.
pub(super) fn overridden(head: &StoredHead) -> Given {
    let window = |ms: Option<u64>| ms.map(Duration::from_millis);
    Given {
        while_revalidate: window(head.stale_while_revalidate_ms),
        if_error: window(head.stale_if_error_ms),
    }
}

/// Keeps the windows of an override in the head of its response.
pub(super) fn keep(head: &mut StoredHead, given: Given) {
    let ms = |window: Option<Duration>| {
        window.and_then(|window| u64::try_from(window.min(MAX_LIFETIME).as_millis()).ok())
    };
    head.stale_while_revalidate_ms = ms(given.while_revalidate);
    head.stale_if_error_ms = ms(given.if_error);
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
        let mut head = StoredHead::new(http::StatusCode::OK, http::HeaderMap::new(), 0);
        for overrides in [
            CacheOverride::new().stale_while_revalidate(ms(1)),
            CacheOverride::new().stale_if_error(ms(0)),
            CacheOverride::new().stale_while_revalidate(ms(1_500)).stale_if_error(ms(20)),
        ] {
            let given = given(Some(&overrides)).unwrap();
            keep(&mut head, given);
            assert_eq!(overridden(&head), given);
        }
        assert_eq!(given(Some(&CacheOverride::new().tag("a"))), None);
        keep(&mut head, Given { while_revalidate: Some(Duration::MAX), if_error: None });
        assert_eq!(overridden(&head).while_revalidate, Some(MAX_LIFETIME));
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
