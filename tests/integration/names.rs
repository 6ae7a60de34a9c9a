//! Which entries an invalidation covers: all spellings of a URI, custom keys, and entries that clones of a layer
//! store by other query rules.

use http::request::Parts;
use sqlx::{AssertSqlSafe, Connection};
use tower_mysql_cache::invalidation::Invalidation;
use tower_mysql_cache::key::TargetKey;
use tower_mysql_cache::{CacheLayer, CachePolicy, MemoryStore, MySqlStore, StoreError};

use crate::kit::{Kit, cached, get, on_every_store, request, response, send};
use crate::support;

const FRESH: (&str, &str) = ("cache-control", "max-age=60");

/// Spellings of one URI (RFC 3986 6.2.2), in requests and in invalidations.
const SPELLINGS: [&[&str]; 3] = [
    &["/caf%C3%A9", "/caf%c3%a9", "/caf\u{e9}", "/%63af%C3%a9"],
    &["/p/7?q=%41", "/p/%37?q=A", "/%70/7?q=%41"],
    &["/%7Euser", "/~user", "/%7euser"],
];

on_every_store! {
    async fn an_invalidation_covers_all_spellings_of_its_uri(kit: Kit) {
        let layer = kit.layer();
        let handle = layer.handle();
        let (app, _) = cached(&layer, |request| response(200, &[FRESH], &request.uri().to_string()));
        let hit = async |uri: &str| send(&app, get(uri, &[("host", "h")])).await.is_hit();
        for spellings in SPELLINGS {
            for named in spellings {
                let path = named.split('?').next().unwrap();
                for way in 0..5 {
                    for sent in spellings {
                        hit(sent).await;
                        assert!(hit(sent).await, "{sent} has an entry");
                    }
                    match way {
                        0 => handle.invalidate_uri(named).await.unwrap(),
                        1 => handle.invalidate_uri(&format!("http://h{named}")).await.unwrap(),
                        2 => handle.invalidate_path(path).await.unwrap(),
                        3 => drop(send(&app, request("PUT", named, &[("host", "h")])).await),
                        _ => {
                            handle.flush().await.unwrap();
                            let removed = handle.erase_uri(named).await.unwrap();
                            assert_eq!(removed, spellings.len() as u64, "erased by {named}");
                        }
                    }
                    for sent in spellings {
                        assert!(!hit(sent).await, "{named} names {sent}, way {way}");
                    }
                }
            }
        }
    }

    async fn spellings_of_a_uri_have_separate_entries(kit: Kit) {
        let (app, calls) = cached(&kit.layer(), |request| {
            // a router that compares bytes knows only one of them
            let status = if request.uri().path() == "/home" { 200 } else { 404 };
            response(status, &[FRESH], "x")
        });
        for _ in 0..2 {
            assert_eq!(send(&app, get("/%68ome", &[])).await.status, 404);
            assert_eq!(send(&app, get("/home", &[])).await.status, 200);
        }
        assert_eq!(calls.count(), 2);
    }

    async fn an_entry_under_a_custom_key_is_invalidated_by_its_uri(kit: Kit) {
        let layer = kit.layer().without_credential_headers(["x-user"]);
        let layer = layer.key_builder(|request: &Parts, _: TargetKey| {
            let user = request.headers.get("x-user").map_or("-", |user| user.to_str().unwrap());
            let page = request.uri.path().trim_end_matches("/alias").to_owned();
            Some(TargetKey::custom(format!("{page} of {user}")))
        });
        let handle = layer.handle();
        let (app, _) = cached(&layer, |_| response(200, &[FRESH, ("vary", "accept")], "x"));
        let hit = async |uri: &str, user: &str| {
            send(&app, get(uri, &[("host", "h"), ("x-user", user)])).await.is_hit()
        };
        let filled = async || {
            for (uri, user) in [("/me/a%62?q", "1"), ("/me/a%62?q", "2"), ("/other", "1")] {
                hit(uri, user).await;
                assert!(hit(uri, user).await);
            }
            handle.flush().await.unwrap();
        };
        for way in 0..7 {
            filled().await;
            match way {
                0 => handle.invalidate_uri("/me/ab?q").await.unwrap(),
                1 => handle.invalidate_uri("https://h/me/ab?q").await.unwrap(),
                2 => handle.invalidate_path("/me").await.unwrap(),
                3 => drop(send(&app, request("PUT", "/me/ab?q", &[("host", "h"), ("x-user", "3")])).await),
                4 => drop(send(&app, request("DELETE", "/me/ab?q", &[("host", "h")])).await),
                5 => {
                    let named = handle.dry_run(&Invalidation::uri("/me/ab?q")).await.unwrap();
                    assert_eq!(named.named, 2);
                    handle.invalidate_uri("/me/ab?q").await.unwrap();
                }
                _ => assert_eq!(handle.erase_uri("/me/ab?q").await.unwrap(), 2),
            }
            assert!(hit("/other", "1").await, "way {way}");
            assert!(!hit("/me/a%62?q", "1").await && !hit("/me/a%62?q", "2").await, "way {way}");
        }
        filled().await;
        for leaves in ["/me/ab", "/me/ab?r", "http://i/me/ab?q"] {
            handle.invalidate_uri(leaves).await.unwrap();
            assert_eq!(handle.erase_uri(leaves).await.unwrap(), 0);
            assert!(hit("/me/a%62?q", "1").await, "{leaves}");
        }
    }

    async fn a_uri_that_shares_a_custom_key_is_never_served_old(kit: Kit) {
        let layer = kit.layer().key_builder(|_: &Parts, _: TargetKey| Some(TargetKey::custom("today")));
        let handle = layer.handle();
        let (app, _) = cached(&layer, |_| response(200, &[FRESH], "x"));
        let hit = async |uri: &str| send(&app, get(uri, &[])).await.is_hit();
        hit("/now").await;
        assert!(hit("/today").await && hit("/now").await);
        handle.invalidate_uri("/today").await.unwrap();
        assert!(!hit("/today").await, "stored for /now");
        assert!(hit("/today").await && hit("/now").await);
    }

    async fn a_handle_invalidates_the_entries_of_all_clones(kit: Kit) {
        let base = kit.layer();
        let handle = base.handle();
        let search = base.clone().only_query(["q", "page"]).sort_query();
        let (search, _) = cached(&search, |_| response(200, &[FRESH], "x"));
        let (other, _) = cached(&base, |_| response(200, &[("location", "/s?x=1&page=2&q=a")], ""));
        let hit = async |uri: &str| send(&search, get(uri, &[("host", "h")])).await.is_hit();
        let named = "/s?x=1&page=2&q=a";
        for way in 0..4 {
            hit(named).await;
            hit("/s?page=3&q=a").await;
            assert!(hit("/s?page=2&q=a").await);
            handle.flush().await.unwrap();
            match way {
                0 => handle.invalidate_uri(named).await.unwrap(),
                1 => assert_eq!(handle.erase_uri(&format!("http://h{named}")).await.unwrap(), 1),
                2 => drop(send(&other, request("PUT", named, &[("host", "h")])).await),
                _ => {
                    assert_eq!(handle.inspect(&format!("http://h{named}")).await.unwrap().len(), 1);
                    handle.invalidate_uri(named).await.unwrap();
                }
            }
            assert!(!hit(named).await, "way {way}");
            assert!(hit("/s?q=a&page=3").await, "another query, way {way}");
        }
    }
}

