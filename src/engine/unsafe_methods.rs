//! What does a request with an unsafe method invalidate? The handler runs first, then the layer invalidates, and then
//! the client gets its answer.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LOCATION, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body::Body;
use tower::{Service, ServiceExt};
use tracing::Instrument;

use super::find::bounded;
use super::handler::{BeforeCall, Miss};
use super::invalidate::invalidate_targets;
use super::request::{Cx, Write};
use super::respond::Finish;
use super::{Engine, Route};
use crate::body::CacheBody;
use crate::key::TargetKey;
use crate::overrides::CacheOverride;
use crate::policy::Mode;
use crate::rfc9111::freshness::explicit_lifetime;
use crate::rfc9111::groups::invalidated_groups;
use crate::rfc9111::{Target, invalidates, leaves_open, same_origin_targets};
use crate::status::{CacheStatus, Forward};
use crate::store::{InvalidationLog as _, Store, StoreError};
use crate::sync::waker;
use crate::tag::{Scope, Tag};
use crate::telemetry::{count, handler_span};

/// How long the response to an unsafe request waits for its invalidation, which then continues in the background.
const INVALIDATION_LIMIT: Duration = Duration::from_secs(2);

/// Calls the handler, invalidates what it has changed, and stores a POST's response if it is the representation of
/// its target.
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
    let post = StorablePost::of(&engine, &route, write.as_ref(), &parts);
    // a handler that is dropped, fails or panics may have changed data
    let on_drop = InvalidateOnDrop::new(&engine, &route, write.as_ref());
    let call = inner.oneshot(Request::from_parts(parts, body)).instrument(handler_span());
    let outcome = {
        let _note_write = NoteWriteOnDrop(&engine.store);
        call.await
    };
    let response = match outcome {
        Ok(response) => response,
        Err(error) => {
            on_drop.failed().await;
            return Err(error);
        }
    };
    on_drop.answered();
    let received_ms = engine.store.now_ms();
    let changed = changed(&route, &method, write.as_ref(), &response);
    let own_rows = after_write(&engine, &route, changed).await;
    if let (Some(post), Some(write)) = (post, &write)
        && represents_target(&route, write, &response, received_ms)
    {
        let miss = post.after(&own_rows);
        return Ok(miss.store_or_pass_on(response, received_ms, &waker().await));
    }
    let status = CacheStatus::forwarded(Forward::Method, None);
    engine.explain(&status);
    Ok(Finish::new(&route, status).apply(response))
}

/// A POST whose response may be stored for later GET requests of its target.
struct StorablePost<St>(Miss<St>);

impl<St: Store> StorablePost<St> {
    fn of(
        engine: &Arc<Engine<St>>,
        route: &Arc<Route>,
        write: Option<&Write>,
        request: &Parts,
    ) -> Option<Self> {
        let plan = write?.plan.clone()?;
        let (engine, route) = (Arc::clone(engine), Arc::clone(route));
        let cx = Cx { engine, route, plan };
        let index = cx.engine.known.index(&cx.plan.base);
        let mut before = BeforeCall::new(&cx, request, index, None);
        before.snapshot.method = Method::GET; // the stored response will answer GET requests
        let status = CacheStatus::forwarded(Forward::Method, None);
        Some(Self(Miss { cx, before, status, leader: None }))
    }

    /// The request's own log rows do not invalidate its response. All others do.
    fn after(self, own_rows: &[u64]) -> Miss<St> {
        let Self(mut miss) = self;
        let snapshot = &mut miss.before.snapshot;
        snapshot.position = Arc::new(snapshot.position.with_seen(own_rows));
        miss
    }
}

/// Notes the end of the handler, however it ends. The handler may have appended log rows on its own connection.
/// Requests that begin after this see them.
struct NoteWriteOnDrop<'a, St: Store>(&'a St);

impl<St: Store> Drop for NoteWriteOnDrop<'_, St> {
    fn drop(&mut self) {
        self.0.log().note_write();
    }
}

#[derive(Default)]
struct Changed {
    targets: Vec<TargetKey>,
    /// Tags and cache groups.
    other_scopes: Vec<Scope>,
}

impl Changed {
    fn is_nothing(&self) -> bool {
        self.targets.is_empty() && self.other_scopes.is_empty()
    }
}

/// Invalidates if the request ends without a response.
struct InvalidateOnDrop<St: Store> {
    engine: Arc<Engine<St>>,
    route: Arc<Route>,
    /// Empty after a response.
    changed: Changed,
}

impl<St: Store> InvalidateOnDrop<St> {
    fn new(engine: &Arc<Engine<St>>, route: &Arc<Route>, write: Option<&Write>) -> Self {
        let targets = write.map(|write| write.targets.clone()).unwrap_or_default();
        let changed = Changed { targets, other_scopes: tags_of(route).collect() };
        Self { engine: Arc::clone(engine), route: Arc::clone(route), changed }
    }

