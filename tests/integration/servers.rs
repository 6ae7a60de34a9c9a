//! Over real sockets: axum's routers and plain hyper.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::routing::{any, get as on_get};
use axum::{Json, Router};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncReadExt;
use tower::{ServiceBuilder, ServiceExt};
use tower_mysql_cache::status::StatusField;
use tower_mysql_cache::{CacheHandle, CacheOverride, CachePolicy};

use crate::kit::{Calls, Kit, Site, on_every_store};
use crate::support::eventually;

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));

async fn counted(State(calls): State<Calls>) -> String {
    format!("call {}", calls.add())
}

on_every_store! {
    async fn a_layer_wraps_axum_routers_routes_and_route_layers(kit: Kit) {
        let cache = kit.layer().with_policy(MINUTE);
        let whole = Router::new().route("/a", on_get(counted)).layer(cache.clone());
        let one = Router::new().route("/b", on_get(counted).layer(cache.clone()));
        let matched = Router::new().route("/c", on_get(counted)).route_layer(cache);
        let app = Router::new().merge(whole).merge(one).merge(matched);
        let calls = Calls::default();
        let site = Site::axum(app.with_state(calls.clone())).await;
        for path in ["/a", "/b", "/c"] {
            let first = site.get(path).await;
            let second = site.get(path).await;
            assert!(!first.is_hit() && second.is_hit(), "{path}");
            assert_eq!(first.body, second.body);
        }
        assert_eq!(calls.count(), 3);
        assert_eq!(site.get("/missing").await.status, StatusCode::NOT_FOUND);
    }

    async fn keys_have_the_whole_path_inside_nest(kit: Kit) {
        let cache = kit.layer().with_policy(MINUTE);
        let handle = cache.handle();
        let inner = || Router::new().route("/x", on_get(counted)).layer(cache.clone());
        let app = Router::new().nest("/one", inner()).nest("/two", inner());
        let calls = Calls::default();
        let site = Site::axum(app.with_state(calls.clone())).await;
        let (one, two) = (site.get("/one/x").await, site.get("/two/x").await);
        assert!(!one.is_hit() && !two.is_hit());
        assert_ne!(one.body, two.body);
        assert_eq!(site.get("/one/x").await.body, one.body);
        handle.invalidate_uri("/two/x").await.unwrap();
        assert!(site.get("/one/x").await.is_hit() && !site.get("/two/x").await.is_hit());
    }

    async fn a_put_invalidates_the_get_of_its_route(kit: Kit) {
        async fn show(State(calls): State<Calls>) -> (CacheOverride, Json<usize>) {
            (CacheOverride::new().ttl(Duration::from_secs(30)), Json(calls.add()))
        }
        let cache = kit.layer();
        let route = on_get(show).put(|| async { StatusCode::NO_CONTENT }).layer(cache);
        let calls = Calls::default();
        let site = Site::axum(Router::new().route("/p/{id}", route).with_state(calls.clone())).await;
        site.get("/p/7").await;
        site.get("/p/8").await;
        assert!(site.get("/p/7").await.is_hit());
        let put = site.request("PUT", "/p/7", &[]).await;
        assert_eq!((put.status, put.field("cache-status").as_str()), (StatusCode::NO_CONTENT, "test; fwd=method"));
        let after = site.get("/p/7").await;
        assert_eq!((after.is_hit(), &after.body[..]), (false, &b"3"[..]));
        assert!(site.get("/p/8").await.is_hit());
        assert_eq!(calls.count(), 3);
    }

    async fn each_tag_of_several_overrides_invalidates(kit: Kit) {
        async fn show(State(calls): State<Calls>) -> impl axum::response::IntoResponse {
            let second = CacheOverride::new().ttl(Duration::from_secs(3600)).tag("second");
            (CacheOverride::new().ttl(Duration::from_secs(30)).tag("first"), second, Json(calls.add()))
        }
        async fn tagged(mut response: axum::response::Response) -> axum::response::Response {
            CacheOverride::new().tag("layer").add_to(response.extensions_mut());
            response
        }
        let cache = kit.layer();
        let handle = cache.handle();
        let layers = (cache, axum::middleware::map_response(tagged));
        let route = on_get(show).layer(layers);
        let calls = Calls::default();
        let site = Site::axum(Router::new().route("/p", route).with_state(calls.clone())).await;
        for tag in ["first", "second", "layer"] {
            assert!(!site.get("/p").await.is_hit(), "{tag}");
            let cache = site.get("/p").await.field("cache-status");
            let ttl = cache.strip_prefix("test; hit; ttl=").and_then(|ttl| ttl.parse::<u64>().ok());
            assert!(ttl.is_some_and(|ttl| ttl <= 30), "{tag}: {cache}");
            handle.invalidate_tags([tag]).await.unwrap();
        }
        assert!(!site.get("/p").await.is_hit());
        assert_eq!(calls.count(), 4);
    }

    async fn a_handler_invalidates_through_the_handle_in_its_state(kit: Kit) {
        async fn update(State(cache): State<CacheHandle>) -> &'static str {
            cache.invalidate_uri("/list").await.unwrap();
            "done"
        }
        let cache = kit.layer().with_policy(MINUTE);
        let app = Router::new()
            .route("/list", on_get(|| async { "list" }).layer(cache.clone()))
            .route("/update", axum::routing::post(update))
            .with_state(cache.handle());
        let site = Site::axum(app).await;
        site.get("/list").await;
        assert!(site.get("/list").await.is_hit());
        assert_eq!(site.request("POST", "/update", &[]).await.body, "done");
        assert!(!site.get("/list").await.is_hit());
    }

    async fn a_hit_has_a_length_and_is_not_chunked(kit: Kit) {
        let stream = || async {
            let parts = ["hel", "lo"].map(|part| Ok::<_, Infallible>(Bytes::from(part)));
            axum::body::Body::from_stream(futures_util::stream::iter(parts))
        };
        let app = Router::new().route("/", on_get(stream)).layer(kit.layer().with_policy(MINUTE));
        let site = Site::axum(app).await;
        let request = "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
        let miss = site.raw(request).await.to_ascii_lowercase();
        assert!(miss.contains("transfer-encoding: chunked"), "{miss}");
        let hit = site.raw(request).await.to_ascii_lowercase();
        assert!(hit.contains("content-length: 5\r\n") && !hit.contains("chunked"), "{hit}");
        assert!(hit.contains("; hit;") && hit.ends_with("\r\n\r\nhello"), "{hit}");
        assert_eq!(hit.matches("content-length").count(), 1);
        assert_eq!(hit.matches("\r\ndate:").count(), 1);
        let head = site.raw(&request.replace("GET", "HEAD")).await.to_ascii_lowercase();
        assert!(head.contains("content-length: 5\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }

    async fn a_megabyte_is_served_unchanged(kit: Kit) {
        let body: Bytes = (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 15) as u8).collect();
        let sent = body.clone();
        let app = Router::new()
            .route("/", on_get(move || async move { sent }))
            .layer(kit.layer().with_policy(MINUTE));
        let site = Site::axum(app).await;
        for hit in [false, true, true] {
            let reply = site.get("/").await;
            assert_eq!((reply.is_hit(), &reply.body), (hit, &body));
        }
    }

    async fn if_the_client_disconnects_half_way_nothing_is_stored(kit: Kit) {
        let cache = kit.layer().with_policy(MINUTE);
        let handle = cache.handle();
        let endless = || async {
            let parts = futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![7; 4096])));
            axum::body::Body::from_stream(parts)
        };
        let app = Router::new().route("/", on_get(endless)).layer(cache.with_policy(MINUTE.max_body_bytes(1 << 30)));
        let site = Site::axum(app).await;
        let mut socket = site.connect("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
        let mut start = [0; 8192];
        socket.read_exact(&mut start).await.unwrap();
        drop(socket);
        eventually("the recording ends", async || handle.counts().abandoned > 0).await;
        assert_eq!(handle.counts().stored, 0);
    }

    async fn the_first_event_of_a_stream_arrives_at_once(kit: Kit) {
        let events = || async {
            let first = futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from("data: 1\n\n"))]);
            let rest = futures_util::StreamExt::chain(first, futures_util::stream::pending());
            ([("content-type", "text/event-stream")], axum::body::Body::from_stream(rest))
        };
        let app = Router::new().route("/", on_get(events)).layer(kit.layer().with_policy(MINUTE));
        let site = Site::axum(app).await;
        let mut socket = site.connect("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
        let mut seen = Vec::new();
        while !seen.windows(9).any(|window| window == b"data: 1\n\n") {
            let mut part = [0; 1024];
            let read = tokio::time::timeout(Duration::from_secs(5), socket.read(&mut part));
            let read = read.await.expect("the first event in time").unwrap();
            seen.extend_from_slice(&part[..read]);
        }
    }

    async fn plain_hyper_with_incoming_bodies_is_served(kit: Kit) {
        let calls = Calls::default();
        let counted = calls.clone();
        let cache = kit.layer().with_policy(MINUTE);
        let service = ServiceBuilder::new().layer(cache).concurrency_limit(8).service_fn(
            move |request: Request<Incoming>| {
                counted.add();
                async move {
                    let body = request.into_body().collect().await?.to_bytes();
                    Ok::<_, hyper::Error>(Response::new(Full::new(if body.is_empty() { "none".into() } else { body })))
                }
            },
        );
        let site = Site::hyper(service).await;
        assert!(!site.get("/%00/%F0%9F%A6%80?q=%20").await.is_hit());
        let hit = site.get("/%00/%F0%9F%A6%80?q=%20").await;
        assert_eq!((hit.is_hit(), &hit.body[..]), (true, &b"none"[..]));
        let http2 = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Empty<Bytes>>();
        let uri: http::Uri = format!("http://{}/%00/%F0%9F%A6%80?q=%20", site.address).parse().unwrap();
        let over_http2 = http2.get(uri).await.unwrap();
        assert!(over_http2.headers()["cache-status"].to_str().unwrap().contains("; hit"));
        assert_eq!(over_http2.into_body().collect().await.unwrap().to_bytes(), "none");
        // over HTTP/2, no header field needs to announce a body
        let bodies = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        for text in ["one", "two"] {
            let parts = [Ok::<_, Infallible>(Frame::data(Bytes::from(text)))];
            let body = StreamBody::new(futures_util::stream::iter(parts));
            let request = Request::builder().uri(format!("http://{}/body", site.address)).body(body);
            let response = bodies.request(request.unwrap()).await.unwrap();
            assert!(response.headers()["cache-status"].to_str().unwrap().contains("fwd=bypass"));
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), text);
        }
        let with_body = "GET / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc";
        for _ in 0..2 {
            assert!(site.raw(with_body).await.contains("fwd=bypass"));
        }
        assert_eq!(calls.count(), 5);
    }
}

