//! What the tables contain, who may read them, and that the server encrypts them.

use std::convert::Infallible;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, MySqlConnection, Row};
use tower::{Layer, service_fn};
use tower_mysql_cache::policy::Authorization;
use tower_mysql_cache::store::{Admin, MySqlStoreBuilder};
use tower_mysql_cache::{CacheLayer, CachePolicy, Cookies, MySqlStore, StoreError};

use crate::kit::{get, patient, response, send};
use crate::support::{self, Traced, eventually, number};

fn encrypted(url: &str) -> MySqlStoreBuilder {
    MySqlStore::builder(url).expect("a URL").background_cull(false).encrypted(true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encrypted_fails_without_keys_or_with_unencrypted_tables() {
    let database = support::database().await;
    let store = encrypted(database.url()).connect().await.expect("connects");
    let option = if support::engine() == "mysql" { "ENCRYPTION='Y';" } else { "ENCRYPTED=YES;" };
    assert_eq!(store.ddl().matches(option).count(), 4, "{}", store.ddl());
    let error = store.migrate().await.unwrap_err();
    assert!(matches!(error, StoreError::Database(_)), "{error}");
    // MariaDB: wrong create options; MySQL: no master key
    let says = std::error::Error::source(&error).expect("the server's error").to_string();
    assert!(says.contains("140") || says.contains("3185") || says.contains("master key"), "{says}");
    let plain = MySqlStore::connect(database.url()).await.expect("connects");
    assert_eq!(plain.check().await.unwrap_err().as_str(), "schema", "nothing has been made");
    plain.migrate().await.expect("migrates");
    for refused in [store.migrate().await, store.check().await] {
        let error = refused.unwrap_err();
        assert_eq!(error.as_str(), "schema");
        let says = error.to_string();
        assert!(says.contains("is not encrypted: ALTER TABLE `cache_entries` ENCRYPT"), "{says}");
    }
}

/// Runs only on MySQL. MariaDB has its keys from a plugin in a package that starts a service, and the tests do not
/// install packages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_with_keys_encrypts_the_tables() {
    if support::engine() != "mysql" {
        return;
    }
    let server = support::own_mysql_with_keys().await;
    let store = encrypted(server.url()).connect().await.expect("connects");
    assert_eq!(store.ddl().matches("ROW_FORMAT=DYNAMIC ENCRYPTION='Y';").count(), 2);
    store.migrate().await.expect("migrates");
    store.check().await.expect("they are");
    let mut connection = MySqlConnection::connect(server.url()).await.expect("connects");
    let options = "SELECT CAST(create_options AS CHAR) AS options FROM information_schema.tables \
                   WHERE table_schema = DATABASE()";
    let tables = sqlx::query(options).fetch_all(&mut connection).await.expect("tables");
    assert_eq!(tables.len(), 4);
    for table in tables {
        assert!(table.get::<String, _>("options").contains("ENCRYPTION='Y'"));
    }
    let layer = patient(store.clone()).prefix("secret");
    let page =
        |_| async { Ok::<_, Infallible>(response(200, &[("cache-control", "max-age=60")], "x")) };
    let app = layer.layer(service_fn(page));
    send(&app, get("/", &[])).await;
    layer.handle().flush().await.expect("flushes");
    assert!(send(&app, get("/", &[])).await.is_hit());
    let plain = "ALTER TABLE cache_invalidations ENCRYPTION='N'";
    sqlx::query(plain).execute(&mut connection).await.expect("alters");
    let says = store.check().await.unwrap_err().to_string();
    assert!(says.contains("cache_invalidations") && says.contains("is not encrypted"), "{says}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_column_holds_a_credential() {
    let database = support::database().await;
    let store = MySqlStore::connect(database.url()).await.expect("connects");
    store.migrate().await.expect("migrates");
    let policy = CachePolicy::new().ttl(Duration::from_secs(60));
    let policy = policy.cookies(Cookies::Key(&["who"])).authorization(Authorization::Key);
    let layer = patient(store).prefix("p").with_policy(policy);
    // a selecting field
    let layer = layer.without_credential_headers(["x-token"]);
    let page =
        |_| async { Ok::<_, Infallible>(response(200, &[("vary", "x-token, cookie")], "page")) };
    let app = layer.layer(service_fn(page));
    let secrets = [
        ("cookie", "who=hush-cookie"),
        ("authorization", "Bearer hush-bearer"),
        ("x-token", "hush-selecting"),
    ];
    for count in 1..=secrets.len() {
        let request = || get("http://user:hush-user@shop.example/page", &secrets[..count]);
        send(&app, request()).await;
        assert!(send(&app, request()).await.is_hit());
    }
    layer.handle().flush().await.expect("flushes");
    let mut connection = database.connection().await;
    let count = async |connection: &mut MySqlConnection, what: &str| {
        let query = format!(
            "SELECT COUNT(*) FROM cache_entries WHERE LOCATE('{what}', cache_key) > 0 \
             OR LOCATE('{what}', value) > 0 OR LOCATE('{what}', head) > 0"
        );
        let count = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(connection).await;
        count.unwrap_or(-1_i64)
    };
    assert!(count(&mut connection, "page").await >= 3, "the search finds what is there");
    assert_eq!(count(&mut connection, "hush").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashes_of_credentials_need_the_secret() {
    let database = support::database().await;
    let store = MySqlStore::connect(database.url()).await.expect("connects");
    store.migrate().await.expect("migrates");
    let policy = CachePolicy::new().ttl(Duration::from_secs(60));
    let policy = policy.cookies(Cookies::Key(&["pin"])).authorization(Authorization::Key);
    let layer = |secret: Option<&str>| {
        let layer = patient(store.clone()).prefix("p").with_policy(policy);
        secret.into_iter().fold(layer, CacheLayer::key_secret)
    };
    let (one, other) = ("the secret of one application", "the secret of another");
    let hit = async |secret: Option<&str>| {
        let page = |_| async { Ok::<_, Infallible>(response(200, &[], "page")) };
        let layer = layer(secret);
        let app = layer.layer(service_fn(page));
        let credentials = [("cookie", "pin=1234"), ("authorization", "Basic YTpi")];
        let hit = send(&app, get("/", &credentials)).await.is_hit();
        layer.handle().flush().await.expect("flushes");
        hit
    };
    for secret in [Some(one), Some(other), None] {
        assert!(!hit(secret).await, "no key of another secret is found");
        assert!(hit(secret).await, "every process with the secret finds it");
    }
    let mut connection = database.connection().await;
    let keys = "SELECT cache_key FROM cache_entries";
    let keys: Vec<Vec<u8>> = sqlx::query_scalar(keys).fetch_all(&mut connection).await.unwrap();
    let keys: Vec<_> = keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
    let hashes = |kind| {
        keys.iter().filter_map(move |key| key.split(' ').find(|part| part.starts_with(kind)))
    };
    for kind in ["c=", "a="] {
        let hashes: std::collections::HashSet<_> = hashes(kind).collect();
        assert_eq!(hashes.len(), 3, "{keys:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_in_keys_without_a_secret_cause_a_warning() {
    let database = support::database().await;
    let store = MySqlStore::connect(database.url()).await.expect("connects");
    let plain = CachePolicy::new().ttl(Duration::from_secs(60));
    let warned = |policy: CachePolicy, secret: Option<&str>| {
        let traced = Traced::default();
        let subscriber = tracing_subscriber::fmt().with_writer(traced.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let layer = CacheLayer::new(store.clone()).with_policy(policy);
            let layer = secret.into_iter().fold(layer, CacheLayer::key_secret);
            drop(layer.layer(()));
            drop(layer.layer(()));
        });
        traced.take().matches("set CacheLayer::key_secret").count()
    };
    assert_eq!(warned(plain.authorization(Authorization::Key), None), 1);
    assert_eq!(warned(plain.cookies(Cookies::Key(&["sid"])), None), 1);
    assert_eq!(warned(plain.authorization(Authorization::Key), Some("sixteen bytes or more")), 0);
    assert_eq!(warned(plain, None), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_privileges_in_the_guide_are_sufficient() {
    let database = support::database().await;
    let admin = MySqlStore::connect(database.url()).await.expect("connects");
    admin.migrate().await.expect("migrates");
    let mut connection = database.connection().await;
    let name = database.name();
    let suffix = name.rsplit('_').next().unwrap_or_default();
    let (cache, app) = (format!("cache_{suffix}"), format!("app_{suffix}"));
    let mut statements: Vec<String> = [&cache, &app]
        .map(|user| format!("CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY ''"))
        .into();
    let tables =
        ["cache_entries", "cache_invalidations", "cache_invalidations_state", "cache_leases"];
    statements.extend(tables.map(|table| {
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.{table} TO '{cache}'@'127.0.0.1'")
    }));
    statements.push(format!("GRANT INSERT ON {name}.cache_invalidations TO '{app}'@'127.0.0.1'"));
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.expect("rights");
    }
    let url_of = |user: &str| database.url().replacen("root@", &format!("{user}@"), 1);
    let builder = MySqlStore::builder(&url_of(&cache)).expect("a URL");
    let store = builder.gap_grace(Duration::from_millis(100)).connect().await.expect("connects");
    store.migrate().await.expect("all is there");
    let policy = CachePolicy::new().ttl(Duration::from_secs(60)).tags(&["t"]);
    let policy = policy.collapse(tower_mysql_cache::policy::Collapse::Cluster);
    let layer = patient(store.clone()).prefix("p").with_policy(policy);
    let page = |_| async { Ok::<_, Infallible>(response(200, &[], "page")) };
    let service = layer.layer(service_fn(page));
    let handle = layer.handle();
    send(&service, get("/", &[])).await;
    handle.flush().await.expect("flushes");
    assert!(send(&service, get("/", &[])).await.is_hit());
    let mut own = MySqlConnection::connect(&url_of(&app)).await.expect("connects");
    // a gap that the cache's user must close, and a row that takes effect
    let mut tx = own.begin().await.expect("begins");
    handle.invalidate_tags_on(&mut tx, ["t"]).await.expect("inserts");
    tx.rollback().await.expect("rolls back");
    let mut tx = own.begin().await.expect("begins");
    handle.invalidate_tags_on(&mut tx, ["t"]).await.expect("inserts");
    tx.commit().await.expect("commits");
    assert!(!send(&service, get("/", &[])).await.is_hit());
    handle.flush().await.expect("flushes");
    eventually("the gap is closed", async || {
        let open = "SELECT MAX(id) > (SELECT MAX(settled) FROM cache_invalidations_state) \
                    FROM cache_invalidations";
        number(&mut connection, open).await == 0
    })
    .await;
    assert!(send(&service, get("/", &[])).await.is_hit());
    handle.cull().await.expect("culls");
    assert_eq!(handle.erase().await.expect("erases"), 1);
    let stats = store.stats().await.expect("stats");
    let counts = handle.counts();
    assert_eq!((stats.failures, counts.write_errors, counts.lease_errors), (0, 0, 0), "{counts:?}");
    for user in [cache, app] {
        let statement = format!("DROP USER '{user}'@'127.0.0.1'");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.expect("gone");
    }
}
