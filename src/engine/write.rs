//! Methods other than GET and HEAD: inside first, then what they made untrue, then the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::CONTENT_LOCATION;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use tower::{Service, ServiceExt};

use super::admission::Write;
use super::bounded::bounded;
use super::exchange::Miss;
use super::judge::Asked;
use super::reply::Finish;
use super::{Engine, Route};
use crate::body::CacheBody;
use crate::rfc9111::freshness::explicit_lifetime;
use crate::rfc9111::{Target, invalidates, same_origin_targets};
use crate::status::{CacheStatus, Forward};
use crate::store::{Store, StoreError};

/// The longest that the response to an unsafe request waits for its invalidation. It goes on in the
/// background.
const INVALIDATION_LIMIT: Duration = Duration::from_secs(2);

/// Calls inside, invalidates when that succeeds, and keeps the answer to a POST that says that it is
/// its target's representation.
pub(crate) async fn write_through<St, S, B, RB>(
    engine: Arc<Engine<St>>,
    route: Arc<Route>,
    write: Option<Write>,
    request: Request<B>,
    inner: S,
) -> Result<Response<CacheBody<RB>>, S::Error>
where
    St: Store,
    S: Service<Request<B>, Response = Response<RB>>,
    RB: Body<Error: Send> + Send + 'static,
{
    let (parts, body) = request.into_parts();
    let method = parts.method.clone();
    let plan = write.as_ref().and_then(|write| write.plan.clone());
    let asked = plan.as_ref().map(|plan| Asked {
        method: Method::GET, // what the response, if it is stored, will answer
        ..Asked::of(plan, &parts, engine.store.now_ms())
    });
    let started = Instant::now();
    let response = inner.oneshot(Request::from_parts(parts, body)).await?;
    let received_ms = engine.store.now_ms();
    let status = CacheStatus::forwarded(Forward::Method, None);
    let Some(write) = write else {
        return Ok(Finish::new(&route, status).apply(response));
    };
    engine.after_write(&route, &method, &write, response.status(), response.headers()).await;
    match (plan, asked) {
        (Some(plan), Some(asked)) if represents_target(&route, &write, &response, received_ms) => {
            let index = engine.indexes.get(&plan.base.hash());
            // from here on: its own invalidation does not count
            let moment = engine.fence.moment();
            let miss = Miss { moment, started, asked, client: None, index, stale: None, status };
            Ok(miss.keep(engine, route, plan, response, received_ms).await)
        }
        _ => Ok(Finish::new(&route, status).apply(response)),
    }
}

/// RFC 9110 9.3.3: explicit freshness, and a `Content-Location` that is the target itself.
fn represents_target<RB>(
    route: &Route,
    write: &Write,
    response: &Response<RB>,
    received_ms: u64,
) -> bool {
    let headers = response.headers();
    let explicit = || explicit_lifetime(&route.directives(headers), headers, received_ms).is_some();
    let Some((scheme, authority)) = write.target.origin() else { return false };
    if response.status() != StatusCode::OK || !headers.contains_key(CONTENT_LOCATION) {
        return false;
    }
    let mut location = HeaderMap::new();
    for line in headers.get_all(CONTENT_LOCATION) {
        location.append(CONTENT_LOCATION, line.clone());
    }
    let target = Target { scheme, authority, path: &write.path };
    let named = same_origin_targets(target, &location);
    matches!(named.as_slice(), [one] if *one == write.path_and_query) && explicit()
}

impl<St: Store> Engine<St> {
    /// Invalidates what a successful unsafe request made untrue (RFC 9111 4.4), before its response
    /// is returned. A failure is loud, but not the client's: what it asked for has been done.
    async fn after_write(
        self: &Arc<Self>,
        route: &Arc<Route>,
        method: &Method,
        write: &Write,
        status: StatusCode,
        response: &HeaderMap,
    ) {
        if !invalidates(method, status) {
            return;
        }
        let Write { target, path, .. } = write;
        let mut targets = vec![target.clone()];
        if let Some((scheme, authority)) = target.origin() {
            let target_uri = Target { scheme, authority, path };
            let others = same_origin_targets(target_uri, response);
            targets.extend(others.iter().filter_map(|uri| route.keys.beside(target, uri)));
        }
        let (engine, route) = (Arc::clone(self), Arc::clone(route));
        // in a task of its own: a client that leaves now does not undo it
        let removal = async move {
            let ranges = engine.ranges(&route, &targets, true).await;
            engine.invalidate(ranges).await
        };
        let removal = match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                let task = runtime.spawn(removal);
                let done = async { task.await.unwrap_or(Err(StoreError::Closed)) };
                bounded(INVALIDATION_LIMIT, done).await
            }
            Err(_) => removal.await,
        };
        if let Err(error) = removal {
            let reason = error.as_str();
            tracing::error!(%error, reason, path, "an invalidation failed: stale entries may be served");
        }
    }
}
