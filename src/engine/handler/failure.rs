//! A failing answer, and those who wait for a better one.

use std::sync::Arc;

use bytes::Bytes;
use http::header::SET_COOKIE;
use http::response::Parts;

use super::super::collapse::Leader;
use super::super::consent::Consent;
use super::super::decide::is_transient;
use super::super::request::Cx;
use super::miss::Miss;
use crate::body::{Abandoned, Completed, Sink};
use crate::policy::Mode;
use crate::reason::Reason;
use crate::rfc9111::stale::is_failure;
use crate::rfc9111::{Nominated, select, selecting, stored_fields};
use crate::store::Store;
use crate::stored::{StoredHead, StoredResponse};

/// The largest body of a failing answer that those who wait get: 64 KiB.
pub(in crate::engine) const MAX_FAILURE_BYTES: usize = 64 << 10;

/// A failing answer on its way to its client, for those who wait for a better one.
pub(in crate::engine) struct Failure {
    head: StoredHead,
    leader: Leader,
    /// A layer outside may still make it one client's.
    consent: Consent,
}

impl Sink for Failure {
    fn complete(self: Box<Self>, body: Bytes) -> Completed {
        let Self { head, leader, consent } = *self;
        let shared = consent.then(move |decision| match decision {
            Ok(()) => leader.transient(Some(StoredResponse { head: Arc::new(head), body })),
            Err(_) => leader.transient(None),
        });
        shared.map_or(Completed::Held, |()| Completed::Accepted)
    }

    fn is_wanted(&self) -> bool {
        self.consent.objection().is_none()
    }

    fn abandon(self: Box<Self>, _: Abandoned) {
        self.leader.transient(None);
    }
}

impl<St: Store> Miss<St> {
    /// Tells the followers that the answer is not stored, for this reason. Returns what is left to do for a failure that
    /// they may get.
    pub(super) fn not_stored(
        &mut self,
        response: &Parts,
        reason: Reason,
        received_ms: u64,
    ) -> Option<Failure> {
        let leader = self.leader.take()?;
        // the next answer may be a better one
        if !is_transient(response.status) {
            leader.mark_unshareable();
            return None;
        }
        match self.failure(response, reason, received_ms) {
            Some(head) => Some(Failure { head, leader, consent: self.cx.plan.consent.clone() }),
            None => {
                leader.transient(None);
                None
            }
        }
    }

    /// The head of an answer that says that the handler cannot answer now, if only its unknown lifetime keeps it from
    /// being stored. Without credentials, cookies, `private` and `no-store` it belongs to no single client. In strict
    /// mode only what can be stored is shared (RFC 9111 4).
    fn failure(&self, response: &Parts, reason: Reason, received_ms: u64) -> Option<StoredHead> {
        let Cx { route, plan, .. } = &self.cx;
        let only_ends = reason == Reason::NoFreshness && !plan.has_credentials();
        let safe = route.policy.mode == Mode::Safe;
        if !(only_ends && safe && is_failure(response.status)) {
            return None;
        }
        let names = match selecting(&response.headers) {
            Nominated::None => Vec::new(),
            Nominated::Names(names) => names,
            Nominated::Any => return None,
        };
        let directives = route.directives(&response.headers);
        let mut fields = stored_fields(&response.headers, &directives, received_ms);
        // those that the policy strips keep nothing from being shared, and are its own client's all the same
        fields.remove(SET_COOKIE);
        let mut head = StoredHead::bare(response.status, fields, received_ms);
        head.vary = select(&names, &self.before.snapshot.headers);
        Some(head)
    }
}
