//! The scenes of the demonstration.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};

use crate::Node;
use crate::browser::{Answer, Ask, ask, get};
use crate::drive::Driver;
use crate::shop::Goods;
use crate::table::{self, heading};

type Outcome = Result<(), Box<dyn Error>>;

const MISS: &[&str] = &["fwd=uri-miss", "; stored"];
const NEW_VARIANT: &[&str] = &["fwd=vary-miss", "; stored"];
const HIT: &[&str] = &["; hit"];
const WRITE: &[&str] = &["fwd=method"];
/// A stored response that was invalidated, so the handler is called.
const GONE: &[&str] = &["fwd=stale", "; stored", "detail=invalidated"];

/// Plays all scenes. `false` if something was not as announced.
pub(crate) async fn play(
    goods: Arc<Goods>,
    node: Node,
    second: Option<Node>,
    database: Option<&str>,
) -> Result<bool, Box<dyn Error>> {
    node.cache.erase().await?;
    println!("The shop runs on http://{}. The requests and the answers:\n", node.address);
    table::head();
    let mut driver = Driver::new(Arc::clone(&goods));
    let d = &mut driver;
    hits(d, &node).await?;
    variants(d, &node).await?;
    queries(d, &node).await?;
    invalidation(d, &node).await?;
    expiry(d, &node).await?;
    private(d, &node).await?;
    bodies(d, &node).await?;
    errors(d, &node).await?;
    if let Some(second) = &second {
        two_nodes(d, &node, second).await?;
    }
    if let Some(url) = database {
        rows(d, &node, url).await?;
    }

    let stats = node.cache.stats().await?;
    println!("\nThe layer on the first node: {}.", table::summary(&stats.layer));
    let (hit, miss) = driver.medians();
    let (requests, calls) = (driver.requests, goods.calls());
    println!(
        "{requests} requests, and handlers ran {calls} times. Half the hits took less than {hit:.1} ms,"
    );
    println!("half the misses more than {miss:.1} ms.");
    println!("erase() removed {} entries.", node.cache.erase().await?);
    for node in [Some(node), second].into_iter().flatten() {
        node.server.abort();
    }
    Ok(driver.end())
}

async fn hits(d: &mut Driver, node: &Node) -> Outcome {
    heading(
        "Misses turn into hits",
        "The first request calls the handler, the next ones do not: the body still says `call 1`.\n\
         The report takes 300 ms. A client that says no-cache gets the stored report too.",
    );
    d.send(node, get("/", MISS)).await?;
    d.send(node, get("/", HIT)).await?;
    d.send(node, get("/", HIT)).await?;
    d.send(node, get("/report", MISS)).await?;
    d.send(node, get("/report", HIT)).await?;
    d.send(node, get("/report", HIT).field("cache-control", "no-cache")).await?;
    Ok(())
}

async fn variants(d: &mut Driver, node: &Node) -> Outcome {
    heading(
        "A variant for each Accept-Language",
        "The list says `Vary: accept-language`, so the cache stores one response for each language.",
    );
    let languages = [("en", "Our"), ("de", "Unser"), ("fr", "Nos")];
    for (n, (language, shows)) in languages.into_iter().enumerate() {
        let expects = if n == 0 { MISS } else { NEW_VARIANT };
        d.send(node, get("/products", expects).field("accept-language", language).shows(shows))
            .await?;
    }
    for (language, shows) in languages {
        d.send(node, get("/products", HIT).field("accept-language", language).shows(shows)).await?;
    }
    Ok(())
}

async fn queries(d: &mut Driver, node: &Node) -> Outcome {
    heading(
        "The query is part of the key, tracking parameters are not",
        "The search route uses `.without_tracking_query()`.",
    );
    d.send(node, get("/search?q=tea", MISS)).await?;
    d.send(node, get("/search?utm_source=mail&q=tea&gclid=X1", HIT)).await?;
    d.send(node, get("/search?q=coffee", MISS)).await?;
    Ok(())
}

