//! What followers get, and which requests fly together.

use super::*;

on_every_store! {
    async fn two_hundred_clients_cause_one_handler_call(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |_, _| Ok(response(200, &[FRESH], "hello")));
        let waiting = start(&layer, &app, (0..200).map(|_| get("/", &[]))).await;
        gate.let_pass(1);
        let answers = waiting.answers().await;
        assert_eq!(calls.count(), 1);
        assert!(answers.iter().all(|answer| answer.text() == "hello"));
        let collapsed: Vec<_> = answers.iter().filter(|answer| answer.cache().is_collapsed()).collect();
        // on a busy machine, some requests arrive when the response is already stored
        let late = answers.iter().filter(|answer| answer.is_hit()).count();
        let waited = collapsed.len() as u64;
        assert_eq!(collapsed.len() + late, 199);
        for answer in collapsed {
            assert_eq!(answer.field("cache-status"), "test; fwd=uri-miss; collapsed");
            assert!(answer.field("age").parse::<u64>().unwrap() <= 5);
            assert_eq!(answer.field("content-length"), "5");
            assert!(!answer.is_hit() && !answer.cache().is_stored());
        }
        let counts = layer.handle().counts();
        assert_eq!((counts.flights, counts.collapsed, counts.misses), (1, waited, 1));
        assert!(send(&app, get("/", &[])).await.is_hit());
    }

    async fn followers_get_the_same_as_a_hit(kit: Kit) {
        let etag = ("etag", "\"1\"");
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, move |_, _| Ok(response(200, &[FRESH, etag], "0123456789")));
        let mut waiting = start(&layer, &app, [get("/", &[])]).await;
        waiting.send(&app, [
            request("HEAD", "/", &[]),
            get("/", &[("range", "bytes=2-3")]),
            get("/", &[("range", "bytes=20-")]),
            get("/", &[("if-none-match", "\"1\"")]),
        ]);
        followers(&layer, 4..=4).await;
        gate.let_pass(1);
        let answers = waiting.answers().await;
        let seen: Vec<_> = answers.iter().map(|a| (a.status.as_u16(), a.text())).collect();
        assert_eq!(seen, [(200, "0123456789"), (200, ""), (206, "23"), (416, ""), (304, "")]);
        assert_eq!(answers[1].field("content-length"), "10");
        assert!(answers[1..].iter().all(|answer| answer.cache().is_collapsed()));
        assert_eq!(calls.count(), 1);
    }

    async fn each_variant_has_its_own_flight(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |_, request| {
            let language = request.headers()["accept-language"].to_str().unwrap().to_owned();
            Ok(response(200, &[FRESH, ("vary", "accept-language")], &language))
        });
        let languages = ["en", "de", "fr"];
        let requests = (0..60).map(|n| get("/", &[("accept-language", languages[n % 3])]));
        let waiting = start(&layer, &app, requests).await;
        gate.let_pass(100);
        for (n, answer) in waiting.answers().await.iter().enumerate() {
            assert_eq!(answer.text(), languages[n % 3]);
        }
        assert_eq!(calls.count(), 3);
    }

    async fn requests_with_credentials_have_separate_flights(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.cookies(Cookies::Bypass));
        let (app, calls, gate) = gated(&layer, |_, request| {
            let who = request.headers().get("cookie").map_or("all", |who| who.to_str().unwrap());
            Ok(response(200, &[], who))
        });
        let mut waiting = start(&layer, &app, (0..5).map(|n| get("/", &[("cookie", &format!("s={n}"))]))).await;
        waiting.send(&app, (0..5).map(|_| get("/", &[])));
        followers(&layer, 8..=8).await;
        eventually("one of each kind calls", async || calls.count() == 2).await;
        gate.let_pass(100);
        for (n, answer) in waiting.answers().await.iter().enumerate() {
            assert_eq!(answer.text(), if n < 5 { format!("s={n}") } else { "all".to_owned() });
        }
        assert_eq!(calls.count(), 6, "one for everyone and one each");
    }

    async fn a_leaders_revalidation_answers_its_followers(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |call, _| match call {
            1 => Ok(response(200, &[FRESH, ("etag", "\"1\"")], "kept")),
            _ => Ok(response(304, &[FRESH, ("etag", "\"1\"")], "")),
        });
        gate.let_pass(1);
        send(&app, get("/", &[])).await;
        kit.settle(&layer.handle()).await;
        layer.handle().soft_invalidate_all().await.unwrap();
        let waiting = start(&layer, &app, (0..20).map(|_| get("/", &[]))).await;
        gate.let_pass(1);
        let answers = waiting.answers().await;
        assert!(answers.iter().all(|answer| answer.text() == "kept"));
        let collapsed = answers.iter().filter(|answer| answer.cache().is_collapsed());
        assert_eq!((calls.count(), collapsed.count()), (2, 19));
        assert!(send(&app, get("/", &[])).await.is_hit());
    }

    async fn followers_never_get_the_response_to_another_query(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |call, request| {
            let query = request.uri().query().unwrap_or_default();
            let field = ("no-vary-search", r#"params=("t")"#);
            let fields = [FRESH, field];
            Ok(response(200, if call == 1 { &fields } else { &fields[..1] }, query))
        });
        gate.let_pass(1);
        send(&app, get("/d?id=0&t=1", &[])).await;
        let leader = start(&layer, &app, [get("/d?id=1&t=secret", &[])]).await;
        let followers = start(&layer, &app, (0..10).map(|_| get("/d?id=1", &[]))).await;
        assert_eq!(calls.count(), 2, "they wait, for who knows");
        gate.let_pass(100);
        assert_eq!(leader.answers().await[0].text(), "id=1&t=secret");
        assert!(followers.answers().await.iter().all(|answer| answer.text() == "id=1"));
    }

    async fn collapsing_can_be_switched_off(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.collapse(Collapse::Off));
        let (app, calls, gate) = gated(&layer, |_, _| Ok(response(200, &[], "x")));
        let waiting = start_apart(&layer, &app, (0..20).map(|_| get("/", &[]))).await;
        eventually("the handler runs for all of them", async || calls.count() == 20).await;
        gate.let_pass(20);
        assert!(waiting.answers().await.iter().all(|answer| !answer.cache().is_collapsed()));
    }

    async fn a_condition_for_the_handler_is_not_collapsed(kit: Kit) {
        let layer = kit.layer();
        let (app, calls, gate) = gated(&layer, |_, _| Ok(response(200, &[FRESH], "x")));
        let mut waiting = start(&layer, &app, [get("/", &[])]).await;
        waiting.send(&app, [get("/", &[("if-match", "\"1\"")])]);
        eventually("the handler is called twice", async || calls.count() == 2).await;
        gate.let_pass(2);
        waiting.answers().await;
    }
}
