//! Log rows that the database writes itself.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_invalidates_for_any_database_client() {
    let database = support::database().await;
    let (one, two) = (node(&database).await, node(&database).await);
    let mut connection = database.connection().await;
    execute(&mut connection, "CREATE TABLE products (id INT PRIMARY KEY, price INT)").await;
    execute(&mut connection, "INSERT INTO products VALUES (7, 1), (8, 1), (9, 1)").await;
    execute(
        &mut connection,
        "CREATE TRIGGER products_changed AFTER UPDATE ON products FOR EACH ROW \
         INSERT INTO cache_invalidations (tag) VALUES (CONCAT('product:', NEW.id))",
    )
    .await;
    for n in 7..10 {
        one.fill(&format!("http://h/p/{n}")).await;
    }
    let mut tx = connection.begin().await.unwrap();
    execute(&mut tx, "UPDATE products SET price = 2 WHERE id IN (7, 8)").await;
    two.assert_hit(TAGGED).await;
    tx.rollback().await.unwrap();
    two.assert_hit(TAGGED).await;
    execute(&mut connection, "UPDATE products SET price = 2 WHERE id IN (7, 8)").await;
    for n in [7, 8] {
        assert_eq!(two.validity(&format!("http://h/p/{n}")).await, Validity::Invalid);
    }
    one.assert_refused(TAGGED, "invalidated").await;
    two.assert_hit("http://h/p/9").await;
    let row = &two.handle.invalidations(1).await.unwrap()[0];
    assert!(!row.soft && row.at_ms > 0 && row.reason.is_none(), "{row:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_gets_its_ids_one_by_one() {
    let database = support::database().await;
    let node = node(&database).await;
    let mut connection = database.connection().await;
    execute(
        &mut connection,
        "CREATE TABLE products (id INT PRIMARY KEY AUTO_INCREMENT, price INT)",
    )
    .await;
    execute(
        &mut connection,
        "INSERT INTO products (price) VALUES (1), (1), (1), (1), (1), (1), (1)",
    )
    .await;
    execute(
        &mut connection,
        "INSERT INTO products (price) SELECT a.price FROM products a, products b",
    )
    .await;
    execute(
        &mut connection,
        "CREATE TRIGGER products_changed AFTER UPDATE ON products FOR EACH ROW \
         INSERT INTO cache_invalidations (tag) VALUES (CONCAT('product:', NEW.id))",
    )
    .await;
    // the trigger gets each id when it needs it, and none in advance
    execute(&mut connection, "UPDATE products SET price = 2").await;
    node.handle.invalidate_tags(["after"]).await.unwrap();
    let rows = number(&mut connection, "SELECT COUNT(*) FROM cache_invalidations").await;
    assert_eq!((rows, largest(&mut connection).await), (57, 57));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_insert_id_is_kept_by_results_variables_and_triggers() {
    const LAST: &str = "LAST_INSERT_ID()";
    let database = support::database().await;
    let node = node(&database).await;
    let mut connection = database.connection().await;
    execute(&mut connection, "CREATE TABLE orders (id INT PRIMARY KEY AUTO_INCREMENT, n INT)")
        .await;
    execute(&mut connection, "ALTER TABLE orders AUTO_INCREMENT = 900").await;
    let mut tx = connection.begin().await.unwrap();
    let order = sqlx::query("INSERT INTO orders (n) VALUES (1)").execute(&mut *tx).await.unwrap();
    execute(&mut tx, "SET @order = LAST_INSERT_ID()").await;
    node.handle.invalidate_tags_on(&mut tx, ["product:7"]).await.unwrap();
    assert_eq!((order.last_insert_id(), number(&mut tx, "@order").await), (900, 900));
    assert_eq!(number(&mut tx, LAST).await, 1, "of the log");
    tx.commit().await.unwrap();
    execute(
        &mut connection,
        "CREATE TRIGGER orders_changed AFTER INSERT ON orders FOR EACH ROW \
         INSERT INTO cache_invalidations (tag) VALUES (CONCAT('product:', NEW.n))",
    )
    .await;
    execute(&mut connection, "INSERT INTO orders (n) VALUES (2)").await;
    assert_eq!(number(&mut connection, LAST).await, 901);
}
