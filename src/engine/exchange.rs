//! The life of one request: look up, judge, serve; else call inside, decide, record.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, SET_COOKIE};
use http::{HeaderMap, HeaderName, Method, Request, Response};
use http_body::Body;
use tower::{Service, ServiceExt};

use super::admission::{Plan, Write};
use super::fence::Moment;
use super::fill::Fill;
use super::lookup::{Found, Lookup, variant_of};
use super::reply::{self, Finish};
use super::{Engine, Route};
use crate::body::{CacheBody, Recorder};
use crate::cookies::{Credentials, set_cookies_left};
use crate::overrides::CacheOverride;
use crate::rfc9111::{
    Candidate, Mode, Nominated, NotStored, RequestDirectives, ResponseDirectives, Reuse, Storable,
    nominated, reuse, select, stored_fields,
};
use crate::status::{CacheStatus, Forward};
use crate::store::Store;
use crate::stored::{StoredHead, VariantIndex};
use crate::tag::LogPosition;
use crate::telemetry::count;

/// More names than this in the `Vary` fields of one target are a mistake: nothing is stored.
const MAX_VARY_NAMES: usize = 32;

/// Longer lifetimes than a year are cut: nobody gains by them, and clocks change.
const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// GET and HEAD: out of the store, or through it.
pub(crate) async fn exchange<St, S, B, RB>(
    engine: Arc<Engine<St>>,
    route: Arc<Route>,
    plan: Plan,
    request: Request<B>,
    inner: S,
) -> Result<Response<CacheBody<RB>>, S::Error>
where
    St: Store,
    S: Service<Request<B>, Response = Response<RB>>,
    RB: Body<Error: Send> + Send + 'static,
{
    let (parts, body) = request.into_parts();
    let Lookup { found, index } = engine.lookup(&route, &plan.base, &parts.headers).await;
    let (forward, detail) = match found {
        Found::Nothing(forward, detail) => (forward, detail),
        Found::Response(stored) => {
            let now_ms = engine.store.now_ms();
            match reuse(&stored.head, &parts.headers, plan.credentials, None, now_ms) {
                Reuse::Fresh => {
                    count(&engine.counters.hits);
                    return Ok(reply::serve(&route, &plan.base, stored, plan.head_only, now_ms));
                }
                Reuse::Stale => (Forward::Stale, None),
                Reuse::VaryMiss => (Forward::VaryMiss, None),
                Reuse::RequestWants => (Forward::Request, None),
                Reuse::NotShared => (Forward::Bypass, None),
            }
        }
    };
    // whoever carries credentials would have been served only what is for everyone
    let (forward, detail) = match plan.credentials {
        Credentials::None => (forward, detail),
        credentials => (Forward::Bypass, Some(credentials.as_str())),
    };
    count(if forward == Forward::Bypass {
        &engine.counters.bypassed
    } else {
        &engine.counters.misses
    });

    let miss = Miss {
        moment: engine.fence.moment(),
        requested_ms: engine.store.now_ms(),
        started: Instant::now(),
        method: parts.method.clone(),
        headers: parts.headers.clone(),
        index,
        status: CacheStatus::forwarded(forward, detail),
    };
    let response = inner.oneshot(Request::from_parts(parts, body)).await?;
    Ok(miss.keep(engine, route, plan, response).await)
}

/// A request that has gone inside, and what was known before it did.
struct Miss {
    moment: Moment,
    requested_ms: u64,
    started: Instant,
    method: Method,
    headers: HeaderMap,
    index: Option<Arc<VariantIndex>>,
    status: CacheStatus,
}

