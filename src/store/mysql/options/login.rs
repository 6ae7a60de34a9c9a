//! With which options does a connection log in?

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use sqlx::mysql::MySqlConnectOptions;
use tokio::task::JoinHandle;

use super::STATEMENT_CACHE;

/// Why a login is not possible: an error of the provider, or of the connection.
pub(in super::super) type LoginError = Box<dyn Error + Send + Sync>;

type Asked = Pin<Box<dyn Future<Output = Result<MySqlConnectOptions, LoginError>> + Send>>;
type Provider = dyn Fn(MySqlConnectOptions) -> Asked + Send + Sync;

/// Where connections go, and with which credentials.
#[derive(Clone)]
pub(in super::super) struct Login {
    /// The options with which each login begins.
    pub(in super::super) base: MySqlConnectOptions,
    provider: Option<Arc<Provider>>,
}

impl Login {
    pub(super) fn new(base: MySqlConnectOptions) -> Self {
        Self { base, provider: None }
    }

    pub(super) fn ask<F, Fut, E>(&mut self, provider: F)
    where
        F: Fn(MySqlConnectOptions) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<MySqlConnectOptions, E>> + Send + 'static,
        E: Into<LoginError>,
    {
        let provider = Arc::new(provider);
        self.provider = Some(Arc::new(move |base| {
            let provider = Arc::clone(&provider);
            // a provider that panics must not end the task that connects
            let asked = async move { provider(base).await.map_err(Into::into) };
            Box::pin(async move { (&mut AbortOnDrop(tokio::spawn(asked)).0).await? })
        }));
    }

    /// The options of the next connection.
    ///
    /// # Errors
    /// The provider's own.
    pub(in super::super) async fn options(&self) -> Result<MySqlConnectOptions, LoginError> {
        let base = self.base.clone();
        let options = match &self.provider {
            Some(provider) => provider(base).await?,
            None => base,
        };
        Ok(options.statement_cache_capacity(STATEMENT_CACHE))
    }
}

/// A task that ends with this value. Otherwise, calls of a provider that hangs would pile up.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
