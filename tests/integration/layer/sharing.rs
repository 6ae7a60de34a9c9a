//! Requests with credentials, and responses with cookies.

use super::*;

on_every_store! {
    async fn requests_with_credentials_use_only_public_responses(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, calls) = cached(&layer, |request| {
            let who = request.headers().get("cookie").or(request.headers().get("authorization"));
            response(200, &[], who.map_or("nobody", |who| who.to_str().unwrap()))
        });
        for (i, credentials) in [("cookie", "sid=alice"), ("authorization", "Bearer bob")].into_iter().enumerate() {
            let uri = format!("/{i}");
            for _ in 0..2 {
                let answer = send(&app, get(&uri, &[credentials])).await;
                assert_eq!(answer.text(), credentials.1);
                assert_eq!(answer.field("cache-status"), "test; fwd=bypass");
                assert_eq!(answer.reason(), Some(credentials.0));
            }
            let anonymous = send(&app, get(&uri, &[])).await;
            assert_eq!((anonymous.text(), anonymous.is_hit()), ("nobody", false));
            let again = send(&app, get(&uri, &[credentials])).await;
            assert_eq!((again.text(), again.is_hit()), (credentials.1, false));
            assert!(send(&app, get(&uri, &[("cookie", "_ga=GA1.2.3; _gid=4")])).await.is_hit());
        }
        assert_eq!(calls.count(), 8);
    }

    async fn public_responses_are_shared_with_everyone(kit: Kit) {
        for (i, field) in ["public, max-age=60", "s-maxage=60"].into_iter().enumerate() {
            let (app, calls) = cached(&kit.layer(), move |_| response(200, &[("cache-control", field)], "all"));
            let uri = format!("/{i}");
            send(&app, get(&uri, &[("authorization", "Bearer a")])).await;
            assert!(send(&app, get(&uri, &[("cookie", "sid=b")])).await.is_hit());
            assert!(send(&app, get(&uri, &[])).await.is_hit());
            assert_eq!(calls.count(), 1);
        }
    }

    async fn keyed_credentials_have_their_own_entries(kit: Kit) {
        let policy = MINUTE.cookies(Cookies::Key(&["theme"])).authorization(Authorization::Key);
        let (app, calls) = cached(&kit.layer().with_policy(policy), |request| {
            let field = |name| request.headers().get(name).map_or("-", |value| value.to_str().unwrap());
            response(200, &[], &format!("{} {}", field("cookie"), field("authorization")))
        });
        let requests: [&[(&str, &str)]; 5] = [
            &[],
            &[("cookie", "theme=dark")],
            &[("cookie", "theme=light")],
            &[("authorization", "Bearer a")],
            &[("authorization", "Bearer b")],
        ];
        for round in 0..2 {
            for fields in requests {
                let answer = send(&app, get("/", fields)).await;
                assert_eq!(answer.is_hit(), round == 1, "{fields:?}");
                assert!(fields.iter().all(|(_, value)| answer.text().contains(value)));
            }
        }
        assert!(send(&app, get("/", &[("cookie", "theme=dark; sid=9")])).await.is_hit());
        assert_eq!(calls.count(), 5);
    }

    async fn ignored_cookies_do_not_matter(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.cookies(Cookies::Ignore));
        let (app, calls) = cached(&layer, |_| response(200, &[], "x"));
        send(&app, get("/", &[("cookie", "sid=a")])).await;
        assert!(send(&app, get("/", &[("cookie", "sid=b")])).await.is_hit());
        assert_eq!(calls.count(), 1);
    }

    async fn listed_cookies_are_stripped_from_stored_responses(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.strip_set_cookies(&["seen"]));
        let (app, _) = cached(&layer, |request| match request.uri().path() {
            "/one" => response(200, &[("set-cookie", "seen=1; Path=/")], "x"),
            _ => response(200, &[("set-cookie", "seen=1"), ("set-cookie", "sid=2")], "x"),
        });
        assert_eq!(send(&app, get("/one", &[])).await.field("set-cookie"), "seen=1; Path=/");
        let hit = send(&app, get("/one", &[])).await;
        assert_eq!((hit.is_hit(), hit.field("set-cookie").as_str()), (true, ""));
        send(&app, get("/two", &[])).await;
        let second = send(&app, get("/two", &[])).await;
        assert_eq!((second.is_hit(), second.reason()), (false, Some("set-cookie")));
    }

    async fn an_override_can_share_with_requests_with_credentials(kit: Kit) {
        let (app, calls) = cached(&kit.layer().with_policy(MINUTE), |_| {
            let mut response = response(200, &[], "x");
            response.extensions_mut().insert(CacheOverride::default().shared());
            response
        });
        send(&app, get("/", &[("cookie", "sid=a")])).await;
        assert!(send(&app, get("/", &[("authorization", "b")])).await.is_hit());
        assert_eq!(calls.count(), 1);
    }
}
