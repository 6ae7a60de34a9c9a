//! What was known of the request before its handler was called? The response is stored by this.

use std::collections::HashSet;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, Method};

use super::super::Route;
use super::super::request::{Plan, has_rule};
use crate::cookies::Credentials;
use crate::overrides::CacheOverride;
use crate::reason::Reason;
use crate::rfc9111::RequestDirectives;
use crate::rfc9111::groups::cache_groups;
use crate::store::{InvalidationLog as _, Store};
use crate::tag::{LogPosition, Scope, Tag};

/// The request that a response answers, as it was before the handler was called.
#[derive(Clone)]
pub(in crate::engine) struct RequestSnapshot {
    pub(in crate::engine) method: Method,
    pub(in crate::engine) headers: HeaderMap,
    pub(in crate::engine) directives: RequestDirectives,
    pub(in crate::engine) credentials: Credentials,
    /// When the handler was called, by the store's clock.
    pub(in crate::engine) requested_ms: u64,
    /// The log position at that time.
    pub(in crate::engine) position: Arc<LogPosition>,
    /// Scheme and authority of the target, if known.
    pub(in crate::engine) origin: Option<(String, String)>,
    /// The tag for the target's URI, if the response is stored under a custom key.
    pub(in crate::engine) uri_tag: Option<Tag>,
    /// Path and query of the target, as the client sent them.
    pub(in crate::engine) path_and_query: Option<PathAndQuery>,
}

impl RequestSnapshot {
    /// Must be called before the handler.
    pub(in crate::engine) fn of<St: Store>(
        store: &St,
        plan: &Plan,
        request: &http::request::Parts,
    ) -> Self {
        let own = |(scheme, authority): (&str, &str)| (scheme.to_owned(), authority.to_owned());
        Self {
            method: request.method.clone(),
            headers: request.headers.clone(),
            directives: plan.directives.clone(),
            credentials: plan.credentials,
            requested_ms: store.now_ms(),
            position: store.log().position(),
            origin: plan.target.origin().map(own),
            uri_tag: plan.uri_key.as_ref().map(|key| Scope::at(key.as_bytes())),
            path_and_query: plan.path_and_query.clone(),
        }
    }

    /// The tags of a response: from the policy, from the override, and its cache groups (RFC 9875 2).
    pub(in crate::engine) fn tags(
        &self,
        route: &Route,
        overrides: Option<&CacheOverride>,
        response: &HeaderMap,
    ) -> Result<Vec<Tag>, Reason> {
        let own = overrides.map(|overrides| &overrides.tags[..]).unwrap_or_default();
        let of_policy = route.policy.tags.iter().map(|name| Tag::from(*name));
        let mut all: Vec<Tag> = of_policy.chain(own.iter().cloned()).collect();
        if let Err(error) = all.iter().try_for_each(Tag::check) {
            let reason = Reason::BadTag;
            tracing::error!(%error, %reason, "a response is not stored");
            return Err(reason);
        }
        if let Some((scheme, authority)) = &self.origin {
            let groups = cache_groups(response).into_iter();
            all.extend(groups.map(|group| Scope::group(scheme, authority, &group)));
        }
        if has_rule(response) {
            all.push(Scope::any_query());
        }
        all.extend(self.uri_tag.clone());
        let mut tags = Vec::with_capacity(all.len());
        add_new(&mut tags, all);
        Ok(tags)
    }
}

/// Adds the tags that are missing, in their order. A set finds duplicates, because there may be many tags.
pub(in crate::engine) fn add_new(tags: &mut Vec<Tag>, more: Vec<Tag>) {
    let mut known: HashSet<Tag> = tags.iter().cloned().collect();
    tags.extend(more.into_iter().filter(|tag| known.insert(tag.clone())));
}
