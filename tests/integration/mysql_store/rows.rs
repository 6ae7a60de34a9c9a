//! Rows: keys, columns, damage, limits, expiry.

use super::*;

#[tokio::test]
async fn keys_with_the_same_hash_are_misses_for_each_other() {
    let (database, store) = fresh().await;
    let mut connection = database.connection().await;
    let (one, two) = (key("p:1:/one"), key("p:1:/two"));
    store.put(entry(&store, one.clone(), "one")).await.unwrap();
    // as if the keys had the same hash
    let collide = "UPDATE cache_entries SET key_hash = UNHEX(LEFT(SHA2('p:1:/two', 256), 32))";
    execute(&mut connection, collide).await;
    assert_eq!(store.get(two.clone()).await.unwrap(), None);
    assert_eq!(store.get_many(vec![two.clone(), one.clone()]).await.unwrap(), [None, None]);
    let Stored::Response(response) = response(store.now_ms(), "") else { return };
    let update = HeadUpdate::new(two.clone(), response.head.clone(), response.head, u64::MAX >> 1);
    assert!(!store.freshen(update).await.unwrap());
    store.put(entry(&store, two.clone(), "two")).await.unwrap();
    assert_eq!(body(store.get(two.clone()).await.unwrap()).unwrap(), "two");
    assert_eq!(store.get(one.clone()).await.unwrap(), None);
    assert_eq!(store.stats().await.unwrap().entries, 1, "the later put wins");
    assert_eq!(store.stats().await.unwrap().unreadable, 0, "a collision is not damage");
}

#[tokio::test]
async fn a_row_that_inflates_over_the_limit_is_a_miss() {
    let (database, store) = fresh().await;
    let small = MySqlStore::builder(database.url()).unwrap().max_entry_bytes(64 << 10);
    let small = small.connect().await.unwrap();
    let key = key("p:1:/page http://h");
    let put = |length: usize| entry(&store, key.clone(), "x".repeat(length));
    store.put(put(64 << 10)).await.unwrap();
    assert!(small.get(key.clone()).await.unwrap().is_some());
    store.put(put((64 << 10) + 1)).await.unwrap();
    assert_eq!(small.get(key.clone()).await.unwrap(), None);
    assert_eq!(small.stats().await.unwrap().unreadable, 1);
    assert!(store.get(key).await.unwrap().is_some());
}

#[tokio::test]
async fn a_damaged_row_is_a_miss_until_the_next_put() {
    let (database, store) = fresh().await;
    let mut connection = database.connection().await;
    let key = key("p:1:/page http://h");
    let text = "all work and no play\n".repeat(300);
    let put = || entry(&store, key.clone(), text.clone());
    store.put(put()).await.unwrap();
    let flip = |column: &str, at: &str| {
        format!(
            "{column} = INSERT({column}, {at}, 1, CHAR(ASCII(SUBSTRING({column}, {at}, 1)) ^ 1))"
        )
    };
    let mut damages = vec![
        "value = ''".to_owned(),
        "value = CONCAT(value, 'x')".to_owned(),
        "value = LEFT(value, LENGTH(value) - 1)".to_owned(),
        "value = REVERSE(value)".to_owned(),
        "head = NULL".to_owned(),
        "head = ''".to_owned(),
        "head = CONCAT(head, 'x')".to_owned(),
        "head = LEFT(head, LENGTH(head) - 1)".to_owned(),
        "head = CONCAT(CHAR(2), SUBSTRING(head, 2))".to_owned(), // an unknown version
        "value_type = 'r'".to_owned(),                           // the row is compressed
        "value_type = 'v'".to_owned(),
        "value_type = 'j'".to_owned(),
        "value_type = ''".to_owned(),
    ];
    damages.extend((1..40).map(|at| flip("value", &at.to_string())));
    damages.extend((1..40).map(|at| flip("head", &at.to_string())));
    damages.extend((0..9).map(|back| flip("value", &format!("LENGTH(value) - {back}"))));
    damages.extend((0..9).map(|back| flip("head", &format!("LENGTH(head) - {back}"))));
    for (done, damage) in damages.iter().enumerate() {
        store.put(put()).await.unwrap();
        assert_eq!(body(store.get(key.clone()).await.unwrap()).unwrap(), text);
        execute(&mut connection, format!("UPDATE cache_entries SET {damage}")).await;
        assert_eq!(store.get(key.clone()).await.unwrap(), None, "{damage}");
        let stats = store.stats().await.unwrap();
        assert_eq!((stats.unreadable, stats.failures), (done as u64 + 1, 0), "{damage}");
    }
    // with these columns it is another row, not a damaged one
    for change in ["expires = 0", "cache_key = 'p:1:/page http://H'"] {
        store.put(put()).await.unwrap();
        execute(&mut connection, format!("UPDATE cache_entries SET {change}")).await;
        assert_eq!(store.get(key.clone()).await.unwrap(), None, "{change}");
    }
    // these columns are only for people
    store.put(put()).await.unwrap();
    let harmless = "size = 0, status = 500, born_ms = NULL, fresh_until_ms = 1, gen_ms = NULL, \
                    expires = 18446744073709551615";
    execute(&mut connection, format!("UPDATE cache_entries SET {harmless}")).await;
    assert_eq!(body(store.get(key).await.unwrap()).unwrap(), text);
}

