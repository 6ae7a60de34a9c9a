//! Which flights are there, and how do they end? A flight is one call of the handler that other requests wait for:
//! its leader calls the handler, its followers wait. What a follower then does is decided in `join`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::find::{TABLE_BYTES, bounded_table, no_extra_bytes};
use super::lease::{AFTER_RELEASE, HeldLease, LONGEST_WAIT};
use crate::key::CacheKey;
use crate::rfc9111::stale::Cause;
use crate::stored::StoredResponse;
use crate::sync;
use crate::tag::LogPosition;

/// How long the last completion of a flight is remembered. A lookup takes less time.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// What a flight is for. Requests with and without credentials have separate flights, because a response to one user
/// must not mark the page as unshareable for anonymous requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::engine) struct FlightKey {
    pub(in crate::engine) key: CacheKey,
    /// The key without the variant.
    pub(in crate::engine) base: CacheKey,
    pub(in crate::engine) credentialed: bool,
}

impl FlightKey {
    /// Bytes in memory, for the limit of a table.
    fn extra_bytes(&self) -> usize {
        size_of::<Self>() + self.key.as_bytes().len() + self.base.as_bytes().len()
    }
}

#[derive(Clone)]
pub(in crate::engine) struct Flights(Arc<Table>);

struct Table {
    open: Mutex<HashMap<FlightKey, Flight>>,
    number: AtomicU64,
    /// The number of the last completion for each key. A flight completes when its response has been stored.
    last_completion: Cache<FlightKey, u64>,
    completions: AtomicU64,
    /// Until when responses count as not shareable. Requests for them do not wait for each other.
    unshareable: Cache<FlightKey, Instant>,
    /// Refreshes for which another process holds the lease, by the hash of the response's key.
    leased_elsewhere: Cache<[u8; 16], ()>,
}

struct Flight {
    number: u64,
    /// The log position before the handler was called.
    position: Arc<LogPosition>,
    /// When the flight began, before the handler was called.
    began: std::time::Instant,
    since: Instant,
    /// Whether a background refresh leads it. Then no client can slow it down, and it ends within a minute.
    background: bool,
    state: watch::Sender<State>,
}

pub(in crate::engine) struct JoinOptions {
    /// The log position now.
    pub(in crate::engine) position: Arc<LogPosition>,
    /// Whether the request may lead a flight.
    pub(in crate::engine) may_lead: bool,
    /// Whether the request is a refresh in the background.
    pub(in crate::engine) background: bool,
    /// Only flights up to this age are joined, because a leader's client may read slowly, or not at all.
    pub(in crate::engine) max_age: Duration,
    /// How long requests do not wait for each other after a response that could not be shared.
    pub(in crate::engine) unshareable_for: Duration,
}

/// The state of a flight. If the leader is dropped without a result, the channel is closed instead.
#[derive(Clone)]
enum State {
    Running,
    /// The head has arrived. The body is still being read, and its length is not known.
    Streaming,
    Stored(StoredResponse),
    NotShared,
    Transient(Option<StoredResponse>),
    Failed(Cause),
    Invalidated,
    LookUpAgain,
}

pub(in crate::engine) enum Joined {
    Leads(Leader),
    Follows(Follower),
    /// There is no flight to join, and the request may not lead one. It calls its handler alone.
    Alone,
}

/// What a follower learns from its flight.
pub(in crate::engine) enum Outcome {
    /// The response has been stored.
    Stored(StoredResponse),
    /// There is a response that must not be shared.
    NotShared,
    /// The answer says little about the next one: an error, for example. `Some`: followers may get it.
    Transient(Option<StoredResponse>),
    Failed(Cause),
    /// The response was invalidated while its handler ran.
    Invalidated,
    /// A response has been stored by another process, by another request, or under another key.
    LookUpAgain,
    /// The leader was dropped, or its flight is too old. Another request may lead.
    LeaderLost,
    /// The request has waited long enough, or the leader's body has no known end.
    TimedOut,
}

