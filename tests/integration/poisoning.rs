//! What one client sends does not become another client's page.

use std::time::Duration;

use axum::Router;
use axum::routing::get as on_get;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use tower_mysql_cache::CachePolicy;

use crate::kit::{Site, cached, get, in_memory, response, send};

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
const FRESH: (&str, &str) = ("cache-control", "max-age=60");

fn ranged(r: Request<()>) -> Response<Full<Bytes>> {
    // like tower-http's ServeFile with a Cache-Control header on every response
    if r.headers().contains_key("if-unmodified-since") || r.headers().contains_key("if-match") {
        return response(412, &[FRESH], "");
    }
    if r.headers().get("range").is_some_and(|range| range == "bytes=999-") {
        return response(416, &[FRESH, ("content-range", "bytes */4")], "");
    }
    response(200, &[FRESH], "file")
}

async fn shop() -> Site {
    let page =
        |fields: HeaderMap| async move { format!("//{}/a.js", fields["host"].to_str().unwrap()) };
    let missing = || async { (StatusCode::NOT_FOUND, [FRESH], "nothing here") };
    let app = Router::new().route("/", on_get(page)).fallback(missing);
    Site::axum(app.layer(in_memory().with_policy(MINUTE).hosts(["shop.example"]))).await
}

#[tokio::test]
async fn an_absolute_target_with_another_host_poisons_nothing() {
    let layer = in_memory().with_policy(MINUTE).hosts(["shop.example"]);
    let (app, _) = cached(&layer, |r| {
        let host = r.headers().get("host").map_or("-", |h| h.to_str().unwrap()).to_owned();
        response(200, &[], &format!("<script src=//{host}/a.js>"))
    });
    send(&app, get("http://shop.example/", &[("host", "evil.example")])).await;
    let victim = send(&app, get("/", &[("host", "shop.example")])).await;
    assert_eq!(victim.text(), "<script src=//shop.example/a.js>");
}

#[tokio::test]
async fn a_user_in_the_host_field_poisons_nothing() {
    let layer = in_memory().with_policy(MINUTE).hosts(["shop.example"]);
    let (app, _) = cached(&layer, |r| {
        let host = r.headers().get("host").map_or("-", |h| h.to_str().unwrap()).to_owned();
        response(200, &[], &host)
    });
    send(&app, get("/", &[("host", "evil:x@shop.example")])).await;
    let victim = send(&app, get("/", &[("host", "shop.example")])).await;
    assert_eq!(victim.text(), "shop.example");
}

#[tokio::test]
async fn a_target_that_is_an_authority_is_not_the_root() {
    let (app, _) = cached(&in_memory(), |r| {
        if r.uri().path() == "/" {
            response(200, &[FRESH], "home")
        } else {
            response(404, &[FRESH], "no such page")
        }
    });
    send(&app, get("shop.example", &[("host", "shop.example")])).await;
    let victim = send(&app, get("/", &[("host", "shop.example")])).await;
    assert_eq!(victim.text(), "home");
}

#[tokio::test]
async fn a_failed_condition_is_not_stored_for_everyone() {
    let (app, _) = cached(&in_memory(), ranged);
    send(&app, get("/f", &[("if-unmodified-since", "Tue, 15 Nov 1994 12:45:26 GMT")])).await;
    let victim = send(&app, get("/f", &[])).await;
    assert_eq!((victim.status.as_u16(), victim.text()), (200, "file"));
}

#[tokio::test]
async fn an_unsatisfiable_range_is_not_stored_for_everyone() {
    let (app, _) = cached(&in_memory(), ranged);
    send(&app, get("/f", &[("cache-control", "no-store")])).await; // the target is now marked as unstorable
    send(&app, get("/f", &[("range", "bytes=999-")])).await;
    let victim = send(&app, get("/f", &[])).await;
    assert_eq!((victim.status.as_u16(), victim.text()), (200, "file"));
}

#[tokio::test]
async fn an_absolute_target_over_the_wire_poisons_nothing() {
    let site = shop().await;
    site.raw(
        "GET http://shop.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    )
    .await;
    let victim =
        site.raw("GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").await;
    assert!(victim.ends_with("//shop.example/a.js"), "{victim}");
}

#[tokio::test]
async fn an_authority_over_the_wire_poisons_nothing() {
    let site = shop().await;
    let first = site
        .raw("GET shop.example HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
        .await;
    let victim =
        site.raw("GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").await;
    assert!(victim.ends_with("//shop.example/a.js"), "{first}\n{victim}");
}
