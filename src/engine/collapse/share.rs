//! Whether the response of a flight is for those who wait for it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::HeaderMap;

use super::super::consent::Objection;
use super::super::find::bounded;
use super::super::request::Plan;
use super::super::{Engine, Route};
use super::flight::{Joining, Lead};
use crate::key::CacheKey;
use crate::policy::{CachePolicy, Collapse};
use crate::rfc9111::freshness::is_fresh;
use crate::store::Store;
use crate::stored::{StoredHead, StoredResponse};
use crate::tag::{LogPosition, Tag, Validity};

/// The age up to which a flight is joined at the most.
const LONGEST_PATIENCE: Duration = Duration::from_secs(3600);

impl<St: Store> Engine<St> {
    /// Whether the leader's response is valid for a request that arrived at this moment: what the log says
    /// of it, seen no earlier. `None` where the log cannot be read in time: then it is not shared.
    pub(in crate::engine) async fn shares(
        &self,
        route: &Route,
        key: &CacheKey,
        response: &StoredResponse,
        arrived: std::time::Instant,
    ) -> Option<bool> {
        let judged = bounded(route.store_timeout, self.judged(key, response, arrived)).await;
        judged.ok().map(|validity| validity == Validity::Valid)
    }

    /// Whether nothing that has been seen so far speaks against a response to `key` whose handler began when
    /// the log stood there: against its target and against the tags of its route. Its other tags are not
    /// known before it is there; it is judged again then.
    pub(in crate::engine) fn still_flies(
        &self,
        route: &Route,
        key: &CacheKey,
        position: &Arc<LogPosition>,
    ) -> bool {
        let mut head = StoredHead::new(StatusCode::OK, HeaderMap::new(), 0);
        head.position = LogPosition::clone(position);
        head.tags = route.policy.tags.iter().map(|name| Tag::from(*name)).collect();
        !self.is_invalid_by_now(key, &head)
    }
}

impl Lead {
    /// Keeps flying only for a response that is for everyone who waits: one that is stored under what they wait
    /// for, or whose request asked for just that. Its own `No-Vary-Search` may say otherwise than the
    /// path's did.
    pub(in crate::engine) fn if_meant(self, base: &CacheKey, plan: &Plan) -> Option<Self> {
        if self.key().base == *base || self.key().base == plan.base {
            return Some(self);
        }
        self.found();
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
        self.refuse();
        None
    }
}

impl Route {
    /// How a request joins a flight. One whose lease may have ended is not joined: another process may have it.
    pub(in crate::engine) fn joining(&self, position: Arc<LogPosition>, may_lead: bool) -> Joining {
        let CachePolicy { collapse, collapse_wait, lease, unshareable_for, .. } = self.policy;
        let patience = match collapse {
            Collapse::Cluster => collapse_wait.min(lease),
            _ => collapse_wait,
        };
        let (patience, remember) = (patience.min(LONGEST_PATIENCE), unshareable_for);
        Joining { position, may_lead, behind: false, patience, remember }
    }

    /// Whether a response that is being stored is of use to those who wait for it: fresh, or to be served
    /// stale. What has to be validated for each use is not (RFC 9111 4).
    fn is_shareable(&self, head: &StoredHead, now_ms: u64) -> bool {
        is_fresh(head, now_ms) || self.windows_of(head).while_revalidate_ms > 0
    }
}

impl Lead {
    /// What those who wait for get is not stored: they go inside, or where nothing is known of the response, the
    /// next one leads.
    pub(in crate::engine) fn object(self, objection: Objection) {
        match objection {
            Objection::CalledOff(_) => self.refuse(),
            Objection::Dropped => {}
        }
    }
}
