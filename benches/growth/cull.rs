//! How long do hits take while the whole table is culled?

use std::time::{Duration, Instant};

use super::Run;
use super::fill;
use super::load::{Callers, Case, Figures, Pages, load, ratio, table, target};

const POWER: u32 = 6;
const EXPIRED_POWER: u32 = 5;

pub(crate) fn measure(run: &Run) {
    println!("\n## Hits during a full cull\n");
    println!(
        "`CacheHandle::cull` reads all of 10^{POWER} entries, again and again, while four callers send 2,000 requests a \
         second. In the third case, each cull finds 10^{EXPIRED_POWER} expired entries and deletes them."
    );
    let (layer, service) = fill::filled(run, "growth_cull", POWER);
    let pages = Pages::Below(10_u64.pow(POWER));
    let case =
        |name: &str| Case { name: name.to_owned(), service: service.clone(), pages: pages.clone() };
    let cases = [case("no cull"), case("a cull"), case("a cull that deletes")];
    let callers = Callers { count: 4, every: Some(Duration::from_millis(2)) };
    let mut all = vec![Vec::new(); cases.len()];
    let mut culls = Vec::new();
    for _ in 0..run.rounds {
        for (at, (case, figures)) in cases.iter().zip(&mut all).enumerate() {
            if at == 2 {
                fill::copies(run, "growth_cull", EXPIRED_POWER, "/gone/", "1");
            }
            run.rest();
            let handle = layer.handle();
            let task = (at > 0).then(|| {
                run.runtime.spawn(async move {
                    loop {
                        let began = Instant::now();
                        let report = handle.cull().await;
                        eprintln!("growth: {report:?} in {:?}", began.elapsed());
                    }
                })
            });
            figures.push(load(run, &run.runtime, case, callers));
            if let Some(task) = task {
                task.abort();
            }
        }
        let began = Instant::now();
        let report = super::common::ok(run.runtime.block_on(layer.handle().cull()));
        culls.push((began.elapsed(), report.examined, report.expired));
    }
    table("2,000 requests/s", &cases, &all);
    for (at, what) in
        [(1, "p99 during a cull / without"), (2, "p99 during a cull that deletes / without")]
    {
        target(what, ratio(&all, at, |f: &Figures| f.p99), 1.5);
    }
    if let Some((took, examined, _)) = culls.iter().min() {
        println!("\nAlone, a full cull of {examined} entries takes {:.1} s.", took.as_secs_f64());
    }
}
