//! Why a response was stored or reused, or why not, in every place that tells the reason. A separate test binary,
//! because tracing is set up once per process.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests

#[path = "support/traced.rs"]
#[allow(unreachable_pub)] // several test binaries share this module
mod traced;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_mysql_cache::service::CacheBody;
use tower_mysql_cache::status::StatusField;
use tower_mysql_cache::{CacheHandle, CacheLayer, CachePolicy, CacheStatus, MemoryStore};
use traced::Traced;

#[tokio::test]
async fn every_reason_is_in_status_field_trace_and_counters() {
    let traced = Traced::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(traced.clone());
    let subscriber = subscriber.with_max_level(tracing::Level::TRACE).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let layer = CacheLayer::new(MemoryStore::new()).prefix("test");
    let layer = layer.status_field(StatusField::Debug);
    let policy = CachePolicy::new().stale_while_revalidate(Duration::from_secs(60));
    let layer = layer.with_policy(policy.max_body_bytes(10));
    let handle = layer.handle();
    let app = layer.layer(service_fn(|request: Request<()>| async move {
        let said = request.headers().get("x-say").map_or("", |value| value.to_str().unwrap());
        let body = if said.contains("x-long") { "a long body" } else { "body" };
        let mut response = Response::builder();
        for (name, value) in said.split(';').filter_map(|field| field.split_once(':')) {
            response = response.header(name, value);
        }
        Ok::<_, Infallible>(response.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap())
    }));
    // method, more request fields, the handler's answer, `fwd`, `detail`
    let cases = [
        ("GET", ("x", ""), "cache-control:max-age=60", Some("uri-miss"), None),
        (
            "GET",
            ("x", ""),
            "cache-control:max-age=60, no-store",
            Some("uri-miss"),
            Some("no-store"),
        ),
        ("GET", ("x", ""), "cache-control:private", Some("uri-miss"), Some("private")),
        ("GET", ("x", ""), "x-none:1", Some("uri-miss"), Some("no-freshness")),
        ("GET", ("x", ""), "cache-control:max-age=60;vary:*", Some("uri-miss"), Some("vary-any")),
        (
            "GET",
            ("x", ""),
            "cache-control:max-age=60;set-cookie:a=b",
            Some("uri-miss"),
            Some("set-cookie"),
        ),
        (
            "GET",
            ("x", ""),
            "cache-control:max-age=60;x-long:1",
            Some("uri-miss"),
            Some("too-large"),
        ),
        ("GET", ("cookie", "sid=1"), "cache-control:max-age=60", Some("bypass"), Some("cookie")),
        ("GET", ("authorization", "Bearer a"), "x-none:1", Some("bypass"), Some("authorization")),
        ("GET", ("upgrade", "websocket"), "x-none:1", Some("bypass"), Some("upgrade")),
        ("GET", ("content-length", "3"), "x-none:1", Some("bypass"), Some("request-body")),
        ("OPTIONS", ("x", ""), "x-none:1", Some("method"), None),
        ("POST", ("x", ""), "x-none:1", Some("method"), None),
        ("BREW", ("x", ""), "x-none:1", Some("method"), None),
    ];
    for (n, (method, more, said, fwd, detail)) in cases.into_iter().enumerate() {
        let uri = format!("/{n}");
        explains(&app, &handle, &traced, (method, &uri, more, said), (fwd, detail)).await;
    }
    // a hit, and a stale hit
    let old = "cache-control:max-age=10;age:20";
    explains(&app, &handle, &traced, ("GET", "/0", ("x", ""), old), (None, None)).await;
    explains(&app, &handle, &traced, ("GET", "/old", ("x", ""), old), (Some("uri-miss"), None))
        .await;
    let stale = (None, Some("stale-while-revalidate"));
    explains(&app, &handle, &traced, ("GET", "/old", ("x", ""), old), stale).await;
}

async fn explains(
    app: &(
         impl Service<
        Request<()>,
        Response = Response<CacheBody<Full<Bytes>>>,
        Error = Infallible,
        Future: Send,
    > + Clone
     ),
    handle: &CacheHandle,
    traced: &Traced,
    (method, uri, more, said): (&str, &str, (&str, &str), &str),
    (fwd, detail): (Option<&str>, Option<&str>),
) {
    handle.flush().await.unwrap();
    traced.take();
    let before = handle.reasons();
    let request = Request::builder().method(method).uri(uri).header(more.0, more.1);
    let request = request.header("x-say", said).body(()).unwrap();
    let answer = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = answer.into_parts();
    body.collect().await.unwrap();
    let what = format!("{method} {more:?} {said}: {parts:?}");
    let status = parts.extensions.get::<CacheStatus>().unwrap();
    assert_eq!(status.forward().map(|forward| forward.as_str()), fwd, "{what}");
    assert_eq!(status.reason().map(|reason| reason.as_str()), detail, "{what}");
    let field = parts.headers["cache-status"].to_str().unwrap();
    match fwd {
        Some(fwd) => assert!(field.starts_with(&format!("test; fwd={fwd}")), "{what}"),
        None => assert!(field.starts_with("test; hit"), "{what}"),
    }
    assert_eq!(field.contains("detail="), detail.is_some(), "{what}");
    assert!(detail.is_none_or(|detail| field.contains(&format!("detail={detail}"))), "{what}");
    let traced = traced.take();
    let event = if fwd.is_some() { "request forwarded" } else { "request answered from the store" };
    let line = traced.lines().find(|line| line.contains(event));
    let line = line.unwrap_or_else(|| panic!("{what}: nothing traced: {traced}"));
    if let Some(reason) = detail.or(fwd) {
        assert!(line.contains(&format!("reason=\"{reason}\"")), "{what}: {line}");
        let counted = |reasons: &BTreeMap<&str, u64>| reasons.get(reason).copied();
        let (before, after) = (counted(&before).unwrap_or(0), counted(&handle.reasons()));
        assert!(after.is_some_and(|after| after > before), "{what}: not counted");
    }
}
