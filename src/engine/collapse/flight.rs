//! Flights: one request inside for all that ask the same at the same time. The table, the one who leads and
//! those who wait; what becomes of a landing is `collapse`'s.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::find::{TABLE_BYTES, nothing, table};
use super::lease::{AFTER_FAILURE, Held, LONGEST_WAIT};
use crate::key::CacheKey;
use crate::rfc9111::stale::Cause;
use crate::stored::StoredResponse;
use crate::sync;
use crate::tag::LogPosition;

/// For how long a landing is remembered: longer than a lookup takes.
const LANDED_FOR: Duration = Duration::from_secs(60);

/// What a flight is about. Requests with credentials fly by themselves: what is not for everyone must not
/// keep the others from flying together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::engine) struct FlightKey {
    pub(in crate::engine) key: CacheKey,
    /// The same without the variant.
    pub(in crate::engine) base: CacheKey,
    pub(in crate::engine) credentialed: bool,
}

impl FlightKey {
    /// Bytes that it holds in memory of its own.
    fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.key.as_bytes().len() + self.base.as_bytes().len()
    }
}

/// The flights of this process.
#[derive(Clone)]
pub(in crate::engine) struct Flights(Arc<Table>);

struct Table {
    open: Mutex<HashMap<FlightKey, Open>>,
    number: AtomicU64,
    /// When a flight last landed, as the number of that landing.
    landed: Cache<FlightKey, u64>,
    landings: AtomicU64,
    /// Until when responses count as not shareable.
    unshareable: Cache<FlightKey, Instant>,
    /// Refreshes that another process has the lease for, by the hash of the response's key.
    elsewhere: Cache<[u8; 16], ()>,
}

struct Open {
    number: u64,
    /// Where the log stood before the request went inside.
    position: Arc<LogPosition>,
    /// Before the request went inside.
    began: std::time::Instant,
    since: Instant,
    /// A refresh leads it: no client can slow it down, and it ends within a minute.
    behind: bool,
    state: watch::Sender<State>,
}

/// How a request joins.
pub(in crate::engine) struct Joining {
    /// Where the log stands.
    pub(in crate::engine) position: Arc<LogPosition>,
    /// Whether it may lead.
    pub(in crate::engine) may_lead: bool,
    /// Whether it is a refresh behind a response.
    pub(in crate::engine) behind: bool,
    /// The age up to which a flight is joined: its leader may be a client that reads slowly or not at all.
    pub(in crate::engine) patience: Duration,
    /// For how long nobody waits for responses that are not to be shared.
    pub(in crate::engine) remember: Duration,
}

/// How a flight stands. One whose leader is gone without a word has no state any more: its channel is closed.
#[derive(Clone)]
enum State {
    Flying,
    /// The head is there; its body is still being read, and nothing says where it ends.
    Streaming,
    Landed(StoredResponse),
    Released,
    Failing(Option<StoredResponse>),
    Failed(Cause),
    Outdated,
    Elsewhere,
}

/// What joining comes to.
pub(in crate::engine) enum Joined {
    Leads(Lead),
    Follows(Follower),
    /// Nobody flies, and this request is not one to lead.
    Nobody,
}

/// What a follower waited for.
pub(in crate::engine) enum Landing {
    /// A response that has been stored.
    Response(StoredResponse),
    /// There is a response, and it is not to be shared.
    Released,
    /// The answer is about one request or one moment; those who wait may have it, or not.
    Failing(Option<StoredResponse>),
    /// The inner service failed, in this way.
    Failed(Cause),
    /// What the response was made of has been invalidated meanwhile.
    Outdated,
    /// Another process has stored something.
    Elsewhere,
    /// The leader is gone: somebody else leads.
    Vacant,
    /// The request has waited long enough.
    TooLong,
}

/// Waits for a flight.
pub(in crate::engine) struct Follower {
    /// When the flight began: its request went inside later than that.
    pub(in crate::engine) began: std::time::Instant,
    flights: Flights,
    key: FlightKey,
    remember: Duration,
    state: watch::Receiver<State>,
    /// When the flight is too old to be waited for.
    until: Instant,
}

/// The one whose request goes inside. Dropped without a word, because it was cancelled, panicked, or its
/// body came to nothing, it lets the next one lead.
pub(in crate::engine) struct Lead {
    flights: Flights,
    key: FlightKey,
    number: u64,
    /// For how long nobody waits for responses that are not to be shared.
    remember: Duration,
    /// No other process goes inside meanwhile.
    lease: Option<Held>,
    state: watch::Sender<State>,
}

