//! The life of one request: look up, judge, serve; else call inside, decide, record.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tower::{Service, ServiceExt};
use tracing::Instrument;

use super::admission::Plan;
use super::fill::{Fill, Filled};
use super::judge::{Asked, Kept};
use super::lookup::{At, Found, Lookup, selected};
use super::reply::{self, Finish, Want};
use super::validate::{self, Stripped};
use super::{Engine, Route};
use crate::body::{CacheBody, Recorder};
use crate::cookies::Credentials;
use crate::key::variant_key;
use crate::overrides::CacheOverride;
use crate::policy::Mode;
use crate::rfc9111::reuse::request_takes_stale;
use crate::rfc9111::{RequestDirectives, Reuse, reuse};
use crate::status::{CacheStatus, Forward};
use crate::store::Store;
use crate::stored::VariantIndex;
use crate::tag::Validity;
use crate::telemetry::{count, inside_span};

/// Reasons that lie in the response and will most likely hold for the next one.
const UNSTORABLE: &[&str] =
    &["no-store", "private", "set-cookie", "vary-any", "no-freshness", "no-cache", "streaming"];

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
    let (mut parts, body) = request.into_parts();
    let lookup = engine.lookup(&route, &plan, &parts.headers).await;
    let directives = RequestDirectives::parse(&parts.headers);
    let Lookup { found, validity, index } = lookup;
    let verdict = judge_found(&engine, &route, &plan, &parts, &directives, found, validity);
    let (status, stale) = match verdict {
        Verdict::Serve(response) => return Ok(response),
        Verdict::Inside(status, stale) => (status, stale),
    };
    // RFC 9111 5.2.1.7; RFC 9211 2: nothing is said about responses of the cache's own making
    if directives.only_if_cached {
        engine.explain(&status);
        let mut response = Response::new(CacheBody::stored(Default::default()));
        *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
        response.extensions_mut().insert(status);
        return Ok(response);
    }
    let bypassed = status.forward() == Some(Forward::Bypass);
    count(if bypassed { &engine.counters.bypassed } else { &engine.counters.misses });

    let asked = Asked::of(&engine.store, &plan, &parts);
    let client = Stripped::take(&mut parts, stale.as_ref(), engine.is_unstorable(&plan.base));
    let miss = Miss {
        fills: engine.fills_so_far(),
        started: Instant::now(),
        asked,
        client,
        index,
        stale,
        status,
    };
    let inside = inner.oneshot(Request::from_parts(parts, body));
    let response = inside.instrument(inside_span()).await?;
    Ok(miss.answer(engine, route, plan, response).await)
}

/// What becomes of what a lookup found.
enum Verdict<RB> {
    Serve(Response<CacheBody<RB>>),
    /// With a stored response that may be validated.
    Inside(CacheStatus, Option<At>),
}

fn judge_found<St: Store, RB>(
    engine: &Engine<St>,
    route: &Route,
    plan: &Plan,
    request: &Parts,
    directives: &RequestDirectives,
    found: Found,
    validity: Validity,
) -> Verdict<RB> {
    let inside = |forward, detail, stale| {
        // whoever carries credentials would have been served only what is for everyone
        let status = match plan.credentials {
            Credentials::None => CacheStatus::forwarded(forward, detail),
            credentials => CacheStatus::forwarded(Forward::Bypass, Some(credentials.as_str())),
        };
        Verdict::Inside(status, stale)
    };
    let at = match found {
        Found::Nothing(forward, detail) => return inside(forward, detail, None),
        Found::Response(at) => at,
    };
    let now_ms = engine.store.now_ms();
    let head = &at.response.head;
    // RFC 9111 5.2.1 leaves it to the cache: in safe mode clients cannot drive load
    let obeyed = (route.policy.mode == Mode::Strict).then_some(directives);
    let reused = reuse(head, &request.headers, plan.credentials, obeyed, now_ms);
    let taken_stale = || {
        let forbidden = route.directives(&head.headers).forbids_stale();
        !forbidden && obeyed.is_some_and(|wanted| request_takes_stale(head, wanted, now_ms))
    };
    match (reused, validity) {
        (Reuse::VaryMiss | Reuse::NotShared, _) | (_, Validity::Valid) => {}
        // RFC 9111 4.4: not without validation, whatever would permit it stale
        (_, Validity::Invalid) => return inside(Forward::Stale, Some("invalidated"), Some(at)),
        (_, Validity::Outdated) => return inside(Forward::Stale, Some("outdated"), Some(at)),
    }
    match reused {
        Reuse::Stale if taken_stale() => {}
        Reuse::Fresh => {}
        Reuse::Stale => return inside(Forward::Stale, None, Some(at)),
        Reuse::RequestWants => return inside(Forward::Request, None, Some(at)),
        Reuse::VaryMiss => return inside(Forward::VaryMiss, None, None),
        Reuse::NotShared => return inside(Forward::Bypass, None, None),
    }
    match Want::of(request, head, at.response.body.len(), now_ms) {
        Want::Inside => inside(Forward::Request, Some("precondition"), None),
        want => {
            count(&engine.counters.hits);
            let status = reply::hit(head, now_ms);
            engine.explain(&status);
            let key = &plan.base;
            Verdict::Serve(reply::serve(route, key, at.response, &want, request, status, now_ms))
        }
    }
}

