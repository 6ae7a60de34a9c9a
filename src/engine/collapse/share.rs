//! May the followers of a flight get the leader's response?

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::HeaderMap;

use super::super::Route;
use super::super::consent::Objection;
use super::super::find::{bounded, is_known_invalid, log_verdict};
use super::super::request::{Cx, Plan};
use super::flight::{JoinOptions, Leader};
use crate::key::CacheKey;
use crate::policy::{CachePolicy, Collapse};
use crate::rfc9111::freshness::is_fresh;
use crate::store::Store;
use crate::stored::{StoredHead, StoredResponse};
use crate::tag::{LogPosition, Tag, Validity};

/// The longest age of a flight that is joined.
const MAX_FLIGHT_AGE: Duration = Duration::from_secs(3600);

/// Whether the leader's response is valid for a request that arrived at this moment. The read of the log began no
/// earlier. `None` if the log cannot be read in time: then the response is not shared.
pub(super) async fn is_valid<St: Store>(
    cx: &Cx<St>,
    key: &CacheKey,
    response: &StoredResponse,
    arrived: std::time::Instant,
) -> Option<bool> {
    let verdict = log_verdict(&cx.engine.store, key, response, arrived);
    let verdict = bounded(cx.route.store_timeout, verdict).await;
    verdict.ok().map(|validity| validity == Validity::Valid)
}

/// Whether no log row read so far invalidates the response to `key` whose handler was called at this position. Only
/// the target and the policy's tags are known before the response arrives.
pub(super) fn is_still_valid<St: Store>(
    cx: &Cx<St>,
    key: &CacheKey,
    position: &Arc<LogPosition>,
) -> bool {
    let mut head = StoredHead::new(StatusCode::OK, HeaderMap::new(), 0);
    head.position = LogPosition::clone(position);
    head.tags = cx.route.policy.tags.iter().map(|name| Tag::from(*name)).collect();
    !is_known_invalid(&cx.engine.store, key, &head)
}

impl Leader {
    /// Keeps the flight if the response is stored under the followers' key, or if the followers have the same whole
    /// query as the leader. Otherwise they look up again. The response's `No-Vary-Search` may differ from the path's
    /// earlier one.
    pub(in crate::engine) fn if_key_matches(self, base: &CacheKey, plan: &Plan) -> Option<Self> {
        if self.key().base == *base || self.key().base == plan.base {
            return Some(self);
        }
        self.look_up_again();
        None
    }

    /// Keeps the flight only if followers can use the response.
    pub(in crate::engine) fn if_shareable(
        self,
        route: &Route,
        head: &StoredHead,
        now_ms: u64,
    ) -> Option<Self> {
        if route.is_shareable(head, now_ms) {
            return Some(self);
        }
        self.mark_unshareable();
        None
    }
}

impl Route {
    /// How a request joins a flight. In a cluster, a flight that is older than the lease is not joined, because
    /// another process may hold the lease.
    pub(in crate::engine) fn join_options(
        &self,
        position: Arc<LogPosition>,
        may_lead: bool,
    ) -> JoinOptions {
        let CachePolicy { collapse, collapse_wait, lease, unshareable_for, .. } = self.policy;
        let max_age = match collapse {
            Collapse::Cluster => collapse_wait.min(lease),
            _ => collapse_wait,
        };
        let (max_age, unshareable_for) = (max_age.min(MAX_FLIGHT_AGE), unshareable_for);
        JoinOptions { position, may_lead, background: false, max_age, unshareable_for }
    }

    /// Whether followers can use a response that is being stored: it is fresh, or may be served stale. A response
    /// that must be validated before each use is not shared (RFC 9111 4).
    fn is_shareable(&self, head: &StoredHead, now_ms: u64) -> bool {
        is_fresh(head, now_ms) || self.windows_of(head).while_revalidate_ms > 0
    }
}

impl Leader {
    /// The response is not stored. If the guard refused it, followers call their handlers. If it was dropped, the
    /// next follower leads.
    pub(in crate::engine) fn end_unstored(self, objection: Objection) {
        match objection {
            Objection::CalledOff(_) => self.mark_unshareable(),
            Objection::Dropped => {}
        }
    }
}