impl Default for Flights {
    fn default() -> Self {
        Self(Arc::new(Table {
            open: Mutex::default(),
            number: AtomicU64::new(0),
            landed: table(TABLE_BYTES, |key: &FlightKey, _| key.held_bytes())
                .time_to_live(LANDED_FOR)
                .build(),
            landings: AtomicU64::new(0),
            unshareable: table(TABLE_BYTES, |key: &FlightKey, _| key.held_bytes()).build(),
            elsewhere: table(TABLE_BYTES, nothing).time_to_live(LONGEST_WAIT).build(),
        }))
    }
}

impl Flights {
    fn open(&self) -> MutexGuard<'_, HashMap<FlightKey, Open>> {
        sync::lock(&self.0.open)
    }

    /// Joins the flight about `key`, or begins one when there is none, only one that is too old, or only one
    /// that began before something was invalidated: `clear` says whether nothing that concerns it has been
    /// since.
    pub(in crate::engine) fn join(
        &self,
        key: &FlightKey,
        joining: Joining,
        clear: impl Fn(&Arc<LogPosition>) -> bool,
    ) -> Joined {
        let Joining { position, may_lead, behind, patience, remember } = joining;
        let (flights, since) = (self.clone(), Instant::now());
        let mut open = self.open();
        if let Some(flight) = open.get(key)
            && (flight.since + patience > since || behind && flight.behind)
            && clear(&flight.position)
        {
            let (began, state) = (flight.began, flight.state.subscribe());
            let (key, until) = (key.clone(), flight.since + patience);
            return Joined::Follows(Follower { began, flights, key, remember, state, until });
        }
        if !may_lead {
            return Joined::Nobody;
        }
        let number = self.0.number.fetch_add(1, Ordering::Relaxed);
        let state = watch::Sender::new(State::Flying);
        let began = std::time::Instant::now();
        let flight = Open { number, position, began, since, behind, state: state.clone() };
        open.insert(key.clone(), flight);
        let key = key.clone();
        Joined::Leads(Lead { flights, key, number, remember, lease: None, state })
    }

    /// A response has been stored under `key` at this moment, by the leader or by another request: those who
    /// wait for a flight that is older look for it, whatever becomes of their flight.
    pub(in crate::engine) fn filled(&self, key: &FlightKey, at: std::time::Instant) {
        self.landed(key);
        let flight = {
            let mut open = self.open();
            let is_older = open.get(key).is_some_and(|flight| flight.began <= at);
            is_older.then(|| open.remove(key)).flatten()
        };
        if let Some(flight) = flight {
            flight.state.send_replace(State::Elsewhere);
        }
    }

    fn landed(&self, key: &FlightKey) {
        let number = self.0.landings.fetch_add(1, Ordering::AcqRel) + 1;
        // before the flight is gone: whoever finds none has to find this
        self.0.landed.insert(key.clone(), number);
        self.0.unshareable.invalidate(key);
    }

    fn refuse(&self, key: &FlightKey, time: Duration) {
        if let Some(until) = Instant::now().checked_add(time) {
            self.0.unshareable.insert(key.clone(), until);
        }
    }

    /// The number of the last landing so far: to be asked before a lookup.
    pub(in crate::engine) fn landings(&self) -> u64 {
        self.0.landings.load(Ordering::Acquire)
    }

    /// Whether a flight about `key` has landed since there were `landings`: then a lookup that began before
    /// may have missed it.
    pub(in crate::engine) fn landed_since(&self, key: &FlightKey, landings: u64) -> bool {
        self.0.landed.get(key).is_some_and(|last| last > landings)
    }

    pub(in crate::engine) fn is_unshareable(&self, key: &FlightKey) -> bool {
        self.0.unshareable.get(key).is_some_and(|until| Instant::now() < until)
    }

    /// Whether another process had the lease for a refresh a moment ago.
    pub(super) fn is_elsewhere(&self, key: &CacheKey) -> bool {
        self.0.elsewhere.contains_key(&key.hash())
    }

    pub(super) fn note_elsewhere(&self, key: &CacheKey) {
        self.0.elsewhere.insert(key.hash(), ());
    }

    #[cfg(test)]
    pub(in crate::engine) fn count(&self) -> usize {
        self.open().len()
    }
}

