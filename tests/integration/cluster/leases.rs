//! The leases themselves: one holder, fences that grow, rows that are deleted.

use super::*;

fn entry(key: &CacheKey, now_ms: u64, body: &'static [u8]) -> Entry {
    let mut head = StoredHead::new(StatusCode::OK, HeaderMap::new(), now_ms);
    head.fresh_until_ms = now_ms + 60_000;
    let response = StoredResponse::new(head, Bytes::from_static(body));
    Entry::new(key.clone(), Stored::Response(response), now_ms + 60_000)
}

async fn body<St: Store>(store: &St, key: &CacheKey) -> Option<Bytes> {
    match store.get(key.clone()).await.expect("an answer") {
        Some(Stored::Response(response)) => Some(response.body),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_has_one_holder_and_its_fences_grow() {
    let database = migrated().await;
    let (one, two) = (store(&database).await, store(&database).await);
    let key = CacheKey::new("test:1:/");
    let long = 60 * SECOND;
    let first = granted(one.lease(&key, long).await.unwrap());
    assert_eq!(two.lease(&key, long).await.unwrap(), Lease::Held);
    assert_eq!(one.lease(&key, long).await.unwrap(), Lease::Held, "not even to itself");
    granted(two.lease(&CacheKey::new("test:1:/other"), long).await.unwrap());
    let fence = |number| Fence::new(key.clone(), number);
    two.release(&fence(first + 1), None).await.unwrap();
    assert_eq!(two.lease(&key, long).await.unwrap(), Lease::Held, "no process gave it back");
    one.release(&fence(first), None).await.unwrap();
    let second = granted(two.lease(&key, long).await.unwrap());
    assert!(second > first);
    one.release(&fence(first), Some(long)).await.unwrap();
    assert_eq!(one.lease(&key, long).await.unwrap(), Lease::Held, "it was another's");
    two.release(&fence(second), Some(long)).await.unwrap();
    let marked = one.lease(&key, long).await.unwrap();
    let Lease::Unshareable(left) = marked else { panic!("{marked:?}") };
    assert!(left <= long && left > long / 2, "{left:?}");
    let mut connection = database.connection().await;
    let end = "UPDATE cache_leases SET until_ms = 0";
    execute(&mut connection, end).await;
    let third = granted(one.lease(&key, long).await.unwrap());
    assert!(third > second);
    let gone = "DELETE FROM cache_leases";
    execute(&mut connection, gone).await;
    // without a row, only the time makes a fence larger
    time_passes(&one, 1).await;
    assert!(granted(one.lease(&key, long).await.unwrap()) > third, "also without the row");
}

/// Values that a clock step or an UPDATE may leave in a row. None of them blocks a lease permanently.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_lease_row_does_not_block_the_lease() {
    const MAX: u64 = u64::MAX;
    const DAY: u64 = 86_400_000;
    let database = migrated().await;
    let store = store(&database).await;
    let mut connection = database.connection().await;
    let now_ms = store.now_ms();
    let rows = [
        (7, now_ms, MAX),              // an end in the far future
        (7, now_ms, now_ms + 600_000), // granted before the clock stepped back by ten minutes
        (7, MAX, MAX),
        (7, MAX - 1, 0),
        (0, now_ms, MAX), // an endless time without sharing
        (0, now_ms, now_ms + 2 * DAY),
        (7, now_ms + DAY, 0), // given back before the clock stepped back by a day
    ];
    for (n, (owner, fence, until_ms)) in rows.into_iter().enumerate() {
        let key = CacheKey::new(format!("test:1:/{n}"));
        let insert = sqlx::query("INSERT INTO cache_leases VALUES (?, ?, ?, ?)");
        let insert = insert.bind(key.hash().to_vec()).bind(owner).bind(fence).bind(until_ms);
        insert.execute(&mut connection).await.unwrap();
        let number = granted(store.lease(&key, 10 * SECOND).await.unwrap());
        assert!(number > fence || fence >= MAX - 1, "{n}: {number}");
        assert_eq!(store.lease(&key, 10 * SECOND).await.unwrap(), Lease::Held, "{n}: by one");
        let entry = entry(&key, now_ms, b"a");
        let fence = Fence::new(key.clone(), number);
        assert!(store.put_fenced(vec![entry], &fence).await.unwrap(), "{n}: the holder writes");
        store.release(&fence, None).await.unwrap();
        granted(store.lease(&key, 10 * SECOND).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_requests_for_a_lease_one_succeeds() {
    let database = migrated().await;
    let mut stores = Vec::new();
    for _ in 0..3 {
        stores.push(store(&database).await);
    }
    for round in 0..50 {
        let key = CacheKey::new(format!("test:1:/{round}"));
        let asked = stores.iter().cycle().take(9).map(|store| store.lease(&key, 60 * SECOND));
        let got = join_all(asked).await.into_iter().map(Result::unwrap);
        assert_eq!(got.filter(|lease| *lease != Lease::Held).count(), 1, "{round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_write_succeeds_until_another_gets_the_lease() {
    let database = migrated().await;
    let (one, two) = (store(&database).await, store(&database).await);
    let front = Tiered::new(MemoryStore::new(), one.clone());
    let key = CacheKey::new("test:1:/");
    let (other, now_ms) = (CacheKey::new("test:1:/other"), one.now_ms());
    let fence = |number| Fence::new(key.clone(), number);
    // bytes that are not UTF-8
    const BYTES: &[u8] = &[0xff, 0xfe, 0, 0x80, 0xc3, 0x28];
    let first = granted(one.lease(&key, Duration::from_millis(1)).await.unwrap());
    let entries = |body| vec![entry(&key, now_ms, body), entry(&other, now_ms, body)];
    assert!(one.put_fenced(entries(BYTES), &fence(first)).await.unwrap());
    assert_eq!(body(&two, &key).await.as_deref(), Some(BYTES));
    assert_eq!(body(&two, &other).await.as_deref(), Some(BYTES));
    // the lease has ended, but no other process has got it, so the write still succeeds
    time_passes(&one, 2).await;
    assert!(one.put_fenced(entries(b"b"), &fence(first)).await.unwrap());
    let second = granted(two.lease(&key, 60 * SECOND).await.unwrap());
    assert!(!one.put_fenced(entries(b"c"), &fence(first)).await.unwrap());
    assert!(!front.put_fenced(entries(b"c"), &fence(first)).await.unwrap());
    assert_eq!(body(&two, &key).await.as_deref(), Some(&b"b"[..]));
    assert_eq!(body(&front, &key).await.as_deref(), Some(&b"b"[..]), "nor is it in front");
    assert!(two.put_fenced(entries(b"d"), &fence(second)).await.unwrap());
    assert!(!one.put_fenced(entries(b"e"), &fence(first)).await.unwrap());
    assert_eq!(body(&two, &other).await.as_deref(), Some(&b"d"[..]));
    // a write without a fence is not checked
    one.put_many(entries(b"f")).await.unwrap();
    assert_eq!(body(&two, &key).await.as_deref(), Some(&b"f"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_leases_that_ended_long_ago_are_deleted() {
    let database = migrated().await;
    let store = MySqlStore::builder(database.url()).unwrap();
    let store = store.idle_cull_interval(SECOND / 50).connect().await.unwrap();
    let mut connection = database.connection().await;
    let now_ms = store.now_ms();
    let rows = [
        (1_u8, 1, now_ms - 3_700_000),
        (2, 1, now_ms - 3_500_000),
        (3, 1, 5),
        (4, 1, now_ms),
        (5, now_ms, 0), // given back
        (6, now_ms - 3_700_000, 0),
        (7, 1, u64::MAX), // damaged
        (8, u64::MAX, 5),
    ];
    for (n, fence, until_ms) in rows {
        let insert = "INSERT INTO cache_leases VALUES (?, 1, ?, ?)";
        let insert = sqlx::query(insert).bind([n; 16].to_vec()).bind(fence).bind(until_ms);
        insert.execute(&mut connection).await.unwrap();
    }
    // only a store that uses leases deletes them
    let culls = store.stats().await.unwrap().culls;
    eventually("it culls", async || store.stats().await.unwrap().culls > culls + 1).await;
    assert_eq!(number(&mut connection, "SELECT COUNT(*) FROM cache_leases").await, 8);
    granted(store.lease(&CacheKey::new("test:1:/"), SECOND).await.unwrap());
    eventually("the old ones are gone", async || {
        number(&mut connection, "SELECT COUNT(*) FROM cache_leases").await == 4
    })
    .await;
    let rows = sqlx::query("SELECT key_hash FROM cache_leases").fetch_all(&mut connection);
    let rows: Vec<Vec<u8>> = rows.await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!([2, 4, 5].iter().all(|n| rows.contains(&vec![*n; 16])), "{rows:?}");
}