#[tokio::test]
async fn columns_are_readable_in_sql() {
    let (database, store) = fresh().await;
    let mut connection = database.connection().await;
    let stored = entry(&store, key("shop:1:/a http://h"), "hello");
    store.put(stored.clone()).await.unwrap();
    let row = sqlx::query(
        "SELECT LEFT(value, LENGTH(value) - 9), value_type, expires, size, status, gen_ms, \
         key_hash = UNHEX(LEFT(SHA2(cache_key, 256), 32)), \
         LENGTH(cache_key) + LENGTH(head) + LENGTH(value) FROM cache_entries",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(row.get::<Vec<u8>, _>(0), b"hello");
    assert_eq!(row.get::<String, _>(1), "r");
    assert_eq!(row.get::<u64, _>(2), stored.expires_ms);
    assert_eq!(i64::from(row.get::<u32, _>(3)), row.get::<i64, _>(7));
    assert_eq!((row.get::<u16, _>(4), row.get::<u32, _>(5)), (200, 5));
    assert_eq!(row.get::<i64, _>(6), 1);
    let Stored::Response(response) = stored.stored else { unreachable!() };
    let mut head = (*response.head).clone();
    head.status = StatusCode::GONE;
    let later = stored.expires_ms + 1;
    let (key, old, new) = (stored.key, response.head, Arc::new(head));
    let update = HeadUpdate::new(key, old, new, later);
    assert!(store.freshen(update).await.unwrap());
    let row = sqlx::query(
        "SELECT status, expires, size, LENGTH(cache_key) + LENGTH(head) + LENGTH(value) \
         FROM cache_entries",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!((row.get::<u16, _>(0), row.get::<u64, _>(1)), (410, later));
    assert_eq!(i64::from(row.get::<u32, _>(2)), row.get::<i64, _>(3));
}

#[tokio::test]
async fn keys_of_any_bytes_are_distinct() {
    let (database, store) = fresh().await;
    let keys: Vec<CacheKey> = [
        &b"p:1:/a"[..],
        b"p:1:/a ",
        b"p:1:/a  ",
        b"p:1:/a\0",
        b"p:1:/a\0\0",
        b"p:1:/A",
        b"p:1:/a\xff",
        b"p:1:/a\xff\xff",
        b"p:1:/a%",
        b"p:1:/a_",
        "p:1:/\u{1f980}".as_bytes(),
        "p:1:/\u{e4}".as_bytes(),
        b"p:1:/a\xcc\x88",
        &[0xff; 1024],
        b"",
    ]
    .map(|bytes| CacheKey::new(Bytes::copy_from_slice(bytes)))
    .to_vec();
    for key in &keys {
        store.put(entry(&store, key.clone(), key.to_bytes())).await.unwrap();
    }
    let found = store.get_many(keys.clone()).await.unwrap();
    for (key, found) in keys.iter().zip(found) {
        assert_eq!(body(found).as_deref(), Some(key.as_bytes()), "{key:?}");
    }
    // a range contains the same keys in the database as in memory
    for range in [
        KeyRange::continuing("p:1:/a"),
        KeyRange::starting_with("p:1:/a\0"),
        KeyRange::starting_with(&b"p:1:/a\xff"[..]),
        KeyRange::starting_with("p:1:/a_"),
        KeyRange::starting_with(&b"\xff"[..]),
        KeyRange::starting_with(""),
    ] {
        for key in &keys {
            store.put(entry(&store, key.clone(), key.to_bytes())).await.unwrap();
        }
        let inside: HashSet<&[u8]> =
            keys.iter().map(CacheKey::as_bytes).filter(|key| range.contains(key)).collect();
        assert_eq!(store.remove(range.clone()).await.unwrap(), inside.len() as u64, "{range:?}");
        for key in &keys {
            let gone = store.get(key.clone()).await.unwrap().is_none();
            assert_eq!(gone, inside.contains(key.as_bytes()), "{key:?} of {range:?}");
        }
    }
    assert_eq!(count(&mut database.connection().await).await, 0);
}

#[tokio::test]
async fn an_entry_over_the_limits_is_refused_before_it_is_sent() {
    let server = support::own_server(None).await;
    let packet = 4 << 20;
    let sql = format!("SET GLOBAL max_allowed_packet = {packet}");
    execute(&mut server.connection().await, sql).await;
    let store = MySqlStore::builder(server.url()).unwrap().compression(Compression::Off).connect();
    let store = store.await.unwrap();
    store.migrate().await.unwrap();
    let too_large = entry(&store, key("p:1:/large"), vec![b'x'; packet]);
    let small = entry(&store, key("p:1:/small"), "x");
    let error = store.put_many(vec![too_large, small]).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    assert!(store.get(key("p:1:/small")).await.unwrap().is_some(), "the others are stored");
    let fits = vec![b'y'; packet - 128 * 1024];
    let large = entry(&store, key("p:1:/large"), fits.clone());
    store.put(large).await.unwrap();
    assert!(body(store.get(key("p:1:/large")).await.unwrap()).unwrap() == fits);

    let tight =
        MySqlStore::builder(server.url()).unwrap().max_entry_bytes(4096).connect().await.unwrap();
    let error = tight.put(entry(&tight, key("p:1:/x"), vec![0; 5000])).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { limit: 4096, .. }), "{error}");
    let stats = tight.stats().await.unwrap();
    assert_eq!((stats.too_large, stats.failures), (1, 0));
    assert_eq!(store.stats().await.unwrap().failures, 0);
}

