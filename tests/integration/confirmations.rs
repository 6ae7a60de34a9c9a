//! A 304 to one user: it changes a stored head only if it is for everyone.

use std::convert::Infallible;

use http::Request;
use tower::Layer;
use tower_mysql_cache::invalidation::Invalidation;
use tower_mysql_cache::key::CacheKey;
use tower_mysql_cache::status::Forward;
use tower_mysql_cache::store::{Entries, Stored};
use tower_mysql_cache::{CachePolicy, Cookies};

use crate::kit::{
    Answer, Calls, Gate, Kit, Slow, cached, get, in_memory, on_every_store, over, request,
    response, scripted, send,
};

type Fields = Vec<(&'static str, &'static str)>;

const PUBLIC: (&str, &str) = ("cache-control", "public, max-age=60");
/// Stored, and stale at once.
const STALE: (&str, &str) = ("cache-control", "max-age=0");
const FRESH: (&str, &str) = ("cache-control", "max-age=60");
const ETAG: (&str, &str) = ("etag", "\"1\"");
const WEAK: (&str, &str) = ("etag", "W/\"1\"");
const MODIFIED: (&str, &str) = ("last-modified", "Tue, 15 Nov 1994 12:45:26 GMT");
/// Older than its lifetime of 60 s.
const OLD: (&str, &str) = ("age", "70");
const ALICE: (&str, &str) = ("cookie", "sid=alice");
const USER: (&str, &str) = ("x-user", "alice");
const SETS: (&str, &str) = ("set-cookie", "sid=1");

/// Asserts that the response has no cookie and no field that was made for Alice.
#[track_caller]
fn assert_not_alices(answer: &Answer) {
    assert_eq!((answer.text(), answer.field("x-user")), ("page", String::new()), "{answer:?}");
    assert_eq!(answer.field("set-cookie"), "", "{answer:?}");
}

/// A page that is stored with these fields, and stale because of its age.
fn page(cache_control: (&'static str, &'static str)) -> (u16, Fields, &'static str) {
    (200, vec![cache_control, ETAG, OLD], "page")
}

