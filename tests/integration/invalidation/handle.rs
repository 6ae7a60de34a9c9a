//! What the handle invalidates.

use super::*;

on_every_store! {
    async fn the_handle_invalidates_a_uri_on_one_origin_or_all(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE).sort_query();
        let handle = layer.handle();
        let (app, _) = cached(&layer, |_| response(200, &[], "x"));
        let hit = async |uri: &str, host: &str| send(&app, get(uri, &[("host", host)])).await.is_hit();
        let fill = async || {
            for host in ["a", "b"] {
                for uri in ["/p?x=1&y=2", "/p", "/pp"] {
                    hit(uri, host).await;
                }
            }
        };
        fill().await;
        handle.invalidate_uri("/p?y=2&x=1").await.unwrap();
        assert!(!hit("/p?x=1&y=2", "a").await && !hit("/p?x=1&y=2", "b").await);
        assert!(hit("/p", "a").await && hit("/pp", "b").await);
        handle.invalidate_uri("http://a/p").await.unwrap();
        assert!(!hit("/p", "a").await && hit("/p", "b").await);
        assert_eq!(handle.invalidate_uri("not a uri").await.unwrap_err().as_str(), "config");
    }

    async fn invalidating_all_stays_within_the_prefix(kit: Kit) {
        let shop = kit.layer().try_prefix("shop").unwrap().with_policy(MINUTE);
        let blog = kit.layer().try_prefix("shop-blog").unwrap().with_policy(MINUTE);
        let (shop_app, _) = cached(&shop, |_| response(200, &[], "shop"));
        let (next_app, _) = cached(&shop.clone().version(2), |_| response(200, &[], "shop 2"));
        let (blog_app, _) = cached(&blog, |_| response(200, &[], "blog"));
        for app in [&shop_app] {
            assert!(!send(app, get("/", &[])).await.is_hit());
        }
        assert_eq!(send(&next_app, get("/", &[])).await.text(), "shop 2");
        assert_eq!(send(&blog_app, get("/", &[])).await.text(), "blog");
        shop.handle().flush().await.unwrap();
        assert_eq!(shop.handle().dry_run(&Invalidation::all()).await.unwrap().named, 2);
        shop.handle().invalidate_all().await.unwrap();
        assert!(!send(&shop_app, get("/", &[])).await.is_hit());
        assert!(!send(&next_app, get("/", &[])).await.is_hit());
        assert!(send(&blog_app, get("/", &[])).await.is_hit());
    }

    async fn without_a_fixed_scheme_both_schemes_are_invalidated(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let (app, _) = cached(&layer, |_| response(200, &[], "x"));
        let handle = layer.handle();
        for erases in [false, true] {
            send(&app, get("/p", &[("host", "shop.example")])).await;
            kit.settle(&handle).await;
            if erases {
                assert_eq!(handle.erase_uri("https://shop.example/p").await.unwrap(), 1);
            } else {
                handle.invalidate_uri("https://shop.example/p").await.unwrap();
            }
            assert!(!send(&app, get("/p", &[("host", "shop.example")])).await.is_hit());
        }
    }
}