/// The responses of the cache around an upstream client for each URI, inside an axum handler.
#[tokio::test]
async fn each_upstream_uri_of_a_handler_has_its_own_entry() {
    let kit = Kit::memory();
    let upstream = ServiceBuilder::new().layer(kit.layer().with_policy(MINUTE)).service_fn(
        |request: axum::extract::Request| async move {
            let answer = Response::new(axum::body::Body::from(request.uri().to_string()));
            Ok::<_, Infallible>(answer)
        },
    );
    // like a reverse proxy: sends the client's request with another URI
    let dashboard = move |request: axum::extract::Request| async move {
        let query = request.uri().query().map_or(String::new(), |query| format!("?{query}"));
        let mut answers = Vec::new();
        for uri in ["http://a.internal/prices", "http://a.internal/", "/stock", "/prices"] {
            let mut upstream_request = Request::new(axum::body::Body::empty());
            *upstream_request.extensions_mut() = request.extensions().clone();
            *upstream_request.uri_mut() = format!("{uri}{query}").parse().unwrap();
            let answer = upstream.clone().oneshot(upstream_request).await.unwrap();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            answers.push(String::from_utf8_lossy(&body).into_owned());
        }
        answers.join(" ")
    };
    let app = Router::new().route("/dashboard", on_get(dashboard.clone()));
    let site = Site::axum(app.nest("/api", Router::new().route("/all", on_get(dashboard)))).await;
    for path in ["/dashboard", "/dashboard", "/api/all"] {
        let body = site.get(path).await.body;
        let expected = "http://a.internal/prices http://a.internal/ /stock /prices";
        assert_eq!(body, expected, "{path}");
    }
    let body = site.get("/dashboard?user=7").await.body;
    let expected =
        "http://a.internal/prices?user=7 http://a.internal/?user=7 /stock?user=7 /prices?user=7";
    assert_eq!(body, expected);
}

