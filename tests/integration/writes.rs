//! Tags that an unsafe request invalidates: those of its route's policy, and those in its response.

use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt};
use tower_mysql_cache::store::BoxStore;
use tower_mysql_cache::{CacheLayer, CacheOverride, CachePolicy};

use crate::kit::{Kit, cached, get, on_every_store, patient, request, response, send};

const FRESH: (&str, &str) = ("cache-control", "max-age=60");
const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
const POSTS: CachePolicy = MINUTE.tags(&["posts"]);
const WRITES: CachePolicy = MINUTE.invalidates(&["posts"]);

/// The status that a request asks for.
fn status(request: &Request<()>) -> u16 {
    request.headers().get("x-status").map_or(200, |s| s.to_str().unwrap().parse().unwrap())
}

/// Whether a page with the tag `posts` and one without are hits. They are stored afterwards.
async fn hits(layer: &CacheLayer<BoxStore>) -> (bool, bool) {
    let (posts, _) = cached(&layer.with_policy(POSTS), |_| response(200, &[FRESH], "posts"));
    let (home, _) = cached(&layer.with_policy(MINUTE), |_| response(200, &[FRESH], "home"));
    let posts = send(&posts, get("/posts?page=2", &[])).await.is_hit();
    (posts, send(&home, get("/home", &[])).await.is_hit())
}

/// A response that says which tags it has invalidated.
fn changed<const N: usize>(tags: [&str; N]) -> Response<Full<Bytes>> {
    let mut answer = response(200, &[], "x");
    for tag in tags {
        CacheOverride::new().invalidates(tag).add_to(answer.extensions_mut());
    }
    answer
}

