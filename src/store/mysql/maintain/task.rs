//! When are the tables culled and pruned, and the clock read?

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use sqlx::Row as _;
use sqlx::mysql::MySqlRow;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::super::codec::{Hash, hash_of};
use super::super::conn::{Failure, Link, Retry, Statement, statement, stopped};
use super::super::shared::Shared;
use super::super::sql::{MAX_KEYS, repeated};
use super::super::write::{Owned, owner};
use super::estimate::{EXAMINED, Estimates, Eviction, Limits, STEP, Seen, Tally, choose};
use crate::key::KeyRange;
use crate::store::{CullReport, Named, StoreError};
use crate::tag::{LogRow, Scope};

/// How often the database's clock is read.
const CLOCK_INTERVAL: Duration = Duration::from_secs(30);

/// Rows from which `stats` is estimated: within 2 to 3 %.
const STATS_ROWS: u64 = 1024;

/// How many times a deletion is sent again after a deadlock or a lock wait.
const RETRIES: u32 = 2;

/// A question of a caller.
#[derive(Debug)]
pub(in super::super) enum Command {
    Cull(oneshot::Sender<Result<CullReport, StoreError>>),
    Stats(oneshot::Sender<Result<Figures, StoreError>>),
    /// The newest rows of the log.
    Tail(usize, oneshot::Sender<Result<Vec<LogRow>, StoreError>>),
    /// How many responses the scopes name.
    Count(Vec<Scope>, oneshot::Sender<Result<Named, StoreError>>),
    /// Which keys of a range the scopes name.
    Named(KeyRange, Vec<Scope>, oneshot::Sender<Result<Vec<KeyRange>, StoreError>>),
}

#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Figures {
    pub(in super::super) entries: u64,
    pub(in super::super) bytes: u64,
    pub(in super::super) exact: bool,
}

/// How much a cull evicts of each prefix, and in how many windows.
struct Plan {
    evictions: HashMap<Vec<u8>, Eviction>,
    windows: f64,
}

pub(in super::super) struct Maintenance {
    pub(in super::super) shared: Arc<Shared>,
    pub(in super::super) owned: Arc<Owned>,
    pub(in super::super) commands: mpsc::Receiver<Command>,
    pub(in super::super) random: StdRng,
    pub(in super::super) stop: watch::Receiver<bool>,
    pub(in super::super) estimates: Estimates,
    /// Where the next window begins. The first one begins at a random point; each next one begins where the last one
    /// ended. So each row is seen equally often. (Simulated: 6 % expired rows instead of 10 % with random starts.)
    pub(in super::super) next: u128,
    /// Where the next window of leases begins.
    pub(in super::super) next_lease: u128,
    /// Up to which id the log has been pruned, while there is more.
    pub(in super::super) pruned: u64,
    pub(in super::super) link: Link,
}