#[tokio::test]
async fn an_upstream_path_that_is_a_suffix_has_its_own_entry() {
    let kit = Kit::memory();
    let upstream = ServiceBuilder::new().layer(kit.layer().with_policy(MINUTE)).service_fn(
        |request: axum::extract::Request| async move {
            let answer = Response::new(axum::body::Body::from(request.uri().to_string()));
            Ok::<_, Infallible>(answer)
        },
    );
    let page = move |request: axum::extract::Request| async move {
        let mut answers = Vec::new();
        for uri in ["/", "/stock", "/shop/stock"] {
            let mut upstream_request = Request::new(axum::body::Body::empty());
            *upstream_request.extensions_mut() = request.extensions().clone();
            *upstream_request.uri_mut() = uri.parse().unwrap();
            let answer = upstream.clone().oneshot(upstream_request).await.unwrap();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            answers.push(String::from_utf8_lossy(&body).into_owned());
        }
        answers.join(" ")
    };
    let site = Site::axum(Router::new().route("/shop/stock", on_get(page))).await;
    assert_eq!(site.get("/shop/stock").await.body, "/ /stock /shop/stock");
}

#[tokio::test]
async fn keys_have_whole_paths_in_any_nesting_of_routers() {
    let kit = Kit::memory();
    let cache = kit.layer().with_policy(MINUTE);
    let inner = || {
        let routes = Router::new().route("/", on_get(counted)).route("/x", on_get(counted));
        routes.layer(cache.clone())
    };
    let calls = Calls::default();
    let service = inner().with_state(calls.clone());
    let app = Router::new()
        .nest("/plain", inner())
        .nest("/slash/", inner())
        .nest("/tenant/{name}", Router::new().nest("/in", inner()))
        .nest_service("/service", service)
        .merge(inner());
    let site = Site::axum(app.with_state(calls.clone())).await;
    let paths = [
        "/",
        "/x",
        "/plain",
        "/plain/x",
        "/slash/",
        "/slash/x",
        "/slash//x",
        "/tenant/a/in",
        "/tenant/a/in/x",
        "/tenant/b/in",
        "/tenant/b/in/x",
        "/service",
        "/service/",
        "/service/x",
        "/plain?q=1",
        "/plain/x?q=1",
        "/x?q=1",
    ];
    for hit in [false, true] {
        for path in paths {
            let reply = site.get(path).await;
            if reply.status == StatusCode::OK {
                assert_eq!(reply.is_hit(), hit, "{path}");
            } else {
                assert_eq!(path, "/slash//x");
            }
        }
    }
    assert!(calls.count() >= paths.len() - 1);
    cache.handle().invalidate_uri("/tenant/b/in").await.unwrap();
    assert!(site.get("/tenant/a/in").await.is_hit() && !site.get("/tenant/b/in").await.is_hit());
}