pub(in crate::engine) struct Follower {
    /// When the flight began. Its handler was called later.
    pub(in crate::engine) began: std::time::Instant,
    flights: Flights,
    key: FlightKey,
    unshareable_for: Duration,
    state: watch::Receiver<State>,
    /// When the flight is too old to be waited for.
    until: Instant,
}

/// The request that calls the handler for a flight. If it is dropped without a result (cancelled, panicked, or its
/// body could not be recorded), another request leads.
pub(in crate::engine) struct Leader {
    flights: Flights,
    key: FlightKey,
    number: u64,
    unshareable_for: Duration,
    /// While this is held, no other process calls its handler for the same key.
    lease: Option<HeldLease>,
    state: watch::Sender<State>,
}

impl Default for Flights {
    fn default() -> Self {
        Self(Arc::new(Table {
            open: Mutex::default(),
            number: AtomicU64::new(0),
            last_completion: bounded_table(TABLE_BYTES, |key: &FlightKey, _| key.extra_bytes())
                .time_to_live(REMEMBERED_FOR)
                .build(),
            completions: AtomicU64::new(0),
            unshareable: bounded_table(TABLE_BYTES, |key: &FlightKey, _| key.extra_bytes()).build(),
            leased_elsewhere: bounded_table(TABLE_BYTES, no_extra_bytes)
                .time_to_live(LONGEST_WAIT)
                .build(),
        }))
    }
}

impl Flights {
    fn open(&self) -> MutexGuard<'_, HashMap<FlightKey, Flight>> {
        sync::lock(&self.0.open)
    }

    /// Joins the flight for `key`, or begins one. A flight is not joined if it is too old, or if `still_valid` says
    /// that an invalidation since its beginning concerns it.
    pub(in crate::engine) fn join(
        &self,
        key: &FlightKey,
        options: JoinOptions,
        still_valid: impl Fn(&Arc<LogPosition>) -> bool,
    ) -> Joined {
        let JoinOptions { position, may_lead, background, max_age, unshareable_for } = options;
        let (flights, since) = (self.clone(), Instant::now());
        let mut open = self.open();
        if let Some(flight) = open.get(key)
            && (flight.since + max_age > since || background && flight.background)
            && still_valid(&flight.position)
        {
            let (began, state) = (flight.began, flight.state.subscribe());
            let (key, until) = (key.clone(), flight.since + max_age);
            return Joined::Follows(Follower {
                began,
                flights,
                key,
                unshareable_for,
                state,
                until,
            });
        }
        if !may_lead {
            return Joined::Alone;
        }
        let number = self.0.number.fetch_add(1, Ordering::Relaxed);
        let state = watch::Sender::new(State::Running);
        let began = std::time::Instant::now();
        let flight = Flight { number, position, began, since, background, state: state.clone() };
        open.insert(key.clone(), flight);
        let key = key.clone();
        Joined::Leads(Leader { flights, key, number, unshareable_for, lease: None, state })
    }

    /// A response has been stored under `key`, by the leader or by another request. The followers of a flight that
    /// began before `at` look it up instead of waiting.
    pub(in crate::engine) fn note_stored(&self, key: &FlightKey, at: std::time::Instant) {
        self.complete(key);
        self.end_older(key, at);
    }

    /// Ends a flight that began before `at`. Its followers look up.
    pub(in crate::engine) fn end_older(&self, key: &FlightKey, at: std::time::Instant) {
        let flight = {
            let mut open = self.open();
            let is_older = open.get(key).is_some_and(|flight| flight.began <= at);
            is_older.then(|| open.remove(key)).flatten()
        };
        if let Some(flight) = flight {
            flight.state.send_replace(State::LookUpAgain);
        }
    }

    fn complete(&self, key: &FlightKey) {
        let number = self.0.completions.fetch_add(1, Ordering::AcqRel) + 1;
        // before the flight is removed: a request that finds no flight must find this
        self.0.last_completion.insert(key.clone(), number);
        self.0.unshareable.invalidate(key);
    }

    fn mark_unshareable(&self, key: &FlightKey, time: Duration) {
        if let Some(until) = Instant::now().checked_add(time) {
            self.0.unshareable.insert(key.clone(), until);
        }
    }

    /// The number of completions so far. Read it before a lookup.
    pub(in crate::engine) fn completions(&self) -> u64 {
        self.0.completions.load(Ordering::Acquire)
    }

    /// Whether a flight for `key` has completed since `completions`. If so, a lookup that began before may have
    /// missed the response.
    pub(in crate::engine) fn completed_since(&self, key: &FlightKey, completions: u64) -> bool {
        self.0.last_completion.get(key).is_some_and(|last| last > completions)
    }

    pub(in crate::engine) fn is_unshareable(&self, key: &FlightKey) -> bool {
        self.0.unshareable.get(key).is_some_and(|until| Instant::now() < until)
    }

    /// Whether another process held the lease for a refresh a moment ago.
    pub(super) fn is_leased_elsewhere(&self, key: &CacheKey) -> bool {
        self.0.leased_elsewhere.contains_key(&key.hash())
    }

    pub(super) fn note_leased_elsewhere(&self, key: &CacheKey) {
        self.0.leased_elsewhere.insert(key.hash(), ());
    }

    /// The followers that wait now.
    pub(in crate::engine) fn followers(&self) -> usize {
        self.open().values().map(|flight| flight.state.receiver_count()).sum()
    }

    #[cfg(test)]
    pub(in crate::engine) fn count(&self) -> usize {
        self.open().len()
    }
}