impl Maintenance {
    /// Runs until the store is closed.
    pub(in super::super) async fn run(mut self) {
        let mut clock = interval(CLOCK_INTERVAL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        clock.tick().await; // the first tick comes at once, but the clock was read when connecting
        let background = self.shared.settings.background_cull;
        let mut idle = self.next_idle();
        let mut prune = self.next_idle();
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                command = self.commands.recv() => match command {
                    Some(Command::Cull(answer)) => self.cull_all(answer).await,
                    Some(Command::Stats(answer)) => {
                        let figures = self.stats().await;
                        let _ = answer.send(figures);
                    }
                    Some(Command::Tail(limit, answer)) => self.tail(limit, answer).await,
                    Some(Command::Count(scopes, answer)) => self.count(&scopes, answer).await,
                    Some(Command::Named(range, scopes, answer)) => self.named(&range, &scopes, answer).await,
                    None => break,
                },
                () = self.owned.cull.notified(), if background => {
                    self.cull_windows().await;
                    idle = self.next_idle();
                }
                () = sleep_until(idle), if background => {
                    self.cull_windows().await;
                    idle = self.next_idle();
                }
                // independent of culling
                () = sleep_until(prune) => prune = self.prune_on().await,
                _ = clock.tick() => self.read_clock().await,
            }
        }
        if let Some(connection) = self.link.connection.take() {
            connection.close().await;
        }
    }

    /// When to cull if nothing is written: with a random deviation of a tenth, so that processes do not cull at the
    /// same time.
    fn next_idle(&mut self) -> Instant {
        let factor = self.random.random_range(0.9..=1.1);
        Instant::now() + self.shared.settings.idle_cull_interval.mul_f64(factor)
    }

    async fn read_clock(&mut self) {
        let Ok(connection) = self.link.get(&self.shared).await else { return };
        let mut retry = Retry::over_a_lost_connection();
        while let Err(failure) = connection.read_clock(&self.shared).await {
            if let Err(failure) = retry.after(failure, connection, &self.shared).await {
                self.link.failed(&self.shared, "reading the clock", failure);
                return;
            }
        }
    }

    pub(in super::super) fn limits(&self) -> Limits {
        let settings = &self.shared.settings;
        Limits { rows: settings.max_entries, bytes: settings.max_bytes }
    }

    /// A cull in the background.
    async fn cull_windows(&mut self) {
        let window = (EXAMINED / self.shared.settings.cull_probability).ceil() as u64;
        // a table no larger than a window is culled exactly
        let small = self.estimates.is_exact() && self.cull_small(window).await;
        if !small {
            let plan = self.plan(window);
            for _ in 0..plan.windows as u64 {
                match self.window(self.next, window, Some(&plan)).await {
                    Ok(tally) => {
                        self.next = tally.end();
                        self.estimates.push(tally);
                    }
                    Err(_) => return,
                }
            }
        }
        self.shared.counters.culls.fetch_add(1, Relaxed);
    }

    /// Prunes a limited number of log rows and lease rows. While there are more, it continues after a pause as long
    /// as the pruning took. So it keeps up with any number, and leaves the server time.
    async fn prune_on(&mut self) -> Instant {
        let began = Instant::now();
        let more = self.prune().await;
        let more = self.prune_leases().await || more;
        if more { Instant::now() + began.elapsed() } else { self.next_idle() }
    }

    fn plan(&mut self, window: u64) -> Plan {
        let written = self.owned.take();
        let mut plan = Plan { evictions: HashMap::with_capacity(written.len()), windows: 1.0 };
        let all = self.estimates.all();
        for (prefix, rows) in written {
            let size = self.estimates.of(&prefix);
            let eviction = match (size, all) {
                (Some(size), Some(all)) => Eviction::new(size, all, &self.limits(), rows, window),
                _ => Eviction::default(),
            };
            plan.windows = plan.windows.max(eviction.windows());
            plan.evictions.insert(prefix, eviction);
        }
        plan
    }

    /// Reads `want` rows from `start` on, at most once around the key space. With a plan, it deletes expired rows and
    /// evicts.
    async fn window(
        &mut self,
        start: u128,
        want: u64,
        plan: Option<&Plan>,
    ) -> Result<Tally, StoreError> {
        let outcome = self.walk_window(start, want, plan).await;
        outcome.map_err(|failure| self.failed(failure))
    }

    pub(in super::super) fn failed(&mut self, failure: Failure) -> StoreError {
        self.link.failed(&self.shared, "a cull", failure)
    }

    async fn walk_window(
        &mut self,
        start: u128,
        want: u64,
        plan: Option<&Plan>,
    ) -> Result<Tally, Failure> {
        let owned = self.owned.prefixes();
        let mut tally = Tally::new(start, owned.iter());
        let (mut from, mut wrapped, mut seen) = (start, false, 0);
        while seen < want {
            let limit = (want - seen).min(STEP as u64);
            let mut rows = self.step(from, limit).await?;
            let at_the_end = (rows.len() as u64) < limit;
            let next = rows.last().and_then(|row| row.hash.checked_add(1));
            let around = wrapped && rows.last().is_some_and(|row| row.hash >= start);
            if around {
                rows.retain(|row| row.hash < start);
            }
            seen += rows.len() as u64;
            tally.add(&rows);
            if let Some(plan) = plan {
                self.clean(&rows, plan, &mut tally).await?;
            }
            match next {
                _ if around => {
                    tally.close();
                    break;
                }
                Some(next) if !at_the_end => from = next,
                _ if wrapped || start == 0 => {
                    tally.close();
                    break;
                }
                _ => (from, wrapped) = (0, true),
            }
        }
        Ok(tally)
    }

    /// The next rows of the primary key.
    pub(in super::super) async fn step(
        &mut self,
        from: u128,
        limit: u64,
    ) -> Result<Vec<Seen>, Failure> {
        let Self { shared, link, .. } = self;
        let hash = from.to_be_bytes();
        let query = || statement(&shared.sql.window).bind(hash.to_vec()).bind(limit);
        let rows = link.rows(shared, query).await?;
        rows.iter()
            .map(seen)
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::of(error, &self.shared.settings.table))
    }

    /// Deletes the expired rows of a step, and evicts the plan's share.
    async fn clean(
        &mut self,
        rows: &[Seen],
        plan: &Plan,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let now_ms = self.shared.clock.now_ms();
        self.delete_expired(rows, now_ms).await?;
        rows.iter().filter(|row| row.expires_ms <= now_ms).for_each(|row| tally.remove(row));
        let random = &mut self.random;
        let chosen = choose(rows, &plan.evictions, plan.windows, now_ms, || random.random());
        chosen.iter().for_each(|row| tally.remove(row));
        self.evict(chosen.into_iter().map(|row| row.hash).collect()).await?;
        Ok(())
    }

    pub(in super::super) async fn delete_expired(
        &mut self,
        rows: &[Seen],
        now_ms: u64,
    ) -> Result<u64, Failure> {
        let mut dead = rows.iter().filter(|row| row.expires_ms <= now_ms).map(|row| row.hash);
        let Some(first) = dead.next() else { return Ok(0) };
        let last = dead.next_back().unwrap_or(first);
        let text = Arc::clone(&self.shared.sql.delete_expired);
        self.delete(|| {
            statement(&text)
                .bind(&first.to_be_bytes()[..])
                .bind(&last.to_be_bytes()[..])
                .bind(now_ms)
        })
        .await
    }

    pub(in super::super) async fn evict(&mut self, chosen: Vec<u128>) -> Result<u64, Failure> {
        let mut hashes: Vec<Hash> = chosen.into_iter().map(u128::to_be_bytes).collect();
        hashes.sort_unstable();
        let shared = Arc::clone(&self.shared);
        let mut evicted = 0;
        for chunk in hashes.chunks(MAX_KEYS) {
            let (text, binds) = shared.sql.delete(chunk.len());
            evicted += self
                .delete(|| {
                    repeated(chunk, binds)
                        .fold(statement(text), |query, hash| query.bind(&hash[..]))
                })
                .await?;
        }
        Ok(evicted)
    }

    /// Runs a deletion. It is repeated if it loses against another transaction.
    pub(in super::super) async fn delete(
        &mut self,
        query: impl Fn() -> Statement,
    ) -> Result<u64, Failure> {
        let connection = self.link.get(&self.shared).await?;
        let mut retry = Retry::over_deadlocks(RETRIES);
        loop {
            match connection.run(query(), &self.shared).await {
                Err(failure) => retry.after(failure, connection, &self.shared).await?,
                outcome => return outcome,
            }
        }
    }

    async fn stats(&mut self) -> Result<Figures, StoreError> {
        let start = self.random.random();
        let tally = self.window(start, STATS_ROWS, None).await?;
        self.estimates.push(tally);
        let size = self.estimates.all().unwrap_or_default();
        Ok(Figures {
            entries: size.rows.round() as u64,
            bytes: size.bytes.round() as u64,
            exact: self.estimates.is_exact(),
        })
    }
}

fn seen(row: &MySqlRow) -> Result<Seen, sqlx::Error> {
    let hash = u128::from_be_bytes(hash_of(row.try_get(0)?)?);
    let size: Option<u32> = row.try_get(2)?;
    let born_ms: Option<u64> = row.try_get(3)?;
    Ok(Seen {
        hash,
        expires_ms: row.try_get(1)?,
        bytes: size.unwrap_or(0).into(),
        born_ms: born_ms.unwrap_or(0),
        prefix: owner(row.try_get::<&[u8], _>(4)?).to_vec(),
    })
}