#[tokio::test]
async fn a_path_shortened_by_middleware_bypasses_the_cache() {
    let kit = Kit::memory();
    let cache = kit.layer().with_policy(MINUTE).status_field(StatusField::Debug);
    // a layer that reads a tenant from the path
    let cut = axum::middleware::map_request(|mut request: axum::extract::Request| async move {
        let rest = request.uri().path().splitn(3, '/').nth(2).unwrap_or("").to_owned();
        *request.uri_mut() = format!("/{rest}").parse().unwrap();
        request
    });
    let calls = Calls::default();
    let cached = || any(counted).layer(cache.clone()).with_state(calls.clone());
    let app = Router::new()
        .route("/stock", cached())
        .nest("/in", Router::new().route("/{tenant}/stock", cached().layer(cut.clone())))
        .route("/{tenant}", cached().layer(cut.clone()))
        .route("/{tenant}/stock", cached().layer(cut));
    let site = Site::axum(app).await;
    for path in ["/acme", "/acme/stock", "/other/stock", "/in/acme/stock"] {
        for _ in 0..2 {
            let reply = site.get(path).await;
            assert_eq!(
                reply.field("cache-status"),
                "test; fwd=bypass; detail=rewritten-uri",
                "{path}"
            );
        }
    }
    for path in ["/stock", "/in/acme/stock"] {
        site.get("/stock").await;
        assert!(site.get("/stock").await.is_hit());
        site.request("POST", path, &[]).await;
        assert!(!site.get("/stock").await.is_hit(), "after a write to {path}");
    }
}

#[tokio::test]
async fn a_path_without_a_slash_over_http2_bypasses_the_cache() {
    let (calls, kit) = (Calls::default(), Kit::memory());
    let counted = calls.clone();
    let cache = kit.layer().with_policy(MINUTE);
    let service =
        ServiceBuilder::new().layer(cache).service_fn(move |request: Request<Incoming>| {
            counted.add();
            let target = request.uri().path_and_query().unwrap().as_str().to_owned();
            async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(target)))) }
        });
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = tokio::spawn(async move {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder.serve_connection(TokioIo::new(far), TowerToHyperService::new(service)).await
    });
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near))
            .await
            .unwrap();
    let client_side = tokio::spawn(connection);
    for (target, hits) in [("http://h?/x=1", 0), ("http://h/?/x=1", 1), ("http://h?/x=1", 0)] {
        for round in 0..2 {
            let request = Request::builder().uri(target).body(Empty::<Bytes>::new()).unwrap();
            let answer = client.send_request(request).await.unwrap();
            let says = answer.headers()["cache-status"].to_str().unwrap().to_owned();
            assert_eq!(says.contains("; hit"), hits == 1 && round == 1, "{target} {says}");
            assert_eq!(says.contains("fwd=bypass"), hits == 0, "{target} {says}");
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, target.trim_start_matches("http://h"), "as it was on the wire");
        }
    }
    assert_eq!(calls.count(), 5);
    server.abort();
    client_side.abort();
}
