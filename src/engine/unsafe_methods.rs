//! Methods other than GET and HEAD: inside first, then what they made untrue, then the answer.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body::Body;
use tower::{Service, ServiceExt};
use tracing::Instrument;

use super::decide::Asked;
use super::find::bounded;
use super::handler::Miss;
use super::request::Write;
use super::respond::Finish;
use super::{Engine, Route};
use crate::body::CacheBody;
use crate::key::TargetKey;
use crate::policy::Mode;
use crate::rfc9111::freshness::explicit_lifetime;
use crate::rfc9111::groups::invalidated_groups;
use crate::rfc9111::{Target, invalidates, leaves_open, same_origin_targets};
use crate::status::{CacheStatus, Forward};
use crate::store::{InvalidationLog as _, Store, StoreError};
use crate::tag::Scope;
use crate::telemetry::{count, inside_span};

/// The longest that the response to an unsafe request waits for its invalidation. It goes on in the
/// background.
const INVALIDATION_LIMIT: Duration = Duration::from_secs(2);

/// Calls the handler, invalidates what it has changed, and keeps the answer to a POST that says that it is
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
        ..Asked::of(&engine.store, plan, &parts)
    });
    let started = Instant::now();
    // a handler that is dropped, fails or panics may have done its work all the same
    let guard = write.as_ref().map(|write| Unanswered::new(&engine, &route, write));
    let inside = inner.oneshot(Request::from_parts(parts, body)).instrument(inside_span());
    let outcome = {
        let _noted = Noted(&engine.store);
        inside.await
    };
    let response = match outcome {
        Ok(response) => response,
        Err(error) => {
            if let Some(guard) = guard {
                guard.failed().await;
            }
            return Err(error);
        }
    };
    if let Some(guard) = guard {
        guard.answered();
    }
    let received_ms = engine.store.now_ms();
    let status = CacheStatus::forwarded(Forward::Method, None);
    let Some(write) = write else {
        engine.explain(&status);
        return Ok(Finish::new(&route, status).apply(response));
    };
    let own =
        engine.after_write(&route, &method, &write, response.status(), response.headers()).await;
    match (plan, asked) {
        (Some(plan), Some(mut asked))
            if represents_target(&route, &write, &response, received_ms) =>
        {
            let index = engine.indexes.get(&plan.base.hash());
            // its own invalidation does not count; any other one that came meanwhile does
            asked.position = Arc::new(asked.position.with_seen(&own));
            let fills = engine.fills_so_far();
            let miss = Miss {
                fills,
                started,
                asked,
                client: None,
                index,
                stale: None,
                status,
                lead: None,
            };
            Ok(miss.keep(engine, route, plan, response, received_ms).await)
        }
        _ => {
            engine.explain(&status);
            Ok(Finish::new(&route, status).apply(response))
        }
    }
}

/// However a handler ends, it may have written to the log on a connection of its own: what it committed
/// counts for every request that begins after this has been dropped.
struct Noted<'a, St: Store>(&'a St);

impl<St: Store> Drop for Noted<'_, St> {
    fn drop(&mut self) {
        self.0.log().note_write();
    }
}

/// Invalidates when the request ends without a response.
struct Unanswered<St: Store> {
    engine: Arc<Engine<St>>,
    route: Arc<Route>,
    /// Empty when the response is there.
    targets: Vec<TargetKey>,
}

impl<St: Store> Unanswered<St> {
    fn new(engine: &Arc<Engine<St>>, route: &Arc<Route>, write: &Write) -> Self {
        let targets = write.targets.clone();
        Self { engine: Arc::clone(engine), route: Arc::clone(route), targets }
    }

    /// The inner service failed: what it did before is not known.
    async fn failed(mut self) {
        let targets = std::mem::take(&mut self.targets);
        let appended = self.engine.invalidate_targets(&self.route, &targets, Vec::new());
        self.engine.wait_for(appended).await;
    }

    fn answered(mut self) {
        self.targets.clear();
    }
}

impl<St: Store> Drop for Unanswered<St> {
    fn drop(&mut self) {
        let targets = std::mem::take(&mut self.targets);
        if targets.is_empty() {
            return;
        }
        let (engine, route) = (Arc::clone(&self.engine), Arc::clone(&self.route));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let appended = engine.invalidate_targets(&route, &targets, Vec::new());
                if let Err(error) = appended.await {
                    report(&error);
                }
            });
        }
    }
}

fn report(error: &StoreError) {
    let reason = error.as_str();
    tracing::error!(
        error = error.cause(),
        reason,
        "an invalidation failed: stale entries may be served"
    );
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
    let Some((scheme, authority)) = write.targets.first().and_then(TargetKey::origin) else {
        return false;
    };
    if response.status() != StatusCode::OK || !headers.contains_key(CONTENT_LOCATION) {
        return false;
    }
    let target = Target { scheme, authority, path: &write.path };
    let named = same_origin_targets(target, headers, &[CONTENT_LOCATION]);
    matches!(named.as_slice(), [one] if *one == write.path_and_query) && explicit()
}

impl<St: Store> Engine<St> {
    /// Invalidates what an unsafe request has changed (RFC 9111 4.4), or in safe mode may have changed, before its
    /// response is returned, and returns the ids of the log's rows that say so. A failure is loud, but not the
    /// client's: what it asked for has been done.
    async fn after_write(
        self: &Arc<Self>,
        route: &Arc<Route>,
        method: &Method,
        write: &Write,
        status: StatusCode,
        response: &HeaderMap,
    ) -> Vec<u64> {
        let policy = &route.policy;
        // the time-outs and errors of middleware are responses too: the handler may have committed before
        let may_have_changed = policy.mode == Mode::Safe && leaves_open(status);
        if !invalidates(method, status) && !may_have_changed {
            return Vec::new();
        }
        let mut targets = write.targets.clone();
        let fields: &[HeaderName] = match policy.invalidates_location {
            true => &[LOCATION, CONTENT_LOCATION],
            false => &[CONTENT_LOCATION],
        };
        let mut groups = Vec::new();
        let named = invalidated_groups(method, status, response);
        for target in &write.targets {
            let Some((scheme, authority)) = target.origin() else { continue };
            // RFC 9875 3: those of the same origin, and nothing that they lead to
            let group = |name: &String| Scope::Tag(Scope::group(scheme, authority, name));
            groups.extend(named.iter().map(group));
            let target_uri = Target { scheme, authority, path: &write.path };
            let others = same_origin_targets(target_uri, response, fields);
            targets.extend(others.iter().flat_map(|uri| route.keys.beside(target, uri)));
        }
        self.wait_for(self.invalidate_targets(route, &targets, groups)).await
    }

    /// Waits for an invalidation, but not for long: it goes on in the background.
    async fn wait_for(
        &self,
        appended: impl Future<Output = Result<Vec<u64>, StoreError>>,
    ) -> Vec<u64> {
        match bounded(INVALIDATION_LIMIT, appended).await {
            Ok(ids) => ids,
            Err(error) => {
                // every other failure has been counted where it happened
                if matches!(error, StoreError::Timeout) {
                    count(&self.counters.invalidation_errors);
                }
                report(&error);
                Vec::new()
            }
        }
    }
}
