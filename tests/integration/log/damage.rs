//! Log rows with the largest possible id, after which no other row can follow.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_with_too_large_an_id_stops_everything_until_repaired() {
    let database = support::database().await;
    let mut connection = database.connection().await;
    for id in [u64::MAX, u64::MAX - 1, 1 << 63] {
        let (one, two) = (node(&database).await, node(&database).await);
        one.handle.invalidate_tags(["first"]).await.unwrap();
        fill_again(&one, TAGGED).await;
        two.assert_hit(TAGGED).await;
        let oops = format!("INSERT INTO cache_invalidations (id, tag) VALUES ({id}, 'oops')");
        execute(&mut connection, &oops).await;
        for each in [&one, &two] {
            let answer = each.get(TAGGED).await;
            assert_eq!(answer.reason(), Some("store-error"), "{id}: {:?}", answer.cache());
            let error = each.handle.invalidate_tags(["product:7"]).await.unwrap_err().to_string();
            assert!(error.contains("9223372036854775807"), "{error}");
            assert!(error.contains("AUTO_INCREMENT = 1"), "{error}");
            let error = each.handle.invalidate_tags_on(&mut connection, ["product:7"]).await;
            assert!(error.unwrap_err().to_string().contains("cache_invalidations"));
            let stats = each.store.stats().await.unwrap();
            assert!(stats.log_is_damaged && stats.failures > 0, "{stats:?}");
        }
        assert_eq!(one.store.check().await.unwrap_err().as_str(), "schema");
        // only a mistake can write such a row
        let large = "SELECT COUNT(*) FROM cache_invalidations WHERE id > 9223372036854775807";
        assert_eq!(number(&mut connection, large).await, 1, "{id}");
        execute(&mut connection, "DELETE FROM cache_invalidations WHERE id > 9223372036854775807")
            .await;
        // half of the repair: the next row would get such an id again
        for each in [&one, &two] {
            let answer = each.get(TAGGED).await;
            assert_eq!(answer.reason(), Some("store-error"), "{id}: {:?}", answer.cache());
        }
        assert_eq!(number(&mut connection, large).await, 0, "{id}");
        execute(&mut connection, "ALTER TABLE cache_invalidations AUTO_INCREMENT = 1").await;
        for each in [&one, &two] {
            eventually("what failed has been written", async || {
                let stats = each.store.stats().await.unwrap();
                !stats.log_is_damaged && stats.owed_invalidations == 0
            })
            .await;
        }
        // rows that were added after that row are deleted with it
        assert_eq!(one.validity(TAGGED).await, Validity::Invalid);
        assert_eq!(number(&mut connection, large).await, 0, "{id}");
        assert!(largest(&mut connection).await < 1_000, "{id}");
        fill_again(&one, TAGGED).await;
        two.assert_hit(TAGGED).await;
        two.handle.invalidate_tags(["product:7"]).await.unwrap();
        assert_eq!(one.validity(TAGGED).await, Validity::Invalid);
        one.store.check().await.unwrap();
    }
}
