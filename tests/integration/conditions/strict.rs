//! What requests ask for, what the strict mode does, and targeted fields.

use super::*;

on_every_store! {
    async fn only_if_cached_is_never_forwarded(kit: Kit) {
        let (app, calls) = cached(&kit.layer().with_policy(MINUTE), |_| response(200, &[], "x"));
        let only = [("cache-control", "only-if-cached")];
        let answer = with(&app, &only).await;
        assert_eq!((answer.status, answer.field("cache-status").as_str()), (StatusCode::GATEWAY_TIMEOUT, ""));
        with(&app, &[]).await;
        assert!(with(&app, &only).await.is_hit());
        assert_eq!(calls.count(), 1);
    }

    async fn client_directives_count_only_in_strict_mode(kit: Kit) {
        let safe = kit.layer();
        let strict = safe.try_with_policy(CachePolicy::rfc9111()).unwrap();
        let asking = [("cache-control", "no-cache"), ("cache-control", "max-age=0"), ("pragma", "no-cache"), ("cache-control", "min-fresh=3600")];
        for (layer, uri, obeyed) in [(safe, "/safe", false), (strict, "/strict", true)] {
            let (app, _) = cached(&layer, |_| response(200, &[FRESH], "x"));
            for field in asking {
                send(&app, get(uri, &[])).await;
                let answer = send(&app, get(uri, &[field])).await;
                assert_eq!(answer.cache().forward(), obeyed.then_some(Forward::Request), "{field:?}");
            }
        }
    }

    async fn strict_mode_stores_what_the_standard_allows(kit: Kit) {
        let layer = kit.layer().with_policy(CachePolicy::rfc9111());
        let cases: [(&[(&str, &str)], &[(&str, &str)], bool); 7] = [
            (&[FRESH, ("set-cookie", "a=b")], &[], true),
            (&[FRESH], &[("cookie", "sid=1")], true),
            (&[MODIFIED], &[], true),
            (&[], &[], false),
            (&[("cache-control", "max-age=60, must-revalidate")], &[("authorization", "x")], true),
            (&[FRESH], &[("authorization", "x")], false),
            (&[FRESH], &[("cache-control", "no-store")], false),
        ];
        for (i, (fields, asked, stored)) in cases.into_iter().enumerate() {
            let (app, _) = cached(&layer, move |_| response(200, fields, "x"));
            let uri = format!("/{i}");
            send(&app, get(&uri, asked)).await;
            let again = send(&app, get(&uri, &[])).await;
            assert_eq!(again.is_hit(), stored, "{fields:?} {asked:?}");
        }
        let (app, _) = cached(&layer, |_| response(200, &[FRESH, ("set-cookie", "a=b"), ("set-cookie", "c=d")], "x"));
        send(&app, get("/cookies", &[])).await;
        assert_eq!(send(&app, get("/cookies", &[])).await.field("set-cookie"), "a=b | c=d");
    }

    async fn max_stale_is_obeyed_in_strict_mode(kit: Kit) {
        let layer = kit.layer().with_policy(CachePolicy::rfc9111());
        let (app, _) = cached(&layer, |_| response(200, &[STALE, ETAG], "x"));
        with(&app, &[]).await;
        assert!(with(&app, &[("cache-control", "max-stale=60")]).await.is_hit());
        let strict = [("cache-control", "max-age=0, must-revalidate"), ETAG];
        let (app, _) = cached(&layer, move |_| response(200, &strict, "x"));
        send(&app, get("/must", &[])).await;
        assert!(!send(&app, get("/must", &[("cache-control", "max-stale")])).await.is_hit());
    }

    async fn a_listed_targeted_field_overrides_cache_control(kit: Kit) {
        let safe = kit.layer();
        let strict = safe.with_policy(CachePolicy::rfc9111());
        let cases: [(&CacheLayer<BoxStore>, &[(&str, &str)], bool); 8] = [
            (&safe, &[("tower-mysql-cache-control", "max-age=60"), ("cache-control", "no-store")], true),
            (&safe, &[("tower-mysql-cache-control", "no-store"), FRESH], false),
            (&safe, &[("tower-mysql-cache-control", "max-age=0"), FRESH], false),
            (&safe, &[("tower-mysql-cache-control", "max-age=60, &"), ("cache-control", "no-store")], false),
            (&safe, &[("cdn-cache-control", "max-age=60"), ("cache-control", "no-store")], false),
            (&strict, &[("cdn-cache-control", "max-age=60"), ("cache-control", "no-store"), ("expires", "0")], true),
            (&strict, &[("cdn-cache-control", "private"), FRESH], false),
            (&strict, &[("tower-mysql-cache-control", "max-age=60"), ("cdn-cache-control", "no-store")], true),
        ];
        for (i, (layer, fields, stored)) in cases.into_iter().enumerate() {
            let (app, _) = cached(layer, move |_| response(200, fields, "x"));
            let uri = format!("/{i}");
            let first = send(&app, get(&uri, &[])).await;
            let again = send(&app, get(&uri, &[])).await;
            assert_eq!(again.is_hit(), stored, "{fields:?}");
            for answer in [first, again] {
                assert_eq!(answer.field("tower-mysql-cache-control"), "");
                let cdn = fields.iter().find(|(name, _)| *name == "cdn-cache-control");
                assert_eq!(answer.field("cdn-cache-control"), cdn.map_or("", |(_, value)| value));
            }
        }
    }

    async fn a_dictionary_coded_response_needs_vary(kit: Kit) {
        for (i, (vary, stored)) in [("accept-encoding", false), ("accept-encoding, available-dictionary", true)].into_iter().enumerate() {
            let fields = [FRESH, ("content-encoding", "dcb"), ("vary", vary)];
            let (app, _) = cached(&kit.layer(), move |_| response(200, &fields, "x"));
            let uri = format!("/{i}");
            send(&app, get(&uri, &[])).await;
            assert_eq!(send(&app, get(&uri, &[])).await.is_hit(), stored);
        }
    }

    async fn a_post_with_content_location_answers_later_gets(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let cases: [(&[(&str, &str)], bool); 5] = [
            (&[FRESH, ("content-location", "/p?x=1")], true),
            (&[FRESH, ("content-location", "http://h/p?x=1")], true),
            (&[FRESH, ("content-location", "/other")], false),
            (&[FRESH], false),
            (&[("content-location", "/p?x=1")], false),
        ];
        let host = ("host", "h");
        for (fields, stored) in cases {
            let (app, calls) = cached(&layer, move |request| match request.method().as_str() {
                "POST" => response(200, fields, "posted"),
                _ => response(200, &[], "got"),
            });
            assert!(!send(&app, get("/p?x=1", &[host])).await.is_hit(), "{fields:?}");
            let posted = send(&app, request("POST", "/p?x=1", &[host])).await;
            assert_eq!((posted.text(), posted.cache().forward()), ("posted", Some(Forward::Method)));
            assert_eq!(posted.cache().is_stored(), stored);
            let after = send(&app, get("/p?x=1", &[host])).await;
            assert_eq!((after.is_hit(), after.text()), (stored, if stored { "posted" } else { "got" }));
            assert!(!send(&app, request("POST", "/p?x=1", &[host])).await.is_hit());
            assert_eq!(calls.count(), if stored { 3 } else { 4 });
            layer.handle().invalidate_all().await.unwrap();
        }
    }

    async fn a_post_is_not_stored_without_a_key_or_with_a_custom_key(kit: Kit) {
        for own in [false, true] {
            let layer = kit.layer().with_policy(MINUTE).key_builder(
                move |request: &http::request::Parts, default: TargetKey| {
                    let own = own.then(|| TargetKey::custom("of the application"));
                    if request.method == "POST" { own } else { Some(default) }
                },
            );
            let (app, _) = cached(&layer, |request| match request.method().as_str() {
                "POST" => response(200, &[FRESH, ("content-location", "/p")], "hers"),
                _ => response(200, &[], "everyone's"),
            });
            let posted = send(&app, request("POST", "/p", &[("host", "h")])).await;
            assert!(!posted.cache().is_stored());
            assert_eq!(send(&app, get("/p", &[("host", "h")])).await.text(), "everyone's");
            layer.handle().invalidate_all().await.unwrap();
        }
    }
}
