//! What do the followers get if the answer is an error?

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

/// The largest body of an error that followers may get: 64 KiB.
pub(in crate::engine) const MAX_FAILURE_BYTES: usize = 64 << 10;

/// An error that is being sent to its client, and that followers may get.
pub(in crate::engine) struct Failure {
    head: StoredHead,
    leader: Leader,
    /// An outer layer may still make it private.
    consent: Consent,
}

impl Sink for Failure {
    fn complete(self: Box<Self>, body: Bytes) -> Completed {
        let Self { head, leader, consent } = *self;
        let shared = consent.then(move |decision| match decision {
            Ok(()) => leader.transient(Some(StoredResponse::new(head, body))),
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
    /// Tells the followers that the answer is not stored. Returns an error that they may get, to be recorded.
    pub(super) fn not_stored(
        &mut self,
        response: &Parts,
        reason: Reason,
        received_ms: u64,
    ) -> Option<Failure> {
        let leader = self.leader.take()?;
        // otherwise the next answer may be better
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

    /// The head of an error that followers may get. Only an unknown lifetime may keep it from being stored: with
    /// credentials, cookies, `private` or `no-store` it would be for one client only. In strict mode, followers get
    /// only storable responses (RFC 9111 4).
    fn failure(&self, response: &Parts, reason: Reason, received_ms: u64) -> Option<StoredHead> {
        let Cx { route, plan, .. } = &self.cx;
        let only_lifetime_unknown = reason == Reason::NoFreshness && !plan.has_credentials();
        let safe = route.policy.mode == Mode::Safe;
        if !(only_lifetime_unknown && safe && is_failure(response.status)) {
            return None;
        }
        let names = match selecting(&response.headers) {
            Nominated::None => Vec::new(),
            Nominated::Names(names) => names,
            Nominated::Any => return None,
        };
        let directives = route.directives(&response.headers);
        let mut fields = stored_fields(&response.headers, &directives, received_ms);
        // cookies that the policy strips do not prevent sharing, but are only for the leader's client
        fields.remove(SET_COOKIE);
        let mut head = StoredHead::new(response.status, fields, received_ms);
        head.vary = select(&names, &self.before.snapshot.headers);
        Some(head)
    }
}