impl Follower {
    /// Waits for the flight, until `until` at most. If the flight becomes too old before, another request may lead.
    pub(in crate::engine) async fn wait(mut self, until: Instant) -> Outcome {
        let is_over = |state: &State| !matches!(state, State::Running | State::Streaming);
        let over = async { self.state.wait_for(is_over).await.map(|state| state.clone()) };
        let Ok(state) = tokio::time::timeout_at(until.min(self.until), over).await else {
            if matches!(*self.state.borrow(), State::Streaming) {
                // a body without an end would delay each client as long; the next response that is stored ends this
                self.flights.mark_unshareable(&self.key, self.unshareable_for);
                return Outcome::TimedOut;
            }
            return if Instant::now() < until { Outcome::LeaderLost } else { Outcome::TimedOut };
        };
        match state {
            Err(_) => Outcome::LeaderLost,
            Ok(State::Stored(response)) => Outcome::Stored(response),
            Ok(State::Transient(response)) => Outcome::Transient(response),
            Ok(State::Failed(cause)) => Outcome::Failed(cause),
            Ok(State::Invalidated) => Outcome::Invalidated,
            Ok(State::LookUpAgain) => Outcome::LookUpAgain,
            Ok(State::NotShared | State::Running | State::Streaming) => Outcome::NotShared,
        }
    }
}

impl Leader {
    pub(in crate::engine) fn key(&self) -> &FlightKey {
        &self.key
    }

    /// Keeps the lease until the flight ends.
    pub(in crate::engine) fn hold_lease(&mut self, lease: HeldLease) {
        self.lease = Some(lease);
    }

    pub(in crate::engine) fn is_leased(&self) -> bool {
        self.lease.is_some()
    }

    /// The head has arrived, and the length of the body is not known.
    pub(in crate::engine) fn streams(&self) {
        self.state.send_replace(State::Streaming);
    }

    /// The response has been stored, and the followers get it. Returns the lease, which the write needs.
    pub(in crate::engine) fn complete(mut self, response: StoredResponse) -> Option<HeldLease> {
        self.flights.complete(&self.key);
        let lease = self.lease.take();
        self.end(State::Stored(response));
        lease
    }

    /// The response was invalidated while its handler ran. Only the leader's client gets it.
    pub(in crate::engine) fn invalidated(self) {
        self.end(State::Invalidated);
    }