on_every_store! {
    async fn a_policy_invalidates_its_tags_on_success(kit: Kit) {
        let layer = kit.layer();
        let (app, _) = cached(&layer.with_policy(WRITES), |request| response(status(&request), &[], "x"));
        hits(&layer).await;
        for method in ["POST", "PUT", "PATCH", "DELETE", "BREW"] {
            for (code, is_hit) in [("200", false), ("201", false), ("303", false), ("400", true), ("404", true), ("409", true)] {
                send(&app, request(method, "/new", &[("x-status", code)])).await;
                assert_eq!(hits(&layer).await, (is_hit, true), "{method} {code}");
            }
        }
        for method in ["GET", "HEAD", "OPTIONS", "QUERY"] {
            send(&app, request(method, "/new", &[])).await;
            assert_eq!(hits(&layer).await, (true, true), "{method}");
        }
    }

    async fn a_failure_that_may_have_changed_data_invalidates_tags(kit: Kit) {
        let layer = kit.layer();
        for (policy, is_hit) in [(WRITES, false), (CachePolicy::rfc9111().invalidates(&["posts"]), true)] {
            let (app, _) = cached(&layer.with_policy(policy), |request| response(status(&request), &[], "x"));
            for code in ["408", "500", "503"] {
                hits(&layer).await;
                send(&app, request("POST", "/new", &[("x-status", code)])).await;
                assert_eq!(hits(&layer).await, (is_hit, true), "{code}");
            }
        }
    }

    async fn a_handler_that_fails_or_is_aborted_invalidates_tags(kit: Kit) {
        let layer = kit.layer();
        // the target of the second is not invalidated, its tags are
        for policy in [WRITES, WRITES.invalidates_on_write(false)] {
            let fails = layer.with_policy(policy).layer(tower::service_fn(|_: Request<()>| async {
                Err::<Response<Full<Bytes>>, _>("the connection was lost")
            }));
            hits(&layer).await;
            assert!(fails.oneshot(request("POST", "/new", &[])).await.is_err());
            assert_eq!(hits(&layer).await, (false, true));
            let hangs = layer.with_policy(policy).layer(tower::service_fn(|_: Request<()>| {
                pending::<Result<Response<Full<Bytes>>, std::convert::Infallible>>()
            }));
            let soon = Duration::from_millis(5);
            assert!(tokio::time::timeout(soon, hangs.oneshot(request("POST", "/new", &[]))).await.is_err());
            // no request waits for the rows of an aborted one
            loop {
                match hits(&layer).await {
                    (true, true) => tokio::task::yield_now().await,
                    seen => break assert_eq!(seen, (false, true)),
                }
            }
        }
    }

    async fn tags_are_invalidated_where_the_target_is_not(kit: Kit) {
        let layer = kit.layer();
        let handle = layer.handle();
        let grpc = ("content-type", "application/grpc");
        let cases = [
            (CachePolicy::bypass().invalidates(&["posts"]), None),
            (WRITES.invalidates_on_write(false), None),
            (WRITES, Some(grpc)),
        ];
        for (policy, field) in cases {
            let (app, _) = cached(&layer.with_policy(policy), |_| response(200, &[], "x"));
            hits(&layer).await;
            let before = handle.invalidations(99).await.unwrap().len();
            let answer = send(&app, request("POST", "/posts?page=2", field.as_slice())).await;
            assert_eq!(answer.field("cache-status"), "test; fwd=method");
            assert_eq!(handle.invalidations(99).await.unwrap().len(), before + 1);
            assert_eq!(hits(&layer).await, (false, true));
        }
    }

    async fn a_response_invalidates_the_tags_that_it_names(kit: Kit) {
        let layer = kit.layer();
        for policy in [MINUTE, CachePolicy::bypass(), MINUTE.invalidates_on_write(false), CachePolicy::rfc9111()] {
            let (app, _) = cached(&layer.with_policy(policy), |request| match request.uri().path() {
                "/new" => changed(["other", "posts"]),
                _ => changed(["other"]),
            });
            hits(&layer).await;
            send(&app, request("POST", "/draft", &[])).await;
            assert_eq!(hits(&layer).await, (true, true));
            let answer = send(&app, request("POST", "/new", &[])).await;
            assert_eq!(answer.status, 200);
            assert_eq!(hits(&layer).await, (false, true));
        }
    }

    async fn a_failed_write_and_a_read_invalidate_nothing_that_they_name(kit: Kit) {
        let layer = kit.layer();
        let (app, _) = cached(&layer.with_policy(MINUTE), |request| {
            let mut answer = changed(["posts"]);
            *answer.status_mut() = status(&request).try_into().unwrap();
            answer
        });
        hits(&layer).await;
        for (method, code) in [("GET", "200"), ("HEAD", "200"), ("OPTIONS", "200"), ("POST", "409"), ("PUT", "404")] {
            send(&app, request(method, "/new", &[("x-status", code)])).await;
            assert_eq!(hits(&layer).await, (true, true), "{method} {code}");
        }
    }

    async fn target_and_tags_are_each_one_row(kit: Kit) {
        let layer = kit.layer().scheme("http");
        let handle = layer.handle();
        let (app, _) = cached(&layer.with_policy(WRITES.invalidates(&["posts", "feed", "posts"])), |_| {
            changed(["feed", "product:7", "", "product:7"])
        });
        send(&app, request("POST", "/new", &[])).await;
        // `/new`, and three tags, each once; the empty one is skipped
        assert_eq!(handle.invalidations(99).await.unwrap().len(), 4);
        assert_eq!(handle.counts().invalidations, 4);
        assert_eq!(handle.counts().invalidation_errors, 0);
    }

    async fn every_process_sees_the_tags_of_a_write(kit: Kit) {
        let layer = kit.layer();
        let other = patient(kit.neighbour().await);
        let (app, _) = cached(&layer.with_policy(WRITES), |_| response(200, &[], "x"));
        hits(&other).await;
        other.handle().flush().await.unwrap();
        assert_eq!(hits(&other).await, (true, true));
        send(&app, request("POST", "/new", &[])).await;
        other.handle().sync().await.unwrap();
        assert_eq!(hits(&other).await, (false, true));
    }
}
