//! No client gets a byte that was made for another client, neither in a body nor in a field of any response.
//!
//! Random clients send random requests to random handlers. Each handler marks every field and the body of its
//! response. The mark is `all` if the response would be stored for everyone, assuming that it is a 200 to the same
//! request. Otherwise, the mark names the client (`only:u3`, `only:r17`). No client may get a mark with another
//! client's name.
//!
//! - To add a kind of credentials, add a row to [`credentials::KINDS`].
//! - To add settings or layers, add a row to [`routes`].
//!
//! `TMC_LEAKS=1000000` sets the number of requests. `TMC_LEAKS_SEED` repeats the random choices of a run, but not
//! their order in time.

#[path = "../../histories/chance.rs"]
mod chance;
mod credentials;
mod origin;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};
use tower_mysql_cache::invalidation::Invalidation;
use tower_mysql_cache::policy::Authorization;
use tower_mysql_cache::store::ManualClock;
use tower_mysql_cache::{CacheHandle, CacheLayer, CachePolicy, CacheStatus, Cookies, MemoryStore};

use chance::Chance;
use credentials::{Credential, KINDS};
use origin::{Body, ONLY, Origin, Session};

const CLIENTS: u64 = 8;
const PATHS: u64 = 4;
const REQUESTS: u64 = 10_000;
const SECOND: Duration = Duration::from_secs(1);
const LIVELY: CachePolicy = CachePolicy::new()
    .ttl(SECOND)
    .stale_while_revalidate(SECOND)
    .stale_if_error(SECOND.saturating_mul(2))
    .handler_timeout(Duration::from_millis(200))
    .early_refresh(50.0);

/// What is between a client and the handler.
pub(crate) struct Route {
    pub(crate) name: &'static str,
    /// The credentials that are not in the key. Whether a response to them is shared depends on the response.
    pub(crate) keyed: &'static [&'static str],
    /// The credentials that the handler does not read.
    pub(crate) ignored: &'static [&'static str],
    /// A cookie that is stripped from stored responses.
    pub(crate) stripped: Option<&'static str>,
    /// The strict mode (RFC 9111): a 200 is stored with its cookies.
    pub(crate) strict: bool,
    policy: CachePolicy,
    /// Puts the cache around the handler, and other layers around or between them.
    build: fn(&CacheLayer<MemoryStore>, Handler) -> Service,
}

const SAFE: Route = Route {
    name: "safe",
    keyed: &[],
    ignored: &[],
    stripped: None,
    strict: false,
    policy: LIVELY,
    build: |cache, handler| boxed(cache.layer(handler)),
};

/// All set-ups that requests are sent through.
fn routes() -> Vec<Route> {
    vec![
        SAFE,
        Route { name: "explicit", policy: CachePolicy::new(), ..SAFE },
        Route {
            name: "keyed",
            keyed: &["who", "basic", "bearer"],
            ignored: &["sid"],
            policy: LIVELY.cookies(Cookies::Key(&["who"])).authorization(Authorization::Key),
            ..SAFE
        },
        Route {
            name: "listed",
            ignored: &["who"],
            policy: LIVELY.cookies(Cookies::BypassIf(&["sid"])),
            ..SAFE
        },
        Route {
            name: "excepted",
            ignored: &["who"],
            policy: LIVELY.cookies(Cookies::Except(&["who"])),
            ..SAFE
        },
        Route {
            name: "stripped",
            stripped: Some("seen"),
            policy: LIVELY.strip_set_cookies(&["seen"]),
            ..SAFE
        },
        Route {
            name: "strict",
            ignored: &["sid", "who", "api-key", "proxied"],
            strict: true,
            policy: CachePolicy::rfc9111().stale_while_revalidate(SECOND),
            ..SAFE
        },
        Route {
            name: "nested",
            build: |cache, handler| {
                // the policy of the inner layer decides
                let outer = cache.with_policy(LIVELY.cookies(Cookies::Ignore));
                boxed(outer.layer(cache.layer(handler)))
            },
            ..SAFE
        },
        Route {
            name: "guarded",
            build: |cache, handler| {
                let inner = cache.layer(handler);
                let sessions =
                    tower::service_fn(move |request| with_session(inner.clone(), request));
                boxed(cache.guard().layer(sessions))
            },
            ..SAFE
        },
    ]
}

