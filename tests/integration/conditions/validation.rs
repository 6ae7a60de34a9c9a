//! Stored responses that the handler confirms, changes or ends.

use super::*;

on_every_store! {
    async fn a_stale_response_is_revalidated_and_freshened(kit: Kit) {
        let layer = kit.layer();
        let freshened = vec![FRESH, ETAG, ("x-new", "1"), ("content-length", "99")];
        let (app, seen) = scripted(&layer, vec![
            (200, vec![STALE, ETAG, MODIFIED, ("x-old", "1"), ("x-new", "0")], "hello"),
            (304, freshened, ""),
        ]);
        with(&app, &[]).await;
        layer.handle().flush().await.unwrap();
        let validated = with(&app, &[("if-none-match", "\"theirs\"")]).await;
        assert_eq!((validated.status, validated.text()), (StatusCode::OK, "hello"));
        assert_eq!(validated.field("cache-status"), "test; fwd=stale; fwd-status=304");
        assert_eq!(seen.fields(1)["if-none-match"], "\"1\"");
        assert_eq!(seen.fields(1)["if-modified-since"], MODIFIED.1);
        for _ in 0..2 {
            let hit = with(&app, &[]).await;
            assert!(hit.is_hit());
            assert_eq!(hit.text(), "hello");
            assert_eq!((hit.field("x-old").as_str(), hit.field("x-new").as_str()), ("1", "1"));
            assert_eq!(hit.field("content-length"), "5");
            layer.handle().flush().await.unwrap();
        }
        assert_eq!(seen.count(), 2);
    }

    async fn a_client_with_the_revalidated_response_gets_a_304(kit: Kit) {
        let (app, _) = scripted(&kit.layer(), vec![(200, vec![STALE, ETAG], "x"), (304, vec![ETAG], "")]);
        with(&app, &[]).await;
        let answer = with(&app, &[("if-none-match", "\"1\"")]).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_MODIFIED, 0));
    }

    async fn a_changed_response_replaces_the_stale_one(kit: Kit) {
        let (app, _) = scripted(&kit.layer(), vec![
            (200, vec![STALE, ETAG], "old"),
            (200, vec![FRESH, ("etag", "\"2\"")], "new"),
        ]);
        with(&app, &[]).await;
        let answer = with(&app, &[]).await;
        assert_eq!((answer.text(), answer.cache().forward()), ("new", Some(Forward::Stale)));
        let hit = with(&app, &[]).await;
        assert_eq!((hit.text(), hit.is_hit()), ("new", true));
    }

    async fn a_failed_revalidation_keeps_the_stored_response(kit: Kit) {
        let (app, _) = scripted(&kit.layer(), vec![
            (200, vec![STALE, ETAG], "old"),
            (503, vec![], "down"),
            (304, vec![FRESH, ETAG], ""),
        ]);
        with(&app, &[]).await;
        assert_eq!(with(&app, &[]).await.text(), "down");
        assert_eq!(with(&app, &[]).await.text(), "old");
        assert!(with(&app, &[]).await.is_hit());
    }

    async fn a_304_for_another_response_updates_nothing(kit: Kit) {
        let (app, _) = scripted(&kit.layer(), vec![
            (200, vec![STALE, ETAG], "old"),
            (304, vec![FRESH, ("etag", "\"2\"")], ""),
        ]);
        with(&app, &[]).await;
        let answer = with(&app, &[]).await;
        assert_eq!((answer.text(), answer.field("etag").as_str()), ("old", "\"1\""));
        assert!(!with(&app, &[]).await.is_hit(), "nothing made it fresh");
    }

    async fn an_unrequested_304_is_passed_on(kit: Kit) {
        let (app, _) = scripted(&kit.layer(), vec![(304, vec![FRESH, ETAG], "")]);
        for _ in 0..2 {
            let answer = with(&app, &[]).await;
            assert_eq!((answer.status, answer.is_hit()), (StatusCode::NOT_MODIFIED, false));
        }
    }

    async fn a_no_cache_response_is_revalidated_every_time(kit: Kit) {
        let no_cache = ("cache-control", "no-cache, max-age=60");
        let (app, seen) = scripted(&kit.layer(), vec![(200, vec![no_cache, ETAG], "x"), (304, vec![ETAG], "")]);
        for n in 0..4 {
            let answer = with(&app, &[]).await;
            assert_eq!((answer.text(), answer.is_hit()), ("x", false), "{n}");
        }
        assert_eq!(seen.count(), 4);
    }

    async fn a_304_with_no_store_ends_the_stored_response(kit: Kit) {
        let layer = kit.layer();
        let (app, _) = scripted(&layer, vec![
            (200, vec![STALE, ETAG], "old"),
            (304, vec![("cache-control", "no-store"), ETAG], ""),
            (200, vec![FRESH], "new"),
        ]);
        with(&app, &[]).await;
        assert_eq!(with(&app, &[]).await.text(), "old");
        eventually("the new response is stored", async || {
            layer.handle().flush().await.unwrap();
            with(&app, &[]).await.is_hit()
        })
        .await;
        assert_eq!(with(&app, &[]).await.text(), "new");
    }

    async fn a_head_freshens_a_page_or_makes_it_stale(kit: Kit) {
        let agrees = vec![FRESH, ETAG, ("content-length", "5"), ("x-new", "1")];
        let (app, _) = scripted(&kit.layer(), vec![(200, vec![STALE, ETAG], "hello"), (200, agrees, "")]);
        with(&app, &[]).await;
        let head = send(&app, request("HEAD", "/", &[])).await;
        assert!(!head.is_hit());
        let hit = with(&app, &[]).await;
        assert_eq!((hit.is_hit(), hit.text(), hit.field("x-new").as_str()), (true, "hello", "1"));

        let differs = vec![FRESH, ("etag", "\"2\"")];
        let (app, seen) = scripted(&kit.layer(), vec![
            (200, vec![STALE, ETAG], "hello"),
            (200, differs, ""),
            (200, vec![FRESH, ("etag", "\"2\"")], "other"),
        ]);
        send(&app, get("/d", &[])).await;
        send(&app, request("HEAD", "/d", &[])).await;
        let fresh = send(&app, get("/d", &[])).await;
        assert_eq!((fresh.is_hit(), fresh.text()), (false, "other"));
        assert_eq!(seen.count(), 3);
    }

    async fn a_head_of_equal_length_does_not_revive_an_invalid_page(kit: Kit) {
        let layer = kit.layer();
        let (app, seen) = scripted(&layer, vec![
            (200, vec![FRESH], "10"),
            (200, vec![FRESH, ("content-length", "2")], ""),
            (200, vec![FRESH], "12"),
        ]);
        with(&app, &[]).await;
        layer.handle().invalidate_uri("/").await.unwrap();
        send(&app, request("HEAD", "/", &[])).await;
        kit.settle(&layer.handle()).await;
        let fresh = with(&app, &[]).await;
        assert_eq!((fresh.is_hit(), fresh.text()), (false, "12"));
        assert_eq!(seen.count(), 3);
    }

    async fn a_policys_lifetime_starts_again_with_a_304(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let confirmed = vec![ETAG, ("age", "3000")];
        let (app, _) = scripted(&layer, vec![(200, vec![ETAG], "hello"), (304, confirmed, "")]);
        with(&app, &[]).await;
        layer.handle().flush().await.unwrap();
        layer.handle().invalidate(Invalidation::all().soft()).await.unwrap();
        let confirmed = with(&app, &[]).await;
        assert_eq!((confirmed.is_hit(), confirmed.text()), (false, "hello"));
        layer.handle().flush().await.unwrap();
        assert!(with(&app, &[]).await.is_hit());
    }

    async fn an_invalidation_during_a_revalidation_is_not_undone(kit: Kit) {
        let layer = kit.layer();
        let handle = layer.handle();
        let app = App::new(layer.layer(tower::service_fn(move |request: Request<()>| {
            let handle = handle.clone();
            async move {
                if !request.headers().contains_key("if-none-match") {
                    return Ok::<_, Infallible>(response(200, &[STALE, ETAG], "old"));
                }
                handle.invalidate_uri("/").await.unwrap();
                Ok(response(304, &[FRESH, ETAG], ""))
            }
        })));
        with(&app, &[]).await;
        assert_eq!(with(&app, &[]).await.text(), "old");
        let after = with(&app, &[]).await;
        // the response freshened before the invalidation is not served, only revalidated again
        assert_eq!(after.cache().forward(), Some(Forward::Stale));
        assert_eq!(after.reason(), Some("invalidated"));
    }

    async fn a_304_without_a_validator_updates_no_response_with_one(kit: Kit) {
        for (script, updates) in [
            (vec![(200, vec![STALE, ETAG], "x"), (304, vec![FRESH], "")], false),
            (vec![(200, vec![STALE, MODIFIED], "x"), (304, vec![FRESH, MODIFIED], "")], true),
            (vec![(200, vec![STALE, ("etag", "W/\"1\"")], "x"), (304, vec![FRESH, ("etag", "W/\"1\"")], "")], true),
            (vec![(200, vec![STALE, ("etag", "W/\"1\"")], "x"), (304, vec![FRESH, ETAG], "")], false),
        ] {
            let layer = kit.layer();
            let (app, _) = scripted(&layer, script);
            with(&app, &[]).await;
            assert_eq!(with(&app, &[]).await.text(), "x");
            assert_eq!(with(&app, &[]).await.is_hit(), updates);
            layer.handle().invalidate_all().await.unwrap();
        }
    }

    async fn cookies_of_a_304_are_not_stored_in_either_mode(kit: Kit) {
        for (version, policy) in [(1, CachePolicy::new()), (2, CachePolicy::rfc9111())] {
            let layer = kit.layer().version(version).with_policy(policy);
            let (app, _) = scripted(&layer, vec![
                (200, vec![FRESH, ETAG, ("age", "70")], "x"),
                (304, vec![FRESH, ETAG, ("set-cookie", "sid=1")], ""),
            ]);
            with(&app, &[]).await;
            assert_eq!(with(&app, &[]).await.field("set-cookie"), "sid=1");
            let hit = with(&app, &[]).await;
            assert_eq!((hit.is_hit(), hit.field("set-cookie").as_str()), (true, ""));
        }
    }

    async fn a_field_of_a_304_that_is_private_is_not_stored(kit: Kit) {
        let targeted = ("tower-mysql-cache-control", r#"max-age=60, private="x-user""#);
        let (app, _) = scripted(&kit.layer(), vec![
            (200, vec![("tower-mysql-cache-control", r#"max-age=0, private="x-user""#), ETAG, ("x-user", "ann")], "x"),
            (304, vec![targeted, ETAG, ("x-user", "bob")], ""),
        ]);
        with(&app, &[]).await;
        with(&app, &[]).await;
        let hit = with(&app, &[]).await;
        assert_eq!((hit.is_hit(), hit.field("x-user").as_str()), (true, ""));
    }
}