#[test]
fn prefix_and_version_must_be_set_before_handle() {
    let layer = CacheLayer::new(MemoryStore::new()).prefix("shop").version(2);
    let clone = layer.clone();
    let _handle = layer.handle();
    let error = clone.clone().try_prefix("other").unwrap_err();
    assert!(error.to_string().contains("before handle()"), "{error}");
    let version = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(clone.version(3))));
    let message = *version.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("version") && message.contains("before handle()"), "{message}");
    // all other settings may differ between the clones
    drop(layer.with_policy(CachePolicy::bypass()).only_query(["q"]).scheme("https"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_on_another_server_is_refused() {
    let (database, other) = (support::database().await, support::own_server(None).await);
    let store = MySqlStore::connect(database.url()).await.unwrap();
    store.migrate().await.unwrap();
    // on that server, a database with the same name has the same tables
    let mut elsewhere = other.connection().await;
    let name = database.name();
    let create = format!("CREATE DATABASE {name}; USE {name}; {}", store.ddl());
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut elsewhere).await.unwrap();
    let cache = CacheLayer::new(store).handle();
    for _ in 0..2 {
        let mut transaction = elsewhere.begin().await.unwrap();
        let error = cache.invalidate_tags_on(&mut transaction, ["t"]).await.unwrap_err();
        assert!(matches!(error, StoreError::Config(_)), "{error}");
        assert!(error.to_string().contains("must lead to the server that holds"), "{error}");
        transaction.commit().await.unwrap();
    }
    let rows = "SELECT COUNT(*) FROM cache_invalidations WHERE tag = 't'";
    assert_eq!(sqlx::query_scalar::<_, i64>(rows).fetch_one(&mut elsewhere).await.unwrap(), 0);
    let mut here = database.connection().await;
    for _ in 0..2 {
        let mut transaction = here.begin().await.unwrap();
        cache.invalidate_tags_on(&mut transaction, ["t"]).await.unwrap();
        transaction.commit().await.unwrap();
    }
    assert_eq!(sqlx::query_scalar::<_, i64>(rows).fetch_one(&mut here).await.unwrap(), 2);
    let unchecked = MySqlStore::builder(database.url()).unwrap().check_server(false);
    let cache = CacheLayer::new(unchecked.connect().await.unwrap()).handle();
    cache.invalidate_tags_on(&mut elsewhere, ["t"]).await.unwrap();
}