/// A layer outside the cache that starts sessions, which the cache does not see.
async fn with_session<S, B>(inner: S, mut request: Request<()>) -> Result<Response<B>, &'static str>
where
    S: tower::Service<Request<()>, Response = Response<B>, Error = &'static str>,
{
    let number = number_of(&request);
    let begins = number.bytes().map(u64::from).sum::<u64>() % 4;
    if begins < 2 {
        request.extensions_mut().insert(Session);
    }
    let mut response = inner.oneshot(request).await?;
    tokio::task::yield_now().await;
    let (name, value) = match begins {
        0 => ("set-cookie", format!("session={ONLY}{number}")),
        1 => ("cache-control", "private".to_owned()),
        _ => return Ok(response),
    };
    response.headers_mut().append(name, value.parse().unwrap());
    Ok(response)
}

type Handler = BoxCloneSyncService<Request<()>, Response<Body>, &'static str>;
type Service = BoxCloneSyncService<Request<()>, Response<Body>, &'static str>;

fn boxed<S, B>(service: S) -> Service
where
    S: tower::Service<Request<()>, Response = Response<B>, Error = &'static str>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    Service::new(service.map_response(|response| response.map(BodyExt::boxed_unsync)))
}

/// A route and its cache.
struct Site {
    route: &'static Route,
    service: Service,
}

struct World {
    seed: usize,
    sites: Vec<Site>,
    handle: CacheHandle,
    origin: Origin,
    clock: ManualClock,
    sent: AtomicU64,
    total: u64,
    /// How often something happened.
    seen: Mutex<BTreeMap<&'static str, u64>>,
}

impl World {
    fn new(seed: usize, total: u64) -> Self {
        let clock = ManualClock::at(1_700_000_000_000);
        let store = MemoryStore::builder().clock(clock.clone()).build().expect("a store");
        let layer = CacheLayer::new(store).prefix("leaks");
        let origin = Origin::new(seed);
        let sites = routes().into_iter().map(|route| {
            let route: &'static Route = Box::leak(Box::new(route));
            let cache = layer.with_policy(route.policy);
            let handler = origin.clone();
            let handler = tower::service_fn(move |request| handler.clone().answer(route, request));
            Site { route, service: (route.build)(&cache, Handler::new(handler)) }
        });
        let (sites, handle) = (sites.collect(), layer.handle());
        let sent = AtomicU64::new(0);
        Self { seed, sites, handle, origin, clock, sent, total, seen: Mutex::default() }
    }

    fn note(&self, what: &'static str) {
        *self.seen.lock().unwrap().entry(what).or_default() += 1;
    }

    async fn client(self: Arc<Self>, client: u64) {
        let mut chance = Chance::new(self.seed.wrapping_mul(31).wrapping_add(client as usize));
        loop {
            let number = self.sent.fetch_add(1, Ordering::Relaxed);
            if number >= self.total {
                return;
            }
            if chance.one_in(40) {
                self.clock.advance(Duration::from_millis(chance.below(1_000)));
            }
            if chance.one_in(150) {
                let uri = format!("/{}/{}", self.any(&mut chance).route.name, chance.below(PATHS));
                let named = Invalidation::uri(&uri);
                let named = if chance.one_in(2) { named.soft() } else { named };
                self.handle.invalidate(named).await.expect("in memory");
            }
            self.send(number, &mut chance).await;
        }
    }

    fn any(&self, chance: &mut Chance) -> &Site {
        &self.sites[chance.below(self.sites.len() as u64) as usize]
    }

    async fn send(&self, number: u64, chance: &mut Chance) {
        let site = self.any(chance);
        let request = request(site.route, number, chance);
        let user = credentials::identity(site.route, request.headers());
        let has_credentials = user.is_some();
        let own = [user, Some(number_of(&request)), origin::site_of(request.headers())];
        let own: Vec<String> = own.into_iter().flatten().collect();
        let asked = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
        let Ok(response) = site.service.clone().oneshot(request).await else {
            return self.note("failed");
        };
        let (parts, body) = response.into_parts();
        let status = parts.extensions.get::<CacheStatus>().expect("a status").clone();
        self.tell(&parts, &status, has_credentials);
        for (name, value) in &parts.headers {
            self.check(&own, value.as_bytes(), name.as_str(), &asked, &status);
        }
        if chance.one_in(30) {
            return self.note("left");
        }
        let body = body.collect().await.expect("a body").to_bytes();
        self.check(&own, &body, "the body", &asked, &status);
    }

    /// Whether all marks are for everyone or for this client.
    fn check(&self, own: &[String], bytes: &[u8], place: &str, asked: &str, status: &CacheStatus) {
        let text = String::from_utf8_lossy(bytes);
        for mark in text.split(origin::ONLY).skip(1) {
            let whose: String = mark.chars().take_while(char::is_ascii_alphanumeric).collect();
            assert!(
                own.contains(&whose),
                "{place} holds what was made for {whose}, and the client is {own:?}: {text:?}\n\
                 request: {asked}\nstatus: {status:?}\nthe other answer: {:?}\nTMC_LEAKS_SEED={}",
                self.origin.answer_to(&whose),
                self.seed
            );
        }
    }

