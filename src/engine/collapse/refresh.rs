//! Which request refreshes a stored response that has been served?

use super::super::find::{FoundEntry, bounded, collapse_key};
use super::super::request::Cx;
use super::flight::{FlightKey, JoinOptions, Joined, Leader};
use super::lease::{self, LeaseOutcome};
use super::share::is_still_valid;
use crate::store::{InvalidationLog as _, Store};
use crate::stored::Stored;

/// Begins a flight for a refresh. `None` if another refresh is running, or another process holds the lease for it.
/// `completions` is the number before the lookup that found the response.
pub(in crate::engine) fn lead_refresh<St: Store>(
    cx: &Cx<St>,
    entry: &FoundEntry,
    completions: u64,
) -> Option<Leader> {
    let flights = &cx.engine.flights;
    if flights.is_leased_elsewhere(&entry.key) {
        return None;
    }
    let (base, _) = collapse_key(cx);
    let key = FlightKey { key: entry.key.clone(), base, credentialed: cx.plan.has_credentials() };
    let still_valid = |position: &_| is_still_valid(cx, &key.key, position);
    let position = cx.engine.store.log().position();
    let options = JoinOptions { background: true, ..cx.route.join_options(position, true) };
    match flights.join(&key, options, still_valid) {
        // another flight completed between the lookup and now
        Joined::Leads(_) if flights.completed_since(&key, completions) => None,
        Joined::Leads(leader) => Some(leader),
        Joined::Follows(_) | Joined::Alone => None,
    }
}

/// Gets the lease for the refresh, if the processes collapse together. `None` if another process refreshes the
/// response, or has done so.
pub(in crate::engine) async fn lease_refresh<St: Store>(
    cx: &Cx<St>,
    mut leader: Leader,
    entry: &FoundEntry,
) -> Option<Leader> {
    match lease::acquire(cx, leader.key()).await {
        LeaseOutcome::Granted(Some(held)) => leader.hold_lease(held),
        LeaseOutcome::Denied => {
            cx.engine.flights.note_leased_elsewhere(&entry.key);
            return None;
        }
        // without a lease, each process refreshes for itself
        LeaseOutcome::Granted(None) | LeaseOutcome::Unshareable(_) | LeaseOutcome::Failed => {
            return Some(leader);
        }
    }
    // the process that held the lease before may have stored a response
    let found = bounded(cx.route.store_timeout, cx.engine.store.get(entry.key.clone())).await;
    let is_newer = matches!(
        found,
        Ok(Some(Stored::Response(found))) if found.head.received_ms > entry.response.head.received_ms
    );
    if is_newer {
        leader.look_up_again();
        return None;
    }
    Some(leader)
}