on_every_store! {
    async fn a_304_made_for_one_user_changes_no_field_for_others(kit: Kit) {
        for (number, method, status, length) in
            [(1, "GET", 304, "0"), (2, "HEAD", 304, "0"), (3, "HEAD", 200, "4")]
        {
            for (number, said) in [(2 * number, None), (2 * number + 1, Some(FRESH))] {
                let layer = kit.layer().version(number);
                let mut confirmed = vec![ETAG, USER, ("content-length", length)];
                confirmed.extend(said);
                let (app, seen) = scripted(&layer, vec![page(PUBLIC), (status, confirmed, "")]);
                send(&app, get("/", &[])).await;
                layer.handle().flush().await.unwrap();
                let alice = send(&app, request(method, "/", &[ALICE])).await;
                assert_eq!((alice.status.as_u16(), alice.field("x-user").as_str()), (200, "alice"));
                layer.handle().flush().await.unwrap();
                // the 304 for Alice confirms the content, so the page is fresh for another lifetime
                let bob = send(&app, get("/", &[])).await;
                assert_not_alices(&bob);
                assert!(bob.is_hit(), "{method} {status}");
                assert_eq!(bob.field("cache-control"), PUBLIC.1);
                assert_eq!(seen.count(), 2);
            }
        }
    }

    async fn a_304_that_says_public_changes_the_fields_for_everyone(kit: Kit) {
        let layer = kit.layer();
        let confirmed = vec![PUBLIC, ETAG, ("x-mode", "new")];
        let (app, _) = scripted(&layer, vec![page(PUBLIC), (304, confirmed, "")]);
        send(&app, get("/", &[])).await;
        send(&app, get("/", &[ALICE])).await;
        let bob = send(&app, get("/", &[])).await;
        assert_eq!((bob.is_hit(), bob.field("x-mode").as_str()), (true, "new"));
    }

    async fn an_anonymous_304_keeps_the_fields_that_it_omits(kit: Kit) {
        let layer = kit.layer();
        let confirmed = vec![ETAG, ("x-mode", "new")];
        let (app, _) = scripted(&layer, vec![page(PUBLIC), (304, confirmed, "")]);
        send(&app, get("/", &[])).await;
        send(&app, get("/", &[])).await;
        // the page is still public, so it is also for users who are logged in
        let bob = send(&app, get("/", &[ALICE])).await;
        assert_eq!((bob.is_hit(), bob.field("x-mode").as_str()), (true, "new"));
    }

    async fn a_304_with_a_cookie_is_only_for_its_own_client(kit: Kit) {
        let confirmed = || (304, vec![PUBLIC, ETAG, SETS, USER], "");
        let layer = kit.layer();
        let (app, _) = scripted(&layer, vec![page(PUBLIC), confirmed()]);
        send(&app, get("/", &[])).await;
        let first = send(&app, get("/", &[])).await;
        assert_eq!((first.field("set-cookie").as_str(), first.field("x-user").as_str()), ("sid=1", "alice"));
        let second = send(&app, get("/", &[])).await;
        assert_not_alices(&second);
        assert!(second.is_hit());
        // the strict mode stores the fields like those of a 200, except the cookie
        let layer = kit.layer().version(2).with_policy(CachePolicy::rfc9111());
        let (app, _) = scripted(&layer, vec![page(PUBLIC), confirmed()]);
        send(&app, get("/", &[])).await;
        assert_eq!(send(&app, get("/", &[])).await.field("set-cookie"), "sid=1");
        let second = send(&app, get("/", &[])).await;
        assert_eq!((second.is_hit(), second.field("set-cookie").as_str()), (true, ""));
    }

    async fn a_304_for_another_etag_is_only_for_its_own_client(kit: Kit) {
        for (version, policy) in [(1, CachePolicy::new()), (2, CachePolicy::rfc9111())] {
            let layer = kit.layer().version(version).with_policy(policy);
            let other = (304, vec![PUBLIC, ("etag", "\"2\""), SETS, USER], "");
            let (app, _) = scripted(&layer, vec![page(PUBLIC), other, page(PUBLIC)]);
            send(&app, get("/", &[])).await;
            let first = send(&app, get("/", &[])).await;
            assert_eq!((first.field("etag").as_str(), first.field("set-cookie").as_str()), ("\"1\"", "sid=1"));
            kit.settle(&layer.handle()).await;
            assert_not_alices(&send(&app, get("/", &[])).await);
        }
    }

    async fn a_refresh_with_a_cookie_changes_no_field_for_others(kit: Kit) {
        let layer = kit.layer();
        let stale = ("cache-control", "public, max-age=60, stale-while-revalidate=60");
        let (app, seen) = scripted(&layer, vec![page(stale), (304, vec![ETAG, USER, SETS], "")]);
        send(&app, get("/", &[])).await;
        layer.handle().flush().await.unwrap();
        assert_not_alices(&send(&app, get("/", &[ALICE])).await);
        layer.handle().flush().await.unwrap();
        let bob = send(&app, get("/", &[])).await;
        assert_not_alices(&bob);
        assert_eq!((bob.is_hit(), bob.reason(), seen.count()), (true, None, 2));
    }

    async fn a_private_304_of_one_user_keeps_the_stored_response(kit: Kit) {
        for (version, said) in [(1, "private"), (2, "no-store"), (3, "private, max-age=60")] {
            let layer = kit.layer().version(version);
            let private = (304, vec![("cache-control", said), ETAG, USER], "");
            let (app, seen) = scripted(&layer, vec![page(PUBLIC), private, (304, vec![ETAG], "")]);
            send(&app, get("/", &[])).await;
            let alice = send(&app, get("/", &[ALICE])).await;
            assert_eq!((alice.text(), alice.field("x-user").as_str()), ("page", "alice"));
            kit.settle(&layer.handle()).await;
            // neither deleted nor fresh
            let bob = send(&app, get("/", &[])).await;
            assert_not_alices(&bob);
            assert_eq!(bob.cache().forward(), Some(Forward::Stale), "{said}");
            assert!(seen.last().headers.contains_key("if-none-match"));
        }
    }

    async fn a_304_of_one_user_uses_the_shorter_lifetime(kit: Kit) {
        for (version, said, ttl) in [(1, "max-age=9", 9), (2, "max-age=3600", 60)] {
            let layer = kit.layer().version(version);
            let confirmed = (304, vec![("cache-control", said), ETAG], "");
            let (app, _) = scripted(&layer, vec![page(PUBLIC), confirmed]);
            send(&app, get("/", &[])).await;
            send(&app, get("/", &[ALICE])).await;
            let left = send(&app, get("/", &[])).await.cache().ttl_secs().unwrap();
            assert!((ttl - 5..=ttl).contains(&left), "{left}");
        }
    }

    async fn a_weak_304_of_one_user_freshens_nothing(kit: Kit) {
        for (version, validator) in [(1, WEAK), (2, MODIFIED)] {
            let layer = kit.layer().version(version);
            let stored = (200, vec![PUBLIC, validator, OLD], "page");
            let confirmed = (304, vec![validator, USER], "");
            let (app, _) = scripted(&layer, vec![stored, confirmed, (304, vec![validator], "")]);
            send(&app, get("/", &[])).await;
            send(&app, get("/", &[ALICE])).await;
            let bob = send(&app, get("/", &[])).await;
            assert_not_alices(&bob);
            assert!(!bob.is_hit());
        }
    }

    async fn a_field_withheld_from_others_reaches_its_own_client(kit: Kit) {
        let layer = kit.layer();
        let said = ("cache-control", "public, max-age=60, private=\"x-user\"");
        let (app, _) = scripted(&layer, vec![page(PUBLIC), (304, vec![said, ETAG, USER], "")]);
        send(&app, get("/", &[])).await;
        assert_eq!(send(&app, get("/", &[ALICE])).await.field("x-user"), "alice");
        let bob = send(&app, get("/", &[])).await;
        assert_not_alices(&bob);
        assert!(bob.is_hit());
    }

    async fn followers_get_no_field_of_their_leaders_304(kit: Kit) {
        let layer = kit.layer();
        let (tell, told) = tokio::sync::watch::channel(false);
        let app = layer.layer(tower::service_fn(move |request: Request<()>| {
            let mut told = told.clone();
            async move {
                let headers = request.headers();
                if !headers.contains_key("if-none-match") {
                    return Ok::<_, std::convert::Infallible>(response(200, &[PUBLIC, ETAG, OLD], "page"));
                }
                told.wait_for(|told| *told).await.unwrap();
                let user = headers["cookie"].to_str().unwrap();
                Ok(response(304, &[ETAG, ("x-user", user)], ""))
            }
        }));
        send(&app, get("/", &[])).await;
        kit.settle(&layer.handle()).await;
        let users = ["sid=alice", "sid=bob", "sid=carol"];
        let asking = users.map(|user| {
            let app = app.clone();
            tokio::spawn(async move { (user, send(&app, get("/", &[("cookie", user)])).await) })
        });
        while layer.handle().counts().misses + layer.handle().counts().bypassed == 1 {
            tokio::task::yield_now().await;
        }
        tell.send(true).unwrap();
        for asked in asking {
            let (user, answer) = asked.await.unwrap();
            let field = answer.field("x-user");
            assert!(field == user || field.is_empty(), "{user} got {answer:?}");
        }
    }

    async fn of_two_layers_the_inner_one_decides_about_a_304(kit: Kit) {
        // the outer layer ignores cookies
        let inner = kit.layer();
        let outer = inner.with_policy(CachePolicy::new().cookies(Cookies::Ignore));
        for method in ["GET", "HEAD"] {
            let uri = format!("/{method}");
            let status = if method == "GET" { 304 } else { 200 };
            let (app, _) = cached(&inner, move |request| match request.headers().get("cookie") {
                Some(_) => response(status, &[ETAG, USER], ""),
                None => response(200, &[PUBLIC, ETAG, OLD], "page"),
            });
            let app = outer.layer(app);
            send(&app, get(&uri, &[])).await;
            inner.handle().flush().await.unwrap();
            assert_eq!(send(&app, request(method, &uri, &[ALICE])).await.field("x-user"), "alice");
            inner.handle().flush().await.unwrap();
            assert_not_alices(&send(&app, get(&uri, &[])).await);
        }
    }

    async fn a_head_of_one_user_does_not_make_the_page_stale(kit: Kit) {
        let layer = kit.layer().with_policy(CachePolicy::rfc9111());
        let other = vec![FRESH, ("etag", "\"alices\"")];
        let (app, _) = scripted(&layer, vec![(200, vec![PUBLIC, ETAG], "page"), (200, other, "")]);
        send(&app, get("/", &[])).await;
        let asked = [("authorization", "Bearer alice"), ("cache-control", "no-cache")];
        assert_eq!(send(&app, request("HEAD", "/", &asked)).await.field("etag"), "\"alices\"");
        assert!(send(&app, get("/", &[])).await.is_hit());
    }

    // RFC 9110 8.8.1, 8.8.2.2
    async fn an_invalidated_page_is_revalidated_only_by_a_strong_etag(kit: Kit) {
        let cases: [(&[(&str, &str)], bool); 5] = [
            (&[ETAG], true),
            (&[ETAG, MODIFIED], true),
            (&[WEAK], false),
            (&[WEAK, MODIFIED], false),
            (&[MODIFIED], false),
        ];
        for (case, (validators, validates)) in cases.into_iter().enumerate() {
            for soft in [false, true] {
                let layer = kit.layer().version(2 * case as u32 + u32::from(soft));
                let validators = validators.to_vec();
                let (app, calls) = cached(&layer, move |request| {
                    let asked = request.headers();
                    // two versions in the same second: for the handler, nothing has changed
                    let same = asked.contains_key("if-none-match") || asked.contains_key("if-modified-since");
                    let fields: Fields = [&[FRESH], &validators[..]].concat();
                    response(if same { 304 } else { 200 }, &fields, if same { "" } else { "page" })
                });
                send(&app, get("/", &[])).await;
                layer.handle().flush().await.unwrap();
                let named = Invalidation::uri("/");
                layer.handle().invalidate(if soft { named.soft() } else { named }).await.unwrap();
                let again = send(&app, get("/", &[])).await;
                assert_eq!(again.cache().forward(), Some(Forward::Stale));
                let validated = again.field("cache-status").contains("fwd-status=304");
                assert_eq!(validated, validates, "{validates} {soft} {again:?}");
                layer.handle().flush().await.unwrap();
                assert!(send(&app, get("/", &[])).await.is_hit());
                assert_eq!(calls.count(), 2);
            }
        }
    }

    async fn only_a_strong_etag_moves_the_log_position(kit: Kit) {
        for (version, validator, moves) in [(1, ETAG, true), (2, WEAK, false), (3, MODIFIED, false)] {
            for method in ["GET", "HEAD"] {
                let layer = kit.layer().version(if method == "GET" { version } else { version + 10 });
                let stored = (200, vec![FRESH, validator, OLD], "page");
                let status = if method == "GET" { 304 } else { 200 };
                let (app, _) = scripted(&layer, vec![stored, (status, vec![FRESH, validator], "")]);
                send(&app, get("http://h/", &[])).await;
                layer.handle().flush().await.unwrap();
                let key = CacheKey::new(format!("test:{}:/ http://h", if method == "GET" { version } else { version + 10 }));
                let position = async || match kit.store.get_many(vec![key.clone()]).await.unwrap().pop() {
                    Some(Some(Stored::Response(found))) => found.head.position.clone(),
                    other => panic!("{other:?}"),
                };
                let before = position().await;
                // another log row, so that the next position has read it
                layer.handle().invalidate_uri("/other").await.unwrap();
                send(&app, get("http://h/other", &[])).await;
                send(&app, request(method, "http://h/", &[])).await;
                layer.handle().flush().await.unwrap();
                assert_eq!(position().await != before, moves, "{method} {validator:?}");
                assert!(send(&app, get("http://h/", &[])).await.is_hit());
            }
        }
    }
}

