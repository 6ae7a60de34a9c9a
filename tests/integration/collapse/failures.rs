//! Leaders whose handlers fail: who gets the error, and who calls the handler again.

use super::*;

on_every_store! {
    async fn if_the_handler_fails_the_next_follower_leads(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |call, _| match call {
            1 | 2 => Err("broken"),
            _ => Ok(response(200, &[FRESH], "mended")),
        });
        let waiting = start(&layer, &app, (0..20).map(|_| get("/", &[]))).await;
        gate.let_pass(3);
        let all = waiting.outcomes().await;
        let failed = all.iter().filter(|answer| answer.as_ref().unwrap().is_err()).count();
        assert_eq!((failed, calls.count()), (2, 3), "only the two callers got the error");
    }

    async fn a_failing_handler_is_called_twice_for_100_clients(kit: Kit) {
        let layer = kit.layer();
        let is_up = Arc::new(AtomicUsize::new(0));
        let up = Arc::clone(&is_up);
        let (app, calls, gate) = gated(&layer, move |call, _| match up.load(Ordering::SeqCst) {
            0 => Ok(response(503, &[("retry-after", "9")], &call.to_string())),
            _ => Ok(response(200, &[FRESH], "up")),
        });
        let waiting = start(&layer, &app, (0..100).map(|_| get("/", &[]))).await;
        second_call(&layer, &waiting, &calls, &gate).await;
        let answers_down = waiting.answers().await;
        assert!(answers_down.iter().all(|answer| answer.status == StatusCode::SERVICE_UNAVAILABLE));
        assert!(answers_down.iter().all(|answer| answer.field("retry-after") == "9"));
        let shared = answers_down.iter().filter(|answer| answer.cache().is_collapsed());
        // on a busy machine, some requests arrive late
        let down = calls.count();
        assert!(down < 50 && shared.count() == 100 - down, "{down} calls");
        is_up.store(1, Ordering::SeqCst);
        let waiting = start_apart(&layer, &app, (0..20).map(|_| get("/", &[]))).await;
        assert!(waiting.answers().await.iter().all(|answer| answer.text() == "up"));
        assert_eq!(calls.count(), down + 1, "nothing is remembered");
    }

    async fn a_shared_failure_sets_no_cookies(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.strip_set_cookies(&["seen"]));
        let (app, calls, gate) = gated(&layer, |call, _| {
            let cookie = format!("seen={call}");
            Ok(response(503, &[("set-cookie", &cookie)], "down"))
        });
        let waiting = start(&layer, &app, (0..20).map(|_| get("/", &[]))).await;
        second_call(&layer, &waiting, &calls, &gate).await;
        let answers = waiting.answers().await;
        let shared: Vec<_> = answers.iter().filter(|a| a.cache().is_collapsed()).collect();
        assert!(!shared.is_empty());
        assert!(shared.iter().all(|answer| answer.field("set-cookie").is_empty()));
    }

    async fn a_failure_that_may_be_personal_is_not_shared(kit: Kit) {
        let personal: [(CachePolicy, &[(&str, &str)], &[(&str, &str)]); 6] = [
            (MINUTE, &[("set-cookie", "sid=1")], &[]),
            (MINUTE, &[("cache-control", "private")], &[]),
            (MINUTE, &[("cache-control", "no-store")], &[]),
            (MINUTE, &[("vary", "*")], &[]),
            (MINUTE.cookies(Cookies::Bypass), &[], &[("cookie", "sid=1")]),
            (CachePolicy::rfc9111(), &[], &[]),
        ];
        for (n, (policy, fields, asked)) in personal.into_iter().enumerate() {
            let layer = kit.layer().version(n as u32 + 1).with_policy(policy);
            let fields = fields.to_vec();
            let (app, calls, gate) =
                gated(&layer, move |call, _| Ok(response(503, &fields, &call.to_string())));
            let waiting = start(&layer, &app, (0..6).map(|_| get("/", asked))).await;
            assert_eq!(calls.count(), 1, "{n}: they wait for the first");
            gate.let_pass(6);
            let mut seen: Vec<u32> =
                waiting.answers().await.iter().map(|a| a.text().parse().unwrap()).collect();
            seen.sort_unstable();
            assert_eq!(seen, [1, 2, 3, 4, 5, 6], "{n}: each got its own");
        }
    }

    async fn one_refused_request_does_not_disable_collapsing(kit: Kit) {
        for status in [400, 403, 406, 500] {
            let layer = kit.layer().version(status);
            let (app, calls, gate) = gated(&layer, move |_, request| {
                let is_evil = request.headers().contains_key("x-evil");
                Ok(if is_evil { response(status as u16, &[], "no") } else { response(200, &[FRESH], "x") })
            });
            let mut waiting = start(&layer, &app, [get("/", &[("x-evil", "1")])]).await;
            waiting.send(&app, (0..50).map(|_| get("/", &[])));
            followers(&layer, 50..=50).await;
            second_call(&layer, &waiting, &calls, &gate).await;
            let answers = waiting.answers().await;
            assert_eq!(answers[0].text(), "no");
            assert!(answers[1..].iter().all(|answer| answer.text() == "x"), "{status}");
            assert_eq!(calls.count(), 2, "{status}");
        }
    }

    async fn followers_of_a_failure_may_be_served_stale(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |call, _| match call {
            1 => Ok(response(200, &[("cache-control", "max-age=60, stale-if-error=60")], "old")),
            2 => Ok(response(503, &[], "down")),
            _ => Err("broken"),
        });
        gate.let_pass(1);
        send(&app, get("/", &[])).await;
        kit.settle(&layer.handle()).await;
        layer.handle().soft_invalidate_all().await.unwrap();
        for calls_so_far in [2, 3] {
            let waiting = start(&layer, &app, (0..20).map(|_| get("/", &[]))).await;
            gate.let_pass(1);
            assert!(waiting.answers().await.iter().all(|answer| answer.text() == "old"));
            assert_eq!(calls.count(), calls_so_far);
        }
    }

    async fn a_429_does_not_disable_collapsing(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |call, _| match call {
            1 => Ok(response(429, &[], "slow down")),
            _ => Ok(response(200, &[FRESH], "x")),
        });
        gate.let_pass(1);
        send(&app, get("/", &[])).await;
        let waiting = start(&layer, &app, (0..10).map(|_| get("/", &[]))).await;
        gate.let_pass(100);
        waiting.answers().await;
        assert_eq!(calls.count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn if_a_leader_panics_the_next_follower_leads() {
    let layer = memory();
    let (app, calls, gate) = gated(&layer, |call, _| {
        assert!(call > 3, "on purpose");
        Ok(response(200, &[], "x"))
    });
    let waiting = start(&layer, &app, (0..20).map(|_| get("/", &[]))).await;
    gate.let_pass(4);
    let all = waiting.outcomes().await;
    assert_eq!(all.iter().filter(|answer| answer.is_err()).count(), 3, "those who panicked");
    assert!(all.into_iter().flatten().all(|answer| answer.unwrap().text() == "x"));
    assert_eq!(calls.count(), 4);
}

/// Leaders and followers that disconnect at random moments. Handlers fail, panic, or answer for one client only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_thousand_requests_none_hangs() {
    let layer = memory();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let app = layer.layer(tower::service_fn(move |request: Request<()>| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            for _ in 0..call % 7 {
                tokio::task::yield_now().await;
            }
            if request.uri().path() == "/last" {
                return Ok(response(200, &[], "/last"));
            }
            if call % 11 == 3 {
                // a panic that the panic hook does not print
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            let fields: &[(&str, &str)] = if call % 13 == 5 { &[("vary", "x")] } else { &[] };
            match call % 17 {
                4 => Err("broken"),
                9 => Ok(response(503, &[], "down")),
                _ => Ok(response(200, fields, request.uri().path())),
            }
        }
    }));
    for round in 0..50_u64 {
        let requests = (0..200_u64).map(|n| {
            let path = format!("/{round}/{}", n % 3);
            let x = (n % 2).to_string();
            let request = get(&path, &[("x", &x)]);
            let call = app.clone().oneshot(request);
            let patience = if n % 5 == 0 { Duration::from_micros(n * 3) } else { 20 * SECOND };
            tokio::spawn(async move {
                let answer = tokio::time::timeout(patience, call).await;
                match answer {
                    Ok(Ok(response)) if response.status() == StatusCode::OK => {
                        let body = response.into_body().collect().await.unwrap().to_bytes();
                        assert_eq!(body, path.as_bytes());
                        true
                    }
                    Ok(_) => true,
                    Err(_) => patience < SECOND,
                }
            })
        });
        for answer in join_all(requests).await {
            // a panic of the handler reaches only its own caller
            assert!(answer.unwrap_or_else(|error| error.is_panic()), "a request hangs");
        }
    }
    let calls = calls.load(Ordering::SeqCst);
    assert!(calls < 50 * 200 / 2, "{calls} calls");
    assert!(
        send(&app.clone().map_err(|_| "no"), get("/last", &[])).await.cache().forward()
            == Some(Forward::UriMiss)
    );
}