impl Miss {
    /// Records the response on its way to the client, if it may be stored.
    async fn keep<St, RB>(
        mut self,
        engine: Arc<Engine<St>>,
        route: Arc<Route>,
        plan: Plan,
        response: Response<RB>,
    ) -> Response<CacheBody<RB>>
    where
        St: Store,
        RB: Body<Error: Send> + Send + 'static,
    {
        let received_ms = engine.store.now_ms();
        let (mut parts, body) = response.into_parts();
        let overrides = parts.extensions.remove::<CacheOverride>();
        let head = self.judge(&route, &plan, overrides, &parts, received_ms);
        let (body, stored) = match head {
            Err(reason) => {
                count(&engine.counters.not_stored);
                self.status.detail.get_or_insert(reason);
                (CacheBody::passthrough(body), false)
            }
            Ok((head, names)) => {
                let declared = parts.headers.get(CONTENT_LENGTH);
                let declared = declared.and_then(|length| length.to_str().ok()?.parse().ok());
                let fill = self.fill(Arc::clone(&engine), &route, &plan, head, names);
                let limit = route.policy.max_body_bytes;
                let recorder = Recorder::new(Box::new(fill), limit, declared);
                let mut waiting = Some((body, recorder));
                // one poll, with the waker of whoever waits for this response
                poll_fn(|cx| match waiting.take() {
                    Some((body, recorder)) => Poll::Ready(CacheBody::recording(body, recorder, cx)),
                    None => Poll::Pending,
                })
                .await
            }
        };
        if stored {
            self.status.set_stored();
        }
        let field = reply::field(&route, &self.status, Some(&plan.base));
        Finish { field, status: self.status }.wrap(Response::from_parts(parts, body))
    }

    /// The head to store and the names that the target varies on, or the named reason why not.
    fn judge(
        &self,
        route: &Route,
        plan: &Plan,
        overrides: Option<CacheOverride>,
        response: &http::response::Parts,
        received_ms: u64,
    ) -> Result<(StoredHead, Vec<HeaderName>), &'static str> {
        let policy = &route.policy;
        let directives = ResponseDirectives::parse(&response.headers);
        let cookies: Vec<_> = response.headers.get_all(SET_COOKIE).iter().cloned().collect();
        let candidate = Candidate {
            method: &self.method,
            request: &RequestDirectives::parse(&self.headers),
            credentials: plan.credentials,
            status: response.status,
            headers: &response.headers,
            directives: &directives,
            mode: Mode::Safe,
            policy_ttl: policy.ttl_for(response.status),
            overrides,
            set_cookie_left: set_cookies_left(&cookies, policy.stripped_cookies),
            validatable: false,
            requested_ms: self.requested_ms,
            received_ms,
            max_lifetime: MAX_LIFETIME,
        };
        let Storable { initial_age_ms, shared, fresh_until_ms, .. } =
            candidate.decide().map_err(NotStored::as_str)?;
        let own = match nominated(&response.headers) {
            Nominated::None => Vec::new(),
            Nominated::Names(names) => names,
            Nominated::Any => return Err(NotStored::VaryAny.as_str()),
        };
        // once a target varies, all its responses are stored as variants: one that lacks Vary does
        // not replace the others
        let mut names = self.index.as_ref().map(|index| index.names.clone()).unwrap_or_default();
        names.extend(own.iter().cloned());
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        if names.len() > MAX_VARY_NAMES {
            return Err("vary-too-long");
        }
        let mut headers = stored_fields(&response.headers, &directives, received_ms);
        let keep_cookies = overrides.is_some_and(|overrides| overrides.with_set_cookie);
        if !keep_cookies {
            headers.remove(SET_COOKIE);
        }
        let gen_ms = u32::try_from(self.started.elapsed().as_millis()).unwrap_or(u32::MAX);
        let head = StoredHead {
            status: response.status,
            headers,
            requested_ms: self.requested_ms,
            received_ms,
            initial_age_ms,
            fresh_until_ms,
            gen_ms,
            shared,
            vary: select(&own, &self.headers),
            tags: Vec::new(),
            position: LogPosition::default(),
        };
        Ok((head, names))
    }

    fn fill<St: Store>(
        &self,
        engine: Arc<Engine<St>>,
        route: &Route,
        plan: &Plan,
        head: StoredHead,
        names: Vec<HeaderName>,
    ) -> Fill<St> {
        let base = plan.base.clone();
        let expires_ms = head.fresh_until_ms;
        let (key, index) = if names.is_empty() {
            (base, None)
        } else {
            let index = Arc::new(VariantIndex { names });
            (variant_of(&base, &index, &self.headers), Some((base, index)))
        };
        let (moment, queue_bytes) = (self.moment, route.queue_bytes);
        Fill { engine, key, head, index, expires_ms, moment, queue_bytes }
    }
}

/// Other methods: inside first, then invalidation, then the answer.
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
    RB: Body + Send + 'static,
{
    let method = request.method().clone();
    let response = inner.oneshot(request).await?;
    if let Some(write) = write {
        engine.after_write(&route, &method, write, response.status(), response.headers()).await;
    }
    let status = CacheStatus::forwarded(Forward::Method, None);
    Ok(Finish::new(&route, status).apply(response))
}
