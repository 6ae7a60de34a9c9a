//! What does a 304 or a HEAD change in the stored response (RFC 9111 4.3)?

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};

use super::super::collapse::Leader;
use super::super::consent;
use super::super::decide::{Change, Confirmation, Serve, expires_ms, with_cookies_of};
use super::super::find::{FoundEntry, is_known_invalid};
use super::super::keep::{count_not_stored, freshen, release_after_writes, remove_in_background};
use super::super::request::{Cx, ReplyKind, nesting};
use super::super::respond;
use super::conditions::ClientConditions;
use super::miss::Miss;
use crate::body::CacheBody;
use crate::cookies::Credentials;
use crate::key::KeyRange;
use crate::overrides::CacheOverride;
use crate::rfc9111::validation::{has_validator, stored_etag};
use crate::store::Store;
use crate::stored::{StoredHead, StoredResponse};

/// After a 304: updates the stored response, and answers the client with it (RFC 9111 4.3.3, 4.3.4).
pub(super) fn revalidated<St: Store, RB>(
    mut miss: Miss<St>,
    entry: FoundEntry,
    mut response: Response<RB>,
    received_ms: u64,
) -> Response<CacheBody<RB>> {
    let cx = &miss.cx;
    let overrides = response.extensions().get::<CacheOverride>();
    let stored = &entry.response.head;
    let (own, change) = if confirms(response.headers(), &stored.headers) {
        let (snapshot, fields) = (&miss.before.snapshot, response.headers().clone());
        let confirmation = Confirmation::new(&cx.route, snapshot, overrides, fields, received_ms);
        (Arc::new(confirmation.for_own_client(stored)), confirmation.change(&entry))
    } else {
        // the 304 names another response: the stored one answers this request unchanged, and the next request fetches
        // it again
        (Arc::new(with_cookies_of(response.headers(), stored)), Change::Remove)
    };
    // the inner layer has changed the stored response, by its own policy
    let inner = nesting::is_handled_inside(&cx.engine, response.extensions());
    let change = if inner { Change::Keep } else { change };
    let body = entry.response.body.clone();
    let leader = miss.leader.take();
    apply_when_allowed(
        cx,
        ConfirmedEntry { entry, change, fills: miss.before.fills, leader, inner, received_ms },
    );
    let client = miss.before.client.as_ref().map(ClientConditions::request);
    let request = client.unwrap_or_else(|| Request::new(()).into_parts().0);
    let kind = ReplyKind::of(&request, &own, body.len(), received_ms);
    let status = miss.status.with_fwd_status(StatusCode::NOT_MODIFIED);
    cx.engine.explain(&status);
    let own = StoredResponse::new(own, body);
    let serve = Serve { response: own, kind, status, left_out: None };
    let mut reply = respond::serve(cx, &request, serve);
    consent::pass_on(&mut response, &mut reply);
    reply
}

/// RFC 9111 4.3.4: a 304 updates the stored response with the same validators. A 304 without validators updates only
/// a response without validators.
fn confirms(from_304: &HeaderMap, stored: &HeaderMap) -> bool {
    let same = |name: &HeaderName| from_304.get(name) == stored.get(name);
    match (from_304.get(ETAG), from_304.get(LAST_MODIFIED)) {
        (Some(new), _) if stored.get(ETAG) == Some(new) => true,
        (Some(_), _) => stored_etag(from_304).is_some_and(|new| {
            stored_etag(stored)
                .is_some_and(|old| old.is_strongly(new) || (new.weak && old.opaque == new.opaque))
        }),
        (None, Some(_)) => same(&LAST_MODIFIED),
        (None, None) => !has_validator(stored),
    }
}

/// Compares a 200 to a HEAD with the stored response to a GET (RFC 9111 4.3.5). With the same validators and length,
/// it updates the fields; otherwise the stored response becomes stale. A HEAD with credentials changes nothing in a
/// response for everyone.
pub(super) fn compare_head<St: Store, RB>(
    miss: &Miss<St>,
    entry: FoundEntry,
    response: &Response<RB>,
    received_ms: u64,
) {
    let (cx, snapshot) = (&miss.cx, &miss.before.snapshot);
    if response.status() != StatusCode::OK || entry.response.head.status != StatusCode::OK {
        return;
    }
    let fields = response.headers();
    let stored = &entry.response.head.headers;
    let length = fields.get(CONTENT_LENGTH).is_none_or(|length| {
        length.to_str().is_ok_and(|length| length.parse() == Ok(entry.response.body.len()))
    });
    let same = |name: &HeaderName| fields.get(name) == stored.get(name);
    let is_comparable = has_validator(fields) || fields.contains_key(CONTENT_LENGTH);
    let is_same = is_comparable && same(&ETAG) && same(&LAST_MODIFIED) && length;
    let overrides = response.extensions().get::<CacheOverride>();
    let head = &entry.response.head;
    let confirmation =
        Confirmation::new(&cx.route, snapshot, overrides, fields.clone(), received_ms);
    let change = if is_same {
        confirmation.change(&entry)
    } else if is_comparable
        && (snapshot.credentials == Credentials::None || confirmation.is_for_everyone(head))
    {
        let mut stale = StoredHead::clone(head);
        stale.fresh_until_ms = stale.fresh_until_ms.min(received_ms);
        Change::Head(Arc::new(stale))
    } else {
        return;
    };
    let fills = miss.before.fills;
    apply_when_allowed(
        cx,
        ConfirmedEntry { entry, change, fills, leader: None, inner: false, received_ms },
    );
}

/// How an answer that confirms a stored response changes it, and what followers get.
struct ConfirmedEntry {
    entry: FoundEntry,
    change: Change,
    /// The number of fills before the handler was called.
    fills: u64,
    leader: Option<Leader>,
    /// Whether an inner layer has made the change.
    inner: bool,
    received_ms: u64,
}

/// Makes the change when the guard agrees. A response that must not be stored any longer is deleted at once.
fn apply_when_allowed<St: Store>(cx: &Cx<St>, confirmed: ConfirmedEntry) {
    if matches!(confirmed.change, Change::Remove) {
        return apply(cx, confirmed);
    }
    let later = cx.clone();
    cx.plan.consent.then(move |decision| match decision {
        Ok(()) => apply(&later, confirmed),
        Err(objection) => count_not_stored(&later.engine, objection, confirmed.leader),
    });
}

fn apply<St: Store>(cx: &Cx<St>, confirmed: ConfirmedEntry) {
    let ConfirmedEntry { entry, change, fills, leader, inner, received_ms } = confirmed;
    let old = Arc::clone(&entry.response.head);
    let now = match change {
        Change::Head(head) => {
            freshen(cx, &entry, Arc::clone(&head), expires_ms(&cx.route, &head), fills);
            Some(head)
        }
        Change::Keep => Some(old),
        Change::Remove => {
            remove_in_background(&cx.engine, KeyRange::only(&entry.key));
            None
        }
    };
    let Some(leader) = leader else { return };
    // the followers get the response with its new head, unless it was invalidated while the handler ran
    match now.map(|head| entry.response.with_head(head)) {
        _ if inner => leader.look_up_again(),
        None => leader.mark_unshareable(),
        Some(now) if is_known_invalid(&cx.engine.store, &entry.key, &now.head) => {
            leader.invalidated()
        }
        Some(now) => {
            let leader = leader.if_shareable(&cx.route, &now.head, received_ms);
            release_after_writes(&cx.engine, leader.and_then(|leader| leader.complete(now)));
        }
    }
}
