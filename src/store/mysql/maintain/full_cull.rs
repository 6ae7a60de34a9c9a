//! How is a whole table culled exactly? For callers that ask, and for tables that are no larger than a window.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use rand::RngExt;
use tokio::sync::oneshot;

use super::super::conn::Failure;
use super::estimate::{Census, STEP, Seen, Tally};
use super::task::Maintenance;
use crate::store::{CullReport, StoreError};

/// Passes over the table that evict what an earlier pass has left.
const EVICTION_PASSES: usize = 3;

/// Where the result goes. If the caller does not wait any more, the work ends.
type Answer = oneshot::Sender<Result<CullReport, StoreError>>;

impl Maintenance {
    /// A cull of the whole table, while its caller waits.
    pub(in super::super) async fn cull_all(&mut self, answer: Answer) {
        let outcome = self.scan(u64::MAX, Some(&answer)).await;
        let outcome = outcome.map_err(|failure| self.failed(failure));
        if outcome.is_ok() {
            self.shared.counters.culls.fetch_add(1, Relaxed);
        }
        while self.prune().await && !answer.is_closed() {}
        let _ = answer.send(outcome.map(|(report, _)| report));
    }

    /// A background cull of a table with at most `most` rows. `false` if it has more.
    pub(in super::super) async fn cull_small(&mut self, most: u64) -> bool {
        self.owned.take(); // a full cull does not need to know what was written
        match self.scan(most, None).await {
            Ok((_, whole)) => whole,
            Err(failure) => {
                self.failed(failure);
                true // nothing more can be done now
            }
        }
    }

    /// Deletes expired rows, counts the others, and evicts each prefix of this process down to its limits. It stops
    /// after `most` rows, or if the caller does not wait any more. The flag says whether it saw the whole table.
    async fn scan(
        &mut self,
        most: u64,
        answer: Option<&Answer>,
    ) -> Result<(CullReport, bool), Failure> {
        let mut report = CullReport::default();
        let prefixes = self.owned.prefixes();
        let mut tally = Tally::new(0, prefixes.iter());
        let mut census: HashMap<Vec<u8>, Census> =
            prefixes.into_iter().map(|prefix| (prefix, Census::default())).collect();
        let mut from = Some(0);
        while let Some(at) = from {
            if report.examined > most || is_given_up(answer) {
                return Ok((report, false));
            }
            let rows = self.step(at, STEP as u64).await?;
            report.examined += rows.len() as u64;
            let now_ms = self.shared.clock.now_ms();
            report.expired += self.delete_expired(&rows, now_ms).await?;
            tally.add(&rows);
            for row in rows.iter().filter(|row| row.expires_ms > now_ms) {
                if let Some(census) = census.get_mut(&row.prefix) {
                    census.add(row.born_ms, row.bytes, self.random.random());
                }
            }
            from = following(&rows);
        }
        tally.close();
        self.estimates.push(tally);
        report.evicted = self.evict_excess(census, answer).await?;
        Ok((report, true))
    }

    async fn evict_excess(
        &mut self,
        census: HashMap<Vec<u8>, Census>,
        answer: Option<&Answer>,
    ) -> Result<u64, Failure> {
        let limits = self.limits();
        let mut excess: HashMap<Vec<u8>, Excess> = census
            .into_iter()
            .filter_map(|(prefix, mut census)| {
                let (rows, bytes) = census.excess(&limits);
                let until = census.threshold((rows, bytes))?;
                Some((prefix, Excess { rows, bytes, until }))
            })
            .collect();
        let mut evicted = 0;
        for _ in 0..EVICTION_PASSES {
            evicted += self.evict_pass(&mut excess, answer).await?;
            // in a large table, the threshold came from a sample and may be slightly too low
            excess.retain(|_, excess| excess.is_left());
            excess.values_mut().for_each(|excess| excess.until = u64::MAX);
        }
        Ok(evicted)
    }

    /// One pass over the table that evicts rows over the limits.
    async fn evict_pass(
        &mut self,
        excess: &mut HashMap<Vec<u8>, Excess>,
        answer: Option<&Answer>,
    ) -> Result<u64, Failure> {
        let mut evicted = 0;
        let mut from = Some(0);
        while let Some(at) = from {
            if !excess.values().any(Excess::is_left) || is_given_up(answer) {
                break;
            }
            let rows = self.step(at, STEP as u64).await?;
            let chosen = rows
                .iter()
                .filter(|row| excess.get_mut(&row.prefix).is_some_and(|excess| excess.take(row)))
                .map(|row| row.hash)
                .collect();
            evicted += self.evict(chosen).await?;
            from = following(&rows);
        }
        Ok(evicted)
    }
}

fn is_given_up(answer: Option<&Answer>) -> bool {
    answer.is_some_and(Answer::is_closed)
}

/// How much of a prefix is over its limits, and which rows must go.
struct Excess {
    rows: u64,
    bytes: u64,
    until: u64,
}

impl Excess {
    fn is_left(&self) -> bool {
        self.rows > 0 || self.bytes > 0
    }

    /// Whether this row must go. If so, it is counted.
    fn take(&mut self, row: &Seen) -> bool {
        let goes = self.is_left() && row.born_ms <= self.until;
        if goes {
            self.rows = self.rows.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(row.bytes);
        }
        goes
    }
}

/// Where the step after these rows begins. `None` at the end of the table.
fn following(rows: &[Seen]) -> Option<u128> {
    if rows.len() < STEP {
        return None;
    }
    rows.last()?.hash.checked_add(1)
}
