//! What does a long invalidation log cost?

use std::sync::Arc;
use std::time::{Duration, Instant};

use tower_mysql_cache::CacheLayer;

use super::Run;
use super::common::{assert_hit, body, cached, median, ok};
use super::fill;
use super::load::{Callers, Case, Figures, Pages, load, ratio, rounds, table, target};
use super::server::{connect, cpu};

const POWER: u32 = 6;
const URI: &str = "http://growth.example/log";
const NAMES: [&str; 3] = ["empty log", "10^6 rows, all older", "10^6 rows, all newer"];

/// Table and log of a case.
fn names(case: usize) -> (String, String) {
    (format!("growth_log_entries_{case}"), format!("growth_log_{case}"))
}

pub(crate) fn measure(run: &Run) {
    println!("\n## A long log\n");
    println!(
        "The log has 10^{POWER} rows with different tags. *Older*: the page was stored after them. *Newer*: before them, so \
         more rows are newer than the page than the process remembers. The page has one tag, which no row names."
    );
    for case in 0..NAMES.len() {
        let (entries, log) = names(case);
        if case == 1 {
            rows(run, &entries, &log);
        }
        let store = run.store(&entries, &log);
        let layer = CacheLayer::new(store.clone()).prefix("growth");
        let layer = layer.with_policy(fill::PAGE.tags(&["product:7"]));
        fill::store_page(run, &layer, &cached(&layer, body(1 << 10)), URI);
        run.runtime.block_on(store.close());
        if case == 2 {
            rows(run, &entries, &log);
        }
    }
    run.rest();
    let cases: Vec<_> = NAMES
        .iter()
        .enumerate()
        .map(|(case, name)| {
            let (entries, log) = names(case);
            let layer = CacheLayer::new(run.store(&entries, &log)).prefix("growth");
            let service = cached(&layer.with_policy(fill::PAGE), body(1 << 10));
            Case { name: (*name).to_owned(), service, pages: Pages::One(Arc::from(URI)) }
        })
        .collect();
    settled(run, &cases);
    for count in [1, 64] {
        let all = rounds(run, &cases, Callers { count, every: None });
        table(&format!("hits, 1 KiB, {count} callers"), &cases, &all);
        for (at, name) in NAMES.iter().enumerate().skip(1) {
            target(
                &format!("{name}, p50 / empty log"),
                ratio(&all, at, |f: &Figures| f.median),
                1.2,
            );
        }
    }
    start_up(run);
}

/// Waits until no id of the logs can still get a row, for a minute at most. The rows were inserted by one statement, so
/// the processes must first find out which ids it has left out.
fn settled(run: &Run, cases: &[Case]) {
    let began = Instant::now();
    for (case, of) in cases.iter().enumerate() {
        let (_, log) = names(case);
        let largest =
            run.number(&format!("SELECT CAST(COALESCE(MAX(id), 0) AS UNSIGNED) FROM {log}"), 0);
        let state = format!("SELECT settled FROM {log}_state WHERE id = 1");
        while run.number(&state, 0) < largest && began.elapsed() < Duration::from_secs(60) {
            load(
                run,
                &run.runtime,
                of,
                Callers { count: 1, every: Some(Duration::from_millis(20)) },
            );
        }
    }
    println!(
        "\nThe logs were settled {:.0} s after their rows had been inserted.",
        began.elapsed().as_secs_f64()
    );
}

fn rows(run: &Run, entries: &str, log: &str) {
    drop(run.store(entries, log)); // creates the tables
    let (number, digits) = fill::numbers(run, POWER);
    run.sql(&format!(
        "INSERT INTO {log} (tag) SELECT CONCAT('other:', {number}) FROM {digits};
         DROP TABLE growth_digits"
    ));
}

/// How long does a process need from its start to its first hit?
fn start_up(run: &Run) {
    println!(
        "\n| start of a process | until its first hit, ms | app CPU, ms | server CPU, ms |\n|---|--:|--:|--:|"
    );
    let mut all = vec![Vec::new(); NAMES.len()];
    for _ in 0..run.rounds * 4 {
        for (case, taken) in all.iter_mut().enumerate() {
            let (entries, log) = names(case);
            let (app, server) = (cpu(std::process::id()), cpu(run.server.pid));
            let began = Instant::now();
            run.runtime.block_on(async {
                let store = ok(connect(&run.server.url, &entries, &log).await);
                let layer = CacheLayer::new(store.clone()).prefix("growth");
                assert_hit(&cached(&layer.with_policy(fill::PAGE), body(1)), URI).await;
                let took = began.elapsed();
                store.close().await;
                let used = cpu(std::process::id()).saturating_sub(app);
                taken.push((took, used, cpu(run.server.pid).saturating_sub(server)));
            });
        }
    }
    for (name, taken) in NAMES.iter().zip(&all) {
        let ms = |of: fn(&(Duration, Duration, Duration)) -> Duration| {
            taken.iter().map(move |taken| of(taken).as_secs_f64() * 1e3)
        };
        let mean = |sum: f64| sum / taken.len().max(1) as f64; // the clock of a process counts in 10 ms
        let (app, server) = (mean(ms(|t| t.1).sum()), mean(ms(|t| t.2).sum()));
        println!("| {name} | {:.1} | {app:.1} | {server:.1} |", median(ms(|t| t.0)));
    }
}
