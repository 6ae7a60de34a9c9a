//! Followers that do not get the response of their leader: it is not for them, too old, or too slow.

use super::*;

on_every_store! {
    async fn an_unshareable_response_releases_all_followers_at_once(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |call, _| {
            Ok(response(200, &[("cache-control", "private")], &call.to_string()))
        });
        let waiting = start(&layer, &app, (0..20).map(|_| get("/", &[]))).await;
        assert_eq!(calls.count(), 1, "they wait for the first");
        gate.let_pass(1);
        eventually("the handler runs for all of them", async || calls.count() == 20).await;
        gate.let_pass(19);
        let mut seen: Vec<u32> = waiting.answers().await.iter().map(|a| a.text().parse().unwrap()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (1..=20).collect::<Vec<_>>(), "each got its own");
        assert_eq!(layer.handle().counts().flights_released, 19);
        let waiting = start_apart(&layer, &app, (0..5).map(|_| get("/", &[]))).await;
        eventually("no request waits in line", async || calls.count() == 25).await;
        gate.let_pass(5);
        waiting.answers().await;
    }

    async fn requests_after_an_invalidation_do_not_get_older_responses(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) =
            gated(&layer, |call, _| Ok(response(200, &[FRESH], if call == 1 { "old" } else { "new" })));
        let before = start(&layer, &app, [get("/", &[])]).await;
        layer.handle().invalidate_uri("/").await.unwrap();
        let after = start(&layer, &app, (0..10).map(|_| get("/", &[]))).await;
        assert_eq!(calls.count(), 2);
        gate.let_pass(2);
        assert_eq!(before.answers().await[0].text(), "old");
        assert!(after.answers().await.iter().all(|answer| answer.text() == "new"));
    }

    async fn after_two_invalidations_followers_call_the_handler(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |_, _| Ok(response(200, &[FRESH], "x")));
        let waiting = start(&layer, &app, (0..6).map(|_| get("/", &[]))).await;
        for calls_so_far in [1, 2, 6] {
            waiting.assert_calls(&layer.handle(), &calls, calls_so_far).await;
            layer.handle().invalidate_uri("/").await.unwrap();
            gate.let_pass(1);
        }
        gate.let_pass(100);
        waiting.answers().await;
    }

    async fn followers_wait_for_a_slow_leader_only_collapse_wait(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.collapse_wait(SECOND / 20));
        let (app, calls, gate) = gated(&layer, |_, _| Ok(response(200, &[], "x")));
        let waiting = start_apart(&layer, &app, (0..4).map(|_| get("/", &[]))).await;
        eventually("all have waited", async || calls.count() == 4).await;
        let timeouts = layer.handle().counts().collapse_timeouts;
        assert!((1..=3).contains(&timeouts), "{timeouts}");
        gate.let_pass(4);
        assert!(waiting.answers().await.iter().all(|answer| answer.text() == "x"));
    }
}

#[tokio::test(start_paused = true)]
async fn followers_wait_5_s_and_keys_are_unshareable_for_2_min() {
    let layer = memory();
    let (app, calls, gate) =
        gated(&layer, |_, _| Ok(response(200, &[("cache-control", "private")], "x")));
    let began = tokio::time::Instant::now();
    let waiting = start(&layer, &app, (0..2).map(|_| get("/", &[]))).await;
    eventually("the follower has waited", async || calls.count() == 2).await;
    let waited = began.elapsed();
    assert!(waited >= 5 * SECOND && waited < 5 * SECOND + SECOND / 10, "{waited:?}");
    gate.let_pass(2);
    waiting.answers().await;
    for (later, expected) in [(119, 3), (2, 1)] {
        tokio::time::advance(later * SECOND).await;
        let before = calls.count();
        let waiting = start_apart(&layer, &app, (0..3).map(|_| get("/", &[]))).await;
        assert_eq!(calls.count() - before, expected);
        gate.let_pass(3);
        waiting.answers().await;
    }
}
