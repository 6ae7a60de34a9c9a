use http::Request;

use http::header::HOST;

use super::*;
use crate::key::hash_values;

fn rules() -> KeyRules {
    let mut rules = KeyRules::default();
    rules.set_prefix("shop").unwrap();
    rules
}

fn parts(uri: &str, host: Option<&str>) -> Parts {
    let mut request = Request::builder().uri(uri);
    if let Some(host) = host {
        request = request.header(HOST, host);
    }
    request.body(()).unwrap().into_parts().0
}

fn key_with(rules: &KeyRules, uri: &str, host: Option<&str>) -> String {
    let parts = parts(uri, host);
    let target = rules.target(&parts.uri, &parts).unwrap();
    String::from_utf8(rules.base_key(&target, &[]).as_bytes().to_vec()).unwrap()
}

fn targets_written(rules: &KeyRules, parts: &Parts) -> Vec<TargetKey> {
    rules.targets_of_write(&parts.uri, parts, rules.target(&parts.uri, parts).ok().as_ref())
}

fn target_of_uri(rules: &KeyRules, uri: &str) -> Result<(TargetKey, bool), ConfigError> {
    let (mut targets, with_origin) = rules.targets_of_uri(uri)?;
    assert_eq!(targets.len(), 1);
    Ok((targets.remove(0), with_origin))
}

fn range_of_uri(rules: &KeyRules, uri: &str) -> Result<KeyRange, ConfigError> {
    let (target, with_origin) = target_of_uri(rules, uri)?;
    Ok(rules.range(&target, with_origin))
}

fn key(uri: &str, host: &str) -> String {
    key_with(&rules(), uri, Some(host))
}

#[test]
fn a_key_has_prefix_version_target_and_origin() {
    assert_eq!(
        key("/products?page=2", "Shop.Example"),
        "shop:1:/products?page=2 http://shop.example"
    );
    assert_eq!(key_with(&rules(), "/", None), "shop:1:/ http://");
}

#[test]
fn an_absolute_target_must_agree_with_the_host_field() {
    assert_eq!(key("https://a.example/x", "A.example"), "shop:1:/x https://a.example");
    assert_eq!(key_with(&rules(), "http://a.example", None), "shop:1:/ http://a.example");
    for (uri, host) in
        [("http://a.example/", "b.example"), ("/", "u@a.example"), ("a.example", "a.example")]
    {
        let parts = parts(uri, Some(host));
        assert_eq!(rules().target(&parts.uri, &parts).unwrap_err(), NoKey::BadHost, "{uri} {host}");
    }
}

// RFC 9110 4.2.3
#[test]
fn the_default_port_does_not_change_the_key() {
    assert_eq!(key("http://a.example:80/", "a.example"), "shop:1:/ http://a.example");
    assert_eq!(key("https://a.example/", "A.example:443"), "shop:1:/ https://a.example");
    let mut listed = rules();
    listed.set_hosts(["a.example", "b.example:80", "b.example:443"]).unwrap();
    for (uri, host) in [
        ("/", "a.example:80"),
        ("http://a.example:80/", "a.example"),
        ("/", "b.example"),
        ("https://b.example/", "b.example:443"),
    ] {
        let parts = parts(uri, Some(host));
        assert!(listed.target(&parts.uri, &parts).is_ok(), "{uri} {host}");
    }
    for (uri, host) in [("/", "a.example:443"), ("https://a.example:80/", "a.example:80")] {
        let parts = parts(uri, Some(host));
        let refused = listed.target(&parts.uri, &parts).unwrap_err();
        assert_eq!(refused, NoKey::UnknownHost, "{uri} {host}");
    }
    // the default port of one scheme is not the default port of the other
    let twins = |uri: &str| {
        let parts = parts(uri, None);
        let written = targets_written(&rules(), &parts);
        let origins = written.iter().map(|target| target.origin().unwrap().1.to_owned());
        origins.collect::<Vec<_>>()
    };
    assert_eq!(twins("http://a.example:443/"), ["a.example:443", "a.example"]);
    assert_eq!(twins("http://a.example:80/"), ["a.example", "a.example"]);
    assert_eq!(twins("https://a.example:80/"), ["a.example:80", "a.example"]);
}

