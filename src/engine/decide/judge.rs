//! From a response to what is stored of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_ENCODING, ETAG, LAST_MODIFIED, LOCATION,
    ORIGIN, SET_COOKIE,
};
use http::response::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::super::Route;
use super::super::request::Plan;
use super::stale;
use crate::cookies::{Credentials, set_cookies_left};
use crate::overrides::CacheOverride;
use crate::policy::Mode;
use crate::rfc9111::groups::cache_groups;
use crate::rfc9111::no_vary_search::NoVarySearch;
use crate::rfc9111::{
    Candidate, Nominated, NotStored, RequestDirectives, ResponseDirectives, Storable, Target,
    nominated, same_origin_targets, select, selecting, stored_fields,
};
use crate::store::{InvalidationLog as _, Store};
use crate::stored::{StoredHead, VariantIndex};
use crate::tag::{LogPosition, Scope, Tag};

/// More names than this in the `Vary` fields of one target are a mistake: nothing is stored.
const MAX_VARY_NAMES: usize = 32;
/// Longer lifetimes than a year are cut: nobody gains by them, and clocks change.
pub(in crate::engine) const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// A response with a validator is kept at least this long after it has become stale, to be validated:
/// an hour; and at most a day.
const MIN_KEEP_MS: u64 = 3600 * 1000;
const MAX_KEEP_MS: u64 = 24 * 3600 * 1000;

/// Why a response with a tag that none can have is not stored.
const BAD_TAG: &str = "bad-tag";

/// Reasons that lie in the response and will most likely hold for the next one.
pub(in crate::engine) const UNSTORABLE: &[&str] = &[
    "no-store",
    "private",
    "set-cookie",
    "vary-any",
    "no-freshness",
    "no-cache",
    "streaming",
    "override",
    "must-understand",
    "dictionary",
    "stale-on-arrival",
];

/// The request that a response answers, as it was before it went inside.
#[derive(Clone)]
pub(in crate::engine) struct Asked {
    pub(in crate::engine) method: Method,
    pub(in crate::engine) headers: HeaderMap,
    pub(in crate::engine) credentials: Credentials,
    /// When it went inside, on the store's clock.
    pub(in crate::engine) requested_ms: u64,
    /// Where the log stood then.
    pub(in crate::engine) position: Arc<LogPosition>,
    /// Scheme and authority of the target, where it has them.
    pub(in crate::engine) origin: Option<(String, String)>,
    /// What names the target's URI, where it is stored under a key of the application's own.
    pub(in crate::engine) home: Option<Tag>,
    /// Path and query of the target, as the client sent them.
    pub(in crate::engine) path_and_query: Option<PathAndQuery>,
}

/// What of a response is stored.
pub(in crate::engine) struct Kept {
    pub(in crate::engine) head: StoredHead,
    /// When the entry may be removed.
    pub(in crate::engine) expires_ms: u64,
    /// What the target varies on, this response included.
    pub(in crate::engine) names: Vec<HeaderName>,
}

/// Whether an answer says that there is nothing any more.
pub(in crate::engine) fn is_gone(status: StatusCode) -> bool {
    status == StatusCode::NOT_FOUND || status == StatusCode::GONE
}

/// Whether an answer is about one request, or one moment, and says little of the next one. What is not there
/// is not there for others either.
pub(in crate::engine) fn is_about_the_request(status: StatusCode) -> bool {
    let about = [StatusCode::PARTIAL_CONTENT, StatusCode::NOT_MODIFIED];
    let refused = status.is_client_error() && !is_gone(status);
    status.is_server_error() || refused || about.contains(&status)
}

impl Asked {
    /// A request that is about to go inside.
    pub(in crate::engine) fn of<St: Store>(
        store: &St,
        plan: &Plan,
        request: &http::request::Parts,
    ) -> Self {
        let own = |(scheme, authority): (&str, &str)| (scheme.to_owned(), authority.to_owned());
        Self {
            method: request.method.clone(),
            headers: request.headers.clone(),
            credentials: plan.credentials,
            requested_ms: store.now_ms(),
            position: store.log().position(),
            origin: plan.target.origin().map(own),
            home: plan.home.as_ref().map(|home| Scope::at(home.as_bytes())),
            path_and_query: plan.path_and_query.clone(),
        }
    }

