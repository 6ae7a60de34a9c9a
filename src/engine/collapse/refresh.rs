//! The flight of a refresh: of a stored response that has been served.

use super::super::find::{At, bounded, collapse_key};
use super::super::request::Cx;
use super::flight::{FlightKey, Joined, Joining, Lead};
use super::lease::{self, Leased};
use super::share::is_still_valid;
use crate::store::{InvalidationLog as _, Store};
use crate::stored::Stored;

/// The flight of a refresh, unless one is on its way, or another process has the lease for it. `landings` are those
/// before the lookup that found the response.
pub(in crate::engine) fn lead_refresh<St: Store>(
    cx: &Cx<St>,
    at: &At,
    landings: u64,
) -> Option<Lead> {
    let flights = &cx.engine.flights;
    if flights.is_elsewhere(&at.key) {
        return None;
    }
    let (base, _) = collapse_key(cx);
    let key = FlightKey { key: at.key.clone(), base, credentialed: cx.plan.has_credentials() };
    let clear = |position: &_| is_still_valid(cx, &key.key, position);
    let position = cx.engine.store.log().position();
    let joining = Joining { behind: true, ..cx.route.joining(position, true) };
    match flights.join(&key, joining, clear) {
        // the last one landed between the lookup and now
        Joined::Leads(_) if flights.landed_since(&key, landings) => None,
        Joined::Leads(lead) => Some(lead),
        Joined::Follows(_) | Joined::Nobody => None,
    }
}

/// The same flight, where no other process refreshes the response, nor has, if the processes collapse together.
pub(in crate::engine) async fn lease_refresh<St: Store>(
    cx: &Cx<St>,
    mut lead: Lead,
    at: &At,
) -> Option<Lead> {
    match lease::ask(cx, lead.key()).await {
        Leased::Here(Some(held)) => lead.leased(held),
        Leased::Elsewhere => {
            cx.engine.flights.note_elsewhere(&at.key);
            return None;
        }
        // with nothing to share between them, each process does it for itself
        Leased::Here(None) | Leased::Unshareable(_) | Leased::Failed => return Some(lead),
    }
    // the process that had the lease before may have stored something
    let found = bounded(cx.route.store_timeout, cx.engine.store.get(at.key.clone())).await;
    let is_newer = matches!(
        found,
        Ok(Some(Stored::Response(found))) if found.head.received_ms > at.response.head.received_ms
    );
    if is_newer {
        lead.found();
        return None;
    }
    Some(lead)
}
