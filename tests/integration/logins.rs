//! How the store logs in: from a pool's options, and with credentials that change.

use std::error::Error;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::mysql::MySqlConnectOptions;
use sqlx::{AssertSqlSafe, MySqlConnection, MySqlPool};
use tower_mysql_cache::key::CacheKey;
use tower_mysql_cache::store::Entries;
use tower_mysql_cache::{MySqlStore, StoreError};

use crate::support::{self, TestDatabase, eventually, kill_sessions};

async fn execute(connection: &mut MySqlConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.expect("a statement");
}

/// A database user that may do everything in a database.
struct User {
    name: String,
    connection: MySqlConnection,
}

impl User {
    async fn new(database: &TestDatabase, password: &str) -> Self {
        let suffix = database.name().rsplit('_').next().expect("a suffix");
        let mut user =
            Self { name: format!("user_{suffix}"), connection: database.connection().await };
        user.execute(format!("CREATE USER {} IDENTIFIED BY '{password}'", user.host())).await;
        user.execute(format!("GRANT ALL ON {}.* TO {}", database.name(), user.host())).await;
        user
    }

    fn host(&self) -> String {
        format!("'{}'@'127.0.0.1'", self.name)
    }

    async fn execute(&mut self, sql: String) {
        execute(&mut self.connection, sql).await;
    }

    /// Changes the password, and ends the connections that logged in with the old one.
    async fn change(&mut self, password: &str) {
        self.execute(format!("ALTER USER {} IDENTIFIED BY '{password}'", self.host())).await;
        let user = format!("user = '{}'", self.name);
        assert!(kill_sessions(&mut self.connection, &user).await > 0);
    }

    async fn drop(mut self) {
        self.execute(format!("DROP USER {}", self.host())).await;
    }
}

async fn answers(store: &MySqlStore) -> bool {
    store.get(CacheKey::new("p:1:/")).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_is_asked_for_when_connections_reopen() {
    if support::engine() != "mariadb" && !cfg!(feature = "mysql-rsa") {
        return; // MySQL takes no password over TCP without TLS or RSA
    }
    let database = support::database().await;
    let mut user = User::new(&database, "one").await;
    let (password, asked) = (Arc::new(Mutex::new("one")), Arc::new(AtomicUsize::new(0)));
    let provider = {
        let (password, asked) = (Arc::clone(&password), Arc::clone(&asked));
        let name = user.name.clone();
        move |options: MySqlConnectOptions| {
            asked.fetch_add(1, Ordering::Relaxed);
            let options = options.username(&name).password(*password.lock().unwrap());
            async move { Ok::<_, StoreError>(options) }
        }
    };
    let builder = MySqlStore::builder(database.url()).unwrap().credentials(provider);
    let store = builder.connect().await.unwrap();
    store.migrate().await.unwrap();
    assert!(answers(&store).await);
    let before = asked.load(Ordering::Relaxed);
    assert!(before >= 2, "once for each connection: {before}");

    user.change("two").await;
    eventually("the old password is refused", async || !answers(&store).await).await;
    *password.lock().unwrap() = "two";
    eventually("the new password is used", async || answers(&store).await).await;
    assert!(asked.load(Ordering::Relaxed) > before);
    store.close().await;
    user.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_options_of_a_pool_are_enough() {
    let database = support::database().await;
    let pool = MySqlPool::connect(database.url()).await.unwrap();
    let store = MySqlStore::builder_with(pool.connect_options()).connect().await.unwrap();
    pool.close().await;
    store.migrate().await.unwrap();
    assert!(answers(&store).await);
}

async fn refused<Fut>(provider: fn() -> Fut) -> StoreError
where
    Fut:
        Future<Output = Result<MySqlConnectOptions, Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let database = support::database().await;
    let builder = MySqlStore::builder(database.url()).unwrap().credentials(move |_| provider());
    builder.connect().await.unwrap_err()
}

#[tokio::test]
async fn a_provider_that_fails_is_the_source_of_the_error() {
    let error = refused(|| async { Err("the vault is sealed".into()) }).await;
    assert!(matches!(error, StoreError::Connect(_)));
    assert_eq!(error.source().unwrap().to_string(), "the vault is sealed");
}

#[tokio::test]
async fn a_provider_that_panics_is_an_error() {
    let error = refused(|| async { panic!("no vault") }).await;
    assert!(
        matches!(&error, StoreError::Connect(source) if source.to_string().contains("panicked"))
    );
}

#[tokio::test]
async fn a_provider_that_hangs_ends_with_the_connect_timeout() {
    let database = support::database().await;
    let builder = MySqlStore::builder(database.url()).unwrap();
    let builder = builder.connect_timeout(Duration::from_millis(50));
    let hangs = |_| std::future::pending::<Result<MySqlConnectOptions, StoreError>>();
    let error = builder.credentials(hangs).connect().await.unwrap_err();
    assert!(matches!(&error, StoreError::Connect(source) if source.to_string().contains("50ms")));
}