    /// The tags of a response: the policy's, the override's, and its cache groups (RFC 9875 2).
    pub(in crate::engine) fn tags(
        &self,
        route: &Route,
        overrides: Option<&CacheOverride>,
        response: &HeaderMap,
    ) -> Result<Vec<Tag>, &'static str> {
        let own = overrides.map(|overrides| &overrides.tags[..]).unwrap_or_default();
        let of_policy = route.policy.tags.iter().map(|name| Tag::from(*name));
        let mut all: Vec<Tag> = of_policy.chain(own.iter().cloned()).collect();
        if let Err(error) = all.iter().try_for_each(Tag::check) {
            tracing::error!(%error, reason = BAD_TAG, "a response is not stored");
            return Err(BAD_TAG);
        }
        if let Some((scheme, authority)) = &self.origin {
            let groups = cache_groups(response).into_iter();
            all.extend(groups.map(|group| Scope::group(scheme, authority, &group)));
        }
        if !NoVarySearch::parse(response).is_default() {
            all.push(Scope::any_query());
        }
        all.extend(self.home.clone());
        let mut tags = Vec::with_capacity(all.len());
        add_new(&mut tags, all);
        Ok(tags)
    }

    /// What to store of a response, or the named reason why nothing.
    pub(in crate::engine) fn judge(
        &self,
        route: &Route,
        overrides: Option<&CacheOverride>,
        response: &Parts,
        index: Option<&Arc<VariantIndex>>,
        received_ms: u64,
        gen_ms: u32,
    ) -> Result<Kept, &'static str> {
        let directives = route.directives(&response.headers);
        let storable = self
            .decide(route, overrides, response.status, &response.headers, &directives, received_ms)
            .map_err(NotStored::as_str)?;
        if needs_dictionary(&response.headers) {
            return Err("dictionary");
        }
        let own = match selecting(&response.headers) {
            Nominated::None => Vec::new(),
            Nominated::Names(names) => names,
            Nominated::Any => return Err(NotStored::VaryAny.as_str()),
        };
        // once a target varies, all its responses are stored as variants: one that lacks Vary does
        // not replace the others
        let mut names = index.map(|index| index.names.clone()).unwrap_or_default();
        names.extend(own.iter().cloned());
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        if names.len() > MAX_VARY_NAMES {
            return Err("vary-too-long");
        }
        let mut headers = stored_fields(&response.headers, &directives, received_ms);
        if strips_cookies(route, overrides) {
            headers.remove(SET_COOKIE);
        }
        stale::remember(&mut headers, overrides);
        let Storable { initial_age_ms, shared, fresh_until_ms, .. } = storable;
        let fresh_until_ms = route.jittered(fresh_until_ms, received_ms);
        let head = StoredHead {
            status: response.status,
            headers,
            requested_ms: self.requested_ms,
            received_ms,
            initial_age_ms,
            fresh_until_ms,
            gen_ms,
            shared,
            vary: select(&own, &self.headers),
            tags: self.tags(route, overrides, &response.headers)?,
            position: LogPosition::clone(&self.position),
        };
        let expires_ms = expires_ms(route, &head);
        Ok(Kept { head, expires_ms, names })
    }

    pub(in crate::engine) fn decide(
        &self,
        route: &Route,
        overrides: Option<&CacheOverride>,
        status: http::StatusCode,
        headers: &HeaderMap,
        directives: &ResponseDirectives,
        received_ms: u64,
    ) -> Result<Storable, NotStored> {
        let policy = &route.policy;
        if policy.mode == Mode::Safe && !overrides.is_some_and(|overrides| overrides.shared) {
            self.check_reflected(status, headers)?;
        }
        let windows = route.windows(overrides, headers, directives);
        let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().cloned().collect();
        Candidate {
            method: &self.method,
            request: &RequestDirectives::parse(&self.headers),
            credentials: self.credentials,
            status,
            headers,
            directives,
            mode: policy.mode,
            policy_ttl: policy.ttl_for(status),
            overrides,
            set_cookie_left: set_cookies_left(&cookies, policy.stripped_cookies),
            validatable: has_validator(headers),
            useful_stale: windows.longest_ms() > 0,
            requested_ms: self.requested_ms,
            received_ms,
            max_lifetime: MAX_LIFETIME,
        }
        .decide()
    }

    /// What answers to a field of the request that is not in the key: for others it is wrong.
    fn check_reflected(&self, status: StatusCode, headers: &HeaderMap) -> Result<(), NotStored> {
        let allowed = headers.get_all(ACCESS_CONTROL_ALLOW_ORIGIN);
        let reflects =
            self.headers.get(ORIGIN).is_some_and(|origin| allowed.iter().any(|one| one == origin));
        if reflects && !varies_on(headers, &ORIGIN) {
            return Err(NotStored::CorsOrigin);
        }
        if status.is_redirection() && self.is_redirected_to_itself(headers) {
            return Err(NotStored::SelfRedirect);
        }
        Ok(())
    }

    /// Whether `Location` is the request's own target, whatever its scheme: behind a proxy, `X-Forwarded-Proto`
    /// has decided, and for who comes by the other scheme the redirect has no end.
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

/// Adds the tags that are not there yet, in their order. There may be many.
pub(in crate::engine) fn add_new(tags: &mut Vec<Tag>, more: Vec<Tag>) {
    let mut known: HashSet<Tag> = tags.iter().cloned().collect();
    tags.extend(more.into_iter().filter(|tag| known.insert(tag.clone())));
}

/// Whether `Set-Cookie` is left out of what is stored.
fn strips_cookies(route: &Route, overrides: Option<&CacheOverride>) -> bool {
    let kept = overrides.is_some_and(|overrides| overrides.with_set_cookie);
    route.policy.mode == Mode::Safe && !kept
}

/// RFC 9842 6: a response coded with a dictionary is for clients that have it, and has to say so.
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

/// Whether a response says that it varies on a field of the request.
fn varies_on(headers: &HeaderMap, name: &HeaderName) -> bool {
    match nominated(headers) {
        Nominated::Names(names) => names.contains(name),
        Nominated::None | Nominated::Any => false,
    }
}

/// Whether a stale response can be validated (RFC 9111 4.3.1).
pub(in crate::engine) fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED)
}

/// When an entry may be removed: after the last stale window; when it can be validated, or served because the
/// inner service cannot be reached, some time later.
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
