//! Callers that ask for stored responses, and what each lookup took and used.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::Run;
use super::common::{Boxed, get, is_hit, median, ok, random, send};
use super::server::cpu;

/// Pages that are stored, behind one service.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) service: Boxed,
    pub(crate) pages: Pages,
}

/// Which pages are asked for, at random.
#[derive(Clone)]
pub(crate) enum Pages {
    /// One page.
    One(Arc<str>),
    /// The pages with these numbers.
    Some(Arc<[u64]>),
    /// All pages below this number.
    Below(u64),
}

/// The page with this number.
pub(crate) fn page(number: u64) -> String {
    format!("http://growth.example/page/{number:08}")
}

impl Pages {
    pub(crate) fn uri(&self, random: u64) -> String {
        match self {
            Self::One(uri) => uri.to_string(),
            Self::Below(end) => page(random % end),
            Self::Some(numbers) => {
                let at = usize::try_from(random % numbers.len() as u64).unwrap_or_default();
                page(numbers.get(at).copied().unwrap_or_default())
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Callers {
    pub(crate) count: u64,
    /// How long a caller waits between the beginnings of two requests. `None`: not at all.
    pub(crate) every: Option<Duration>,
}

/// What lookups took and used: microseconds of one of them, and how many there were in a second.
#[derive(Clone, Copy, Default)]
pub(crate) struct Figures {
    pub(crate) rate: f64,
    pub(crate) median: f64,
    pub(crate) p99: f64,
    pub(crate) app: f64,
    pub(crate) server: f64,
    /// Requests that were not hits.
    pub(crate) others: u64,
}

impl Figures {
    pub(crate) fn cpu(&self) -> f64 {
        self.app + self.server
    }

    /// The median of each figure.
    pub(crate) fn of(rounds: &[Self]) -> Self {
        let figure = |of: fn(&Self) -> f64| median(rounds.iter().map(of));
        Self {
            rate: figure(|f| f.rate),
            median: figure(|f| f.median),
            p99: figure(|f| f.p99),
            app: figure(|f| f.app),
            server: figure(|f| f.server),
            others: rounds.iter().map(|f| f.others).sum(),
        }
    }
}

/// Requests by callers, each of which sends one after the other.
pub(crate) fn load(run: &Run, runtime: &Runtime, case: &Case, callers: Callers) -> Figures {
    let (app, server) = (cpu(std::process::id()), cpu(run.server.pid));
    let began = Instant::now();
    let (mut taken, others) =
        ok(runtime.block_on(runtime.spawn(all(case.clone(), callers, run.time))));
    let seconds = began.elapsed().as_secs_f64();
    let app = cpu(std::process::id()).saturating_sub(app);
    let server = cpu(run.server.pid).saturating_sub(server);
    taken.sort_unstable();
    let at = |part: f64| {
        let at = (taken.len() as f64 * part) as usize;
        taken.get(at).map_or(0.0, |taken| taken.as_secs_f64() * 1e6)
    };
    let count = taken.len().max(1) as f64;
    Figures {
        rate: count / seconds,
        median: at(0.5),
        p99: at(0.99),
        app: app.as_secs_f64() * 1e6 / count,
        server: server.as_secs_f64() * 1e6 / count,
        others,
    }
}

pub(crate) async fn all(case: Case, callers: Callers, time: Duration) -> (Vec<Duration>, u64) {
    let (mut tasks, end) = (JoinSet::new(), Instant::now() + time);
    for number in 0..callers.count {
        tasks.spawn(caller(case.clone(), callers.every, end, random(number + 1)));
    }
    let (mut taken, mut others) = (Vec::new(), 0);
    while let Some(one) = tasks.join_next().await {
        let one = ok(one);
        taken.extend(one.0);
        others += one.1;
    }
    (taken, others)
}

async fn caller(
    case: Case,
    every: Option<Duration>,
    end: Instant,
    mut random: impl FnMut() -> u64,
) -> (Vec<Duration>, u64) {
    let mut ticks = every.map(tokio::time::interval);
    if let Some(ticks) = &mut ticks {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let (mut taken, mut others) = (Vec::new(), 0);
    while Instant::now() < end {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        let request = get(&case.pages.uri(random()));
        tokio::task::yield_now().await; // a hit in memory never waits, but the other callers get their turns
        let began = Instant::now();
        let response = send(&case.service, request).await;
        taken.push(began.elapsed());
        others += u64::from(!is_hit(&response));
    }
    (taken, others)
}

/// Measures the cases in turn, round after round. Returns the figures of each case, one for each round.
pub(crate) fn rounds(run: &Run, cases: &[Case], callers: Callers) -> Vec<Vec<Figures>> {
    let mut all = vec![Vec::new(); cases.len()];
    for _ in 0..run.rounds {
        for (case, figures) in cases.iter().zip(&mut all) {
            figures.push(load(run, &run.runtime, case, callers));
        }
    }
    all
}

/// A figure of a case as a multiple of that of the first case: the median of the rounds, the smallest and the largest.
pub(crate) fn ratio(all: &[Vec<Figures>], case: usize, of: fn(&Figures) -> f64) -> [f64; 3] {
    let (Some(first), Some(this)) = (all.first(), all.get(case)) else { return [0.0; 3] };
    let ratios: Vec<_> = first.iter().zip(this).map(|(a, b)| of(b) / of(a)).collect();
    let smallest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    [median(ratios.iter().copied()), smallest, ratios.iter().copied().fold(0.0, f64::max)]
}

/// A table with a line for each case, and how often each figure is that of the first case.
pub(crate) fn table(title: &str, cases: &[Case], all: &[Vec<Figures>]) {
    let mut out = format!(
        "\n| {title} | p50, µs | p99, µs | app CPU, µs | server CPU, µs | hits/s | p50 / first | CPU / first |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    for (at, (case, rounds)) in cases.iter().zip(all).enumerate() {
        let f = Figures::of(rounds);
        let [p50, ..] = ratio(all, at, |f| f.median);
        let [cpu, ..] = ratio(all, at, Figures::cpu);
        let _ = writeln!(
            out,
            "| {} | {:.0} | {:.0} | {:.1} | {:.1} | {:.0} | {p50:.2} | {cpu:.2} |",
            case.name, f.median, f.p99, f.app, f.server, f.rate
        );
        if f.others > 0 {
            let _ = writeln!(out, "| (not hits: {}) | | | | | | | |", f.others);
        }
    }
    print!("{out}");
}

/// Whether a ratio is within its limit.
pub(crate) fn target(what: &str, [measured, smallest, largest]: [f64; 3], limit: f64) {
    let met = if measured <= limit { "met" } else { "**missed**" };
    println!(
        "\nTarget: {what} ≤ {limit}. Measured: {measured:.2} (rounds: {smallest:.2} to {largest:.2}): {met}."
    );
}