/// The ways of compression of this build.
fn ways() -> Vec<Compression> {
    vec![
        Compression::Off,
        Compression::Zlib(1),
        #[cfg(feature = "zstd")]
        Compression::Zstd(3),
    ]
}

#[tokio::test]
async fn stores_with_different_compression_share_a_table() {
    let (database, store) = fresh().await;
    let text = Bytes::from("a line of text, and many more of them\n".repeat(4_000));
    for (n, way) in ways().into_iter().enumerate() {
        let other = builder(&database).compression(way).connect().await.unwrap();
        let key = key(format!("p:1:/{n}"));
        other.put(entry(&other, key.clone(), text.clone())).await.unwrap();
        assert_eq!(body(store.get(key.clone()).await.unwrap()).unwrap(), text, "{way:?}");
        let found = store.get(key.clone()).await.unwrap();
        let Some(Stored::Response(found)) = found else { panic!("{way:?}: not found") };
        let mut head = (*found.head).clone();
        head.fresh_until_ms += 1;
        let update = HeadUpdate::new(key.clone(), found.head, Arc::new(head), u64::MAX >> 8);
        assert!(store.freshen(update).await.unwrap(), "{way:?}");
        assert_eq!(body(other.get(key).await.unwrap()).unwrap(), text, "{way:?}");
    }
    let sql = "SELECT COUNT(DISTINCT value_type) FROM cache_entries";
    let expected = if cfg!(feature = "zstd") { 3 } else { 2 };
    assert_eq!(number(&mut database.connection().await, sql).await, expected);
}

/// As if a process wrote it whose release knows another compression.
#[tokio::test]
async fn an_unknown_compression_is_a_miss_and_the_next_write_replaces_it() {
    let (database, store) = fresh().await;
    let page = key("p:1:/page");
    store.put(entry(&store, page.clone(), "a page")).await.unwrap();
    let sql = "UPDATE cache_entries SET value_type = 'Q'";
    execute(&mut database.connection().await, sql).await;
    assert_eq!(store.get(page.clone()).await.unwrap(), None);
    assert_eq!(store.stats().await.unwrap().unreadable, 1);
    store.put(entry(&store, page.clone(), "a page")).await.unwrap();
    assert_eq!(body(store.get(page).await.unwrap()).unwrap(), "a page");
}

