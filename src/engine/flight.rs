//! Flights: one request inside for all that ask the same at the same time. The table, the one who leads and
//! those who wait; what becomes of a landing is `collapse`'s.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::watch;
use tokio::time::Instant;

use super::lease::{AFTER_FAILURE, Held};
use crate::key::CacheKey;
use crate::rfc9111::stale::Cause;
use crate::stored::StoredResponse;
use crate::tag::LogPosition;

/// How many keys a process remembers as landed, and as not shareable.
const REMEMBERED: u64 = 100_000;
/// For how long a landing is remembered: longer than a lookup takes.
const LANDED_FOR: Duration = Duration::from_secs(60);

/// What a flight is about. Requests with credentials fly by themselves: what is not for everyone must not
/// keep the others from flying together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlightKey {
    pub(super) key: CacheKey,
    /// The same without the variant.
    pub(super) base: CacheKey,
    pub(super) credentialed: bool,
}

/// The flights of this process.
#[derive(Clone)]
pub(super) struct Flights(Arc<Table>);

struct Table {
    open: Mutex<HashMap<FlightKey, Open>>,
    number: AtomicU64,
    /// When a flight last landed, as the number of that landing.
    landed: Cache<FlightKey, u64>,
    landings: AtomicU64,
    /// Until when responses count as not shareable.
    unshareable: Cache<FlightKey, Instant>,
}

struct Open {
    number: u64,
    /// Where the log stood before the request went inside.
    position: Arc<LogPosition>,
    /// Before the request went inside.
    began: std::time::Instant,
    state: watch::Receiver<State>,
}

/// How a flight stands. One whose leader is gone without a word has no state any more: its channel is closed.
#[derive(Clone)]
enum State {
    Flying,
    Landed(StoredResponse),
    Released,
    Failed(Cause),
    Outdated,
    Elsewhere,
}

/// What joining comes to.
pub(super) enum Joined {
    Leads(Lead),
    Follows(Follower),
    /// Nobody flies, and this request is not one to lead.
    Nobody,
}

/// What a follower waited for.
pub(super) enum Landing {
    /// A response that has been stored.
    Response(StoredResponse),
    /// There is a response, and it is not to be shared.
    Released,
    /// The inner service failed, in this way.
    Failed(Cause),
    /// What the response was made of has been invalidated meanwhile.
    Outdated,
    /// Another process has stored something.
    Elsewhere,
    /// The leader is gone: somebody else leads.
    Vacant,
    /// It takes too long.
    TooLong,
}

/// Waits for a flight.
pub(super) struct Follower {
    /// When the flight began: its request went inside later than that.
    pub(super) began: std::time::Instant,
    state: watch::Receiver<State>,
}

/// The one whose request goes inside. Dropped without a word, because it was cancelled, panicked, or its
/// body came to nothing, it lets the next one lead.
pub(super) struct Lead {
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
            landed: Cache::builder().max_capacity(REMEMBERED).time_to_live(LANDED_FOR).build(),
            landings: AtomicU64::new(0),
            unshareable: Cache::new(REMEMBERED),
        }))
    }
}

impl Flights {
    fn open(&self) -> MutexGuard<'_, HashMap<FlightKey, Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the flight about `key`, or begins one when there is none, or only one that began before
    /// something was invalidated: `clear` says whether nothing that concerns it has been since.
    pub(super) fn join(
        &self,
        key: &FlightKey,
        position: Arc<LogPosition>,
        may_lead: bool,
        remember: Duration,
        clear: impl Fn(&Arc<LogPosition>) -> bool,
    ) -> Joined {
        let mut open = self.open();
        if let Some(flight) = open.get(key)
            && clear(&flight.position)
        {
            let (began, state) = (flight.began, flight.state.clone());
            return Joined::Follows(Follower { began, state });
        }
        if !may_lead {
            return Joined::Nobody;
        }
        let number = self.0.number.fetch_add(1, Ordering::Relaxed);
        let (sender, state) = watch::channel(State::Flying);
        let began = std::time::Instant::now();
        open.insert(key.clone(), Open { number, position, began, state });
        let (flights, key) = (self.clone(), key.clone());
        Joined::Leads(Lead { flights, key, number, remember, lease: None, state: sender })
    }