    /// The inner service failed, but it may have changed data before.
    async fn failed(mut self) {
        let changed = std::mem::take(&mut self.changed);
        after_write(&self.engine, &self.route, changed).await;
    }

    fn answered(mut self) {
        self.changed = Changed::default();
    }
}

impl<St: Store> Drop for InvalidateOnDrop<St> {
    fn drop(&mut self) {
        let changed = std::mem::take(&mut self.changed);
        if changed.is_nothing() {
            return;
        }
        let Changed { targets, other_scopes } = changed;
        let (engine, route) = (Arc::clone(&self.engine), Arc::clone(&self.route));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let appended = invalidate_targets(&engine, &route, &targets, other_scopes);
                if let Err(error) = appended.await {
                    report_failure(&error);
                }
            });
        }
    }
}

fn report_failure(error: &StoreError) {
    let reason = error.as_str();
    tracing::error!(
        error = error.cause(),
        reason,
        "an invalidation failed: stale entries may be served"
    );
}

/// RFC 9110 9.3.3: explicit freshness, and a `Content-Location` that is the target.
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

/// What an unsafe request invalidates if it succeeds (RFC 9111 4.4): its target, if the route says so, and what
/// response and policy name. In safe mode, failures that may have changed data count too.
fn changed<RB>(
    route: &Route,
    method: &Method,
    write: Option<&Write>,
    response: &Response<RB>,
) -> Changed {
    let (policy, status) = (&route.policy, response.status());
    // timeouts and errors from middleware are responses too, and the handler may have committed before
    let may_have_changed = policy.mode == Mode::Safe && leaves_open(status);
    if !invalidates(method, status) && !may_have_changed {
        return Changed::default();
    }
    let mut changed = match write {
        Some(write) => uris_and_groups(route, method, write, status, response.headers()),
        None => Changed::default(),
    };
    changed.other_scopes.extend(tags_of(route));
    if let Some(overrides) = response.extensions().get::<CacheOverride>() {
        changed.other_scopes.extend(tags_in(overrides));
    }
    changed
}

/// The target, the URIs in `Location` and `Content-Location`, and the cache groups.
fn uris_and_groups(
    route: &Route,
    method: &Method,
    write: &Write,
    status: StatusCode,
    response: &HeaderMap,
) -> Changed {
    let mut targets = write.targets.clone();
    let fields: &[HeaderName] = match route.policy.invalidates_location {
        true => &[LOCATION, CONTENT_LOCATION],
        false => &[CONTENT_LOCATION],
    };
    let mut groups = Vec::new();
    let named = invalidated_groups(method, status, response);
    for target in &write.targets {
        let Some((scheme, authority)) = target.origin() else { continue };
        // RFC 9875 3: groups of the same origin, without a cascade
        let group = |name: &String| Scope::Tag(Scope::group(scheme, authority, name));
        groups.extend(named.iter().map(group));
        let target_uri = Target { scheme, authority, path: &write.path };
        let others = same_origin_targets(target_uri, response, fields);
        targets.extend(others.iter().flat_map(|uri| route.keys.on_same_origin(target, uri)));
    }
    Changed { targets, other_scopes: groups }
}

/// The tags in the policy's `invalidates`.
fn tags_of(route: &Route) -> impl Iterator<Item = Scope> {
    route.policy.invalidates.iter().map(|name| Scope::Tag(Tag::from(*name)))
}

/// The tags in the override's `invalidates`.
fn tags_in(overrides: &CacheOverride) -> impl Iterator<Item = Scope> {
    overrides.invalidates.iter().filter_map(|tag| match tag.check() {
        Ok(()) => Some(Scope::Tag(tag.clone())),
        Err(error) => {
            tracing::error!(%error, "CacheOverride::invalidates names a tag that no response can have");
            None
        }
    })
}

/// Invalidates before the response is returned, and returns the ids of the log rows. A failure is logged. The client
/// gets its response anyway, because the handler has done its work.
async fn after_write<St: Store>(
    engine: &Arc<Engine<St>>,
    route: &Arc<Route>,
    changed: Changed,
) -> Vec<u64> {
    if changed.is_nothing() {
        return Vec::new();
    }
    let Changed { targets, other_scopes } = changed;
    wait_for(engine, invalidate_targets(engine, route, &targets, other_scopes)).await
}

/// Waits for an invalidation, for a limited time. The invalidation continues in the background.
async fn wait_for<St>(
    engine: &Engine<St>,
    appended: impl Future<Output = Result<Vec<u64>, StoreError>>,
) -> Vec<u64> {
    match bounded(INVALIDATION_LIMIT, appended).await {
        Ok(ids) => ids,
        Err(error) => {
            // all other errors have already been counted
            if matches!(error, StoreError::Timeout) {
                count(&engine.counters.invalidation_errors);
            }
            report_failure(&error);
            Vec::new()
        }
    }
}
