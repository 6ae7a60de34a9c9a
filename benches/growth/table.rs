//! What does a hit cost in a large table?

use std::sync::Arc;

use super::Run;
use super::common::random;
use super::fill;
use super::load::{Callers, Case, Figures, Pages, load, ratio, rounds, table, target};

/// As many pages as the smallest table has.
const SOME: u64 = 10_000;
const SMALLEST: u32 = 4;

pub(crate) fn measure(run: &Run) {
    println!("\n## Hits in a large table\n");
    println!(
        "The table has 10^4 to 10^{} entries with bodies of 64 bytes. *10^4 of them*: the requests ask for 10,000 pages, \
         which are spread over the whole table. *Any*: they ask for all pages alike, so the server reads pages of the \
         table from disk if the table does not fit into its buffer pool.",
        run.largest
    );
    let mut cases = Vec::new();
    for power in [SMALLEST, 6, 7].into_iter().filter(|power| *power <= run.largest) {
        let name = format!("growth_{power}");
        let (_, service) = fill::filled(run, &name, power);
        let end = 10_u64.pow(power);
        let mut next = random(7);
        let numbers: Arc<[u64]> = match power {
            SMALLEST => (0..SOME).collect(),
            _ => (0..SOME).map(|_| next() % end).collect(),
        };
        let name = if power == SMALLEST { "10^4" } else { &format!("10^{power}, 10^4 of them") };
        let pages = Pages::Some(numbers);
        cases.push(Case { name: name.to_owned(), service: service.clone(), pages });
        if power > SMALLEST {
            let pages = Pages::Below(end);
            cases.push(Case { name: format!("10^{power}, any"), service, pages });
        }
        sizes(run, power);
    }
    run.rest();
    for case in &cases {
        load(run, &run.runtime, case, Callers { count: 64, every: None }); // into the buffer pool
    }
    for count in [1, 64] {
        let all = rounds(run, &cases, Callers { count, every: None });
        table(&format!("entries, {count} callers"), &cases, &all);
        for (at, case) in cases.iter().enumerate().filter(|(_, case)| case.name.contains("of them"))
        {
            let what = format!("{}, {count} callers, p50 / 10^4", case.name);
            target(&what, ratio(&all, at, |f| f.median), 1.2);
            let what = format!("{}, {count} callers, CPU / 10^4", case.name);
            target(&what, ratio(&all, at, Figures::cpu), 1.2);
        }
    }
}

fn sizes(run: &Run, power: u32) {
    let sql = format!(
        "SELECT CAST(data_length AS UNSIGNED), CAST(index_length AS UNSIGNED) FROM information_schema.tables \
         WHERE table_schema = DATABASE() AND table_name = 'growth_{power}'"
    );
    let (data, index) = (run.number(&sql, 0), run.number(&sql, 1));
    println!("\n10^{power} entries: {} MiB of rows, {} MiB of index.", data >> 20, index >> 20);
}