// RFC 9111 4.4
#[test]
fn a_write_to_an_unknown_host_invalidates_all_origins() {
    let mut rules = rules();
    rules.set_hosts(["a.example"]).unwrap();
    for (uri, host) in
        [("/x", Some("b.example")), ("http://b.example/x", None), ("/x", Some("a b"))]
    {
        let parts = parts(uri, host);
        let written = targets_written(&rules, &parts);
        let scopes: Vec<_> = written.iter().map(|target| rules.scope(target, true)).collect();
        let (path, _) = target_of_uri(&rules, "/x").unwrap();
        assert_eq!(scopes, [rules.scope(&path, false)], "{uri}");
    }
    let authority = parts("a.example", None);
    assert!(targets_written(&rules, &authority).is_empty());
}

#[test]
fn a_path_has_one_index_per_origin_and_partition() {
    let search = |rules: &KeyRules, uri: &str| {
        let parts = parts(uri, None);
        rules.search(&rules.target(&parts.uri, &parts).unwrap()).unwrap()
    };
    let (one, other) = (search(&rules(), "http://a/p?x"), search(&rules(), "http://b/p?x"));
    assert_ne!(one.index, other.index);
    assert_eq!(one.anywhere, other.anywhere);
    assert_eq!(one.index, search(&rules(), "http://a/p?y").index);
    let mut tenants = rules();
    tenants.push_builder(Arc::new(|_: &Parts, target: TargetKey| {
        Some(target.partition("tenant", "t"))
    }));
    let tenant = search(&tenants, "http://a/p?x");
    assert_ne!(tenant.index, one.index);
    assert_eq!(tenant.anywhere, one.anywhere);
    let (path, _) = target_of_uri(&rules(), "/p?x").unwrap();
    let named = rules().search(&path).unwrap();
    assert_eq!(named.index, named.anywhere);
    assert_eq!(named.index, one.anywhere);
}

#[test]
fn a_query_that_is_too_long_leaves_the_target_unchanged() {
    let target = TargetKey::uri("/p?a", "http://h".to_owned());
    assert_eq!(target.with_query("/p", &format!("?{}", "a".repeat(480))), target);
    assert_ne!(target.with_query("/p", "?b"), target);
}

#[test]
fn a_write_invalidates_both_schemes_even_without_a_key() {
    let mut rules = rules();
    rules.push_builder(Arc::new(|_: &Parts, _: TargetKey| None));
    let parts = parts("/x", Some("h"));
    let written = targets_written(&rules, &parts);
    let origins: Vec<_> = written.iter().filter_map(TargetKey::origin).collect();
    assert_eq!(origins, [("http", "h"), ("https", "h")]);
    rules.set_scheme("https").unwrap();
    assert_eq!(targets_written(&rules, &parts).len(), 1);
}

#[test]
fn user_and_default_port_are_not_part_of_the_key() {
    let key = |uri| key_with(&rules(), uri, None);
    assert_eq!(key("http://u:secret@a.example:80/"), "shop:1:/ http://a.example");
    assert_eq!(key("https://a.example:443/"), "shop:1:/ https://a.example");
    assert_eq!(key_with(&rules(), "/", Some("a.example:8080")), "shop:1:/ http://a.example:8080");
}

#[test]
fn a_fixed_scheme_overrides_the_scheme_of_the_request() {
    let mut rules = rules();
    rules.set_scheme("HTTPS").unwrap();
    assert_eq!(key_with(&rules, "http://a.example/", None), "shop:1:/ https://a.example");
    assert!(rules.set_scheme("ftp").unwrap_err().to_string().contains("ftp"));
}

#[test]
fn the_case_of_the_path_and_every_byte_of_the_query_count() {
    assert_ne!(key("/A", "h"), key("/a", "h"));
    assert_ne!(key("/a?", "h"), key("/a", "h"));
    assert_ne!(key("/a?x=1&y=2", "h"), key("/a?y=2&x=1", "h"));
    assert_ne!(key("/a%2Fb", "h"), key("/a/b", "h"));
}

#[test]
fn hostile_targets_have_distinct_keys() {
    let long = format!("/{}", "a".repeat(8 * 1024));
    let longer = format!("/{}b", "a".repeat(8 * 1024));
    let emoji = "/\u{1f980}?q=\u{1f980}";
    let targets = [
        "/%00", "/%20", "/a%0ab", "/a", "/a%00", "/a;b", "/..", "/a//b", "/'\"--", emoji, &long,
        &longer,
    ];
    let keys: Vec<_> = targets.iter().map(|target| key(target, "h")).collect();
    for (i, a) in keys.iter().enumerate() {
        assert!(a.len() <= CacheKey::MAX_BYTES);
        assert!(keys.iter().skip(i + 1).all(|b| a != b), "{}", targets[i]);
    }
}

