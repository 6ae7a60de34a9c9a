//! Stale responses: for how long after its end a stored response is still of use, and serving one in place
//! of an error.

use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response};

use super::admission::Plan;
use super::background::Background;
use super::judge::MAX_LIFETIME;
use super::lookup::At;
use super::reply::{self, Want};
use super::{Engine, Route};
use crate::body::CacheBody;
use crate::key::CacheKey;
use crate::overrides::{CacheOverride, STALE_FIELD};
use crate::policy::Mode;
use crate::rfc9111::freshness::is_fresh;
use crate::rfc9111::stale::{Asking, Cause, Given, Windows, may_serve_stale};
use crate::rfc9111::{RequestDirectives, ResponseDirectives, remaining_secs};
use crate::status::CacheStatus;
use crate::store::Store;
use crate::stored::{StoredHead, StoredResponse};
use crate::tag::Validity;
use crate::telemetry::count;

/// What an override says of the windows, in the stored head: it is not there any more when they count.
const FIELD: HeaderName = HeaderName::from_static(STALE_FIELD);

impl Route {
    /// The stale windows of a response, fresh from the handler or stored.
    pub(super) fn windows(
        &self,
        overrides: Option<&CacheOverride>,
        headers: &HeaderMap,
        directives: &ResponseDirectives,
    ) -> Windows {
        let said = overrides.map(given).filter(|said| *said != Given::default());
        let said = said.unwrap_or_else(|| read(headers));
        let policy = Given {
            while_revalidate: self.policy.stale_while_revalidate,
            if_error: self.policy.stale_if_error,
        };
        Windows::of(said, directives, policy)
    }

    /// The stale windows of a stored response.
    pub(super) fn windows_of(&self, head: &StoredHead) -> Windows {
        self.windows(None, &head.headers, &self.directives(&head.headers))
    }

    /// What there is to know when this stored response might be served stale. In safe mode clients say
    /// nothing: they cannot drive load (RFC 9111 5.2.1).
    pub(super) fn asking<'a>(
        &self,
        head: &StoredHead,
        directives: &'a RequestDirectives,
        validity: Validity,
    ) -> Asking<'a> {
        let strict = self.policy.mode == Mode::Strict;
        let windows = self.windows_of(head);
        Asking { windows, request: strict.then_some(directives), disconnected: strict, validity }
    }

    /// The end of a lifetime, earlier by a random share of it where the policy says so.
    pub(super) fn jittered(&self, fresh_until_ms: u64, received_ms: u64) -> u64 {
        let lifetime_ms = fresh_until_ms.saturating_sub(received_ms);
        let share = f64::from(self.policy.ttl_jitter_percent) / 100.0 * chance();
        let less_ms = (lifetime_ms as f64 * share) as u64;
        fresh_until_ms.saturating_sub(less_ms.min(lifetime_ms))
    }
}

/// Remembers in a head to be stored what the override says of the windows. What a handler writes into the
/// field itself means nothing.
pub(super) fn remember(headers: &mut HeaderMap, overrides: Option<&CacheOverride>) {
    headers.remove(FIELD);
    let said = overrides.map(given).unwrap_or_default();
    let ms = |window: Option<Duration>| {
        window.map_or("-".to_owned(), |window| window.min(MAX_LIFETIME).as_millis().to_string())
    };
    if said != Given::default() {
        let value = format!("{} {}", ms(said.while_revalidate), ms(said.if_error));
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(FIELD, value);
        }
    }
}

/// The same for a stored head that an answer of the handler confirms: what that does not speak of stays.
pub(super) fn renew(headers: &mut HeaderMap, overrides: Option<&CacheOverride>) {
    if overrides.map(given).unwrap_or_default() != Given::default() {
        remember(headers, overrides);
    }
}

fn read(headers: &HeaderMap) -> Given {
    let said = headers.get(FIELD).and_then(|value| value.to_str().ok());
    let Some((while_revalidate, if_error)) = said.and_then(|said| said.split_once(' ')) else {
        return Given::default();
    };
    let window = |ms: &str| ms.parse().ok().map(Duration::from_millis);
    Given { while_revalidate: window(while_revalidate), if_error: window(if_error) }
}

fn given(overrides: &CacheOverride) -> Given {
    let CacheOverride { stale_while_revalidate, stale_if_error, .. } = *overrides;
    Given { while_revalidate: stale_while_revalidate, if_error: stale_if_error }
}