impl Follower {
    /// Waits for the flight, but not after `until`, nor until the flight is too old: then another leads.
    pub(in crate::engine) async fn wait(mut self, until: Instant) -> Landing {
        let is_over = |state: &State| !matches!(state, State::Flying | State::Streaming);
        let over = async { self.state.wait_for(is_over).await.map(|state| state.clone()) };
        let Ok(state) = tokio::time::timeout_at(until.min(self.until), over).await else {
            if matches!(*self.state.borrow(), State::Streaming) {
                // a body without an end would cost each client as long; the next response that is stored
                // ends this
                self.flights.refuse(&self.key, self.remember);
                return Landing::TooLong;
            }
            return if Instant::now() < until { Landing::Vacant } else { Landing::TooLong };
        };
        match state {
            Err(_) => Landing::Vacant,
            Ok(State::Landed(response)) => Landing::Response(response),
            Ok(State::Failing(response)) => Landing::Failing(response),
            Ok(State::Failed(cause)) => Landing::Failed(cause),
            Ok(State::Outdated) => Landing::Outdated,
            Ok(State::Elsewhere) => Landing::Elsewhere,
            Ok(State::Released | State::Flying | State::Streaming) => Landing::Released,
        }
    }
}

impl Lead {
    /// What the flight is about.
    pub(in crate::engine) fn key(&self) -> &FlightKey {
        &self.key
    }

    /// Keeps the lease for as long as it flies.
    pub(in crate::engine) fn leased(&mut self, lease: Held) {
        self.lease = Some(lease);
    }

    pub(in crate::engine) fn is_leased(&self) -> bool {
        self.lease.is_some()
    }

    /// The head is there, and nothing says how long the body is.
    pub(in crate::engine) fn streams(&self) {
        self.state.send_replace(State::Streaming);
    }

    /// The response is stored: the followers get it. The lease is for whoever writes it.
    pub(in crate::engine) fn land(mut self, response: StoredResponse) -> Option<Held> {
        self.flights.landed(&self.key);
        let lease = self.lease.take();
        self.end(State::Landed(response));
        lease
    }

    /// The response has been invalidated while it was made: it is nobody else's.
    pub(in crate::engine) fn outdated(self) {
        self.end(State::Outdated);
    }

    /// Something has been stored, by another process or under another key: the followers look again.
    pub(in crate::engine) fn found(self) {
        self.flights.landed(&self.key);
        self.end(State::Elsewhere);
    }

    /// The answer is about one request or one moment. One of the followers leads; whoever has waited for such
    /// an answer before gets this one, where it may be had.
    pub(in crate::engine) fn failing(self, response: Option<StoredResponse>) {
        self.end(State::Failing(response));
    }

