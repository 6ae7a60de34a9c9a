//! Methods other than GET and HEAD: the handler first, then what it invalidates, then the answer.

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
use crate::store::{Store, StoreError};
use crate::tag::{Scope, Tag};
use crate::telemetry::{count, handler_span};

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
    let post = StorablePost::of(&engine, &route, write.as_ref(), &parts);
    // a handler that is dropped, fails or panics may have done its work all the same
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
    let changed = changed(&route, &method, write.as_ref(), &response);
    let own_rows = after_write(&engine, &route, changed).await;
    let received_ms = engine.store.now_ms();
    if let (Some(post), Some(write)) = (post, &write)
        && represents_target(&route, write, &response, received_ms)
    {
        return Ok(post.after(&own_rows).store_or_pass_on(response, received_ms).await);
    }
    let status = CacheStatus::forwarded(Forward::Method, None);
    engine.explain(&status);
    Ok(Finish::new(&route, status).apply(response))
}

/// A POST whose response may be stored, for later requests of its target.
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
        before.snapshot.method = Method::GET; // what the response, if it is stored, will answer
        let status = CacheStatus::forwarded(Forward::Method, None);
        Some(Self(Miss { cx, before, status, leader: None }))
    }

    /// Its own invalidation, these rows of the log, does not count for its response; any other one does.
    fn after(self, own_rows: &[u64]) -> Miss<St> {
        let Self(mut miss) = self;
        let snapshot = &mut miss.before.snapshot;
        snapshot.position = Arc::new(snapshot.position.with_seen(own_rows));
        miss
    }
}

/// However a handler ends, it may have written to the log on a connection of its own: what it committed
/// counts for every request that begins after this has been dropped.
struct NoteWriteOnDrop<'a, St: Store>(&'a St);

impl<St: Store> Drop for NoteWriteOnDrop<'_, St> {
    fn drop(&mut self) {
        self.0.note_write();
    }
}

/// What an unsafe request has changed, or may have changed.
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

/// Invalidates when the request ends without a response.
struct InvalidateOnDrop<St: Store> {
    engine: Arc<Engine<St>>,
    route: Arc<Route>,
    /// Nothing once the response is there.
    changed: Changed,
}

impl<St: Store> InvalidateOnDrop<St> {
    fn new(engine: &Arc<Engine<St>>, route: &Arc<Route>, write: Option<&Write>) -> Self {
        let targets = write.map(|write| write.targets.clone()).unwrap_or_default();
        let changed = Changed { targets, other_scopes: tags_of(route).collect() };
        Self { engine: Arc::clone(engine), route: Arc::clone(route), changed }
    }

    /// The inner service failed: what it did before is not known.
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
    tracing::error!(%error, reason, "an invalidation failed: stale entries may be served");
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

/// What the success of an unsafe request invalidates (RFC 9111 4.4), or in safe mode a failure that may have changed
/// something: the target, if the route invalidates it, and what the response and the policy name.
fn changed<RB>(
    route: &Route,
    method: &Method,
    write: Option<&Write>,
    response: &Response<RB>,
) -> Changed {
    let (policy, status) = (&route.policy, response.status());
    // the time-outs and errors of middleware are responses too: the handler may have committed before
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

/// The target, the URI in `Location` or `Content-Location`, and the cache groups.
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
        // RFC 9875 3: those of the same origin, and nothing that they lead to
        let group = |name: &String| Scope::Tag(Scope::group(scheme, authority, name));
        groups.extend(named.iter().map(group));
        let target_uri = Target { scheme, authority, path: &write.path };
        let others = same_origin_targets(target_uri, response, fields);
        targets.extend(others.iter().flat_map(|uri| route.keys.on_same_origin(target, uri)));
    }
    Changed { targets, other_scopes: groups }
}

/// The tags that the policy invalidates.
fn tags_of(route: &Route) -> impl Iterator<Item = Scope> {
    route.policy.invalidates.iter().map(|name| Scope::Tag(Tag::from(*name)))
}

/// The tags that the response invalidates.
fn tags_in(overrides: &CacheOverride) -> impl Iterator<Item = Scope> {
    overrides.invalidates.iter().filter_map(|tag| match tag.check() {
        Ok(()) => Some(Scope::Tag(tag.clone())),
        Err(error) => {
            tracing::error!(%error, "CacheOverride::invalidates names a tag that no response can have");
            None
        }
    })
}

/// Invalidates what an unsafe request has changed, before its response is returned, and returns the ids of the log
/// rows. A failure is reported, but the client still gets its response, because the handler has done its work.
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

/// Waits for an invalidation, but not for long: it goes on in the background.
async fn wait_for<St>(
    engine: &Engine<St>,
    appended: impl Future<Output = Result<Vec<u64>, StoreError>>,
) -> Vec<u64> {
    match bounded(INVALIDATION_LIMIT, appended).await {
        Ok(ids) => ids,
        Err(error) => {
            // every other failure has been counted where it happened
            if matches!(error, StoreError::Timeout) {
                count(&engine.counters.invalidation_errors);
            }
            report_failure(&error);
            Vec::new()
        }
    }
}
