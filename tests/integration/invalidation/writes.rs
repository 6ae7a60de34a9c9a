//! Which requests invalidate which pages.

use super::*;

on_every_store! {
    async fn a_successful_unsafe_request_invalidates_its_target(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE)
            .partition_by("role", |request| Some(request.headers.get("x-role").map_or("-", |r| r.to_str().unwrap()).to_owned()));
        let (app, _) = cached(&layer, |request| {
            let status = request.headers().get("x-status").map_or(200, |s| s.to_str().unwrap().parse().unwrap());
            response(status, &[("vary", "accept-language")], "x")
        });
        let variants = [("accept-language", "de"), ("accept-language", "fr"), ("x-role", "admin")];
        let hits = async || {
            let mut hits = 0;
            for fields in &variants {
                hits += usize::from(send(&app, get("/p", &[*fields])).await.is_hit());
            }
            hits
        };
        let other = async || send(&app, get("/p/7", &[])).await.is_hit();
        for method in ["POST", "PUT", "DELETE", "PATCH", "PURGE-IT"] {
            hits().await;
            other().await;
            assert_eq!(hits().await, 3);
            let failed = send(&app, request(method, "/p", &[("x-status", "409")])).await;
            assert_eq!(failed.field("cache-status"), "test; fwd=method");
            assert_eq!(hits().await, 3, "{method} failed and invalidates nothing");
            send(&app, request(method, "/p", &[])).await;
            assert_eq!(hits().await, 0, "{method}");
            assert!(other().await, "{method} leaves other targets alone");
        }
        for method in ["OPTIONS", "TRACE", "QUERY", "PROPFIND", "REPORT", "SEARCH"] {
            send(&app, request(method, "/p", &[])).await;
            assert_eq!(hits().await, 3, "{method} is safe");
        }
    }

    async fn a_write_that_answers_408_or_5xx_invalidates(kit: Kit) {
        for (policy, invalidates) in [(MINUTE, true), (CachePolicy::rfc9111(), false)] {
            let (app, _) = cached(&kit.layer().with_policy(policy), |request| {
                let status = request.headers().get("x-status").map_or(200, |s| s.to_str().unwrap().parse().unwrap());
                response(status, &[FRESH], "x")
            });
            for status in ["408", "500", "503", "504"] {
                send(&app, get("/p", &[])).await;
                assert!(send(&app, get("/p", &[])).await.is_hit());
                send(&app, request("PUT", "/p", &[("x-status", status)])).await;
                assert_eq!(!send(&app, get("/p", &[])).await.is_hit(), invalidates, "{status}");
            }
        }
    }

    async fn writes_that_change_no_page_append_no_log_row(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let handle = layer.handle();
        let grpc = ("content-type", "application/grpc+proto");
        let shouted = ("content-type", "APPLICATION/GRPC");
        let silent = [
            (CachePolicy::bypass(), "POST", None),
            (MINUTE.invalidates_on_write(false), "POST", None),
            (MINUTE, "POST", Some(grpc)),
            (MINUTE, "POST", Some(shouted)),
            (MINUTE, "QUERY", None),
            (MINUTE, "PROPFIND", None),
        ];
        for (policy, method, field) in silent {
            let (app, calls) = cached(&layer.with_policy(policy), |_| response(200, &[], "x"));
            let answer = send(&app, request(method, "/graphql", field.as_slice())).await;
            assert_eq!((answer.field("cache-status").as_str(), calls.count()), ("test; fwd=method", 1));
        }
        assert_eq!(handle.invalidations(9).await.unwrap().len(), 0);
        let loud = [
            (CachePolicy::bypass().invalidates_on_write(true), "POST", None, 2),
            (MINUTE, "PUT", Some(grpc), 4),
            (CachePolicy::rfc9111(), "POST", Some(grpc), 6),
        ];
        for (policy, method, field, rows) in loud {
            let (app, _) = cached(&layer.with_policy(policy), |_| response(200, &[], "x"));
            send(&app, request(method, "/graphql", field.as_slice())).await;
            assert_eq!(handle.invalidations(9).await.unwrap().len(), rows);
        }
        let (app, _) = cached(&layer.with_policy(MINUTE).scheme("https"), |_| response(200, &[], "x"));
        send(&app, request("POST", "/graphql", &[])).await;
        assert_eq!(handle.invalidations(9).await.unwrap().len(), 7, "one row where the scheme is known");
    }

    async fn a_client_cannot_invalidate_other_pages_by_location(kit: Kit) {
        let (app, _) = cached(&kit.layer().with_policy(MINUTE), |request| {
            let fields = [("location", "/home"), ("content-location", "/list")];
            response(if request.method() == "POST" { 303 } else { 200 }, &fields, "x")
        });
        for uri in ["/home", "/list"] {
            send(&app, get(uri, &[])).await;
        }
        send(&app, request("POST", "/login?next=/home", &[])).await;
        assert!(send(&app, get("/home", &[])).await.is_hit());
        assert!(!send(&app, get("/list", &[])).await.is_hit());
    }

    async fn location_fields_invalidate_only_on_the_same_origin(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.invalidates_location(true));
        let (app, _) = cached(&layer, |request| {
            if request.method() == "POST" {
                let fields = [("location", "/new?x=1"), ("content-location", "http://H.example/list")];
                let foreign = [("location", "http://other.example/new?x=1")];
                let fields = if request.uri().path() == "/foreign" { &foreign[..] } else { &fields };
                return response(201, fields, "");
            }
            response(200, &[], "x")
        });
        let host = ("host", "h.example");
        let hits = async || {
            let mut hits = 0;
            for uri in ["/new?x=1", "/list", "/new"] {
                hits += usize::from(send(&app, get(uri, &[host])).await.is_hit());
            }
            hits
        };
        hits().await;
        send(&app, request("POST", "/foreign", &[host])).await;
        assert_eq!(hits().await, 3);
        send(&app, request("POST", "/orders", &[host])).await;
        assert_eq!(hits().await, 1);
    }

    async fn a_write_also_invalidates_entries_under_custom_keys(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.invalidates_location(true)).key_builder(
            |request: &http::request::Parts, default: TargetKey| match request.uri.path() {
                "/listed" => Some(default),
                path => Some(TargetKey::custom(path)),
            },
        );
        let (app, _) = cached(&layer, |request| match request.method().as_str() {
            "POST" => {
                let fields = [("location", "/listed"), ("cache-group-invalidation", "\"all\"")];
                response(200, &fields, "done")
            }
            _ => response(200, &[("cache-groups", "\"all\"")], "x"),
        });
        let host = ("host", "h");
        for uri in ["/own", "/listed", "/other"] {
            send(&app, get(uri, &[host])).await;
            assert!(send(&app, get(uri, &[host])).await.is_hit(), "{uri}");
        }
        send(&app, request("POST", "/own", &[host])).await;
        for uri in ["/own", "/listed", "/other"] {
            assert!(!send(&app, get(uri, &[host])).await.is_hit(), "{uri}");
        }
    }

    async fn a_write_to_an_unlisted_host_invalidates_too(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE).hosts(["known.example"]);
        let (app, _) = cached(&layer, |_| response(200, &[], "x"));
        let page = async |path: &str| send(&app, get(path, &[("host", "known.example:80")])).await;
        for host in ["10.0.0.1:8080", "a b"] {
            page("/p").await;
            page("/q").await;
            assert!(page("/p").await.is_hit());
            send(&app, request("PUT", "/p", &[("host", host)])).await;
            assert!(!page("/p").await.is_hit(), "{host}");
            assert!(page("/q").await.is_hit(), "{host}");
        }
    }
}

