//! The contract of every store.

use std::sync::Arc;

use bytes::Bytes;
use http::header::ETAG;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tower_mysql_cache::invalidation::{LogPosition, Tag};
use tower_mysql_cache::key::{CacheKey, KeyRange};
use tower_mysql_cache::store::{
    Admin, Entries, Entry, HeadUpdate, SelectingField, Stored, StoredHead, StoredOrHead,
    StoredResponse, VariantIndex,
};

use crate::kit::{Kit, on_every_store};
use crate::support::eventually;

fn head(now_ms: u64) -> StoredHead {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/html; charset=utf-8"));
    headers.append("link", HeaderValue::from_static("<a>"));
    headers.append("link", HeaderValue::from_static("<b>"));
    headers.insert("x-bytes", HeaderValue::from_bytes(&[0xff, 0x80, b' ', b'x']).unwrap());
    let mut head = StoredHead::new(StatusCode::OK, headers, now_ms);
    head.requested_ms = now_ms - 7;
    head.initial_age_ms = 1_234;
    head.fresh_until_ms = now_ms + 60_000;
    head.gen_ms = 7;
    head.shared = true;
    head.vary = vec![
        SelectingField::new(HeaderName::from_static("accept-language"), Some([3; 16])),
        SelectingField::new(HeaderName::from_static("x-absent"), None),
    ];
    head.tags = vec![Tag::new("product:7"), Tag::new(vec![0, 0xff])];
    head.position = LogPosition::new(u64::MAX, [(1, 1), (5, 7)]);
    head
}

fn entry(kit: &Kit, key: &str, body: impl Into<Bytes>) -> Entry {
    let now_ms = kit.store.now_ms();
    let response = StoredResponse::new(head(now_ms), body.into());
    let key = CacheKey::new(key.to_owned());
    Entry::new(key, Stored::Response(response), now_ms + 60_000)
}

fn expiring(mut entry: Entry, expires_ms: u64) -> Entry {
    entry.expires_ms = expires_ms;
    entry
}

fn body_of(found: Option<Stored>) -> Option<Bytes> {
    match found {
        Some(Stored::Response(response)) => Some(response.body),
        _ => None,
    }
}

fn head_of(stored: &Stored) -> Arc<StoredHead> {
    match stored {
        Stored::Response(response) => Arc::clone(&response.head),
        _ => panic!("a response"),
    }
}

fn update(text: &str, old: Arc<StoredHead>, new: Arc<StoredHead>, expires_ms: u64) -> HeadUpdate {
    HeadUpdate::new(key(text), old, new, expires_ms)
}

fn key(text: &str) -> CacheKey {
    CacheKey::new(text.to_owned())
}