#[test]
fn a_bad_or_repeated_host_has_no_key() {
    for host in ["a b", "a/b", "a\u{e9}b", "a,b c"] {
        let parts = parts("/", Some(host));
        assert_eq!(rules().target(&parts.uri, &parts).unwrap_err(), NoKey::BadHost, "{host}");
    }
    let mut twice = parts("/", Some("a.example"));
    twice.headers.append(HOST, "b.example".parse().unwrap());
    assert_eq!(rules().target(&twice.uri, &twice).unwrap_err(), NoKey::BadHost);
}

#[test]
fn a_target_without_a_path_has_no_key() {
    let mut parts = parts("/", Some("h"));
    for target in ["?/products", "*", "?x=1"] {
        let target = target.parse::<http::uri::PathAndQuery>().unwrap();
        parts.uri = Uri::builder().path_and_query(target).build().unwrap();
        let error = rules().target(&parts.uri, &parts).unwrap_err();
        assert_eq!(error, NoKey::BadTarget, "{}", parts.uri);
    }
    let written = targets_written(&rules(), &parts);
    let scopes = written.iter().map(|target| rules().scope(target, true));
    assert!(scopes.into_iter().any(|scope| scope.names(key("/?x=1", "h").as_bytes(), &[])));
}

#[test]
fn a_host_that_is_not_listed_has_no_key() {
    let mut rules = rules();
    rules.set_hosts(["Shop.example", "shop.example:8443"]).unwrap();
    assert_eq!(key_with(&rules, "/", Some("SHOP.example")), "shop:1:/ http://shop.example");
    let parts = parts("/", Some("evil.example"));
    assert_eq!(rules.target(&parts.uri, &parts).unwrap_err(), NoKey::UnknownHost);
    assert!(rules.set_hosts(["a b"]).is_err());
}

#[test]
fn partitions_and_targets_cannot_be_confused() {
    let rules = rules();
    let parts = parts("/a", Some("h"));
    let target = || rules.target(&parts.uri, &parts).unwrap();
    let key = |target: TargetKey| rules.base_key(&target, &[]);
    let custom = key(TargetKey::custom("/a http://h"));
    let keys = [
        key(target()),
        key(target().partition("", "")),
        key(target().partition("", "").partition("", "")),
        key(target().partition("", "ab").partition("", "c")),
        key(target().partition("", "a").partition("", "bc")),
        key(target().partition("", "a,=bc")),
        key(target().partition("", "a v=1")),
        key(target().partition("", [0xff, 0x00])),
        key(target().partition("n", "x".repeat(5_000))),
        key(target().partition("tenant", "a").partition("locale", "b")),
        key(target().partition("locale", "a").partition("tenant", "b")),
        key(target().partition("a", "b=c")),
        key(target().partition("a=b", "c")),
        key(target().partition("a=b,c", "c")),
        key(target().partition("a", "b").partition("c", "c")),
        custom.clone(),
        key(TargetKey::custom("")),
    ];
    for (i, a) in keys.iter().enumerate() {
        assert!(keys.iter().skip(i + 1).all(|b| a != b), "{a:?}");
    }
    assert!(rules.range(&target(), true).contains(keys[8].as_bytes()));
    assert!(!rules.range(&target(), true).contains(custom.as_bytes()));
}

#[test]
fn a_builder_changes_the_key_or_bypasses_the_cache() {
    let mut rules = rules();
    rules.push_builder(Arc::new(|parts: &Parts, default: TargetKey| {
        let tenant = parts.headers.get("x-tenant")?;
        Some(default.partition("tenant", tenant))
    }));
    let mut parts = parts("/a", Some("h"));
    assert_eq!(rules.target(&parts.uri, &parts).unwrap_err(), NoKey::Builder);
    parts.headers.insert("x-tenant", "blue".parse().unwrap());
    let target = rules.target(&parts.uri, &parts).unwrap();
    assert_eq!(rules.base_key(&target, &[]).as_bytes(), b"shop:1:/a http://h p:tenant=blue");
}