#[tokio::test]
async fn a_late_304_does_not_hide_a_newer_response() {
    let store = Slow::new();
    let layer = over(store.clone());
    let (calls, gate) = (Calls::default(), Gate::closed());
    let validating = gate.clone();
    let app = layer.layer(tower::service_fn(move |_: Request<()>| {
        let (call, gate) = (calls.add(), validating.clone());
        async move {
            if call == 2 {
                gate.pass().await;
            }
            Ok::<_, Infallible>(match call {
                1 => response(200, &[STALE, ETAG], "old"),
                2 => response(304, &[FRESH, ETAG], ""),
                _ => response(200, &[FRESH, ("etag", "\"2\"")], "new"),
            })
        }
    }));
    send(&app, get("/p", &[])).await;
    store.hold_heads();
    let slow = tokio::spawn({
        let app = app.clone();
        async move { send(&app, get("/p", &[])).await }
    });
    gate.arrival().await;
    assert_eq!(send(&app, get("/p", &[])).await.text(), "new");
    assert_eq!(send(&app, get("/p", &[])).await.text(), "new");
    gate.let_pass(1);
    slow.await.unwrap();
    assert_eq!(send(&app, get("/p", &[])).await.text(), "new");
}

#[tokio::test]
async fn cookies_of_a_304_reach_their_client() {
    let script =
        vec![(200, vec![STALE, ETAG], "x"), (304, vec![ETAG, ("set-cookie", "csrf=new")], "")];
    let (app, _) = scripted(&in_memory(), script);
    send(&app, get("/", &[])).await;
    assert_eq!(send(&app, get("/", &[])).await.field("set-cookie"), "csrf=new");
}