    /// The number of the last landing so far: to be asked before a lookup.
    pub(super) fn landings(&self) -> u64 {
        self.0.landings.load(Ordering::Acquire)
    }

    /// Whether a flight about `key` has landed since there were `landings`: then a lookup that began before
    /// may have missed it.
    pub(super) fn landed_since(&self, key: &FlightKey, landings: u64) -> bool {
        self.0.landed.get(key).is_some_and(|last| last > landings)
    }

    pub(super) fn is_unshareable(&self, key: &FlightKey) -> bool {
        self.0.unshareable.get(key).is_some_and(|until| Instant::now() < until)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.open().len()
    }
}

impl Follower {
    /// Waits for the flight, but not after `until`.
    pub(super) async fn wait(mut self, until: Instant) -> Landing {
        let over = self.state.wait_for(|state| !matches!(state, State::Flying));
        match tokio::time::timeout_at(until, over).await {
            Err(_) => Landing::TooLong,
            Ok(Err(_)) => Landing::Vacant,
            Ok(Ok(state)) => match &*state {
                State::Landed(response) => Landing::Response(response.clone()),
                State::Failed(cause) => Landing::Failed(*cause),
                State::Outdated => Landing::Outdated,
                State::Elsewhere => Landing::Elsewhere,
                State::Released | State::Flying => Landing::Released,
            },
        }
    }
}

impl Lead {
    /// What the flight is about.
    pub(super) fn key(&self) -> &FlightKey {
        &self.key
    }

    /// Keeps the lease for as long as it flies.
    pub(super) fn leased(&mut self, lease: Held) {
        self.lease = Some(lease);
    }

    pub(super) fn is_leased(&self) -> bool {
        self.lease.is_some()
    }

    /// The response is stored: the followers get it. The lease is for whoever writes it.
    pub(super) fn land(mut self, response: StoredResponse) -> Option<Held> {
        self.landed();
        let lease = self.lease.take();
        self.end(State::Landed(response));
        lease
    }

    /// The response has been invalidated while it was made: it is nobody else's.
    pub(super) fn outdated(self) {
        self.end(State::Outdated);
    }

    /// Something has been stored, by another process or under another key: the followers look again.
    pub(super) fn found(self) {
        self.landed();
        self.end(State::Elsewhere);
    }

    fn landed(&self) {
        let table = &self.flights.0;
        let number = table.landings.fetch_add(1, Ordering::AcqRel) + 1;
        // before the flight is gone: whoever finds none has to find this
        table.landed.insert(self.key.clone(), number);
        table.unshareable.invalidate(&self.key);
    }

    /// The response is not to be shared: the followers go inside together.
    pub(super) fn release(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.refuse(AFTER_FAILURE);
        }
        self.end(State::Released);
    }

    /// The same, and the next ones will not be either: for a while nobody waits for them.
    pub(super) fn refuse(self) {
        let time = self.remember;
        self.refuse_for(time);
    }

    /// The same for so long.
    pub(super) fn refuse_for(mut self, time: Duration) {
        if let Some(lease) = self.lease.take() {
            lease.refuse(time);
        }
        if let Some(until) = Instant::now().checked_add(time) {
            self.flights.0.unshareable.insert(self.key.clone(), until);
        }
        self.release();
    }

    /// The inner service failed.
    pub(super) fn fail(mut self, cause: Cause) {
        if cause != Cause::Error
            && let Some(lease) = self.lease.take()
        {
            lease.refuse(AFTER_FAILURE);
        }
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

    fn join(flights: &Flights, about: &FlightKey) -> Joined {
        flights.join(about, Arc::default(), true, LONG, |_| true)
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
        let head = StoredHead::bare(StatusCode::OK, HeaderMap::new(), 0);
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

    #[tokio::test]
    async fn a_flight_that_began_before_an_invalidation_is_not_joined() {
        let flights = Flights::default();
        let about = key("a");
        let old = lead(&flights, &about);
        let join = flights.join(&about, Arc::default(), true, LONG, |_| false);
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
        let join = || flights.join(&about, Arc::default(), false, LONG, |_| true);
        assert!(matches!(join(), Joined::Nobody));
        let _leader = lead(&flights, &about);
        assert!(matches!(join(), Joined::Follows(_)));
    }
}
