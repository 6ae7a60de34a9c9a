//! Is the handler's response stored? Which fields, and until when?

use std::sync::Arc;

use http::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_ENCODING, LOCATION, ORIGIN, SET_COOKIE,
};
use http::response::Parts;
use http::{HeaderMap, HeaderName, StatusCode};

use super::super::Route;
use super::snapshot::RequestSnapshot;
use super::{translate, windows};
use crate::cookies::set_cookies_left;
use crate::overrides::CacheOverride;
use crate::policy::Mode;
use crate::reason::Reason;
use crate::rfc9111::stale::Given;
use crate::rfc9111::validation::has_validator;
use crate::rfc9111::{
    Candidate, Nominated, ResponseDirectives, Storable, Target, nominated, same_origin_targets,
    select, selecting, stored_fields,
};
use crate::stored::{StoredHead, VariantIndex};
use crate::tag::LogPosition;

/// The most names in the `Vary` fields of one target. With more, nothing is stored, because it is probably a mistake.
const MAX_VARY_NAMES: usize = 32;
/// How long a response with a validator stays after it has become stale, so that it can be validated: between an hour
/// and a day.
const MIN_KEEP_MS: u64 = 3600 * 1000;
const MAX_KEEP_MS: u64 = 24 * 3600 * 1000;

/// A response that is ready to be stored, without its body.
pub(in crate::engine) struct PreparedEntry {
    pub(in crate::engine) head: StoredHead,
    /// When the entry may be deleted.
    pub(in crate::engine) expires_ms: u64,
    /// The names in the `Vary` fields of the target, this response included.
    pub(in crate::engine) names: Vec<HeaderName>,
}

/// Whether a status says that the resource does not exist.
pub(in crate::engine) fn is_gone(status: StatusCode) -> bool {
    status == StatusCode::NOT_FOUND || status == StatusCode::GONE
}

/// Whether a status says little about the next response, because it is about one request or one moment. A resource
/// that does not exist does not exist for others either.
pub(in crate::engine) fn is_transient(status: StatusCode) -> bool {
    let about = [StatusCode::PARTIAL_CONTENT, StatusCode::NOT_MODIFIED];
    let refused = status.is_client_error() && !is_gone(status);
    status.is_server_error() || refused || about.contains(&status)
}

/// An answer of the handler that might be stored.
pub(super) struct Answer<'a> {
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
    pub(super) directives: ResponseDirectives,
    pub(super) overrides: Option<&'a CacheOverride>,
    /// The stale windows that its override gives, or the one of the stored response that it confirms.
    pub(super) windows: Given,
    pub(super) received_ms: u64,
}

impl RequestSnapshot {
    /// What to store of a response, or the reason not to store it.
    pub(in crate::engine) fn prepare_entry(
        &self,
        route: &Route,
        overrides: Option<&CacheOverride>,
        response: &Parts,
        index: Option<&Arc<VariantIndex>>,
        received_ms: u64,
    ) -> Result<PreparedEntry, Reason> {
        let windows = windows::given(overrides).unwrap_or_default();
        let answer = Answer {
            status: response.status,
            headers: &response.headers,
            directives: route.directives(&response.headers),
            overrides,
            windows,
            received_ms,
        };
        let storable = self.storability(route, &answer)?;
        if needs_dictionary(&response.headers) {
            return Err(Reason::Dictionary);
        }
        let own = match selecting(&response.headers) {
            Nominated::None => Vec::new(),
            Nominated::Names(names) => names,
            Nominated::Any => return Err(Reason::VaryAny),
        };
        // once a target varies, all its responses are stored as variants: a response without `Vary` does not replace
        // the others
        let mut names = index.map(|index| index.names.clone()).unwrap_or_default();
        names.extend(own.iter().cloned());
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        if names.len() > MAX_VARY_NAMES {
            return Err(Reason::VaryTooLong);
        }
        let mut headers = stored_fields(&response.headers, &answer.directives, received_ms);
        if strips_cookies(route, overrides) {
            headers.remove(SET_COOKIE);
        }
        let Storable { initial_age_ms, shared, fresh_until_ms, .. } = storable;
        let mut head = StoredHead {
            requested_ms: self.requested_ms,
            initial_age_ms,
            fresh_until_ms: route.jittered(fresh_until_ms, received_ms),
            shared,
            vary: select(&own, &self.headers),
            tags: self.tags(route, overrides, &response.headers)?,
            position: LogPosition::clone(&self.position),
            ..StoredHead::new(response.status, headers, received_ms)
        };
        windows::keep(&mut head, windows);
        let expires_ms = expires_ms(route, &head);
        Ok(PreparedEntry { head, expires_ms, names })
    }