#[tokio::test]
async fn a_private_field_of_a_targeted_304_is_withheld() {
    let targeted = |value| ("tower-mysql-cache-control", value);
    let confirms = targeted("max-age=60, private=\"x-user\"");
    let script = vec![
        (200, vec![targeted("max-age=0"), ETAG], "x"),
        (304, vec![ETAG, confirms, ("x-user", "alice")], ""),
    ];
    let (app, _) = scripted(&in_memory(), script);
    send(&app, get("/", &[])).await;
    send(&app, get("/", &[])).await;
    let other = send(&app, get("/", &[])).await;
    assert!(other.is_hit());
    assert_eq!(other.field("x-user"), "");
}

#[tokio::test]
async fn a_head_without_a_validator_freshens_nothing() {
    let layer = in_memory().with_policy(CachePolicy::rfc9111());
    let (app, _) = cached(&layer, |r| {
        if r.method() == "HEAD" {
            response(200, &[("cache-control", "max-age=3600"), ("content-type", "text/plain")], "")
        } else {
            response(200, &[FRESH, ("content-type", "text/html")], "<p>old")
        }
    });
    send(&app, get("/", &[])).await;
    send(&app, request("HEAD", "/", &[("cache-control", "no-cache")])).await;
    let hit = send(&app, get("/", &[])).await;
    assert!(
        hit.field("content-type") == "text/html" && hit.cache().ttl_secs().is_none_or(|t| t <= 60),
        "{:?} {:?}",
        hit.cache(),
        hit.headers
    );
}
