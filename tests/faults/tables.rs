//! The table is altered at run time.

use sqlx::Row;

use crate::kit::Site;
use crate::support::{self, eventually, execute};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_dropped_at_run_time_fails_no_request() {
    let database = support::database().await;
    let site = Site::at(database.url()).await;
    site.fill("/").await;
    let mut connection = database.connection().await;
    execute(&mut connection, "DROP TABLE cache_entries").await;
    let answers = site.get_all((0..20).map(|n| format!("/{n}"))).await;
    assert!(answers.iter().all(|answer| !answer.hit));
    assert!(site.change("/").await.is_ok(), "the log is there");
    execute(&mut connection, "DROP TABLE cache_invalidations").await;
    assert!(site.change("/").await.is_err(), "it cannot be done");
    site.put("/").await;
    let error = site.store.check().await.unwrap_err();
    assert_eq!(error.as_str(), "schema");
    assert!(error.to_string().contains("migrate()"), "{error}");
    // the breaker opens for this too, so there are no useless round trips
    site.opens_the_breaker(5).await;
    assert!(site.handle.counts().breaker_opened > 0);
    site.store.migrate().await.unwrap();
    site.comes_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_column_fails_no_request() {
    let database = support::database().await;
    let site = Site::at(database.url()).await;
    let mut connection = database.connection().await;
    let ddl = sqlx::query("SHOW CREATE TABLE cache_entries").fetch_one(&mut connection).await;
    let ddl: String = ddl.unwrap().get(1);
    // one column that lookups read, and one that only writes need
    for column in ["head", "born_ms"] {
        let page = format!("/{column}");
        site.fill(&page).await;
        let before = site.handle.counts();
        execute(&mut connection, format!("ALTER TABLE cache_entries DROP COLUMN {column}")).await;
        site.get_all((0..20).map(|n| format!("/{column}/{n}"))).await;
        eventually("it is noticed", async || {
            let counts = site.handle.counts();
            counts.lookup_errors + counts.write_errors > before.lookup_errors + before.write_errors
        })
        .await;
        let error = site.store.check().await.unwrap_err();
        assert_eq!(error.as_str(), "schema");
        assert!(error.to_string().contains(column), "{error}");
        let line = ddl.lines().find(|line| line.contains(&format!("`{column}`"))).unwrap();
        let line = line.trim().trim_end_matches(',');
        let drop = "DELETE FROM cache_entries; ALTER TABLE cache_entries ADD COLUMN";
        execute(&mut connection, format!("{drop} {line}")).await;
        site.comes_back().await;
    }
}
