//! The cache's table, read with plain SQL.

use sqlx::{Connection, MySqlConnection, Row};

const QUERY: &str = "\
SELECT CAST(cache_key AS CHAR), status, size, value_type,
       CAST(expires AS SIGNED) - CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)
FROM cache_entries WHERE cache_key >= 'demo:' AND cache_key < 'demo;' ORDER BY cache_key";

/// Prints the rows that the shop has stored. Returns their number.
pub(crate) async fn show(url: &str) -> Result<usize, sqlx::Error> {
    let mut connection = MySqlConnection::connect(url).await?;
    let rows = sqlx::query(QUERY).fetch_all(&mut connection).await?;
    println!("  {:<72} {:>6} {:>8} {:>4} {:>9}", "cache_key", "status", "size", "type", "ms left");
    for row in &rows {
        let (key, value_type): (String, String) = (row.try_get(0)?, row.try_get(3)?);
        let status = row.try_get::<Option<u32>, _>(1)?.map_or("-".to_owned(), |s| s.to_string());
        let size = row.try_get::<Option<u64>, _>(2)?.map_or("-".to_owned(), |s| s.to_string());
        let left_ms: i64 = row.try_get(4)?;
        println!("  {:<72} {status:>6} {size:>8} {value_type:>4} {left_ms:>9}", shortened(&key));
    }
    connection.close().await?;
    Ok(rows.len())
}

/// Shortens the hashes in a key from 32 digits to eight, which are enough to tell them apart.
fn shortened(key: &str) -> String {
    let is_hash = |word: &str| word.len() == 34 && word.get(1..2) == Some("=");
    let words = key.split(' ').map(|word| match word.get(..10) {
        Some(start) if is_hash(word) => format!("{start}.."),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}
