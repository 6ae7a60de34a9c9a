//! Sends the requests, shows the answers, and checks that they are as the headings announce.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crate::Node;
use crate::browser::{Answer, Ask, Browser};
use crate::shop::Goods;
use crate::table;

pub(crate) struct Driver {
    browser: Browser,
    goods: Arc<Goods>,
    pub(crate) requests: u64,
    /// The time of each hit; `misses` has the time of each miss.
    hits: Vec<Duration>,
    misses: Vec<Duration>,
    failures: Vec<String>,
}

impl Driver {
    pub(crate) fn new(goods: Arc<Goods>) -> Self {
        let (hits, misses, failures) = (Vec::new(), Vec::new(), Vec::new());
        Self { browser: Browser::new(), goods, requests: 0, hits, misses, failures }
    }

    /// Sends a request to a node, shows the answer and checks it.
    pub(crate) async fn send(&mut self, node: &Node, ask: Ask) -> Result<Answer, Box<dyn Error>> {
        let calls = self.goods.calls();
        let answer = self.browser.send(node.address, &ask).await?;
        let calls = self.goods.calls() - calls;
        self.requests += 1;
        table::row(&ask, &answer);

        let what = format!("{} {}", ask.method, ask.target);
        let status = table::cache_status(&answer);
        self.check(answer.status == ask.status, || format!("{what} answers {}", answer.status));
        for expected in ask.expects {
            let found = status.contains(expected);
            self.check(found, || format!("{what} should say '{expected}', but says '{status}'"));
        }
        let begins = answer.body.starts_with(ask.shows.as_bytes());
        self.check(begins, || format!("the body of {what} does not begin with '{}'", ask.shows));
        // the handlers count their calls, so that a wrong Cache-Status is noticed
        let is_hit = status.contains("; hit");
        if is_hit {
            self.hits.push(answer.took);
            self.check(calls == 0, || format!("{what} is said to be a hit, but a handler ran"));
            let has_age = answer.headers.contains_key("age");
            self.check(has_age, || format!("{what} is a hit without an Age"));
        } else {
            if status.contains("-miss") {
                self.misses.push(answer.took);
            }
            self.check(calls == 1, || format!("{what} is no hit, and {calls} handlers ran"));
        }
        Ok(answer)
    }

    /// Prints `otherwise` at once if `holds` is false, and keeps it for the end.
    pub(crate) fn check(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            let failure = otherwise();
            println!("  !! {failure}");
            self.failures.push(failure);
        }
    }

    /// The median times of hits and misses, in milliseconds.
    pub(crate) fn medians(&mut self) -> (f64, f64) {
        (median_ms(&mut self.hits), median_ms(&mut self.misses))
    }

    /// Whether everything was as announced. If not, prints the differences.
    pub(crate) fn end(&self) -> bool {
        if self.failures.is_empty() {
            println!("\nEverything was as announced.");
        } else {
            println!("\nNOT as announced:");
            for failure in &self.failures {
                println!("  !! {failure}");
            }
        }
        self.failures.is_empty()
    }
}

fn median_ms(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}
