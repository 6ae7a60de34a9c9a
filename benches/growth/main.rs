//! How does the cost of the cache grow, and what does a stored response cost the database?
//!
//! `scripts/growth` starts the servers, runs this program, and writes what it prints to `benches/GROWTH.md`.
//!
//! ```sh
//! cargo bench --bench growth -- URL PID ROUNDS SECONDS LARGEST PART...
//! ```
//!
//! `URL` and `PID` are those of a private server. `LARGEST` is the largest table, as a power of ten. The parts are
//! `table`, `cull`, `log`, `tags`, `parallel` and `database`. Without arguments, it does nothing.

#[path = "../common/mod.rs"]
mod common;

mod cull;
mod database;
mod fill;
mod load;
mod log;
mod parallel;
mod server;
mod table;
mod tags;
mod variables;

use std::time::Duration;

use common::ok;
use server::Server;
use tokio::runtime::Runtime;

/// What every part is given.
pub(crate) struct Run {
    pub(crate) runtime: Runtime,
    pub(crate) server: Server,
    /// How often each case is measured; tables show medians.
    pub(crate) rounds: usize,
    /// For how long each time.
    pub(crate) time: Duration,
    /// The largest table has ten to this power of rows.
    pub(crate) largest: u32,
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [worker, url, callers, seconds] = &arguments[..]
        && worker == "worker"
    {
        return parallel::worker(url, ok(callers.parse()), ok(seconds.parse()));
    }
    let [url, pid, rounds, seconds, largest, parts @ ..] = &arguments[..] else {
        eprintln!("growth: scripts/growth runs this program");
        return;
    };
    let run = Run {
        runtime: common::runtime(),
        server: Server { url: url.clone(), pid: ok(pid.parse()) },
        rounds: ok(rounds.parse()),
        time: Duration::from_secs_f64(ok(seconds.parse())),
        largest: ok(largest.parse()),
    };
    for part in parts {
        eprintln!("growth: {part} ...");
        match part.as_str() {
            "table" => table::measure(&run),
            "cull" => cull::measure(&run),
            "log" => log::measure(&run),
            "tags" => tags::measure(&run),
            "parallel" => parallel::measure(&run),
            "database" => database::measure(&run),
            other => eprintln!("growth: there is no part {other}"),
        }
    }
}