    fn tell(&self, parts: &http::response::Parts, status: &CacheStatus, has_credentials: bool) {
        if status.is_hit() {
            self.note(if status.reason().map(|reason| reason.as_str()).is_some() {
                "stale hits"
            } else {
                "hits"
            });
            if has_credentials {
                self.note("hits with credentials");
            }
        }
        if status.is_collapsed() {
            self.note("collapsed");
        }
        let field = parts.headers.get("cache-status").map_or("", |field| field.to_str().unwrap());
        if field.contains("fwd-status=304") {
            self.note(match has_credentials {
                true => "validated with credentials",
                false => "validated without",
            });
        }
        self.note(match parts.status.as_u16() {
            206 => "parts",
            304 => "not modified",
            500.. => "errors",
            _ => "others",
        });
    }
}

/// The mark of one request that has no other mark.
fn number_of(request: &Request<()>) -> String {
    request.headers()["x-request"].to_str().unwrap().to_owned()
}

fn request(route: &Route, number: u64, chance: &mut Chance) -> Request<()> {
    let method = if chance.one_in(8) { "HEAD" } else { "GET" };
    let path = chance.below(PATHS);
    let uri = format!("http://h/{}/{path}", route.name);
    let mut request = Request::builder().method(method).uri(uri);
    request = request.header("x-request", format!("r{number}"));
    request = request.header("x-lang", ["de", "fr"][chance.below(2) as usize]);
    let mut line = |percent: u64, name: &str, value: &str| {
        if chance.below(100) < percent {
            request
                .headers_mut()
                .unwrap()
                .append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        }
    };
    // not shorter than a mark, because half a mark could be the mark of another client
    line(10, "range", "bytes=0-15");
    line(8, "if-none-match", &origin::etag_of(path, 0));
    line(3, "if-modified-since", origin::MODIFIED);
    line(3, "cache-control", "no-cache");
    line(2, "cache-control", "no-store");
    line(3, "cache-control", "max-stale=2");
    line(2, "if-match", "*");
    line(10, "origin", &format!("https://{}s{}", origin::ONLY, number % 3));
    line(10, "cookie", "_ga=GA1.1");
    let mut kinds: HashMap<&str, &Credential> = HashMap::new();
    if chance.below(100) < 45 {
        // usually one user with one kind of credentials
        let times = if chance.one_in(10) { 2 } else { 1 };
        let user = chance.below(5);
        for _ in 0..times {
            let kind = &KINDS[chance.below(KINDS.len() as u64) as usize];
            // one field has one value
            kinds.entry(kind.field).or_insert(kind);
        }
        for kind in kinds.values() {
            (kind.add)(request.headers_mut().unwrap(), user);
        }
    }
    request.body(()).expect("a request")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_gets_a_byte_made_for_another_client() {
    let number = |name| std::env::var(name).ok().map(|number| number.parse().expect("a number"));
    let total = number("TMC_LEAKS").unwrap_or(REQUESTS);
    let seed = number("TMC_LEAKS_SEED").unwrap_or_else(|| RandomState::new().hash_one(0_u8));
    let world = Arc::new(World::new(seed as usize, total));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(Arc::clone(&world).client(client));
    }
    while let Some(ended) = clients.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    world.handle.flush().await.expect("in memory");
    let mut seen = world.seen.lock().unwrap().clone();
    seen.extend(world.origin.told());
    let counts = world.handle.counts();
    seen.insert("refreshes", counts.refreshes);
    seen.insert("early refreshes", counts.early_refreshes);
    for reason in ["private-outside", "set-cookie-outside"] {
        seen.insert(reason, world.handle.reasons().get(reason).copied().unwrap_or_default());
    }
    // a run in which these never happen proves nothing
    for what in EVERYTHING {
        assert!(seen.get(what).is_some_and(|&times| times > 0), "no {what}: {seen:?}");
    }
    println!("{total} requests: {seen:?}");
}

/// The outcomes that must happen in every run.
const EVERYTHING: &[&str] = &[
    "collapsed",
    "confirmed for one client",
    "confirmed for everyone",
    "early refreshes",
    "errors",
    "failed",
    "hits",
    "hits with credentials",
    "left",
    "not modified",
    "parts",
    "private-outside",
    "refreshes",
    "set-cookie-outside",
    "stale hits",
    "validated with credentials",
    "validated without",
];
