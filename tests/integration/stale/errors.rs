//! Stale responses instead of errors and of slow answers.

use super::*;

/// The stale response to a request whose handler is slow. The handler's later response is stored.
async fn answered_for(kit: &Kit, fields: &[(&str, &str)]) -> Answer {
    let policy = SAFE.stale_if_error(30 * SECOND).handler_timeout(SECOND / 50);
    let layer = kit.layer().with_policy(policy);
    let gate = Gate::closed();
    let (app, seen) = handler(&layer, [stored("max-age=60"), Wait(gate.clone(), &[FRESH], "new")]);
    send(&app, get("/", &[])).await;
    settled(layer.handle()).await;
    let stale = send(&app, get("/", fields)).await;
    gate.let_pass(1);
    settled(layer.handle()).await;
    let fresh = send(&app, get("/", &[])).await;
    assert_eq!((fresh.is_hit(), fresh.text(), seen.count()), (true, "new", 2));
    stale
}

on_every_store! {
    async fn a_stale_response_is_served_instead_of_an_error(kit: Kit) {
        let layer = kit.layer();
        let mut steps = vec![stored("max-age=60, stale-if-error=30"), Fail];
        steps.extend([500, 502, 503, 504].map(|status| Say(status, &[], "down")));
        let (app, seen) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("/", &[])).await, "inner-error");
        for _ in 0..4 {
            assert_stale(&send(&app, get("/", &[])).await, "stale-if-error");
        }
        assert_eq!((seen.count(), layer.handle().counts().stale_if_error), (6, 5));
        let condition = send(&app, get("/", &[("if-none-match", "\"1\"")])).await;
        assert_eq!(condition.status, StatusCode::NOT_MODIFIED);
    }

    async fn other_errors_are_passed_on(kit: Kit) {
        let layer = kit.layer();
        let mut steps = vec![stored("max-age=60, stale-if-error=30")];
        steps.extend([404, 501, 505, 429].map(|status| Say(status, &[], "no")));
        let (app, _) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        for status in [404, 501, 505, 429] {
            let answer = send(&app, get("/", &[])).await;
            assert_eq!((answer.status.as_u16(), answer.text()), (status, "no"));
        }
    }

    async fn after_the_window_the_error_is_passed_on(kit: Kit) {
        let layer = kit.layer();
        let steps = [stored("max-age=60, stale-if-error=9"), Say(503, &[], "down"), Fail];
        let (app, _) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        let answer = send(&app, get("/", &[])).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (503, "down"));
        assert_eq!(app.clone().oneshot(get("/", &[])).await.unwrap_err(), "broken");
    }

    async fn in_strict_mode_must_revalidate_and_an_error_are_a_504(kit: Kit) {
        for (version, said) in [(1, "must-revalidate"), (2, "proxy-revalidate"), (3, "s-maxage=60")] {
            let layer = kit.layer().version(version).with_policy(STRICT);
            let said = format!("max-age=60, {said}").leak();
            let (app, _) = handler(&layer, [stored(said), Fail]);
            send(&app, get("/", &[])).await;
            settled(layer.handle()).await;
            let answer = send(&app, get("/", &[])).await;
            assert_eq!((answer.status, answer.body.len()), (StatusCode::GATEWAY_TIMEOUT, 0));
            assert_eq!(answer.field("cache-status"), "", "RFC 9211 2");
            assert_eq!(answer.reason(), Some("must-revalidate"));
        }
        let layer = kit.layer().version(9);
        let (app, _) = handler(&layer, [stored("max-age=60, must-revalidate"), Fail]);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_eq!(app.clone().oneshot(get("/", &[])).await.unwrap_err(), "broken");
    }

    async fn in_strict_mode_a_handler_error_is_answered_stale(kit: Kit) {
        let layer = kit.layer().with_policy(STRICT);
        let fields = [FRESH, OLD];
        let steps =
            [stored("max-age=60"), Fail, Say(503, &[], "down"), Say(200, fields.to_vec().leak(), "x")];
        let (app, _) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("/", &[])).await, "inner-error");
        assert_eq!(send(&app, get("/", &[])).await.text(), "down", "an answer is an answer");
        assert_eq!(send(&app, get("/", &[("cache-control", "no-cache")])).await.text(), "x");
    }

    async fn in_strict_mode_a_request_can_permit_stale_if_error(kit: Kit) {
        let layer = kit.layer().with_policy(STRICT);
        let steps = [stored("max-age=60"), Say(503, &[], "down"), Say(503, &[], "down")];
        let (app, _) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        let short = send(&app, get("/", &[("cache-control", "stale-if-error=9")])).await;
        assert_eq!(short.text(), "down");
        let long = send(&app, get("/", &[("cache-control", "stale-if-error=30")])).await;
        assert_stale(&long, "stale-if-error");
    }

    async fn a_slow_handler_is_answered_stale_and_continues(kit: Kit) {
        assert_stale(&answered_for(&kit, &[]).await, "handler-timeout");
    }

    async fn a_slow_range_request_stores_the_whole_response(kit: Kit) {
        let part = answered_for(&kit, &[("range", "bytes=0-0")]).await;
        assert_eq!((part.status.as_u16(), part.text()), (206, "o"));
    }

    async fn a_page_invalidated_during_a_slow_handler_is_not_served(kit: Kit) {
        let policy = SAFE.stale_if_error(30 * SECOND).handler_timeout(SECOND / 2);
        let layer = kit.layer().with_policy(policy);
        let gate = Gate::closed();
        let (app, _) = handler(&layer, [stored("max-age=60"), Wait(gate.clone(), &[FRESH], "new")]);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        let asked = app.clone();
        let waiting = tokio::spawn(async move { send(&asked, get("/", &[])).await });
        gate.arrival().await;
        layer.handle().invalidate_uri("/").await.unwrap();
        past_the_limit(SECOND / 2).await;
        assert!(!waiting.is_finished(), "nothing happens when the limit is over");
        gate.let_pass(1);
        assert_eq!(waiting.await.unwrap().text(), "new");
    }

    async fn a_slow_handler_is_dropped_if_no_refresh_slot_is_free(kit: Kit) {
        let policy = SAFE.stale_if_error(30 * SECOND).handler_timeout(SECOND / 50);
        let layer = kit.layer().max_refreshes(0).with_policy(policy);
        let (app, _) = handler(&layer, [stored("max-age=60"), Hang, Say(200, &[FRESH], "new")]);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("/", &[])).await, "handler-timeout");
        assert_eq!(layer.handle().counts().refreshes_shed, 1);
        assert_eq!(send(&app, get("/", &[])).await.text(), "new");
    }
}