    /// Whether an answer to this request may be stored, and for how long it is fresh.
    pub(super) fn storability(
        &self,
        route: &Route,
        answer: &Answer<'_>,
    ) -> Result<Storable, Reason> {
        let (policy, overrides) = (&route.policy, answer.overrides);
        let Answer { status, headers, ref directives, windows, received_ms, .. } = *answer;
        if policy.mode == Mode::Safe && !overrides.is_some_and(|overrides| overrides.shared) {
            self.check_reflected(status, headers)?;
        }
        let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().cloned().collect();
        Candidate {
            method: &self.method,
            request: &self.directives,
            credentials: self.credentials.into(),
            status,
            headers,
            directives,
            options: translate::options(policy, status),
            instructions: translate::instructions(overrides),
            sets_cookie: set_cookies_left(&cookies, policy.stripped_cookies),
            useful_stale: route.windows(windows, directives).longest_ms() > 0,
            requested_ms: self.requested_ms,
            received_ms,
        }
        .decide()
        .map_err(|reason| translate::not_storable_reason(reason, self.credentials))
    }

    /// Refuses responses that repeat a field of the request that is not in the key. They would be wrong for others.
    fn check_reflected(&self, status: StatusCode, headers: &HeaderMap) -> Result<(), Reason> {
        let allowed = headers.get_all(ACCESS_CONTROL_ALLOW_ORIGIN);
        let reflects =
            self.headers.get(ORIGIN).is_some_and(|origin| allowed.iter().any(|one| one == origin));
        if reflects && !varies_on(headers, &ORIGIN) {
            return Err(Reason::CorsOrigin);
        }
        if status.is_redirection() && self.is_redirected_to_itself(headers) {
            return Err(Reason::SelfRedirect);
        }
        Ok(())
    }

    /// Whether `Location` is the request's own target, with any scheme. Behind a proxy, the handler redirects by
    /// `X-Forwarded-Proto`. For clients of the other scheme, the stored redirect would be an endless loop.
    fn is_redirected_to_itself(&self, headers: &HeaderMap) -> bool {
        let (Some((_, authority)), Some(own)) = (&self.origin, &self.path_and_query) else {
            return false;
        };
        ["http", "https"].into_iter().any(|scheme| {
            let target = Target { scheme, authority, path: own.path() };
            let named = same_origin_targets(target, headers, &[LOCATION]);
            named.iter().any(|named| named == own.as_str())
        })
    }
}

/// Whether `Set-Cookie` is removed before storing.
fn strips_cookies(route: &Route, overrides: Option<&CacheOverride>) -> bool {
    let keeps_cookies = overrides.is_some_and(|overrides| overrides.with_set_cookie);
    route.policy.mode == Mode::Safe && !keeps_cookies
}

/// RFC 9842 6: a response compressed with a dictionary is only for clients that have it, and `Vary` must say so.
fn needs_dictionary(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(CONTENT_ENCODING).iter();
    let mut codings = codings.flat_map(|line| line.as_bytes().split(|&b| b == b','));
    let coded = codings.any(|coding| {
        let coding = coding.trim_ascii();
        coding.eq_ignore_ascii_case(b"dcb") || coding.eq_ignore_ascii_case(b"dcz")
    });
    const AVAILABLE_DICTIONARY: HeaderName = HeaderName::from_static("available-dictionary");
    coded && !(varies_on(headers, &ACCEPT_ENCODING) && varies_on(headers, &AVAILABLE_DICTIONARY))
}

fn varies_on(headers: &HeaderMap, name: &HeaderName) -> bool {
    match nominated(headers) {
        Nominated::Names(names) => names.contains(name),
        Nominated::None | Nominated::Any => false,
    }
}

/// When an entry may be deleted: after its last stale window. It stays longer if it can be validated, or served when
/// the inner service cannot be reached.
pub(in crate::engine) fn expires_ms(route: &Route, head: &StoredHead) -> u64 {
    let windows = route.windows_of(head);
    let stale_from_ms = head.fresh_until_ms.max(head.received_ms);
    let expires_ms = match windows.longest_ms() {
        0 => head.fresh_until_ms,
        // RFC 5861: up to and including the last moment
        window_ms => head.fresh_until_ms.saturating_add(window_ms).saturating_add(1),
    };
    // RFC 9111 4.2.4
    let disconnected = route.policy.mode == Mode::Strict && !windows.forbidden;
    if !has_validator(&head.headers) && !disconnected {
        return expires_ms;
    }
    let lifetime_ms = head.fresh_until_ms.saturating_sub(head.received_ms);
    let keep_ms = lifetime_ms.clamp(MIN_KEEP_MS, MAX_KEEP_MS);
    expires_ms.max(stale_from_ms.saturating_add(keep_ms))
}