#[tokio::test]
async fn a_write_over_another_protocol_version_invalidates() {
    let app = versioned(&in_memory().with_policy(MINUTE));
    send(&app, get("https://shop.example/p", &[])).await; // HTTP/2 over TLS: :scheme and :authority
    send(&app, request("PUT", "/p", &[("host", "shop.example")])).await; // HTTP/1.1 over TLS
    assert_eq!(send(&app, get("https://shop.example/p", &[])).await.text(), "1");
}

#[tokio::test]
async fn a_write_with_an_upgrade_field_invalidates() {
    let app = versioned(&in_memory().with_policy(MINUTE));
    send(&app, get("/p", &[])).await;
    app.clone().oneshot(request("PUT", "/p", &[("upgrade", "TLS/1.0")])).await.unwrap();
    assert_eq!(send(&app, get("/p", &[])).await.text(), "1");
}

#[tokio::test]
async fn a_write_without_a_partition_invalidates_all_partitions() {
    let layer = in_memory()
        .with_policy(MINUTE)
        .partition_by("locale", |r| Some(r.headers.get("x-locale")?.as_bytes().to_vec()));
    let app = versioned(&layer);
    send(&app, get("/p", &[("x-locale", "de")])).await;
    send(&app, request("PUT", "/p", &[])).await;
    assert_eq!(send(&app, get("/p", &[("x-locale", "de")])).await.text(), "1");
}

#[tokio::test]
async fn invalidating_a_path_keeps_its_query_rule() {
    let store = BoxStore::new(MemoryStore::new());
    let version = Calls::default();
    let handler = move |request: Request<()>| {
        if request.method() == "PUT" {
            version.add();
        }
        let fields = [FRESH, ("no-vary-search", "params=(\"utm\")")];
        response(200, &fields, &version.count().to_string())
    };
    let one = crate::kit::patient(store.clone());
    let (app, _) = cached(&one, handler.clone());
    send(&app, get("/s?q=1&utm=a", &[])).await;
    one.handle().invalidate_uri("/s").await.unwrap(); // the page without a query is another target
    let (app, _) = cached(&crate::kit::patient(store), handler); // another process
    send(&app, request("PUT", "/s?q=1&utm=b", &[])).await;
    let after = send(&app, get("/s?q=1", &[])).await;
    assert_eq!(after.text(), "1", "{:?}", after.cache());
}