    /// A response has been stored by another process, or under another key. The followers look it up.
    pub(in crate::engine) fn look_up_again(self) {
        self.flights.complete(&self.key);
        self.end(State::LookUpAgain);
    }

    /// The answer says little about the next one. One of the followers leads. A follower that has already waited for
    /// such an answer gets this one, if there is a `response`.
    pub(in crate::engine) fn transient(self, response: Option<StoredResponse>) {
        self.end(State::Transient(response));
    }

    /// The response must not be shared. Each follower calls its handler.
    pub(in crate::engine) fn release(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.release_unshareable(AFTER_RELEASE);
        }
        self.end(State::NotShared);
    }

    /// The response must not be shared, and probably the next ones neither. For a while, requests do not wait for
    /// each other.
    pub(in crate::engine) fn mark_unshareable(self) {
        let time = self.unshareable_for;
        self.mark_unshareable_for(time);
    }

    /// The same, for this time.
    pub(in crate::engine) fn mark_unshareable_for(mut self, time: Duration) {
        if let Some(lease) = self.lease.take() {
            lease.release_unshareable(time);
        }
        self.flights.mark_unshareable(&self.key, time);
        self.release();
    }

    pub(in crate::engine) fn fail(self, cause: Cause) {
        self.end(State::Failed(cause));
    }

    fn end(self, state: State) {
        self.leave();
        self.state.send_replace(state);
    }

    /// Removes the flight from the table, so that no request joins it.
    fn leave(&self) {
        let mut open = self.flights.open();
        if open.get(&self.key).is_some_and(|flight| flight.number == self.number) {
            open.remove(&self.key);
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        // after this, the channel is closed, which wakes the followers
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::stored::StoredHead;

    const LONG: Duration = Duration::from_secs(3600);

    fn key(key: &'static str) -> FlightKey {
        let key = CacheKey::new(key);
        FlightKey { base: key.clone(), key, credentialed: false }
    }

    fn options(may_lead: bool) -> JoinOptions {
        let (max_age, unshareable_for) = (LONG, LONG);
        JoinOptions {
            position: Arc::default(),
            may_lead,
            background: false,
            max_age,
            unshareable_for,
        }
    }

    fn join(flights: &Flights, about: &FlightKey) -> Joined {
        flights.join(about, options(true), |_| true)
    }

    fn new_leader(flights: &Flights, about: &FlightKey) -> Leader {
        let Joined::Leads(leader) = join(flights, about) else {
            panic!("another request leads already")
        };
        leader
    }

    fn new_follower(flights: &Flights, about: &FlightKey) -> Follower {
        let Joined::Follows(follower) = join(flights, about) else { panic!("no request leads") };
        follower
    }

    fn stored() -> StoredResponse {
        let head = StoredHead::new(StatusCode::OK, HeaderMap::new(), 0);
        StoredResponse::new(head, Bytes::from_static(b"x"))
    }

    #[tokio::test(start_paused = true)]
    async fn followers_learn_how_a_flight_ends() {
        let until = Instant::now() + LONG;
        let flights = Flights::default();
        let about = key("a");
        let before = flights.completions();
        let (leader, follower) = (new_leader(&flights, &about), new_follower(&flights, &about));
        assert_eq!(flights.followers(), 1);
        leader.complete(stored());
        assert_eq!(flights.followers(), 0);
        assert!(matches!(follower.wait(until).await, Outcome::Stored(_)));
        assert!(flights.completed_since(&about, before));
        assert!(!flights.completed_since(&about, flights.completions()));
        assert!(!flights.completed_since(&key("b"), before));

        let (leader, follower) = (new_leader(&flights, &about), new_follower(&flights, &about));
        leader.release();
        assert!(matches!(follower.wait(until).await, Outcome::NotShared));
        assert!(!flights.is_unshareable(&about));

        let (leader, follower) = (new_leader(&flights, &about), new_follower(&flights, &about));
        leader.fail(Cause::Error);
        assert!(matches!(follower.wait(until).await, Outcome::Failed(Cause::Error)));

        let (leader, follower) = (new_leader(&flights, &about), new_follower(&flights, &about));
        drop(leader);
        assert!(matches!(follower.wait(until).await, Outcome::LeaderLost));

        let (_leader, follower) = (new_leader(&flights, &about), new_follower(&flights, &about));
        assert!(matches!(follower.wait(until).await, Outcome::TimedOut));
        drop(_leader);
        assert_eq!(flights.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn unshareable_keys_are_remembered_until_a_response_is_stored() {
        let flights = Flights::default();
        let about = key("a");
        new_leader(&flights, &about).mark_unshareable();
        assert!(flights.is_unshareable(&about) && !flights.is_unshareable(&key("b")));
        let with = FlightKey { credentialed: true, ..about.clone() };
        assert!(!flights.is_unshareable(&with), "requests with credentials have their own flights");
        tokio::time::advance(LONG).await;
        assert!(!flights.is_unshareable(&about));
        new_leader(&flights, &about).mark_unshareable();
        new_leader(&flights, &about).complete(stored());
        assert!(!flights.is_unshareable(&about));
    }

    #[tokio::test(start_paused = true)]
    async fn a_too_old_flight_is_replaced_and_storing_ends_a_flight() {
        let flights = Flights::default();
        let about = key("a");
        let until = Instant::now() + LONG * 9;
        let (_old, follower) = (new_leader(&flights, &about), new_follower(&flights, &about));
        tokio::time::advance(LONG).await;
        assert!(
            matches!(follower.wait(until).await, Outcome::LeaderLost),
            "another request may lead"
        );
        let (new, follower) = (new_leader(&flights, &about), new_follower(&flights, &about));
        flights.note_stored(&about, std::time::Instant::now());
        assert!(matches!(follower.wait(until).await, Outcome::LookUpAgain));
        assert_eq!(flights.count(), 0);
        drop(new);

        let before = std::time::Instant::now();
        let (later, follower) = (new_leader(&flights, &about), new_follower(&flights, &about));
        flights.note_stored(&about, before);
        later.complete(stored());
        assert!(
            matches!(follower.wait(until).await, Outcome::Stored(_)),
            "the flight began after that"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn only_one_refresh_runs_at_a_time() {
        let flights = Flights::default();
        let about = key("a");
        let join = |background| {
            flights.join(&about, JoinOptions { background, ..options(true) }, |_| true)
        };
        let client = join(false);
        assert!(matches!(join(true), Joined::Follows(_)));
        tokio::time::advance(LONG).await;
        let refresh = join(true);
        assert!(matches!(refresh, Joined::Leads(_)), "the client's flight is too old");
        tokio::time::advance(LONG).await;
        assert!(matches!(join(true), Joined::Follows(_)));
        assert!(matches!(join(false), Joined::Leads(_)));
        drop((client, refresh));
    }

    #[tokio::test]
    async fn a_flight_that_began_before_an_invalidation_is_not_joined() {
        let flights = Flights::default();
        let about = key("a");
        let old = new_leader(&flights, &about);
        let join = flights.join(&about, options(true), |_| false);
        let Joined::Leads(new) = join else { panic!("joins the old flight") };
        drop(old);
        assert_eq!(flights.count(), 1, "the old leader does not end the new flight");
        assert!(matches!(self::join(&flights, &about), Joined::Follows(_)));
        drop(new);
        assert_eq!(flights.count(), 0);
    }

    #[tokio::test]
    async fn a_request_that_may_not_lead_follows_or_calls_alone() {
        let flights = Flights::default();
        let about = key("a");
        let join = || flights.join(&about, options(false), |_| true);
        assert!(matches!(join(), Joined::Alone));
        let _leader = new_leader(&flights, &about);
        assert!(matches!(join(), Joined::Follows(_)));
    }
}