/// A number from zero to one, not to be guessed by what happens outside.
pub(super) fn chance() -> f64 {
    let random = RandomState::new().hash_one(0_u8);
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

/// A stale response that might be served in place of an error.
pub(super) struct Rescue {
    key: CacheKey,
    response: StoredResponse,
    /// The client's request, its conditions included.
    request: Parts,
    directives: RequestDirectives,
    validity: Validity,
    /// The request is one that might be served it in any case, and refreshes it.
    refreshes: bool,
}

impl Rescue {
    pub(super) fn new(at: &At, asked: &Parts, directives: &RequestDirectives) -> Self {
        let mut request = Request::new(()).into_parts().0;
        request.method = asked.method.clone();
        request.headers = asked.headers.clone();
        let (key, response, validity) = (at.key.clone(), at.response.clone(), at.validity);
        let directives = directives.clone();
        Self { key, response, request, directives, validity, refreshes: false }
    }

    /// The same for a request that refreshes what it might be served: behind a guard.
    pub(super) fn refreshing(self) -> Self {
        Self { refreshes: true, ..self }
    }

    /// Whether it may be served for this cause now.
    pub(super) fn may_serve(&self, route: &Route, cause: Cause, now_ms: u64) -> bool {
        self.status(route, cause, now_ms).is_some()
    }

    /// As what it may be served, if it may.
    fn status(&self, route: &Route, cause: Cause, now_ms: u64) -> Option<CacheStatus> {
        let head = &self.response.head;
        // RFC 9111 4.3.2: some conditions are the inner service's to judge
        if Want::of(&self.request, head, self.response.body.len(), now_ms) == Want::Inside {
            return None;
        }
        let asking = route.asking(head, &self.directives, self.validity);
        let may = |cause| may_serve_stale(head, &asking, cause, now_ms);
        let because =
            |cause: Cause| CacheStatus::stale(remaining_secs(head, now_ms), cause.as_str());
        if may(cause) {
            return Some(because(cause));
        }
        if !self.refreshes || self.validity == Validity::Invalid {
            return None;
        }
        if may(Cause::Revalidating) {
            return Some(because(Cause::Revalidating));
        }
        let is_early = self.validity == Validity::Valid && is_fresh(head, now_ms);
        is_early.then(|| reply::hit(head, now_ms))
    }

    /// The stale response, if it may be served.
    pub(super) fn serve<St: Store, RB>(
        &self,
        engine: &Engine<St>,
        route: &Route,
        plan: &Plan,
        cause: Cause,
    ) -> Option<Response<CacheBody<RB>>> {
        let now_ms = engine.store.now_ms();
        let StoredResponse { head, body } = &self.response;
        // the inner service may have taken its time, and something may have been invalidated meanwhile
        // RFC 9211 2.1: an inner service that is not available makes it a hit
        let status = self.status(route, cause, now_ms)?;
        if engine.is_invalid_by_now(&self.key, head) {
            return None;
        }
        count(&engine.counters.stale_if_error);
        let want = Want::of(&self.request, head, body.len(), now_ms);
        engine.explain(&status);
        let response = self.response.clone();
        let request = &self.request;
        Some(reply::serve(route, &plan.base, response, &want, request, status, now_ms))
    }

    /// Whether the stored response has to be validated, so that an inner service that cannot be reached makes
    /// a 504 (RFC 9111 5.2.2.2).
    pub(super) fn must_be_validated(&self, route: &Route) -> bool {
        let directives = route.directives(&self.response.head.headers);
        crate::rfc9111::stale::must_be_validated(&directives)
    }
}

/// The handler's answer, or the call itself where it takes longer than it may while there is something
/// stale to serve.
pub(super) async fn in_time<St: Store, F: Future>(
    engine: &Engine<St>,
    route: &Route,
    rescue: &Rescue,
    call: F,
) -> Result<F::Output, Pin<Box<F>>> {
    let limit = route.policy.handler_timeout.filter(|_| {
        let now_ms = engine.store.now_ms();
        Background::is_possible() && rescue.may_serve(route, Cause::Timeout, now_ms)
    });
    let Some(limit) = limit else { return Ok(call.await) };
    let mut call = Box::pin(call);
    tokio::time::timeout(limit, &mut call).await.map_err(|_| call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::CachePolicy;

    #[test]
    fn what_an_override_says_of_the_windows_is_remembered() {
        let ms = Duration::from_millis;
        let cases = [
            CacheOverride::new(),
            CacheOverride::new().stale_while_revalidate(ms(1)),
            CacheOverride::new().stale_if_error(ms(0)),
            CacheOverride::new().stale_while_revalidate(ms(1_500)).stale_if_error(ms(20)),
        ];
        for overrides in cases {
            let mut headers = HeaderMap::from_iter([(FIELD, HeaderValue::from_static("9 9"))]);
            remember(&mut headers, Some(&overrides));
            assert_eq!(read(&headers), given(&overrides), "{headers:?}");
        }
        for nonsense in ["", "-", "1", "a b", "-1 99999999999999999999999"] {
            let headers = HeaderMap::from_iter([(FIELD, HeaderValue::from_static(nonsense))]);
            assert_eq!(read(&headers), Given::default(), "{nonsense}");
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
    fn chance_is_spread_over_zero_to_one() {
        let chances: Vec<_> = (0..1_000).map(|_| chance()).collect();
        assert!(chances.iter().all(|chance| (0.0..=1.0).contains(chance)));
        let low = chances.iter().filter(|chance| **chance < 0.5).count();
        assert!((350..650).contains(&low), "{low}");
    }
}
