//! Handlers that stop until the test lets them go on.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::sync::Semaphore;
use tower::Layer;
use tower_mysql_cache::CacheLayer;
use tower_mysql_cache::store::Store;

use super::{App, Calls};

/// A place that each call passes with a permit of the test.
#[derive(Clone)]
pub(crate) struct Gate {
    arrivals: Arc<Semaphore>,
    permits: Arc<Semaphore>,
}

impl Gate {
    /// A gate that this many calls pass at once.
    pub(crate) fn with(permits: usize) -> Self {
        Self { arrivals: Arc::new(Semaphore::new(0)), permits: Arc::new(Semaphore::new(permits)) }
    }

    pub(crate) fn closed() -> Self {
        Self::with(0)
    }

    /// Waits for a permit.
    pub(crate) async fn pass(&self) {
        self.arrivals.add_permits(1);
        self.permits.acquire().await.expect("never closed").forget();
    }

    /// Lets this many calls pass.
    pub(crate) fn let_pass(&self, calls: usize) {
        self.permits.add_permits(calls);
    }

    /// Lets all calls pass.
    pub(crate) fn open(&self) {
        self.let_pass(1_000_000);
    }

    /// Waits until one more call is at the gate.
    pub(crate) async fn arrival(&self) {
        self.arrivals.acquire().await.expect("never closed").forget();
    }

    /// The permits that no call has used yet.
    pub(crate) fn unused(&self) -> usize {
        self.permits.available_permits()
    }
}

/// A handler that needs a permit for each call, the number of its calls, and the gate.
pub(crate) fn gated<St: Store>(
    layer: &CacheLayer<St>,
    handler: impl Fn(usize, &Request<()>) -> Result<Response<Full<Bytes>>, &'static str>
    + Clone
    + Send
    + Sync
    + 'static,
) -> (App<&'static str>, Calls, Gate) {
    let (calls, gate) = (Calls::default(), Gate::closed());
    (gated_by(layer, &calls, &gate, handler), calls, gate)
}

/// The same with a gate and a count that several processes share.
pub(crate) fn gated_by<St: Store>(
    layer: &CacheLayer<St>,
    calls: &Calls,
    gate: &Gate,
    handler: impl Fn(usize, &Request<()>) -> Result<Response<Full<Bytes>>, &'static str>
    + Clone
    + Send
    + Sync
    + 'static,
) -> App<&'static str> {
    let (calls, gate) = (calls.clone(), gate.clone());
    App::new(layer.layer(tower::service_fn(move |request: Request<()>| {
        let (handler, gate, call) = (handler.clone(), gate.clone(), calls.add());
        async move {
            gate.pass().await;
            handler(call, &request)
        }
    })))
}
