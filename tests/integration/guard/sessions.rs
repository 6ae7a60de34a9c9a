//! Sessions and cookies of layers outside the cache.

use super::*;

async fn greeting(session: Session) -> String {
    let visitor: Option<u32> = session.get("visitor").await.unwrap();
    if visitor.is_none() {
        session.insert("visitor", 1).await.unwrap();
    }
    session.save().await.unwrap();
    format!("hello {}", session.id().unwrap())
}

async fn basket(cookies: Cookies) -> Body {
    let id = format!("{:p}", std::ptr::from_ref(&cookies));
    cookies.add(Cookie::new("basket", id));
    streamed()
}

#[tokio::test]
async fn a_session_from_an_outer_layer_reaches_no_other_client() {
    let sessions = || SessionManagerLayer::new(Sessions::default());
    // without a guard, the cache cannot see the cookie
    let cache = memory(MINUTE);
    let app = Router::new().route("/", on_get(greeting).layer(cache)).layer(sessions());
    let (ann, bob) = (get(&app, "/").await, get(&app, "/").await);
    assert!(bob.is_hit() && ann.body == bob.body, "the reason for the guard");

    let cache = memory(MINUTE);
    let app = Router::new().route("/", on_get(greeting).layer(cache.clone()));
    let app = app.layer(sessions()).layer(cache.guard());
    let (ann, bob) = (get(&app, "/").await, get(&app, "/").await);
    assert!(!ann.is_hit() && !bob.is_hit());
    assert_ne!(ann.body, bob.body);
    assert_eq!((ann.cookies(), bob.cookies()), (1, 1));
    assert_eq!(ann.headers["cache-status"], "test; fwd=uri-miss");
    assert_eq!(ann.reason(), Some("guarded"));
    assert_eq!(called_off(&cache.handle()), [("set-cookie-outside", 2)]);
}

#[tokio::test]
async fn a_session_from_an_inner_layer_reaches_no_other_client() {
    let cache = memory(MINUTE);
    let app = Router::new()
        .route("/", on_get(greeting))
        .layer(SessionManagerLayer::new(Sessions::default()))
        .layer(cache.clone())
        .layer(cache.guard());
    let (ann, bob) = (get(&app, "/").await, get(&app, "/").await);
    assert_ne!(ann.body, bob.body);
    assert_eq!(bob.reason(), Some("set-cookie"));
    assert_eq!(called_off(&cache.handle()), []);
}

#[tokio::test]
async fn a_session_from_an_outer_layer_is_not_in_the_table() {
    let kit = Kit::mysql().await;
    let cache = kit.layer().with_policy(MINUTE);
    let app = Router::new()
        .route("/", on_get(greeting).layer(cache.clone()))
        .route("/about", on_get(|| async { "about" }).layer(cache.clone()))
        .layer(SessionManagerLayer::new(Sessions::default()))
        .layer(cache.guard());
    for path in ["/", "/about"] {
        get(&app, path).await;
        kit.settle(&cache.handle()).await;
        assert_eq!(get(&app, path).await.is_hit(), path == "/about");
    }
    assert_eq!(called_off(&cache.handle()), [("set-cookie-outside", 2)]);
}

#[tokio::test]
async fn a_cookie_of_an_outer_layer_prevents_storing() {
    let cache = memory(MINUTE);
    for guarded_outside in [true, false] {
        let page = on_get(basket);
        let app = match guarded_outside {
            true => {
                Router::new().route("/", page.layer(cache.clone())).layer(CookieManagerLayer::new())
            }
            false => {
                Router::new().route("/", page).layer(CookieManagerLayer::new()).layer(cache.clone())
            }
        };
        let app = app.layer(cache.guard());
        for _ in 0..2 {
            let reply = get(&app, "/").await;
            assert_eq!((reply.is_hit(), reply.cookies(), reply.text()), (false, 1, "page"));
        }
    }
    assert_eq!(called_off(&cache.handle()), [("set-cookie-outside", 2)]);
}

#[tokio::test]
async fn over_a_socket_a_session_reaches_no_other_client() {
    let cache = memory(MINUTE);
    let app = Router::new()
        .route("/", on_get(greeting).layer(cache.clone()))
        .route("/about", on_get(|| async { streamed() }).layer(cache.clone()))
        .layer(SessionManagerLayer::new(Sessions::default()))
        .layer(cache.guard());
    let site = Site::axum(app).await;
    let (ann, bob) = (site.get("/").await, site.get("/").await);
    assert_ne!(ann.body, bob.body);
    assert_eq!((ann.cookies(), bob.cookies()), (1, 1));
    // a page that starts no session is stored
    site.get("/about").await;
    let about = site.get("/about").await;
    assert_eq!((about.is_hit(), about.text()), (true, "page"));
}
