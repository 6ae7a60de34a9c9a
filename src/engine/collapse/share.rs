//! Whether the response of a flight is for those who wait for it.

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

/// The age up to which a flight is joined at the most.
const MAX_FLIGHT_AGE: Duration = Duration::from_secs(3600);

/// Whether the leader's response is valid for a request that arrived at this moment, by a read of the log that began
/// no earlier. `None` where the log cannot be read in time: then the response is not shared.
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

/// Whether the log rows read so far leave a response to `key` valid whose handler began at this position. Only the
/// target and the tags of the route's policy are known by now; the others are when the response is there.
pub(super) fn is_still_valid<St: Store>(
    cx: &Cx<St>,
    key: &CacheKey,
    position: &Arc<LogPosition>,
) -> bool {
    let mut head = StoredHead::bare(StatusCode::OK, HeaderMap::new(), 0);
    head.position = LogPosition::clone(position);
    head.tags = cx.route.policy.tags.iter().map(|name| Tag::from(*name)).collect();
    !is_known_invalid(&cx.engine.store, key, &head)
}

impl Leader {
    /// Keeps flying only for a response that is for everyone who waits: one that is stored under what they wait
    /// for, or whose request asked for just that. Its own `No-Vary-Search` may say otherwise than the
    /// path's did.
    pub(in crate::engine) fn if_key_matches(self, base: &CacheKey, plan: &Plan) -> Option<Self> {
        if self.key().base == *base || self.key().base == plan.base {
            return Some(self);
        }
        self.look_up_again();
        None
    }

    /// Keeps flying only for a response that is of use to those who wait.
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
    /// How a request joins a flight. One whose lease may have ended is not joined: another process may have it.
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

    /// Whether a response that is being stored is of use to those who wait for it: fresh, or to be served
    /// stale. What has to be validated for each use is not (RFC 9111 4).
    fn is_shareable(&self, head: &StoredHead, now_ms: u64) -> bool {
        is_fresh(head, now_ms) || self.windows_of(head).while_revalidate_ms > 0
    }
}

impl Leader {
    /// What those who wait for get is not stored: they go inside, or where nothing is known of the response, the
    /// next one leads.
    pub(in crate::engine) fn end_unstored(self, objection: Objection) {
        match objection {
            Objection::CalledOff(_) => self.mark_unshareable(),
            Objection::Dropped => {}
        }
    }
}
