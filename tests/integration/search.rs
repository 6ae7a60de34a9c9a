//! `No-Vary-Search`: requests whose queries differ only in parameters that do not matter share a response.

use std::convert::Infallible;

use http::Request;
use tower::Layer;
use tower_mysql_cache::invalidation::Invalidation;

use crate::kit::{Kit, cached, get, on_every_store, patient, request, response, send};

const FRESH: (&str, &str) = ("cache-control", "max-age=60");

/// Whether one call answers these queries, sent one after another.
async fn share(kit: &Kit, path: &str, field: &'static str, a: &str, b: &str) -> bool {
    let layer = kit.layer();
    let (app, calls) =
        cached(&layer, move |_| response(200, &[FRESH, ("no-vary-search", field)], "x"));
    for query in [a, b] {
        send(&app, get(&format!("{path}{query}"), &[])).await;
    }
    layer.handle().invalidate_all().await.unwrap();
    calls.count() == 1
}

on_every_store! {
    async fn parameters_that_do_not_matter_share_an_entry(kit: Kit) {
        let cases = [
            (r#"params=("a")"#, "?a=1&b=2", "?b=2", true),
            (r#"params=("a")"#, "?a=1&b=2", "?b=3&a=1", false),
            (r#"except=("b")"#, "?a=1&b=2", "?b=2&c=3", true),
            (r#"except=("b")"#, "?b=1", "?b=2", false),
            ("except=()", "?a=1", "?b=2", true),
            (r#"key-order, params=("x")"#, "?a=1&b=2", "?b=2&a=1", true),
            ("key-order", "?a=1&a=2", "?a=2&a=1", false),
            (r#"params=("x")"#, "?a=%f6", "?a=%ef%bf%bd", true),
            (r#"params=("x")"#, "?a=b+c", "?a=b%20c", true),
            ("params", "?a=1", "?a=2", false),
            (r#"params=("a"), except=("b")"#, "?a=1", "?a=2", false),
            (r#"params=("a"#, "?a=1", "?a=2", false),
            (r#"params="a""#, "?a=1", "?a=2", false),
        ];
        for (n, (field, a, b, shared)) in cases.into_iter().enumerate() {
            let path = format!("/{n}");
            assert_eq!(share(&kit, &path, field, a, b).await, shared, "{field} {a} {b}");
        }
    }

    async fn another_process_learns_the_rule_from_the_store(kit: Kit) {
        let field = ("no-vary-search", r#"params=("a")"#);
        let layer = kit.layer();
        let (app, _) = cached(&layer, move |_| response(200, &[FRESH, field], "x"));
        send(&app, get("/p?a=1&b=2", &[])).await;
        layer.handle().flush().await.unwrap();
        let other = patient(kit.neighbour().await);
        let (app, calls) = cached(&other, move |_| response(200, &[FRESH, field], "x"));
        assert!(send(&app, get("/p?b=2&a=9", &[])).await.is_hit());
        assert!(!send(&app, get("/p?b=3", &[])).await.is_hit());
        assert_eq!(calls.count(), 1);
    }

    async fn a_match_by_query_must_also_match_vary(kit: Kit) {
        let fields = [FRESH, ("no-vary-search", "except=()"), ("vary", "x-a")];
        let (app, calls) = cached(&kit.layer(), move |_| response(200, &fields, "x"));
        for (uri, value) in [("/p?a=1", "1"), ("/p?b=2", "2"), ("/p?c=3", "1"), ("/p?d=4", "2")] {
            send(&app, get(uri, &[("x-a", value)])).await;
        }
        assert_eq!(calls.count(), 2);
    }

    async fn invalidating_one_query_invalidates_its_equivalents(kit: Kit) {
        let field = ("no-vary-search", r#"params=("a")"#);
        let layer = kit.layer();
        let (app, _) = cached(&layer, move |_| response(200, &[FRESH, field], "x"));
        let hit = async |uri: &str| send(&app, get(uri, &[])).await.is_hit();
        hit("/p?a=1&b=2").await;
        assert!(hit("/p?b=2").await);
        layer.handle().invalidate_uri("/p?b=2&a=7").await.unwrap();
        assert!(!hit("/p?b=2").await);
        send(&app, request("DELETE", "/p?a=8&b=2", &[])).await;
        assert!(!hit("/p?b=2").await);
        let other = patient(kit.neighbour().await);
        layer.handle().flush().await.unwrap();
        assert!(hit("/p?b=2").await);
        other.handle().invalidate_uri("/p?b=2&a=7").await.unwrap();
        assert!(!hit("/p?b=2").await);
    }

    async fn a_changed_rule_never_answers_by_the_old_rule(kit: Kit) {
        let layer = kit.layer();
        let (app, _) = cached(&layer, |request| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            // at first "a" does not matter, later it does
            let field = if query.contains("late") { r#"params=("late")"# } else { r#"params=("a")"# };
            response(200, &[FRESH, ("no-vary-search", field)], &query)
        });
        assert_eq!(send(&app, get("/p?b=1&a=1", &[])).await.text(), "b=1&a=1");
        assert_eq!(send(&app, get("/p?b=1&a=2", &[])).await.text(), "b=1&a=1");
        send(&app, get("/p?late=1", &[])).await;
        // by the new rule "a" matters, so a response stored under the old rule is not served
        assert_eq!(send(&app, get("/p?b=1&a=2", &[])).await.text(), "b=1&a=2");
    }

    async fn a_response_without_the_paths_rule_is_found_by_its_query(kit: Kit) {
        let layer = kit.layer();
        let (app, calls) = cached(&layer, |request| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let says = query.contains("says");
            let field = ("no-vary-search", "except=()");
            let fields = [FRESH, field];
            response(200, if says { &fields } else { &fields[..1] }, &query)
        });
        send(&app, get("/p?says", &[])).await;
        layer.handle().invalidate_all().await.unwrap();
        for _ in 0..3 {
            assert_eq!(send(&app, get("/p?a=1", &[])).await.text(), "a=1");
            assert_eq!(send(&app, get("/p?a=2", &[])).await.text(), "a=2");
        }
        assert_eq!(calls.count(), 3);
    }

    async fn after_a_304_changes_the_rule_the_old_one_is_not_used(kit: Kit) {
        let layer = kit.layer();
        let (app, _) = cached(&layer, |request| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let etag = ("etag", "\"1\"");
            if request.headers().contains_key("if-none-match") {
                return response(304, &[FRESH, etag, ("no-vary-search", "params=()")], "");
            }
            let stale = ("cache-control", "max-age=60");
            let field = ("no-vary-search", r#"params=("b")"#);
            response(200, &[stale, ("age", "70"), etag, field], &query)
        });
        assert_eq!(send(&app, get("/s?a=1&b=2", &[])).await.text(), "a=1&b=2");
        layer.handle().flush().await.unwrap();
        send(&app, get("/s?a=1&b=2", &[])).await;
        layer.handle().flush().await.unwrap();
        let other = send(&app, get("/s?a=1", &[])).await;
        assert!(!other.is_hit(), "{other:?}");
    }

    async fn an_entry_is_invalidated_by_its_own_rule(kit: Kit) {
        let layer = kit.layer();
        let (app, _) = cached(&layer, |request| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let late = query.contains("late");
            let field = if late { r#"params=("late")"# } else { r#"params=("a")"# };
            response(200, &[FRESH, ("no-vary-search", field)], &query)
        });
        let hit = async |uri: &str| send(&app, get(uri, &[])).await.is_hit();
        hit("/p?a=1&b=1").await;
        hit("/q?a=1&b=1").await;
        hit("/p").await;
        // by now the path has another rule, by which "a" matters
        hit("/p?late=1").await;
        assert!(hit("/p?b=1").await && hit("/p").await && hit("/p?late=2").await);
        layer.handle().invalidate_uri("/p?b=1&a=7").await.unwrap();
        assert!(!hit("/p?b=1").await, "its own rule takes them for one");
        assert!(!hit("/p").await, "the cache cannot know which queries it answered");
        assert!(hit("/q?b=1").await, "another path");
        hit("/p?a=5").await;
        layer.handle().invalidate_uri("http://elsewhere.example/p?a=6").await.unwrap();
        assert!(hit("/p?a=5").await, "another origin");
    }

    async fn an_equivalent_query_is_invalidated_during_a_fill(kit: Kit) {
        let layer = kit.layer();
        let handle = layer.handle();
        let app = layer.layer(tower::service_fn(move |request: Request<()>| {
            let (handle, first) = (handle.clone(), request.uri().query() == Some("a=1&b=2"));
            async move {
                if first {
                    handle.invalidate_uri("/p?b=2&a=9").await.unwrap();
                }
                let field = ("no-vary-search", r#"params=("a")"#);
                Ok::<_, Infallible>(response(200, &[FRESH, field], "x"))
            }
        }));
        assert!(!send(&app, get("/p?a=1&b=2", &[])).await.is_hit());
        assert!(!send(&app, get("/p?b=2", &[])).await.is_hit(), "made before it");
        assert!(send(&app, get("/p?a=3&b=2", &[])).await.is_hit());
    }

    async fn a_later_process_learns_the_invalidation_from_the_log(kit: Kit) {
        let field = ("no-vary-search", r#"params=("a")"#);
        let page = move |_| response(200, &[FRESH, field], "x");
        let layer = kit.layer();
        let (app, _) = cached(&layer, page);
        for uri in ["/p?a=1&b=2", "/q?a=1&b=2", "/r?a=1&b=2", "/s?a=1&b=2"] {
            send(&app, get(uri, &[])).await;
        }
        layer.handle().flush().await.unwrap();
        let handle = layer.handle();
        handle.invalidate_uri("/p?b=2&a=7").await.unwrap();
        handle.invalidate_uri("/r").await.unwrap();
        handle.invalidate_uri("http://elsewhere.example/s?a=7").await.unwrap();
        handle.invalidate_uri("/qq?a=7").await.unwrap();
        let later = patient(kit.neighbour().await);
        let (app, _) = cached(&later, page);
        for (uri, is_hit) in [("/p?b=2", false), ("/q?b=2", true), ("/r?b=2", false), ("/s?b=2", true)] {
            assert_eq!(send(&app, get(uri, &[])).await.is_hit(), is_hit, "{uri}");
        }
    }

    async fn equivalent_queries_are_inspected_counted_and_erased(kit: Kit) {
        let field = ("no-vary-search", r#"params=("a")"#);
        let layer = kit.layer();
        let (app, _) = cached(&layer, move |_| response(200, &[FRESH, field], "x"));
        send(&app, get("http://h/p?a=1&b=2", &[])).await;
        let handle = layer.handle();
        handle.flush().await.unwrap();
        let stored = async || handle.inspect("http://h/p?b=2&a=9").await.unwrap().len();
        assert_eq!(stored().await, 1);
        let named = handle.dry_run(&Invalidation::uri("/p?b=2&a=9")).await.unwrap().named;
        assert_eq!(named, 1);
        assert_eq!(handle.erase_uri("/p?b=2&a=9").await.unwrap(), 1);
        assert_eq!(stored().await, 0);
    }
}
