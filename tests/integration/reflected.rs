//! Responses that contain a field of their request, without saying so in `Vary`.

use std::time::Duration;

use http::StatusCode;
use tower_mysql_cache::{CacheOverride, CachePolicy};

use crate::kit::{Kit, cached, get, on_every_store, response, send};

const MINUTE: CachePolicy = CachePolicy::new().ttl(Duration::from_secs(60));
const HERE: (&str, &str) = ("origin", "https://app.example");
const THERE: (&str, &str) = ("origin", "https://other.example");
const REPEATED: (&str, &str) = ("access-control-allow-origin", "https://app.example");

on_every_store! {
    async fn a_reflected_origin_is_not_stored_for_other_sites(kit: Kit) {
        let cases: [(&[(&str, &str)], bool); 6] = [
            (&[REPEATED], false),
            (&[REPEATED, ("vary", "accept")], false),
            (&[REPEATED, ("cache-control", "public, max-age=60")], false),
            (&[REPEATED, ("vary", "accept, Origin")], true),
            (&[("access-control-allow-origin", "*")], true),
            (&[("access-control-allow-origin", "https://fixed.example")], true),
        ];
        for (version, (fields, stored)) in cases.into_iter().enumerate() {
            let layer = kit.layer().version(version as u32).with_policy(MINUTE);
            let (app, _) = cached(&layer, |_| response(200, fields, "page"));
            let first = send(&app, get("/", &[HERE])).await;
            assert_eq!(first.cache().is_stored(), stored, "{fields:?}");
            assert_eq!(first.reason(), (!stored).then_some("cors-origin"));
            assert_eq!(send(&app, get("/", &[HERE])).await.is_hit(), stored);
            if fields.contains(&REPEATED) {
                assert!(!send(&app, get("/", &[THERE])).await.is_hit());
            }
        }
    }

    async fn an_origin_reflected_by_a_304_is_not_stored(kit: Kit) {
        let layer = kit.layer();
        let (app, _) = cached(&layer, |request| {
            let etag = ("etag", "\"1\"");
            let stale = [("cache-control", "max-age=60"), ("age", "70"), etag];
            match request.headers().get("origin") {
                Some(_) => response(304, &[("cache-control", "max-age=60"), etag, REPEATED], ""),
                None => response(200, &stale, "page"),
            }
        });
        send(&app, get("/", &[])).await;
        let own = send(&app, get("/", &[HERE])).await;
        assert_eq!((own.text(), own.field(REPEATED.0).as_str()), ("page", REPEATED.1));
        assert_eq!(send(&app, get("/", &[])).await.field(REPEATED.0), "");
    }

    async fn a_redirect_to_its_own_target_is_not_stored(kit: Kit) {
        let layer = kit.layer().with_policy(MINUTE);
        let cases = [
            (308, "https://shop.example/a?b=c", false),
            (301, "HTTPS://Shop.Example:443/a?b=c", false),
            (302, "http://shop.example/a?b=c", false),
            (308, "//shop.example/a?b=c#d", false),
            (308, "/a?b=c", false),
            (308, "https://shop.example/a", true),
            (308, "https://shop.example/a?b=d", true),
            (301, "https://www.shop.example/a?b=c", true),
            (301, "/b?b=c", true),
        ];
        for (version, (status, location, stored)) in cases.into_iter().enumerate() {
            let fresh = ("cache-control", "max-age=60");
            let fields = [fresh, ("location", location)];
            let layer = layer.clone().version(version as u32);
            let (app, _) = cached(&layer, move |request| {
                match request.headers()["x-forwarded-proto"].to_str().unwrap() {
                    "http" => response(status, &fields, ""),
                    _ => response(200, &[fresh], "page"),
                }
            });
            let by = |scheme| get("/a?b=c", &[("host", "shop.example"), ("x-forwarded-proto", scheme)]);
            let first = send(&app, by("http")).await;
            assert_eq!(first.cache().is_stored(), stored, "{location}");
            assert_eq!(first.reason(), (!stored).then_some("self-redirect"));
            let second = send(&app, by("https")).await;
            assert_eq!(second.status == StatusCode::OK, !stored, "{location}");
        }
    }

    async fn a_response_marked_as_shared_may_reflect_an_origin(kit: Kit) {
        let layer = kit.layer();
        let (app, _) = cached(&layer, |_| {
            let mut response = response(200, &[REPEATED], "page");
            CacheOverride::new().ttl(Duration::from_secs(60)).shared().add_to(response.extensions_mut());
            response
        });
        send(&app, get("/", &[HERE])).await;
        assert!(send(&app, get("/", &[THERE])).await.is_hit());
    }

    async fn strict_mode_stores_reflected_origins_and_self_redirects(kit: Kit) {
        let layer = kit.layer().with_policy(CachePolicy::rfc9111());
        let fresh = ("cache-control", "max-age=60");
        let (app, _) = cached(&layer, move |_| {
            response(308, &[fresh, REPEATED, ("location", "https://shop.example/")], "")
        });
        let asked = || get("/", &[HERE, ("host", "shop.example")]);
        send(&app, asked()).await;
        assert!(send(&app, asked()).await.is_hit());
    }
}