async fn invalidation(d: &mut Driver, node: &Node) -> Outcome {
    heading(
        "A write invalidates",
        "For PUT the handler is called, and the stored response is invalidated before PUT is answered.\n\
         Other pages show the product too. They have the tag `product:1`, and the shop invalidates the tag\n\
         with one call, in all languages. POST to the list needs no call.\n\
         (A product is fresh for 60 s by its own CacheOverride; its route says 300.)",
    );
    d.send(node, get("/products/1", &["fwd=uri-miss", "; stored"]).shows("tea 3.99")).await?;
    let hit = d.send(node, get("/products/1", HIT).shows("tea 3.99")).await?;
    let own = table::ttl(&hit).is_some_and(|seconds| (50..=60).contains(&seconds));
    d.check(own, || "the product's own lifetime does not count".to_owned());
    d.send(node, ask(Method::PUT, "/products/1", WRITE).body("4.50")).await?;
    d.send(node, get("/products/1", GONE).shows("tea 4.50")).await?;
    d.send(node, get("/products/1", HIT).shows("tea 4.50")).await?;
    for language in ["en", "de"] {
        let list = d.send(node, get("/products", GONE).field("accept-language", language));
        let list = list.await?;
        let text = String::from_utf8_lossy(&list.body);
        d.check(text.contains("tea 4.50"), || "the list does not show the new price".to_owned());
    }
    let post = ask(Method::POST, "/products", WRITE).body("mate").status(StatusCode::CREATED);
    d.send(node, post).await?;
    let list = get("/products", GONE).field("accept-language", "en");
    d.send(node, list.shows("Our products: 4")).await?;
    Ok(())
}

async fn expiry(d: &mut Driver, node: &Node) -> Outcome {
    heading(
        "Expiry",
        "News and stock are fresh for three seconds. Then the handler is called again. The news have changed.\n\
         The stock has an ETag and has not changed: the handler answers 304, and the stored page is fresh\n\
         again without a new body. (Pauses of 1.1 s and 3.1 s.)",
    );
    d.send(node, get("/stock", MISS)).await?;
    d.send(node, get("/news", MISS)).await?;
    d.send(node, get("/news", HIT)).await?;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let old = d.send(node, get("/news", HIT)).await?;
    let age = old.headers.get("age").is_some_and(|age| age != "0");
    d.check(age, || "news that are more than a second old have Age 0".to_owned());
    tokio::time::sleep(Duration::from_millis(3100)).await;
    d.send(node, get("/stock", &["; fwd=stale"]).shows("12 chests")).await?;
    d.send(node, get("/stock", HIT).shows("12 chests")).await?;
    let new = d.send(node, get("/news", &["; fwd=", "; stored"])).await?;
    d.check(new.body != old.body, || "expired news were served".to_owned());
    Ok(())
}

async fn private(d: &mut Driver, node: &Node) -> Outcome {
    heading(
        "Cookies and private pages",
        "The account is never stored: the request has a cookie, and the response says private. A page with\n\
         Set-Cookie is not stored either. A visitor with a session cookie gets a stored page only if the\n\
         route ignores cookies (the home page) or names the cookies that count (the greeting: theme).\n\
         Cookies of well-known analytics scripts never count.",
    );
    const COOKIE: &[&str] = &["fwd=bypass", "detail=cookie"];
    d.send(node, get("/account", COOKIE).field("cookie", "sid=ann").shows("Account of ann"))
        .await?;
    d.send(node, get("/account", COOKIE).field("cookie", "sid=bob").shows("Account of bob"))
        .await?;
    let stranger = get("/account", &["detail=private"]).status(StatusCode::UNAUTHORIZED);
    d.send(node, stranger).await?;
    let first = d.send(node, get("/cart", &["detail=set-cookie"])).await?;
    let second = d.send(node, get("/cart", &["detail=set-cookie"])).await?;
    let cookie = |answer: &Answer| answer.headers.get("set-cookie").cloned();
    d.check(cookie(&first).is_some() && cookie(&first) != cookie(&second), || {
        "two visitors were not given a session each".to_owned()
    });
    d.send(node, get("/products/1", COOKIE).field("cookie", "sid=ann")).await?;
    d.send(node, get("/products/1", HIT).field("cookie", "_ga=GA1.2; _gid=3")).await?;
    d.send(node, get("/", HIT).field("cookie", "sid=ann")).await?;
    d.send(node, get("/greeting", MISS).field("cookie", "theme=dark; sid=1").shows("Good night"))
        .await?;
    d.send(node, get("/greeting", HIT).field("cookie", "theme=dark; sid=2").shows("Good night"))
        .await?;
    d.send(node, get("/greeting", MISS).field("cookie", "theme=light").shows("Good day")).await?;
    Ok(())
}