#[tokio::test]
async fn compress_when_says_which_bodies_are_compressed() {
    let database = support::database().await;
    let chosen = builder(&database).compress_when(|headers, bytes| {
        headers.get("content-type").is_some_and(|kind| kind == "text/plain") && bytes >= 10_000
    });
    let store = chosen.connect().await.unwrap();
    store.migrate().await.unwrap();
    store.put(entry(&store, key("p:1:/small"), vec![b'x'; 9_999])).await.unwrap();
    store.put(entry(&store, key("p:1:/large"), vec![b'x'; 10_000])).await.unwrap();
    let mut encoded = entry(&store, key("p:1:/encoded"), vec![b'x'; 10_000]);
    if let Stored::Response(response) = &mut encoded.stored {
        let mut head = (*response.head).clone();
        head.headers.insert("content-encoding", HeaderValue::from_static("gzip"));
        response.head = Arc::new(head);
    }
    store.put(encoded).await.unwrap();
    let mut connection = database.connection().await;
    for (path, value_type) in [("small", 'r'), ("large", 'R'), ("encoded", 'r')] {
        let sql = format!(
            "SELECT COUNT(*) FROM cache_entries WHERE cache_key = 'p:1:/{path}' AND value_type = '{value_type}'"
        );
        assert_eq!(number(&mut connection, sql).await, 1, "{path}");
    }
}

#[tokio::test]
async fn large_and_compressed_bodies_are_read_back_unchanged() {
    let (database, store) = fresh().await;
    let text: Vec<u8> = (0..3_000_000_u32).map(|i| b"abcdefgh\n"[(i % 9) as usize]).collect();
    for (name, body) in [("text", text.clone()), ("empty", Vec::new()), ("one", vec![0])] {
        store.put(entry(&store, key(format!("p:1:/{name}")), body)).await.unwrap();
    }
    assert!(body(store.get(key("p:1:/text")).await.unwrap()).unwrap() == text);
    assert_eq!(body(store.get(key("p:1:/empty")).await.unwrap()).unwrap(), "");
    let sql = "SELECT SUM(LENGTH(value)) FROM cache_entries";
    assert!(number(&mut database.connection().await, sql).await < 100_000);
}

#[tokio::test]
async fn entries_expire_by_the_databases_clock() {
    let (database, store) = fresh().await;
    let mut connection = database.connection().await;
    let sql = "UNIX_TIMESTAMP(NOW(3)) * 1000";
    let server = number(&mut connection, sql).await;
    let here = store.now_ms();
    assert!(server.abs_diff(here) < 200, "{server} and {here}");
    let mut short = entry(&store, key("p:1:/"), "x");
    short.expires_ms = store.now_ms() + 300;
    let expires_ms = short.expires_ms;
    store.put(short).await.unwrap();
    eventually("it expires", async || {
        let before = store.now_ms();
        let found = store.get(key("p:1:/")).await.unwrap().is_some();
        let after = store.now_ms();
        assert!(!found || before < expires_ms, "found {before} though it died {expires_ms}");
        assert!(found || after >= expires_ms, "not found {after} though it lives to {expires_ms}");
        !found
    })
    .await;
    let Stored::Response(StoredResponse { head, .. }) = response(server, "") else { return };
    let (key, old) = (key("p:1:/"), head.clone());
    let update = HeadUpdate::new(key, old, head, expires_ms + HOUR);
    let freshened = store.freshen(update).await.unwrap();
    assert!(!freshened, "what has expired is not brought back");
}

#[tokio::test]
async fn an_index_is_stored_in_addition_to_its_variants() {
    let (_database, store) = fresh().await;
    let names = vec![HeaderName::from_static("accept"), HeaderName::from_static("x-tenant")];
    let index = Stored::Variants(Arc::new(VariantIndex::new(names, vec![[1; 16]])));
    let key = key("p:1:/v");
    let put = Entry::new(key.clone(), index.clone(), store.now_ms() + HOUR);
    store.put(put).await.unwrap();
    assert_eq!(store.get(key.clone()).await.unwrap(), Some(index));
    let Stored::Response(StoredResponse { head, .. }) = response(store.now_ms(), "") else {
        return;
    };
    let expires_ms = store.now_ms() + HOUR;
    let update = HeadUpdate::new(key, head.clone(), head, expires_ms);
    let freshened = store.freshen(update).await.unwrap();
    assert!(!freshened, "there is no response to freshen");
}
