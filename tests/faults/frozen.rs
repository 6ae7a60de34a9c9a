//! The server accepts connections and never answers.

use std::time::{Duration, Instant};

use crate::kit::{Site, WAIT, builder};
use crate::support::{self, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_stopped_for_ten_seconds_costs_only_one_wait() {
    let server = support::own_server(None).await;
    let site = Site::at(server.url()).await;
    site.fill("/").await;
    let since = Instant::now();
    server.stop();
    // requests before the breaker is open wait once each
    site.opens_the_breaker(20).await;
    let waited = site.handle.counts().lookup_errors;
    let mut asked = 0;
    while since.elapsed() < Duration::from_secs(10) {
        let answers = site.get_all((0..20).map(|n| format!("/stopped/{n}"))).await;
        asked += answers.len();
        // a steady load for ten seconds: what is promised is that nothing happens in them
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let counts = site.handle.counts();
    assert_eq!(counts.lookup_errors, waited, "no request has waited since");
    assert_eq!(counts.breaker_closed, 0);
    assert!(asked > 100);
    assert!(site.change("/").await.is_err(), "it cannot be done");
    server.cont();
    site.comes_back().await;
    let counts = site.handle.counts();
    assert_eq!((counts.breaker_opened, counts.breaker_closed), (1, 1), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_breaker_causes_no_waits_and_a_probe_closes_it() {
    let server = support::own_server(None).await;
    // the store itself waits longer than this test takes, so only the breaker helps
    let store = builder(server.url()).query_timeout(Duration::from_secs(60));
    let site = Site::over(store).await;
    site.fill("/").await;
    server.stop();
    // one after another: three waits in total
    for n in 0..3 {
        let answer = site.get(&format!("/{n}")).await;
        assert_eq!(answer.detail, Some("store-error"), "{n}");
        assert!(answer.took >= WAIT);
    }
    assert_eq!(site.handle.counts().lookup_errors, 3);
    site.waits_for_nothing(100).await;
    // without the log, a response that is waiting to be written cannot be checked either
    site.get("/pending").await;
    assert_eq!(site.get("/pending").await.detail, Some("breaker-open"));
    server.cont();
    eventually("a probe is answered", async || {
        site.get("/").await;
        site.handle.counts().breaker_closed == 1
    })
    .await;
    assert!(site.get("/").await.hit, "out of the table");
    site.comes_back().await;
}

/// Without the log, a response of another request cannot be checked. But a response that was made after a request had
/// arrived is as good as its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_database_many_requests_cause_few_calls() {
    let server = support::own_server(None).await;
    let site = Site::at(server.url()).await;
    site.fill("/").await;
    server.stop();
    // the requests that open the breaker wait for the store, and then for one call
    let calls = site.calls();
    for answer in site.get_all((0..20).map(|_| "/slow/first".to_owned())).await {
        assert_eq!(answer.detail, Some("store-error"));
    }
    assert!(site.calls() - calls < 5, "{} calls", site.calls() - calls);
    site.opens_the_breaker(20).await;
    for round in 0..2 {
        let calls = site.calls();
        for answer in site.get_all((0..20).map(|_| "/slow/page".to_owned())).await {
            assert_eq!(answer.detail, Some("breaker-open"), "{round}");
        }
        // one call for the first request, one for the requests that came after this call had started
        assert!(site.calls() - calls < 5, "{round}: {} calls", site.calls() - calls);
    }
    server.cont();
    site.comes_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_stopped_server_puts_are_answered_and_errors_counted() {
    let server = support::own_server(None).await;
    let site = Site::at(server.url()).await;
    site.fill("/page").await;
    server.stop();
    for _ in 0..3 {
        site.put("/page").await;
    }
    assert!(site.handle.counts().invalidation_errors >= 3);
    server.cont();
    site.comes_back().await;
}