/// A request that has gone inside, and what was known before it did.
pub(super) struct Miss {
    /// Fills of this process so far.
    pub(super) fills: u64,
    pub(super) started: Instant,
    pub(super) asked: Asked,
    /// The client's own conditions, where the handler did not see them.
    pub(super) client: Option<Stripped>,
    pub(super) index: Option<Arc<VariantIndex>>,
    /// The stored response that the handler was asked to validate, or that is simply out of date.
    pub(super) stale: Option<At>,
    pub(super) status: CacheStatus,
}

impl Miss {
    async fn answer<St, RB>(
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
        let validated = self.client.as_ref().is_some_and(|client| client.validating);
        let confirmed = validated && response.status() == StatusCode::NOT_MODIFIED;
        match self.stale.take() {
            Some(at) if confirmed => {
                return validate::revalidated(
                    &engine,
                    &route,
                    &plan,
                    self,
                    at,
                    response,
                    received_ms,
                );
            }
            Some(at) if plan.head_only => {
                validate::compare_head(&engine, &route, &self, at, &response, received_ms);
            }
            _ => {}
        }
        self.keep(engine, route, plan, response, received_ms).await
    }

    /// Records the response on its way to the client, if it may be stored.
    pub(super) async fn keep<St, RB>(
        mut self,
        engine: Arc<Engine<St>>,
        route: Arc<Route>,
        plan: Plan,
        response: Response<RB>,
        received_ms: u64,
    ) -> Response<CacheBody<RB>>
    where
        St: Store,
        RB: Body<Error: Send> + Send + 'static,
    {
        let (mut parts, body) = response.into_parts();
        let overrides = parts.extensions.remove::<CacheOverride>();
        let gen_ms = u32::try_from(self.started.elapsed().as_millis()).unwrap_or(u32::MAX);
        let index = self.index.as_ref();
        let kept = self.asked.judge(&route, overrides.as_ref(), &parts, index, received_ms, gen_ms);
        let kept = match kept {
            Ok(kept) => kept,
            Err(reason) => {
                count(&engine.counters.not_stored);
                if parts.status.is_success() && UNSTORABLE.contains(&reason) {
                    engine.remember_unstorable(&plan.base);
                }
                self.status.detail.get_or_insert(reason);
                engine.explain(&self.status);
                let unchanged = self.client.as_ref().is_some_and(|c| c.has(&parts, received_ms));
                let finish = Finish::keyed(&route, &plan.base, self.status);
                if unchanged {
                    return finish.wrap(reply::not_modified(parts));
                }
                return finish.apply(Response::from_parts(parts, body));
            }
        };
        let declared = parts.headers.get(CONTENT_LENGTH);
        let declared = declared.and_then(|length| length.to_str().ok()?.parse().ok());
        // hyper stops at an exact length as well
        let declared = declared.or(body.size_hint().exact());
        let limit = route.policy.max_body_bytes;
        if declared.is_some_and(|declared: u64| declared > limit as u64) {
            engine.remember_unstorable(&plan.base);
        }
        let filled = Filled::default();
        let fill = self.fill(Arc::clone(&engine), &route, &plan, kept, filled.clone());
        let recorder = Recorder::new(Box::new(fill), limit, declared);
        let mut waiting = Some((body, recorder));
        // one poll, with the waker of whoever waits for this response
        let recorded = poll_fn(|cx| match waiting.take() {
            Some((body, recorder)) => Poll::Ready(CacheBody::recording(body, recorder, cx)),
            None => Poll::Pending,
        });
        let (body, recorded) = recorded.await;
        if let Some(reason) = recorded.reason() {
            self.status.detail.get_or_insert(reason);
            engine.explain(&self.status);
            let finish = Finish::keyed(&route, &plan.base, self.status);
            return finish.wrap(Response::from_parts(parts, body));
        }
        self.status.set_stored();
        engine.explain(&self.status);
        // the client's own conditions, which the handler did not see, hold against what is stored now
        if let (Some(client), Some(response)) = (&self.client, filled.get()) {
            let asked = client.request();
            match Want::of(&asked, &response.head, response.body.len(), received_ms) {
                Want::Whole | Want::Inside => {}
                want => {
                    let (key, status) = (&plan.base, self.status.with_fwd_status(parts.status));
                    let stored = response.clone();
                    let reply =
                        reply::serve(&route, key, stored, &want, &asked, status, received_ms);
                    return reply::with_what_is_this_clients(reply, parts);
                }
            }
        }
        let finish = Finish::keyed(&route, &plan.base, self.status);
        finish.wrap(Response::from_parts(parts, body))
    }

    fn fill<St: Store>(
        &self,
        engine: Arc<Engine<St>>,
        route: &Route,
        plan: &Plan,
        kept: Kept,
        filled: Filled,
    ) -> Fill<St> {
        let Kept { head, expires_ms, names } = kept;
        let (base, path) = plan.place(route, &head.headers);
        let mut indexes: Vec<_> = path.into_iter().collect();
        let key = if names.is_empty() {
            base
        } else {
            let variant = selected(&names, &self.asked.headers);
            let seen = self.index.as_ref().filter(|index| index.names == names);
            let variants = seen.map(|index| index.variants.clone()).unwrap_or_default();
            let index = VariantIndex { names, variants, search: None };
            let key = variant_key(&base, &variant);
            indexes.push((base, with_variant(index, variant)));
            key
        };
        let (base, queue_bytes) = (plan.base.clone(), route.queue_bytes);
        Fill { engine, base, key, head, indexes, expires_ms, queue_bytes, filled }
    }
}

/// The index with this variant as its newest.
fn with_variant(mut index: VariantIndex, variant: [u8; 16]) -> VariantIndex {
    index.variants.retain(|known| *known != variant);
    index.variants.push(variant);
    index
}
