//! Tags of any bytes, soft invalidations, dry runs, and lists of what was invalidated.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tags_of_any_bytes_survive_freshening() {
    let database = support::database().await;
    let tags = |_: &str| {
        let mut tags: Vec<Tag> = (0..1_000).map(|n| Tag::from(format!("tag:{n}"))).collect();
        tags.extend([Tag::new(&b"\0\xff"[..]), Tag::new(&b" "[..]), Tag::new(vec![0xff; 255])]);
        tags.push(Tag::from(":everything")); // a tag that looks like another scope
        tags
    };
    let store = builder(database.url()).connect().await.unwrap();
    store.migrate().await.unwrap();
    let one = Node::with_tags(store, tags);
    let two = node(&database).await;
    one.fill(TAGGED).await;
    let kept = &one.handle.inspect(TAGGED).await.unwrap()[0].head.tags;
    assert_eq!(kept.len(), 1_004);
    let mut named: Vec<Vec<u8>> = vec![b"tag:0".to_vec(), b"tag:999".to_vec(), b"\0\xff".to_vec()];
    named.extend([b" ".to_vec(), vec![0xff; 255], b":everything".to_vec()]);
    for name in named {
        one.assert_hit(TAGGED).await;
        two.handle.invalidate_tags([Tag::new(vec![0xff; 254])]).await.unwrap();
        two.handle.invalidate_tags(["TAG:0"]).await.unwrap();
        one.assert_hit(TAGGED).await;
        two.handle.invalidate_tags([&name[..]]).await.unwrap();
        assert_eq!(one.validity(TAGGED).await, Validity::Invalid, "{}", name.escape_ascii());
        // the handler answers 304, so the head is replaced together with its tags
        let answer = one.get(TAGGED).await;
        assert_eq!((answer.text(), answer.status.as_u16()), ("call 1", 200));
        one.handle.flush().await.unwrap();
        assert_eq!(one.handle.inspect(TAGGED).await.unwrap()[0].head.tags.len(), 1_004);
    }
    let too_long = one.handle.invalidate_tags([vec![b'x'; 256]]).await.unwrap_err();
    assert!(too_long.to_string().contains("1 to 255 bytes"), "{too_long}");
    assert!(one.handle.invalidate_tags([""]).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soft_invalidation_makes_stale_and_a_hard_one_invalid() {
    let database = support::database().await;
    let node = node(&database).await;
    node.fill(TAGGED).await;
    node.handle.soft_invalidate_tags(["product:7"]).await.unwrap();
    assert_eq!(node.validity(TAGGED).await, Validity::Outdated);
    node.handle.invalidate_tags(["product:7"]).await.unwrap();
    node.handle.soft_invalidate_tags(["product:7"]).await.unwrap();
    assert_eq!(node.validity(TAGGED).await, Validity::Invalid, "the worst that was said");
    node.get(TAGGED).await;
    node.handle.flush().await.unwrap();
    node.handle.soft_invalidate_all().await.unwrap();
    node.assert_refused(TAGGED, "outdated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_runs_and_past_invalidations_can_be_listed() {
    let database = support::database().await;
    let node = node(&database).await;
    for n in 0..5 {
        node.fill(&format!("http://h/p/{n}")).await;
    }
    let all = node.handle.dry_run(&Invalidation::all()).await.unwrap();
    assert_eq!((all.examined, all.named), (5, 5));
    let wanted = Invalidation::tags(["product:1"]).and_tags(["product:2", "none"]);
    let some = node.handle.dry_run(&wanted).await.unwrap();
    assert_eq!((some.examined, some.named), (5, 2));
    assert!(some.bytes > 0 && some.bytes < all.bytes);
    assert_eq!(node.handle.dry_run(&Invalidation::uri("/p/3")).await.unwrap().named, 1);
    assert_eq!(node.handle.dry_run(&Invalidation::path("/p")).await.unwrap().named, 5);
    node.assert_hit("http://h/p/1").await;
    assert_eq!(node.handle.invalidations(10).await.unwrap(), []);

    let before = node.store.now_ms();
    node.handle.invalidate(wanted.reason("price import").soft()).await.unwrap();
    let rows = node.handle.invalidations(2).await.unwrap();
    let ids: Vec<u64> = rows.iter().map(|row| row.id).collect();
    assert_eq!(ids, [3, 2], "the newest first, no more than asked for");
    assert_eq!(rows[0].scope, Scope::Tag(Tag::from("none")));
    assert!(rows[1].soft && rows[1].reason.as_deref() == Some("price import"));
    let late = rows[0].at_ms.abs_diff(before);
    assert!(late < 60_000, "{late} ms");
    let found = node.handle.inspect("http://h/p/2").await.unwrap();
    assert_eq!((found.len(), found[0].validity), (1, Validity::Outdated));
    assert_eq!(found[0].head.tags, [Tag::from("product:2")]);
    assert!(node.handle.inspect("http://h/p/99").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_can_be_selected_in_the_applications_transaction() {
    let database = support::database().await;
    let node = node(&database).await;
    let mut connection = database.connection().await;
    execute(&mut connection, "CREATE TABLE products (id INT PRIMARY KEY, brand INT)").await;
    let values: Vec<String> = (0..200).map(|id| format!("({id}, {})", id % 2)).collect();
    execute(&mut connection, &format!("INSERT INTO products VALUES {}", values.join(","))).await;
    for n in [7, 8, 199] {
        node.fill(&format!("http://h/p/{n}")).await;
    }
    let mut tx = connection.begin().await.unwrap();
    let odd = "SELECT CONCAT('product:', id) FROM products WHERE brand = ?";
    let count =
        node.handle.invalidate_selected_on(&mut tx, sqlx::query(odd).bind(1)).await.unwrap();
    assert_eq!(count, 100);
    node.assert_hit(TAGGED).await;
    tx.commit().await.unwrap();
    assert_eq!(node.validity(TAGGED).await, Validity::Invalid);
    assert_eq!(node.validity("http://h/p/199").await, Validity::Invalid);
    node.assert_hit("http://h/p/8").await;
    let none = node.handle.invalidate_selected_on(&mut connection, sqlx::query(odd).bind(5)).await;
    assert_eq!(none.unwrap(), 0);
}