on_every_store! {
    async fn a_stored_response_is_read_back_unchanged(kit: Kit) {
        let bodies: [Bytes; 5] = [
            Bytes::new(),
            Bytes::from_static(&[0]),
            Bytes::from_static("emoji \u{1f980} \u{0}".as_bytes()),
            Bytes::from("compressible ".repeat(20_000)),
            (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect(),
        ];
        for (i, body) in bodies.into_iter().enumerate() {
            let entry = entry(&kit, &format!("t:1:/{i}"), body);
            kit.store.put(entry.clone()).await.unwrap();
            let found = kit.store.get(entry.key.clone()).await.unwrap();
            assert_eq!(found, Some(entry.stored), "body {i}");
        }
    }

    async fn heads_equal_the_heads_of_whole_responses(kit: Kit) {
        let random = |bytes: u32| (0..bytes).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8);
        let bodies: [Bytes; 3] =
            ["small".into(), random(200_000).collect(), "compressible ".repeat(20_000).into()];
        let entries: Vec<_> = bodies
            .iter()
            .enumerate()
            .map(|(n, body)| entry(&kit, &format!("t:1:/{n}"), body.clone()))
            .collect();
        kit.store.put_many(entries.clone()).await.unwrap();
        let mut keys: Vec<_> = entries.iter().map(|entry| entry.key.clone()).collect();
        keys.push(key("t:1:/none"));
        let found = kit.store.get_heads(keys).await.unwrap();
        assert_eq!(found.len(), 4);
        assert_eq!(found[3], None);
        for (entry, found) in entries.into_iter().zip(found) {
            match found.expect("it is stored") {
                StoredOrHead::Stored(stored) => assert_eq!(stored, entry.stored),
                StoredOrHead::Head { head, body_bytes } => {
                    let Stored::Response(response) = entry.stored else { panic!("an index") };
                    assert_eq!(head, response.head);
                    assert!(body_bytes.is_none_or(|bytes| bytes == response.body.len() as u64));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    async fn an_index_of_variants_is_read_back_unchanged(kit: Kit) {
        let names = vec![HeaderName::from_static("accept"), HeaderName::from_static("x-a")];
        let mut index = VariantIndex::new(names, vec![[1; 16], [2; 16]]);
        index.search = Some("key-order".into());
        let stored = Stored::Variants(Arc::new(index));
        let expires_ms = kit.store.now_ms() + 60_000;
        let entry = Entry::new(key("t:1:/"), stored.clone(), expires_ms);
        kit.store.put(entry).await.unwrap();
        assert_eq!(kit.store.get(key("t:1:/")).await.unwrap(), Some(stored));
    }

    async fn unknown_keys_are_not_found(kit: Kit) {
        assert_eq!(kit.store.get(key("t:1:/")).await.unwrap(), None);
        let update = update("t:1:/", Arc::new(head(9)), Arc::new(head(9)), u64::MAX);
        assert!(!kit.store.freshen(update).await.unwrap());
    }

    async fn results_have_the_order_of_the_keys_with_repeats(kit: Kit) {
        let many: Vec<_> = (0..100).map(|n| entry(&kit, &format!("t:1:/{n}"), format!("{n}"))).collect();
        kit.store.put_many(many).await.unwrap();
        let order = [99, 0, 42, 1000, 42, 7];
        let keys = order.iter().map(|n| key(&format!("t:1:/{n}"))).collect();
        let found = kit.store.get_many(keys).await.unwrap();
        let bodies: Vec<_> = found.into_iter().map(body_of).collect();
        let expected = [Some("99"), Some("0"), Some("42"), None, Some("42"), Some("7")];
        assert_eq!(bodies, expected.map(|body| body.map(Bytes::from_static_str)));
        let all = (0..100).map(|n| key(&format!("t:1:/{n}"))).collect();
        assert!(kit.store.get_many(all).await.unwrap().iter().all(Option::is_some));
    }

    async fn empty_batches_are_allowed(kit: Kit) {
        assert_eq!(kit.store.get_many(Vec::new()).await.unwrap(), Vec::new());
        kit.store.put_many(Vec::new()).await.unwrap();
    }

    async fn a_later_put_replaces_an_earlier_one(kit: Kit) {
        kit.store.put(entry(&kit, "t:1:/", "old")).await.unwrap();
        kit.store.put(entry(&kit, "t:1:/", "new")).await.unwrap();
        assert_eq!(body_of(kit.store.get(key("t:1:/")).await.unwrap()).unwrap(), "new");
        let twice = vec![entry(&kit, "t:1:/", "first"), entry(&kit, "t:1:/", "second")];
        kit.store.put_many(twice).await.unwrap();
        assert_eq!(body_of(kit.store.get(key("t:1:/")).await.unwrap()).unwrap(), "second");
    }

    async fn an_expired_entry_is_not_found_and_can_be_replaced(kit: Kit) {
        let now_ms = kit.store.now_ms();
        for expires_ms in [0, 1, now_ms - 1, now_ms] {
            let past = expiring(entry(&kit, "t:1:/", "old"), expires_ms);
            let old = past.stored.clone();
            kit.store.put(past).await.unwrap();
            assert_eq!(kit.store.get(key("t:1:/")).await.unwrap(), None);
            let update = update("t:1:/", head_of(&old), Arc::new(head(now_ms)), u64::MAX >> 1);
            assert!(!kit.store.freshen(update).await.unwrap());
        }
        kit.store.put(entry(&kit, "t:1:/", "new")).await.unwrap();
        assert_eq!(body_of(kit.store.get(key("t:1:/")).await.unwrap()).unwrap(), "new");
    }

    async fn an_entry_expires_by_the_stores_clock(kit: Kit) {
        let short = expiring(entry(&kit, "t:1:/", "x"), kit.store.now_ms() + 300);
        let expires_ms = short.expires_ms;
        kit.store.put(short).await.unwrap();
        let gone = async || kit.store.get(key("t:1:/")).await.unwrap().is_none();
        eventually("it expires", gone).await;
        let late_ms = kit.store.now_ms().checked_sub(expires_ms).expect("not earlier");
        assert!(late_ms < 2_000, "{late_ms} ms late");
    }

    async fn keys_are_compared_byte_by_byte(kit: Kit) {
        let keys: [&[u8]; 12] = [
            b"t:1:/k", b"t:1:/k ", b"t:1:/k  ", b"t:1:/K", b"t:1:/k\0", b"t:1:/k\n", b"t:1:/k%", b"t:1:/k_",
            b"t:1:/\xff", "t:1:/\u{1f980}".as_bytes(), "t:1:/\u{e9}".as_bytes(), b"t:1:/e\xcc\x81",
        ];
        for (i, bytes) in keys.iter().enumerate() {
            let stored = entry(&kit, "x", format!("{i}")).stored;
            let entry = Entry::new(CacheKey::new(bytes.to_vec()), stored, u64::MAX >> 1);
            kit.store.put(entry).await.unwrap();
        }
        for (i, bytes) in keys.iter().enumerate() {
            let found = kit.store.get(CacheKey::new(bytes.to_vec())).await.unwrap();
            assert_eq!(body_of(found).unwrap(), format!("{i}"));
        }
    }

    async fn freshening_replaces_the_head_and_keeps_the_body(kit: Kit) {
        for body in ["short".to_owned(), "compressible ".repeat(10_000)] {
            let entry = entry(&kit, "t:1:/", body.clone());
            kit.store.put(entry.clone()).await.unwrap();
            let mut newer = head(kit.store.now_ms());
            newer.headers.insert("etag", HeaderValue::from_static("\"2\""));
            newer.fresh_until_ms += 5_000;
            let newer = Arc::new(newer);
            let expires_ms = entry.expires_ms + 5_000;
            let another = Arc::new(head(kit.store.now_ms() + 1));
            let stray = update("t:1:/", another, newer.clone(), expires_ms);
            assert!(!kit.store.freshen(stray).await.unwrap(), "the response has been replaced");
            let update = update("t:1:/", head_of(&entry.stored), newer.clone(), expires_ms);
            assert!(kit.store.freshen(update).await.unwrap());
            let expected = StoredResponse::new(newer, body.into());
            let found = kit.store.get(entry.key.clone()).await.unwrap();
            assert_eq!(found, Some(Stored::Response(expected)));
        }
    }

    async fn removing_a_range_deletes_only_that_range(kit: Kit) {
        let inside = ["t:1:/a", "t:1:/a http://h", "t:1:/a http://h v=1", "t:1:/a http://i"];
        let outside = ["t:1:/", "t:1:/a!", "t:1:/a/b http://h", "t:1:/aa", "t:1:/A", "t:2:/a", "u:1:/a"];
        let entries = inside.iter().chain(&outside).map(|key| entry(&kit, key, *key));
        kit.store.put_many(entries.collect()).await.unwrap();
        assert_eq!(kit.store.remove(KeyRange::continuing("t:1:/a")).await.unwrap(), 4);
        for gone in inside {
            assert_eq!(kit.store.get(key(gone)).await.unwrap(), None, "{gone}");
        }
        for kept in outside {
            assert!(kit.store.get(key(kept)).await.unwrap().is_some(), "{kept}");
        }
        assert_eq!(kit.store.remove(KeyRange::continuing("t:1:/a")).await.unwrap(), 0);
    }

    async fn removing_a_prefix_keeps_other_prefixes(kit: Kit) {
        for prefix in ["a_", "a%", "ab", "a", "a-"] {
            kit.store.put(entry(&kit, &format!("{prefix}:1:/x"), "x")).await.unwrap();
        }
        assert_eq!(kit.store.remove(KeyRange::starting_with("a_:")).await.unwrap(), 1);
        assert_eq!(kit.store.remove(KeyRange::starting_with("a:")).await.unwrap(), 1);
        for kept in ["a%", "ab", "a-"] {
            assert!(kit.store.get(key(&format!("{kept}:1:/x"))).await.unwrap().is_some());
        }
    }

    async fn a_removal_can_delete_thousands_of_entries(kit: Kit) {
        let many = (0..3_000).map(|n| entry(&kit, &format!("t:1:/{n}"), "x")).collect();
        kit.store.put_many(many).await.unwrap();
        kit.store.put(entry(&kit, "u:1:/", "x")).await.unwrap();
        assert_eq!(kit.store.remove(KeyRange::starting_with("t:")).await.unwrap(), 3_000);
        assert!(kit.store.get(key("u:1:/")).await.unwrap().is_some());
    }

    async fn a_cull_deletes_only_expired_entries(kit: Kit) {
        let past = |n| expiring(entry(&kit, &format!("t:1:/old/{n}"), "x"), 1);
        kit.store.put_many((0..40).map(past).collect()).await.unwrap();
        let live = (0..40).map(|n| entry(&kit, &format!("t:1:/new/{n}"), "x")).collect();
        kit.store.put_many(live).await.unwrap();
        let report = kit.store.cull().await.unwrap();
        assert_eq!((report.expired, report.evicted), (40, 0), "{report:?}");
        for n in 0..40 {
            assert!(kit.store.get(key(&format!("t:1:/new/{n}"))).await.unwrap().is_some());
        }
        assert_eq!(kit.store.stats().await.unwrap().entries, 40);
    }

    async fn stats_count_entries_and_bytes(kit: Kit) {
        let mut state = 1_u64; // random bytes, which cannot be compressed
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        let body: Bytes = noise.take(5_000).collect();
        let entries = (0..10).map(|n| entry(&kit, &format!("t:1:/{n}"), body.clone())).collect();
        kit.store.put_many(entries).await.unwrap();
        let stats = kit.store.stats().await.unwrap();
        assert_eq!(stats.entries, 10);
        assert!((50_000..80_000).contains(&stats.bytes), "{stats:?}");
    }

    async fn an_entry_over_the_limit_is_refused(kit: Kit) {
        let mut big = entry(&kit, "t:1:/big", vec![7; 65 << 20]);
        let mut incompressible = head(kit.store.now_ms());
        incompressible.headers.insert("content-type", HeaderValue::from_static("image/png"));
        if let Stored::Response(response) = &mut big.stored {
            response.head = Arc::new(incompressible);
        }
        let error = kit.store.put(big).await.unwrap_err();
        assert_eq!(error.as_str(), "too-large", "{error}");
        kit.store.put(entry(&kit, "t:1:/small", "x")).await.unwrap();
        assert!(kit.store.get(key("t:1:/small")).await.unwrap().is_some());
        assert_eq!(kit.store.stats().await.unwrap().too_large, 1);
    }

    async fn processes_find_the_entries_of_other_processes(kit: Kit) {
        let other = kit.neighbour().await;
        kit.store.put(entry(&kit, "t:1:/a", "from one")).await.unwrap();
        other.put(entry(&kit, "t:1:/b", "from the other")).await.unwrap();
        assert_eq!(body_of(other.get(key("t:1:/a")).await.unwrap()).unwrap(), "from one");
        assert_eq!(body_of(kit.store.get(key("t:1:/b")).await.unwrap()).unwrap(), "from the other");
        other.remove(KeyRange::starting_with("t:")).await.unwrap();
        assert_eq!(kit.store.get(key("t:1:/a")).await.unwrap(), None);
    }

    async fn many_tasks_on_the_same_keys_lose_nothing(kit: Kit) {
        let tasks = (0..8).map(|task| {
            let store = kit.store.clone();
            let order: Vec<_> = (0..50).map(|n| (n * 7 + task * 13) % 50).collect();
            let entries: Vec<_> =
                order.iter().map(|n| entry(&kit, &format!("t:1:/{n}"), format!("{n}"))).collect();
            tokio::spawn(async move {
                for entries in entries.chunks(10) {
                    store.put_many(entries.to_vec()).await.unwrap();
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let keys = (0..50).map(|n| key(&format!("t:1:/{n}"))).collect();
        let found = kit.store.get_many(keys).await.unwrap();
        for (n, found) in found.into_iter().enumerate() {
            assert_eq!(body_of(found).unwrap(), format!("{n}"));
        }
    }
}

/// `Bytes::from_static` for text.
trait FromStaticStr {
    fn from_static_str(text: &'static str) -> Self;
}

impl FromStaticStr for Bytes {
    fn from_static_str(text: &'static str) -> Self {
        Self::from_static(text.as_bytes())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_is_replaced_only_if_it_is_the_expected_one() {
    let kit = Kit::mysql().await;
    let now = kit.store.now_ms();
    let head = |etag: &'static str| {
        let headers = HeaderMap::from_iter([(ETAG, HeaderValue::from_static(etag))]);
        StoredHead::new(StatusCode::OK, headers, now)
    };
    let key = CacheKey::new("test:1:/ http://h");
    let entry = |head: StoredHead, body: &'static str| {
        let stored = Stored::Response(StoredResponse::new(head, body.into()));
        Entry::new(key.clone(), stored, now + 60_000)
    };
    // it has replaced "one" in the same millisecond
    kit.store.put(entry(head("\"2\""), "two")).await.unwrap();
    let mut new = head("\"1\"");
    new.fresh_until_ms = now + 50_000;
    let old = Arc::new(head("\"1\""));
    let update = HeadUpdate::new(key.clone(), old, Arc::new(new), now + 60_000);
    let done = kit.store.freshen(update).await.unwrap();
    let Some(Stored::Response(r)) = kit.store.get(key).await.unwrap() else { panic!() };
    assert_eq!(
        (done, &r.head.headers["etag"], &r.body[..]),
        (false, &HeaderValue::from_static("\"2\""), &b"two"[..])
    );
}