async fn bodies(d: &mut Driver, node: &Node) -> Outcome {
    heading(
        "Bodies",
        "HEAD is served from the stored GET. A stored megabyte is the same as the original. A client can ask\n\
         for a part of it, and a client that already has it gets a 304. An endless stream of events starts\n\
         at once and is passed through.",
    );
    let head = d.send(node, ask(Method::HEAD, "/report", HIT)).await?;
    let length = head.headers.get("content-length").cloned();
    let get_report = d.send(node, get("/report", HIT)).await?;
    let same = get_report.headers.get("content-length") == length.as_ref() && length.is_some();
    d.check(same && head.body.is_empty(), || "HEAD does not have the length of GET".to_owned());
    let made = d.send(node, get("/image", MISS)).await?;
    let stored = d.send(node, get("/image", HIT)).await?;
    let large = made.body.len() > 1_000_000;
    d.check(large && made.body == stored.body, || "the picture is not the same".to_owned());
    let range = get("/image", HIT).field("range", "bytes=0-53").status(StatusCode::PARTIAL_CONTENT);
    let header = d.send(node, range).await?;
    let is_start = header.body.len() == 54 && made.body.starts_with(&header.body);
    d.check(is_start, || "the range is not the start of the picture".to_owned());
    let known = get("/image", HIT).field("if-none-match", "\"sunset\"");
    d.send(node, known.status(StatusCode::NOT_MODIFIED)).await?;
    d.send(node, get("/events", &["detail=streaming"]).shows("data: event 1\n")).await?;
    Ok(())
}

async fn errors(d: &mut Driver, node: &Node) -> Outcome {
    heading("Errors are not stored", "A page that fails and a missing page are not stored.");
    for _ in 0..2 {
        let broken = get("/broken", &["detail=no-freshness"]);
        d.send(node, broken.status(StatusCode::INTERNAL_SERVER_ERROR)).await?;
    }
    let missing = get("/products/99", &["detail=no-freshness"]);
    d.send(node, missing.status(StatusCode::NOT_FOUND)).await?;
    Ok(())
}

async fn two_nodes(d: &mut Driver, first: &Node, second: &Node) -> Outcome {
    heading(
        "Two nodes, one table",
        "A second shop has a separate cache on the same database. Its first request for a page that the first\n\
         shop has stored is a hit. A write on one node invalidates on the other. The requests go to the\n\
         nodes 2 1 2 1 1 2 2.",
    );
    first.cache.flush().await?;
    d.send(second, get("/report", HIT)).await?;
    d.send(first, get("/products/1", HIT).shows("tea 4.50")).await?;
    d.send(second, ask(Method::PUT, "/products/1", WRITE).body("5.00")).await?;
    d.send(first, get("/products/1", GONE).shows("tea 5.00")).await?;
    let german = || get("/products", HIT).field("accept-language", "de").shows("Unser");
    d.send(first, Ask { expects: GONE, ..german() }).await?;
    first.cache.flush().await?;
    d.send(second, german()).await?;
    d.send(second, get("/products", GONE).field("accept-language", "fr").shows("Nos")).await?;
    second.cache.flush().await?;
    Ok(())
}

async fn rows(d: &mut Driver, node: &Node, url: &str) -> Outcome {
    heading(
        "The table `cache_entries`",
        "A key has prefix, version, target and origin. Then c= is a hash of the cookies that count, and v= is a\n\
         hash of the fields in `Vary`. Types: r response, R compressed response, v list of the variants.",
    );
    node.cache.flush().await?;
    let rows = crate::rows::show(url).await?;
    d.check(rows >= 12, || format!("only {rows} rows are stored"));

    heading(
        "The table `cache_invalidations`, its newest rows",
        "Each invalidation is a row: a target by its key, or a tag by its name. A stored response keeps its log\n\
         position, the rows that existed before its handler ran. A newer row that names the response\n\
         invalidates it.",
    );
    let rows = node.cache.invalidations(8).await?;
    for row in &rows {
        let named = row.scope.to_column();
        println!("  {:>6}  {}", row.id, named.escape_ascii());
    }
    let has = |tag: &str| rows.iter().any(|row| row.scope.to_column().starts_with(tag.as_bytes()));
    let both = has("product:1") && has(":uri demo:1:/products/1 http://");
    d.check(both, || "the log does not show what was invalidated".to_owned());
    Ok(())
}
