//! Credentials other than cookies and `Authorization`: a response for one user reaches no other.

use std::time::Duration;

use tower_mysql_cache::CachePolicy;

use crate::kit::{Kit, cached, get, in_memory, on_every_store, request, response, send};

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));

/// A user that an outer layer has identified.
#[derive(Clone)]
struct User;

on_every_store! {
    async fn a_page_for_an_api_key_reaches_no_other_client(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        for name in ["x-api-key", "x-auth-token", "proxy-authorization", "x-forwarded-user", "client-cert"] {
            let uri = format!("/{name}");
            let (app, _) = cached(&layer, move |request| match request.headers().get(name) {
                Some(key) => response(200, &[], key.to_str().unwrap()),
                None => response(401, &[], "who are you?"),
            });
            for user in ["alice", "bob"] {
                let answer = send(&app, get(&uri, &[(name, user)])).await;
                assert_eq!((answer.text(), answer.reason()), (user, Some("credential-header")));
                assert!(!answer.cache().is_stored());
                kit.settle(&layer.handle()).await;
            }
            assert_eq!(send(&app, get(&uri, &[])).await.status, 401);
        }
    }

    async fn a_public_page_serves_requests_with_an_api_key(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, calls) = cached(&layer, |_| response(200, &[("cache-control", "public, max-age=60")], "x"));
        assert!(send(&app, get("/", &[("x-api-key", "k")])).await.cache().is_stored());
        kit.settle(&layer.handle()).await;
        assert!(send(&app, get("/", &[("x-api-key", "other")])).await.is_hit());
        assert!(send(&app, get("/", &[])).await.is_hit());
        assert_eq!(calls.count(), 1);
    }

    async fn a_layer_can_add_and_remove_credential_headers(kit: Kit) {
        let base = kit.layer().with_policy(MINUTE);
        let named = base.clone().credential_headers(["X-Partner-Key"]);
        let (app, _) = cached(&named, |_| response(200, &[], "x"));
        let answer = send(&app, get("/named", &[("x-partner-key", "k")])).await;
        assert_eq!((answer.cache().is_stored(), answer.reason()), (false, Some("credential-header")));
        let strict = named.with_policy(CachePolicy::rfc9111().ttl(Duration::from_secs(60)));
        let (app, _) = cached(&strict, |_| response(200, &[("cache-control", "max-age=60")], "x"));
        assert!(!send(&app, get("/strict", &[("x-partner-key", "k")])).await.cache().is_stored());
        assert!(send(&app, get("/strict", &[("x-api-key", "k")])).await.cache().is_stored());
        let partitioned = base
            .partition_by("key", |request| Some(request.headers.get("x-api-key")?.as_bytes().to_vec()))
            .without_credential_headers(["x-api-key"]);
        let (app, _) = cached(&partitioned, |request| {
            response(200, &[], request.headers()["x-api-key"].to_str().unwrap())
        });
        for user in ["alice", "bob"] {
            assert_eq!(send(&app, get("/own", &[("x-api-key", user)])).await.text(), user);
            kit.settle(&partitioned.handle()).await;
            assert!(send(&app, get("/own", &[("x-api-key", user)])).await.is_hit());
        }
    }

    // RFC 9111 3.5: `must-revalidate` permits sharing a response to `Authorization`, but not to other credentials
    async fn must_revalidate_shares_for_authorization_only(kit: Kit) {
        let strict = kit.layer().with_policy(CachePolicy::rfc9111());
        let layer = strict.credential_headers(["x-partner-key"]);
        let (app, _) = cached(&layer, |_| response(200, &[("cache-control", "max-age=60, must-revalidate")], "x"));
        let fields = [("authorization", "Bearer 1"), ("x-partner-key", "k")];
        let answer = send(&app, get("/both", &fields)).await;
        assert_eq!((answer.cache().is_stored(), answer.reason()), (false, Some("credential-header")));
        assert!(send(&app, get("/one", &fields[..1])).await.cache().is_stored());
    }

    async fn a_user_in_the_extensions_can_be_a_credential(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let layer = layer.credentials_by(|request| request.extensions.get::<User>().is_some());
        let (app, _) = cached(&layer, |request| {
            response(200, &[], if request.extensions().get::<User>().is_some() { "mine" } else { "all" })
        });
        let mut own = request("GET", "/", &[]);
        own.extensions_mut().insert(User);
        let answer = send(&app, own.clone()).await;
        assert_eq!((answer.text(), answer.reason()), ("mine", Some("credential-extension")));
        kit.settle(&layer.handle()).await;
        assert_eq!(send(&app, get("/", &[])).await.text(), "all");
        kit.settle(&layer.handle()).await;
        assert_eq!(send(&app, own).await.text(), "mine");
        assert!(send(&app, get("/", &[])).await.is_hit());
    }
}

#[tokio::test]
async fn a_session_cookie_named_like_analytics_is_a_credential() {
    let (app, _) = cached(&in_memory().with_policy(MINUTE), |r| {
        response(200, &[], r.headers().get("cookie").map_or("-", |c| c.to_str().unwrap()))
    });
    send(&app, get("/account", &[("cookie", "_gallery_session=alice")])).await;
    let bob = send(&app, get("/account", &[("cookie", "_gallery_session=bob")])).await;
    assert_eq!(bob.text(), "_gallery_session=bob");
}

#[tokio::test]
async fn one_visitors_session_does_not_prevent_others_filling() {
    let (app, calls) = cached(&in_memory().with_policy(MINUTE), |r| {
        if r.headers().contains_key("cookie") {
            response(200, &[("cache-control", "private")], "account")
        } else if r.headers().contains_key("if-none-match") {
            response(304, &[("etag", "\"1\"")], "")
        } else {
            response(200, &[("etag", "\"1\"")], "page")
        }
    });
    send(&app, get("/", &[("cookie", "sid=1")])).await;
    for _ in 0..3 {
        send(&app, get("/", &[("if-none-match", "\"1\"")])).await;
    }
    assert_eq!(calls.count(), 2);
}
