//! Who permits a stale response, for how long, and what forbids it.

use super::*;

on_every_store! {
    async fn no_stale_response_is_served_without_permission(kit: Kit) {
        let layer = kit.layer().with_policy(SAFE.handler_timeout(SECOND / 100));
        let gate = Gate::closed();
        let steps = [stored("max-age=60"), Say(503, &[], "down"), Fail, Wait(gate.clone(), &[FRESH], "new")];
        let (app, _) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_eq!(send(&app, get("/", &[("cache-control", "stale-if-error=99")])).await.text(), "down");
        assert_eq!(app.clone().oneshot(get("/", &[])).await.unwrap_err(), "broken");
        let waiting = tokio::spawn(app.clone().oneshot(get("/", &[])));
        gate.arrival().await;
        past_the_limit(SECOND / 100).await;
        assert!(!waiting.is_finished(), "the limit is for what has something stale to serve");
        gate.let_pass(1);
        assert_eq!(Answer::of(waiting.await.unwrap().unwrap()).await.text(), "new");
    }

    async fn a_prohibition_of_the_response_cannot_be_overridden(kit: Kit) {
        let window = 600 * SECOND;
        let overrides = CacheOverride::new()
            .stale_while_revalidate(window)
            .stale_if_error(window);
        for (version, forbidding) in
            [(10, "must-revalidate"), (11, "proxy-revalidate"), (12, "no-cache"), (13, "s-maxage=60")]
        {
            for (mode, policy) in [SAFE, STRICT].into_iter().enumerate() {
                let policy = policy
                    .stale_while_revalidate(600 * SECOND)
                    .stale_if_error(600 * SECOND)
                    .handler_timeout(SECOND / 100);
                let layer = kit.layer().version(version * 2 + mode as u32).with_policy(policy);
                let said = format!("max-age=60, {forbidding}, stale-while-revalidate=600, stale-if-error=600");
                let fields = vec![("cache-control", &*said.leak()), OLD, ETAG];
                let gate = Gate::closed();
                let steps = [
                    Override(overrides.clone(), fields.leak(), "old"),
                    Say(503, &[], "down"),
                    Fail,
                    Wait(gate.clone(), &[], "late"),
                ];
                let (app, seen) = handler(&layer, steps);
                send(&app, get("/", &[])).await;
                settled(layer.handle()).await;
                let wanted = [("cache-control", "stale-if-error=600, max-stale")];
                let down = send(&app, get("/", &wanted)).await;
                assert_eq!((down.status.as_u16(), down.text()), (503, "down"), "{forbidding}");
                match app.clone().oneshot(get("/", &wanted)).await {
                    Err(error) => assert_eq!(error, "broken"),
                    Ok(answer) => assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT),
                }
                let late = tokio::spawn(app.clone().oneshot(get("/", &wanted)));
                gate.arrival().await;
        past_the_limit(SECOND / 100).await;
                gate.let_pass(1);
                assert_eq!(Answer::of(late.await.unwrap().unwrap()).await.text(), "late");
                assert_eq!(seen.count(), 4);
            }
        }
    }

    async fn windows_come_from_override_response_and_policy_in_turn(kit: Kit) {
        let policy = SAFE.stale_if_error(30 * SECOND);
        let short = CacheOverride::new().stale_if_error(5 * SECOND);
        let long = CacheOverride::new().stale_if_error(30 * SECOND);
        const SILENT: Fields = &[FRESH, OLD, ETAG];
        const SHORT: Fields = &[("cache-control", "max-age=60, stale-if-error=5"), OLD, ETAG];
        for (version, step, served) in [
            (1, Say(200, SILENT, "old"), true),
            (2, Say(200, SHORT, "old"), false),
            (3, Override(long, SHORT, "old"), true),
            (4, Override(short, SILENT, "old"), false),
        ] {
            let layer = kit.layer().version(version).with_policy(policy);
            let (app, _) = handler(&layer, [step, Say(503, &[], "down")]);
            let first = send(&app, get("/", &[])).await;
            assert!(first.headers.keys().all(|name| !name.as_str().starts_with("tower")));
            settled(layer.handle()).await;
            let answer = send(&app, get("/", &[])).await;
            assert_eq!(answer.text() == "old", served, "{version}");
            assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("tower")));
        }
    }

    async fn an_overrides_window_survives_a_revalidation(kit: Kit) {
        let layer = kit.layer();
        let overrides = CacheOverride::new().stale_if_error(30 * SECOND);
        let steps = [
            Override(overrides, &[FRESH, OLD, ETAG], "old"),
            Say(304, &[FRESH, OLD, ETAG], ""),
            Say(503, &[], "down"),
        ];
        let (app, seen) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_eq!(send(&app, get("/", &[])).await.text(), "old");
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("/", &[])).await, "stale-if-error");
        assert_eq!(seen.count(), 3);
    }

    async fn a_field_named_by_no_cache_is_not_served_stale(kit: Kit) {
        let layer = kit.layer();
        let steps = [
            stored("max-age=60, no-cache=\"x-a\", stale-while-revalidate=30, stale-if-error=30"),
            Fail,
        ];
        let (app, _) = handler(&layer, steps);
        assert_eq!(send(&app, get("/", &[])).await.field("x-a"), "1");
        settled(layer.handle()).await;
        let stale = send(&app, get("/", &[])).await;
        assert_stale(&stale, "stale-while-revalidate");
        assert_eq!(stale.field("x-a"), "");
    }

    async fn an_invalid_response_is_not_served_stale(kit: Kit) {
        let layer = kit.layer();
        let steps = [
            stored("max-age=60, stale-while-revalidate=30, stale-if-error=30"),
            Say(503, &[], "down"),
        ];
        let (app, _) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        layer.handle().invalidate_uri("/").await.unwrap();
        assert_eq!(send(&app, get("/", &[])).await.text(), "down");
    }
}

/// A clock that the test drives, so that a response becomes stale at an exact time.
#[tokio::test]
async fn a_window_ends_exactly_at_its_second() {
    let clock = ManualClock::at(1_768_435_200_000);
    let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
    let layer = over(store);
    const BOTH: Fields =
        &[("cache-control", "max-age=60, stale-while-revalidate=10, stale-if-error=20")];
    let (app, seen) =
        handler(&layer, [Say(200, BOTH, "old"), Fail, Fail, Fail, Say(503, &[], "down")]);
    send(&app, get("/", &[])).await;
    for (advance, ttl, why, calls) in [
        (59, 1, None, 1),
        (1, 0, Some("stale-while-revalidate"), 2),
        (10, -10, Some("stale-while-revalidate"), 3),
        (10, -20, Some("inner-error"), 4),
    ] {
        clock.advance(advance * SECOND);
        let answer = send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_eq!((answer.text(), answer.cache().ttl_secs()), ("old", Some(ttl)));
        assert_eq!(answer.field("age"), (60 - ttl).to_string());
        assert_eq!((answer.reason(), seen.count()), (why, calls));
    }
    clock.advance(SECOND);
    assert_eq!(send(&app, get("/", &[])).await.text(), "down");
}