    /// The response is not to be shared: the followers go inside together.
    pub(in crate::engine) fn release(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.refuse(AFTER_FAILURE);
        }
        self.end(State::Released);
    }

    /// The same, and the next ones will not be either: for a while nobody waits for them.
    pub(in crate::engine) fn refuse(self) {
        let time = self.remember;
        self.refuse_for(time);
    }

    /// The same for so long.
    pub(in crate::engine) fn refuse_for(mut self, time: Duration) {
        if let Some(lease) = self.lease.take() {
            lease.refuse(time);
        }
        self.flights.refuse(&self.key, time);
        self.release();
    }

    /// The inner service failed.
    pub(in crate::engine) fn fail(self, cause: Cause) {
        self.end(State::Failed(cause));
    }

    fn end(self, state: State) {
        self.leave();
        self.state.send_replace(state);
    }

    /// Nobody joins this flight any more.
    fn leave(&self) {
        let mut open = self.flights.open();
        if open.get(&self.key).is_some_and(|flight| flight.number == self.number) {
            open.remove(&self.key);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        // the channel is closed after this, which wakes the followers
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

    fn joining(may_lead: bool) -> Joining {
        let (patience, remember) = (LONG, LONG);
        Joining { position: Arc::default(), may_lead, behind: false, patience, remember }
    }

    fn join(flights: &Flights, about: &FlightKey) -> Joined {
        flights.join(about, joining(true), |_| true)
    }

    fn lead(flights: &Flights, about: &FlightKey) -> Lead {
        let Joined::Leads(lead) = join(flights, about) else { panic!("somebody leads already") };
        lead
    }

    fn follow(flights: &Flights, about: &FlightKey) -> Follower {
        let Joined::Follows(follower) = join(flights, about) else { panic!("nobody leads") };
        follower
    }

    fn stored() -> StoredResponse {
        let head = StoredHead::new(StatusCode::OK, HeaderMap::new(), 0);
        StoredResponse { head: Arc::new(head), body: Bytes::from_static(b"x") }
    }

    #[tokio::test(start_paused = true)]
    async fn followers_learn_how_a_flight_ends_and_the_table_is_empty_then() {
        let until = Instant::now() + LONG;
        let flights = Flights::default();
        let about = key("a");
        let before = flights.landings();
        let (leader, follower) = (lead(&flights, &about), follow(&flights, &about));
        leader.land(stored());
        assert!(matches!(follower.wait(until).await, Landing::Response(_)));
        assert!(flights.landed_since(&about, before));
        assert!(!flights.landed_since(&about, flights.landings()));
        assert!(!flights.landed_since(&key("b"), before));

        let (leader, follower) = (lead(&flights, &about), follow(&flights, &about));
        leader.release();
        assert!(matches!(follower.wait(until).await, Landing::Released));
        assert!(!flights.is_unshareable(&about));

        let (leader, follower) = (lead(&flights, &about), follow(&flights, &about));
        leader.fail(Cause::Error);
        assert!(matches!(follower.wait(until).await, Landing::Failed(Cause::Error)));

        let (leader, follower) = (lead(&flights, &about), follow(&flights, &about));
        drop(leader);
        assert!(matches!(follower.wait(until).await, Landing::Vacant));

        let (_leader, follower) = (lead(&flights, &about), follow(&flights, &about));
        assert!(matches!(follower.wait(until).await, Landing::TooLong));
        drop(_leader);
        assert_eq!(flights.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_remembered_for_its_time_or_until_the_next_landing() {
        let flights = Flights::default();
        let about = key("a");
        lead(&flights, &about).refuse();
        assert!(flights.is_unshareable(&about) && !flights.is_unshareable(&key("b")));
        let with = FlightKey { credentialed: true, ..about.clone() };
        assert!(!flights.is_unshareable(&with), "credentials fly by themselves");
        tokio::time::advance(LONG).await;
        assert!(!flights.is_unshareable(&about));
        lead(&flights, &about).refuse();
        lead(&flights, &about).land(stored());
        assert!(!flights.is_unshareable(&about));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_flight_is_left_for_a_new_one_and_a_fill_ends_it() {
        let flights = Flights::default();
        let about = key("a");
        let until = Instant::now() + LONG * 9;
        let (_old, follower) = (lead(&flights, &about), follow(&flights, &about));
        tokio::time::advance(LONG).await;
        assert!(matches!(follower.wait(until).await, Landing::Vacant), "another may lead");
        let (new, follower) = (lead(&flights, &about), follow(&flights, &about));
        flights.filled(&about, std::time::Instant::now());
        assert!(matches!(follower.wait(until).await, Landing::Elsewhere));
        assert_eq!(flights.count(), 0);
        drop(new);

        let before = std::time::Instant::now();
        let (later, follower) = (lead(&flights, &about), follow(&flights, &about));
        flights.filled(&about, before);
        later.land(stored());
        assert!(matches!(follower.wait(until).await, Landing::Response(_)), "it began after that");
    }

    #[tokio::test(start_paused = true)]
    async fn one_refresh_does_not_begin_while_another_runs() {
        let flights = Flights::default();
        let about = key("a");
        let join = |behind| flights.join(&about, Joining { behind, ..joining(true) }, |_| true);
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
        let old = lead(&flights, &about);
        let join = flights.join(&about, joining(true), |_| false);
        let Joined::Leads(new) = join else { panic!("joins the old one") };
        drop(old);
        assert_eq!(flights.count(), 1, "the old one takes no other along");
        assert!(matches!(self::join(&flights, &about), Joined::Follows(_)));
        drop(new);
        assert_eq!(flights.count(), 0);
    }

    #[tokio::test]
    async fn who_may_not_lead_follows_or_goes_alone() {
        let flights = Flights::default();
        let about = key("a");
        let join = || flights.join(&about, joining(false), |_| true);
        assert!(matches!(join(), Joined::Nobody));
        let _leader = lead(&flights, &about);
        assert!(matches!(join(), Joined::Follows(_)));
    }
}
