//! Cache groups (RFC 9875), through the layer.

use std::time::Duration;

use tower_mysql_cache::invalidation::Tag;
use tower_mysql_cache::{CacheLayer, CachePolicy};

use crate::kit::{Kit, cached, get, on_every_store, request, response, send};

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));

/// A site whose pages belong to the groups in their query. Its POST, GET and failing DELETE invalidate the groups in
/// theirs.
macro_rules! site {
    ($layer:expr) => {
        cached(&$layer, |request| {
            let decoded = request.uri().query().unwrap_or_default().replace('+', " ");
            let field = decoded.replace("%22", "\"");
            let name = match request.uri().path() {
                "/change" => "cache-group-invalidation",
                _ => "cache-groups",
            };
            let status = if request.method() == "DELETE" { 500 } else { 200 };
            response(status, &[(name, field.as_str())], request.uri().path())
        })
    };
}

fn page(path: &str, groups: &str) -> String {
    format!("{path}?{}", groups.replace('"', "%22").replace(' ', "+"))
}

on_every_store! {
    // RFC 9875 2, 3
    async fn a_group_is_invalidated_by_its_whole_name_and_no_other(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, _) = site!(layer);
        let pages = [
            page("/one", r#""a b", "c,d""#),
            page("/two", r#""c""#),
            page("/three", r#""C,d""#),
            page("/four", r#""a", "b""#),
            page("/five", r#""c,d";p=1, "x""#),
            // none of these is a list of strings
            page("/six", r#"c,d"#),
            page("/seven", r#""c,d", 1"#),
        ];
        let host = ("host", "shop.example");
        for page in &pages {
            send(&app, get(page, &[host])).await;
        }
        let change = page("/change", r#""c,d", "unknown""#);
        let posted = send(&app, request("POST", &change, &[host])).await;
        assert_eq!(posted.status.as_u16(), 200);
        let mut hits = Vec::new();
        for page in &pages {
            hits.push(send(&app, get(page, &[host])).await.is_hit());
        }
        assert_eq!(hits, [false, true, true, true, false, true, true]);
    }

    // RFC 9875 3
    async fn safe_methods_and_errors_invalidate_no_group(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, _) = site!(layer);
        let one = page("/one", r#""g""#);
        let change = page("/change", r#""g""#);
        let host = ("host", "shop.example");
        send(&app, get(&one, &[host])).await;
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "DELETE"] {
            send(&app, request(method, &change, &[host])).await;
            assert!(send(&app, get(&one, &[host])).await.is_hit(), "{method}");
        }
        send(&app, request("BREW", &change, &[host])).await;
        assert!(!send(&app, get(&one, &[host])).await.is_hit(), "an unknown method might change something");
    }

    // RFC 9875 2: a group belongs to its origin
    async fn groups_of_another_origin_are_not_invalidated(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, _) = site!(layer);
        let one = page("/one", r#""g""#);
        let change = page("/change", r#""g""#);
        let hosts = ["a.example", "b.example", "a.example:8080"];
        for host in hosts {
            send(&app, get(&one, &[("host", host)])).await;
        }
        send(&app, request("PUT", &change, &[("host", "a.example")])).await;
        for (host, left) in hosts.into_iter().zip([false, true, true]) {
            assert_eq!(send(&app, get(&one, &[("host", host)])).await.is_hit(), left, "{host}");
        }
    }

    // RFC 9875 2.2.1
    async fn an_invalidated_group_does_not_affect_other_groups(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, _) = site!(layer);
        let host = ("host", "shop.example");
        let (both, other) = (page("/both", r#""g", "h""#), page("/other", r#""h""#));
        for page in [&both, &other] {
            send(&app, get(page, &[host])).await;
        }
        send(&app, request("PATCH", &page("/change", r#""g""#), &[host])).await;
        assert!(!send(&app, get(&both, &[host])).await.is_hit());
        assert!(send(&app, get(&other, &[host])).await.is_hit());
    }

    // a group is not a tag of the application, and a tag is not a group
    async fn tags_and_groups_are_separate_and_many_are_kept(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE.tags(&["t"]));
        let (app, _) = site!(layer);
        let host = ("host", "shop.example");
        let names: Vec<String> = (0..32).map(|n| format!("\"{n:032}\"")).collect();
        let one = page("/one", &names.join(", "));
        send(&app, get(&one, &[host])).await;
        layer.handle().flush().await.unwrap();
        let stored = layer.handle().inspect(&format!("http://shop.example{one}")).await.unwrap();
        assert_eq!(stored.len(), 1);
        assert_eq!(stored[0].head.tags.len(), 33);
        assert_eq!(stored[0].head.tags[0], Tag::from("t"));
        layer.handle().invalidate_tags([format!("{:032}", 5)]).await.unwrap();
        assert!(send(&app, get(&one, &[host])).await.is_hit());
        send(&app, request("POST", &page("/change", &names[31]), &[host])).await;
        assert!(!send(&app, get(&one, &[host])).await.is_hit());
        // another prefix on the same log has the same origin, so it has the same groups
        let other = CacheLayer::new(kit.store.clone()).prefix("other").with_policy(MINUTE);
        let (app_of_other, _) = site!(other);
        send(&app_of_other, get(&one, &[host])).await;
        send(&app, request("POST", &page("/change", &names[3]), &[host])).await;
        assert!(!send(&app_of_other, get(&one, &[host])).await.is_hit());
    }
}
