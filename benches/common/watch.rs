//! Time as it passes, or as this process uses it.

use std::fs;
use std::time::{Duration, Instant};

/// With `BENCH_TIME=cpu`, the processor time of this process: what a request costs, which a busy machine
/// changes little. (The database's own is not in it.) Else the time that passes.
pub(crate) enum Watch {
    Wall(Instant),
    Cpu(Duration),
}

impl Watch {
    pub(crate) fn start() -> Self {
        match std::env::var("BENCH_TIME").as_deref() {
            Ok("cpu") => Self::Cpu(used()),
            _ => Self::Wall(Instant::now()),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        match self {
            Self::Wall(began) => began.elapsed(),
            // never nothing, which Criterion does not take
            Self::Cpu(before) => used().saturating_sub(*before).max(Duration::from_nanos(1)),
        }
    }
}

/// What all threads of this process have used so far, by the kernel's account.
fn used() -> Duration {
    // the account of a thread is brought up to date when it gives way; all others here are asleep
    std::thread::yield_now();
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of_thread = |thread: fs::DirEntry| -> Option<u64> {
        let figures = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        figures.split(' ').next()?.parse().ok()
    };
    Duration::from_nanos(threads.filter_map(of_thread).sum())
}
