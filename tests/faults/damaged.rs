//! Rows are damaged, one byte at a time.

use crate::kit::Site;
use crate::support::{self, execute, number};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_damaged_in_any_byte_is_a_miss_and_is_rewritten() {
    let database = support::database().await;
    let site = Site::at(database.url()).await;
    let mut connection = database.connection().await;
    site.fill("/page").await;
    let row = "WHERE cache_key LIKE 'site:1:/page%'";
    let mut damaged = 0;
    for column in ["head", "value", "cache_key", "value_type"] {
        let length = format!("SELECT CAST(LENGTH({column}) AS SIGNED) FROM cache_entries {row}");
        let length = number(&mut connection, length).await;
        assert!(length > 0, "{column}");
        for at in 1..=length {
            // another bit each time, so that lengths, types and texts are all damaged
            let bit = 1 << (at % 8);
            let flipped = format!("CHAR(ASCII(SUBSTRING({column}, {at}, 1)) ^ {bit})");
            let damage = format!(
                "UPDATE cache_entries SET {column} = INSERT({column}, {at}, 1, {flipped}) {row}"
            );
            match column {
                // only printable characters, because the column is ASCII
                "value_type" => {
                    execute(&mut connection, damage.replace(&bit.to_string(), "1")).await
                }
                _ => execute(&mut connection, damage).await,
            }
            let calls = site.calls();
            assert!(!site.get("/page").await.hit, "byte {at} of {column}");
            assert_eq!(site.calls(), calls + 1);
            site.handle.flush().await.unwrap();
            damaged += 1;
            assert!(site.get("/page").await.hit, "written again after byte {at} of {column}");
        }
    }
    assert!(damaged > 300, "{damaged}");
    let counts = site.handle.counts();
    assert_eq!((counts.lookup_errors, counts.write_errors), (0, 0), "{counts:?}");
}
