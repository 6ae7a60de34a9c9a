//! `No-Vary-Search`: requests that differ in what does not matter share a response.

use tower_mysql_cache::CacheLayer;

use crate::kit::{Kit, cached, get, on_every_store, request, response, send};

const FRESH: (&str, &str) = ("cache-control", "max-age=60");

/// Whether these queries, asked for one after the other, are answered by one call.
async fn share(kit: &Kit, path: &str, field: &'static str, a: &str, b: &str) -> bool {
    let layer = kit.layer();
    let (app, calls) =
        cached(&layer, move |_| response(200, &[FRESH, ("no-vary-search", field)], "x"));
    for query in [a, b] {
        send(&app, get(&format!("{path}{query}"), &[])).await;
    }
    layer.handle().purge().await.unwrap();
    calls.count() == 1
}

on_every_store! {
    async fn what_does_not_matter_does_not_distinguish(kit: Kit) {
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

    async fn another_process_learns_it_from_the_store(kit: Kit) {
        let field = ("no-vary-search", r#"params=("a")"#);
        let layer = kit.layer();
        let (app, _) = cached(&layer, move |_| response(200, &[FRESH, field], "x"));
        send(&app, get("/p?a=1&b=2", &[])).await;
        layer.handle().flush().await.unwrap();
        let other = CacheLayer::new(kit.neighbour().await).prefix("test");
        let (app, calls) = cached(&other, move |_| response(200, &[FRESH, field], "x"));
        assert!(send(&app, get("/p?b=2&a=9", &[])).await.is_hit());
        assert!(!send(&app, get("/p?b=3", &[])).await.is_hit());
        assert_eq!(calls.count(), 1);
    }

    async fn a_match_still_has_to_match_in_vary(kit: Kit) {
        let fields = [FRESH, ("no-vary-search", "except=()"), ("vary", "x-a")];
        let (app, calls) = cached(&kit.layer(), move |_| response(200, &fields, "x"));
        for (uri, value) in [("/p?a=1", "1"), ("/p?b=2", "2"), ("/p?c=3", "1"), ("/p?d=4", "2")] {
            send(&app, get(uri, &[("x-a", value)])).await;
        }
        assert_eq!(calls.count(), 2);
    }

    async fn invalidating_one_spelling_invalidates_what_is_stored_under_another(kit: Kit) {
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
        let other = CacheLayer::new(kit.neighbour().await).prefix("test");
        layer.handle().flush().await.unwrap();
        assert!(hit("/p?b=2").await);
        other.handle().invalidate_uri("/p?b=2&a=7").await.unwrap();
        assert!(!hit("/p?b=2").await);
    }

    async fn a_rule_that_changes_never_answers_by_the_old_one(kit: Kit) {
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
        // by the new rule "a" matters: what was stored under the old one is not an answer
        assert_eq!(send(&app, get("/p?b=1&a=2", &[])).await.text(), "b=1&a=2");
    }
}
