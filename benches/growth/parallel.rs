//! Do several processes, or many threads, cost more for each hit?

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tower_mysql_cache::store::Store;
use tower_mysql_cache::{CacheLayer, MemoryStore};

use super::Run;
use super::common::{Boxed, assert_hit, body, cached, median, ok};
use super::fill;
use super::load::{Callers, Case, Figures, Pages, all, load, ratio, table};
use super::server::{connect, cpu};

const URI: &str = "http://growth.example/parallel";
/// Callers in each process.
const CALLERS: u64 = 32;
const NAMES: (&str, &str) = ("growth_parallel", "growth_parallel_log");

pub(crate) fn measure(run: &Run) {
    let (layer, service) = page(&run.runtime, run.store(NAMES.0, NAMES.1));
    fill::store_page(run, &layer, &service, URI);
    run.rest();
    processes(run);
    threads(run);
}

fn page<S: Store>(runtime: &Runtime, store: S) -> (CacheLayer<S>, Boxed) {
    let _entered = runtime.enter();
    let layer = CacheLayer::new(store).prefix("growth").with_policy(fill::PAGE);
    let service = cached(&layer, body(1 << 10));
    (layer, service)
}

/// A process of its own: says when it is ready, waits for a line, and prints how many hits it had and its CPU time.
pub(crate) fn worker(url: &str, callers: u64, seconds: f64) {
    let runtime = ok(Builder::new_multi_thread().worker_threads(2).enable_all().build());
    let store = ok(runtime.block_on(connect(url, NAMES.0, NAMES.1)));
    let (_, service) = page(&runtime, store);
    runtime.block_on(assert_hit(&service, URI));
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
    let used = cpu(std::process::id());
    let case = Case { name: String::new(), service, pages: Pages::One(Arc::from(URI)) };
    let callers = Callers { count: callers, every: None };
    let work = all(case, callers, Duration::from_secs_f64(seconds));
    let (mut taken, _) = ok(runtime.block_on(runtime.spawn(work)));
    taken.sort_unstable();
    let used = cpu(std::process::id()).saturating_sub(used);
    let p50 = taken.get(taken.len() / 2).copied().unwrap_or_default();
    println!("{} {} {}", taken.len(), used.as_micros(), p50.as_micros());
}

fn processes(run: &Run) {
    println!("\n## Several processes\n");
    println!(
        "Each process has {CALLERS} callers and two threads. The processes, their callers and the server share the cores of \
         the machine, so the figure to compare is the CPU of a hit."
    );
    let counts = [1, 2, 4];
    let mut rounds = vec![Vec::new(); counts.len()];
    for _ in 0..run.rounds {
        for (count, rounds) in counts.iter().zip(&mut rounds) {
            rounds.push(together(run, *count));
        }
    }
    println!(
        "\n| processes | hits/s | p50, µs | app CPU, µs | server CPU, µs | CPU / first |\n|---|--:|--:|--:|--:|--:|"
    );
    for (at, (count, figures)) in counts.iter().zip(&rounds).enumerate() {
        let f = Figures::of(figures);
        let [cpu, ..] = ratio(&rounds, at, Figures::cpu);
        println!(
            "| {count} | {:.0} | {:.0} | {:.1} | {:.1} | {cpu:.2} |",
            f.rate, f.median, f.app, f.server
        );
    }
}

fn together(run: &Run, count: usize) -> Figures {
    let mut workers: Vec<Child> = (0..count).map(|_| spawn(run)).collect();
    let mut outputs: Vec<_> = workers
        .iter_mut()
        .filter_map(|worker| worker.stdout.take())
        .map(|output| BufReader::new(output).lines())
        .collect();
    for output in &mut outputs {
        let _ = output.next();
    }
    let server = cpu(run.server.pid);
    for worker in &mut workers {
        if let Some(mut input) = worker.stdin.take() {
            let _ = input.write_all(b"\n");
        }
    }
    let mut sums = Vec::new();
    for output in &mut outputs {
        let line = output.next().and_then(Result::ok).unwrap_or_default();
        sums.push(line.split(' ').filter_map(|n| n.parse::<f64>().ok()).collect::<Vec<_>>());
    }
    let server = cpu(run.server.pid).saturating_sub(server);
    for worker in &mut workers {
        let _ = worker.wait();
    }
    let column = |at: usize| sums.iter().filter_map(move |line| line.get(at).copied());
    let hits = column(0).sum::<f64>().max(1.0);
    Figures {
        rate: hits / run.time.as_secs_f64(),
        median: median(column(2)),
        app: column(1).sum::<f64>() / hits,
        server: server.as_secs_f64() * 1e6 / hits,
        ..Figures::default()
    }
}

fn spawn(run: &Run) -> Child {
    let program = ok(std::env::current_exe());
    let seconds = run.time.as_secs_f64().to_string();
    let mut command = Command::new(program);
    command.args(["worker", &run.server.url, &CALLERS.to_string(), &seconds]);
    ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn())
}

fn threads(run: &Run) {
    println!("\n## Many threads\n");
    println!(
        "64 callers in one process. With more threads than cores, they contend for the same locks more often."
    );
    let runtimes = [1, 2, 16].map(|threads| {
        let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build();
        (threads, ok(runtime))
    });
    let callers = Callers { count: 64, every: None };
    for name in ["MemoryStore", "MySqlStore"] {
        let cases: Vec<_> = runtimes
            .iter()
            .map(|(threads, runtime)| {
                let service = if name == "MemoryStore" {
                    let (layer, service) = page(runtime, MemoryStore::new());
                    fill::store_page(run, &layer, &service, URI);
                    service
                } else {
                    page(runtime, ok(runtime.block_on(connect(&run.server.url, NAMES.0, NAMES.1))))
                        .1
                };
                let name = format!("{threads} threads");
                Case { name, service, pages: Pages::One(Arc::from(URI)) }
            })
            .collect();
        let mut figures = vec![Vec::new(); cases.len()];
        for _ in 0..run.rounds {
            for ((case, (_, runtime)), figures) in cases.iter().zip(&runtimes).zip(&mut figures) {
                figures.push(load(run, runtime, case, callers));
            }
        }
        table(name, &cases, &figures);
    }
    for (_, runtime) in runtimes {
        runtime.shutdown_background();
    }
}