#[test]
fn a_uri_means_one_origin_and_a_path_means_all() {
    let rules = rules();
    let everywhere = range_of_uri(&rules, "/a?x=1").unwrap();
    let one = range_of_uri(&rules, "HTTP://H/a?x=1").unwrap();
    let (h, i) = (key("/a?x=1", "h"), key("/a?x=1", "i"));
    let other = key("/a?x=10", "h");
    assert!(everywhere.contains(h.as_bytes()) && everywhere.contains(i.as_bytes()));
    assert!(one.contains(h.as_bytes()) && !one.contains(i.as_bytes()));
    assert!(!everywhere.contains(other.as_bytes()) && !one.contains(other.as_bytes()));
    let root = range_of_uri(&rules, "http://h?x=1").unwrap();
    assert!(root.contains(key("/?x=1", "h").as_bytes()));
    for bad in ["", "?x=1", "a", "a b", "//x", "*", "mailto:x", "/a b"] {
        assert!(range_of_uri(&rules, bad).unwrap_err().to_string().contains(bad), "{bad}");
    }
}

#[test]
fn a_range_covers_long_targets_and_their_variants() {
    let rules = rules();
    let uri = format!("/{}", "x".repeat(9_000));
    let parts = parts(&uri, Some("h"));
    let target = rules.target(&parts.uri, &parts).unwrap();
    let base = rules.base_key(&target, &[(b'c', [1; 16]), (b'a', [2; 16])]);
    let variant = variant_key(&base, &[7; 16]);
    for range in [rules.range(&target, true), range_of_uri(&rules, &uri).unwrap()] {
        assert!(range.contains(base.as_bytes()) && range.contains(variant.as_bytes()));
    }
    assert!(variant.as_bytes().len() <= CacheKey::MAX_BYTES);
}

#[test]
fn an_invalid_prefix_is_an_error_that_states_the_rule() {
    for bad in ["", "a:b", "a b", "é", &"x".repeat(65)] {
        let error = KeyRules::default().set_prefix(bad).unwrap_err();
        assert_eq!(error.setting(), "prefix");
        assert!(
            error.to_string().contains(bad) && error.to_string().contains("1 to 64"),
            "{error}"
        );
    }
}

#[test]
fn different_lists_of_values_have_different_hashes() {
    let hash = |values: &[Option<&[u8]>]| hash_values(values.iter().copied());
    assert_ne!(hash(&[Some(b"ab"), Some(b"c")]), hash(&[Some(b"a"), Some(b"bc")]));
    assert_ne!(hash(&[None]), hash(&[Some(b"")]));
    assert_ne!(hash(&[None, Some(b"")]), hash(&[Some(b""), None]));
}

#[test]
fn a_uri_is_invalidated_in_all_equivalent_spellings() {
    let rules = rules();
    for (a, b) in [
        ("/caf\u{e9}", "/caf%C3%A9"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/p/%37", "/p/7"),
        ("/%7Euser/%2E%2e", "/~user/.."),
        ("/s?q=%61&b=%C3%a9", "/s?q=a&b=\u{e9}"),
        ("/a\"b", "/a%22b"),
        ("/100%", "/100%25"),
        ("/%zz", "/%25zz"),
    ] {
        for (named, sent) in [(a, b), (b, a), (a, a), (b, b)] {
            let key = key(sent, "h");
            for uri in [named.to_owned(), format!("http://h{named}")] {
                let (target, with_origin) = target_of_uri(&rules, &uri).unwrap();
                let scope = rules.scope(&target, with_origin);
                assert!(scope.names(key.as_bytes(), &[]), "{named} names {sent}");
                assert!(range_of_uri(&rules, &uri).unwrap().contains(key.as_bytes()));
            }
            let path = named.split('?').next().unwrap();
            assert!(rules.scope_of_path(path).unwrap().names(key.as_bytes(), &[]));
        }
        assert_ne!(key(a, "h"), key(b, "h"), "a router may distinguish them");
    }
    let long = "x".repeat(1_000);
    let (target, _) = target_of_uri(&rules, &format!("/{long}7\u{e9}")).unwrap();
    let scope = rules.scope(&target, false);
    assert!(scope.names(key(&format!("/{long}%37%c3%A9"), "h").as_bytes(), &[]));
}

#[test]
fn other_spellings_are_not_invalidated() {
    let rules = rules();
    for (named, sent) in [
        ("/a/b", "/a%2Fb"),
        ("/a?b", "/a%3Fb"),
        ("/a%25b", "/a%b5"),
        ("/%2537", "/%37"),
        ("/a+b", "/a%20b"),
        ("/A", "/a"),
        ("/a;b", "/a%3Bb"),
    ] {
        for (named, sent) in [(named, sent), (sent, named)] {
            let (target, with_origin) = target_of_uri(&rules, named).unwrap();
            let scope = rules.scope(&target, with_origin);
            assert!(!scope.names(key(sent, "h").as_bytes(), &[]), "{named} {sent}");
        }
    }
}
