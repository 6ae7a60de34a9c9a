//! Stale responses that are served while one request refreshes them.

use super::*;

on_every_store! {
    async fn a_stale_page_is_served_while_one_request_refreshes(kit: Kit) {
        let layer = kit.layer();
        let steps = [
            stored("max-age=60, stale-while-revalidate=30"),
            Say(304, &[FRESH, ETAG, ("x-a", "2")], ""),
        ];
        let (app, seen) = handler(&layer, steps);
        assert!(send(&app, get("/", &[])).await.cache().is_stored());
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("/", &[])).await, "stale-while-revalidate");
        settled(layer.handle()).await;
        assert_eq!(seen.last().headers["if-none-match"], "\"1\"");
        let fresh = send(&app, get("/", &[])).await;
        assert!(fresh.is_hit() && fresh.reason().is_none());
        assert_eq!((fresh.text(), fresh.field("x-a")), ("old", "2".to_owned()));
        assert_eq!(seen.count(), 2);
        let counts = layer.handle().counts();
        assert_eq!((counts.hits, counts.stale_while_revalidate, counts.refreshes), (2, 1, 1));
        assert_eq!(counts.refresh_failures, 0);
        assert_eq!(layer.handle().reasons()["stale-while-revalidate"], 1);
    }

    async fn without_a_validator_the_refresh_fetches_the_whole_page(kit: Kit) {
        let layer = kit.layer();
        let old = [("cache-control", "max-age=0, stale-while-revalidate=30")];
        let steps = [Say(200, old.to_vec().leak(), "old"), Say(200, &[FRESH], "new")];
        let (app, seen) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_eq!(send(&app, get("/", &[("range", "bytes=0-0")])).await.text(), "o");
        settled(layer.handle()).await;
        assert!(!seen.last().headers.contains_key("range"), "the whole response is stored");
        let fresh = send(&app, get("/", &[])).await;
        assert_eq!((fresh.is_hit(), fresh.text(), seen.count()), (true, "new", 2));
    }

    async fn a_handler_in_a_refresh_may_flush(kit: Kit) {
        let layer = kit.layer();
        let handle = layer.handle();
        let app = layer.layer(tower::service_fn(move |_: Request<()>| {
            let handle = handle.clone();
            async move {
                handle.flush().await.unwrap();
                let fields = [("cache-control", "max-age=0, stale-while-revalidate=600")];
                Ok::<_, &'static str>(response(200, &fields, "x"))
            }
        }));
        for _ in 0..3 {
            send(&app, get("/", &[])).await;
            settled(layer.handle()).await;
        }
        let counts = layer.handle().counts();
        assert_eq!((counts.refreshes, counts.refresh_failures), (2, 0));
    }

    async fn one_refresh_runs_for_all_stale_hits(kit: Kit) {
        let layer = kit.layer();
        let gate = Gate::closed();
        let steps =
            [stored("max-age=60, stale-while-revalidate=30"), Wait(gate.clone(), &[FRESH, ETAG], "new")];
        let (app, seen) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        for _ in 0..50 {
            assert_stale(&send(&app, get("/", &[])).await, "stale-while-revalidate");
        }
        gate.let_pass(1);
        settled(layer.handle()).await;
        assert_eq!(send(&app, get("/", &[])).await.text(), "new");
        assert_eq!((seen.count(), layer.handle().counts().refreshes), (2, 1));
    }

    async fn after_the_window_a_stale_response_is_not_served(kit: Kit) {
        let layer = kit.layer();
        let steps = [
            stored("max-age=60, stale-while-revalidate=9"),
            Say(200, &[FRESH], "new"),
        ];
        let (app, seen) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        let answer = send(&app, get("/", &[])).await;
        assert_eq!((answer.text(), answer.cache().forward()), ("new", Some(Forward::Stale)));
        assert_eq!(seen.count(), 2);
    }

    async fn a_failed_refresh_keeps_the_stored_response(kit: Kit) {
        let layer = kit.layer();
        let failing = [("cache-control", "max-age=60")];
        let steps = [
            stored("max-age=60, stale-while-revalidate=30"),
            Fail,
            Say(503, failing.to_vec().leak(), "down"),
            Say(200, &[FRESH], "new"),
        ];
        let (app, seen) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        for _ in 0..3 {
            settled(layer.handle()).await;
            assert_stale(&send(&app, get("/", &[])).await, "stale-while-revalidate");
        }
        settled(layer.handle()).await;
        assert_eq!((send(&app, get("/", &[])).await.text(), seen.count()), ("new", 4));
        let counts = layer.handle().counts();
        assert_eq!((counts.refreshes, counts.refresh_failures), (3, 2));
    }

    async fn refreshes_over_the_limit_are_shed_and_counted(kit: Kit) {
        let layer = kit.layer().max_refreshes(0);
        let (app, seen) = handler(&layer, [stored("max-age=60, stale-while-revalidate=30")]);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("/", &[])).await, "stale-while-revalidate");
        let counts = layer.handle().counts();
        assert_eq!((seen.count(), counts.refreshes, counts.refreshes_shed), (1, 0, 1));
    }

    async fn a_stale_head_or_304_is_refreshed_as_a_get(kit: Kit) {
        for (method, fields, status) in
            [("HEAD", &[][..], 200), ("GET", &[("if-none-match", "\"1\"")], 304)]
        {
            let layer = kit.layer().version(status);
            let steps =
                [stored("max-age=60, stale-while-revalidate=30"), Say(200, &[FRESH], "new")];
            let (app, seen) = handler(&layer, steps);
            send(&app, get("/", &[])).await;
            settled(layer.handle()).await;
            let answer = send(&app, request(method, "/", fields)).await;
            assert_eq!((u32::from(answer.status.as_u16()), answer.body.len()), (status, 0));
            assert!(answer.is_hit());
            settled(layer.handle()).await;
            assert_eq!(seen.last().method, Method::GET);
            assert_eq!(send(&app, get("/", &[])).await.text(), "new");
        }
    }

    async fn a_404_on_refresh_ends_stale_hits(kit: Kit) {
        let layer = kit.layer();
        let steps = [
            stored("max-age=60, stale-while-revalidate=30"),
            Say(404, &[], "gone"),
            Say(404, &[], "gone"),
        ];
        let (app, _) = handler(&layer, steps);
        send(&app, get("http://h/", &[])).await;
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("http://h/", &[])).await, "stale-while-revalidate");
        settled(layer.handle()).await;
        let found = async || layer.handle().inspect("http://h/").await.unwrap();
        eventually("it is deleted", async || found().await.is_empty()).await;
        assert_eq!(send(&app, get("http://h/", &[])).await.text(), "gone");
    }

    async fn an_invalidation_during_a_refresh_is_not_undone(kit: Kit) {
        let layer = kit.layer();
        let gate = Gate::closed();
        let steps = [
            stored("max-age=60, stale-while-revalidate=30"),
            Wait(gate.clone(), &[FRESH], "too old"),
            Say(200, &[FRESH], "new"),
        ];
        let (app, _) = handler(&layer, steps);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        assert_stale(&send(&app, get("/", &[])).await, "stale-while-revalidate");
        gate.arrival().await;
        layer.handle().invalidate_uri("/").await.unwrap();
        gate.let_pass(1);
        settled(layer.handle()).await;
        assert_eq!(send(&app, get("/", &[])).await.text(), "new");
    }

    async fn a_request_that_cannot_be_stored_starts_no_refresh(kit: Kit) {
        let layer = kit.layer();
        let (app, seen) = handler(&layer, [stored("max-age=60, stale-while-revalidate=30")]);
        send(&app, get("/", &[])).await;
        settled(layer.handle()).await;
        for directive in ["no-store", "only-if-cached"] {
            let answer = send(&app, get("/", &[("cache-control", directive)])).await;
            assert_stale(&answer, "stale-while-revalidate");
        }
        settled(layer.handle()).await;
        assert_eq!((seen.count(), layer.handle().counts().refreshes), (1, 0));
    }

    async fn a_slow_response_is_refreshed_before_it_is_stale(kit: Kit) {
        let layer = kit.layer().with_policy(SAFE.early_refresh(100.0));
        let gate = Gate::closed();
        // two seconds before it is stale; the handler took 50 ms, which is multiplied by 100
        let fields = [FRESH, ("age", "50"), ETAG];
        let steps = [Wait(gate.clone(), fields.to_vec().leak(), "old"), Say(304, &[FRESH, ETAG], "")];
        let (app, seen) = handler(&layer, steps);
        let first = tokio::spawn(app.clone().oneshot(get("/", &[])));
        gate.arrival().await;
        // the time that the handler takes
        tokio::time::sleep(SECOND / 20).await;
        gate.let_pass(1);
        Answer::of(first.await.unwrap().unwrap()).await;
        for n in 0.. {
            assert!(n < 10_000, "no request did it");
            let answer = send(&app, get("/", &[])).await;
            assert!(answer.is_hit() && answer.cache().ttl_secs() >= Some(0), "{answer:?}");
            if seen.count() == 2 || layer.handle().counts().early_refreshes == 1 {
                break;
            }
        }
        settled(layer.handle()).await;
        assert!(send(&app, get("/", &[])).await.cache().ttl_secs() > Some(50), "it has been renewed");
    }
}

/// RFC 5861 3 without a runtime: a background refresh is not possible, so the request itself calls the handler.
#[test]
fn without_a_runtime_the_request_itself_revalidates() {
    let layer = in_memory();
    let steps = [stored("max-age=60, stale-while-revalidate=30"), Say(200, &[FRESH], "new")];
    let (app, _) = handler(&layer, steps);
    let answer = || {
        let mut task = Box::pin(app.clone().oneshot(get("/", &[])));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        loop {
            if let std::task::Poll::Ready(answer) = task.as_mut().poll(&mut cx) {
                break answer.unwrap();
            }
        }
    };
    answer();
    let status = answer().extensions().get::<CacheStatus>().cloned().unwrap();
    assert_eq!(status.forward(), Some(Forward::Stale));
}
