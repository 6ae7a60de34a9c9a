//! A handler that answers at random, and marks everything with the client that it was made for.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use tower_mysql_cache::CacheOverride;

use super::Route;
use super::chance::Chance;
use super::credentials;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The beginning of a mark for one client.
pub(crate) const ONLY: &str = "only:";
pub(crate) const MODIFIED: &str = "Tue, 15 Nov 1994 12:45:26 GMT";
/// The length of every body, so that a HEAD agrees with every GET.
const LENGTH: usize = 64;
/// Fields that any response may have.
const FIELDS: &[&str] = &[
    "x-user",
    "x-csrf-token",
    "x-cart",
    "link",
    "content-language",
    "content-location",
    "cache-groups",
    "x-long-name-of-a-field-that-nobody-knows",
    "server-timing",
    "x-mode",
];

/// What the responses of a path say about lifetime and sharing.
const CACHE_CONTROL: &[&str] = &[
    "public, max-age=1",
    "public, max-age=1",
    "public, max-age=1",
    "public, max-age=2",
    "public, s-maxage=2",
    "public, max-age=1, stale-while-revalidate=3",
    "s-maxage=1",
    "max-age=1",
    "max-age=0",
    "public, max-age=0",
    "no-cache",
    "public, no-cache",
    "private, max-age=1",
    "no-store",
    "max-age=1, must-revalidate",
    "public",
];

pub(crate) fn etag_of(path: u64, version: u64) -> String {
    format!("\"{path}.{version}\"")
}

/// The site that a request comes from, by its own words.
pub(crate) fn site_of(asked: &HeaderMap) -> Option<String> {
    let origin = asked.get("origin")?.to_str().unwrap();
    Some(origin.rsplit(':').next()?.to_owned())
}

/// In a request: a layer outside the cache has started a session, and the response is made for it.
#[derive(Clone)]
pub(crate) struct Session;

#[derive(Clone)]
pub(crate) struct Origin {
    seed: usize,
    calls: Arc<AtomicUsize>,
    told: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    /// The latest responses, by the numbers of their requests.
    answers: Arc<Mutex<HashMap<String, Answered>>>,
}

/// A request, and the status, the fields and the override of its response.
type Answered = (http::Uri, HeaderMap, u16, HeaderMap, Option<CacheOverride>);

impl Origin {
    pub(crate) fn new(seed: usize) -> Self {
        Self { seed, calls: Arc::default(), told: Arc::default(), answers: Arc::default() }
    }

    /// All responses so far.
    pub(crate) fn told(&self) -> BTreeMap<&'static str, u64> {
        self.told.lock().unwrap().clone()
    }

    /// The response to a request, if it is still known.
    pub(crate) fn answer_to(&self, number: &str) -> Option<String> {
        self.answers.lock().unwrap().get(number).map(|answer| format!("{answer:?}"))
    }

    fn tell(&self, what: &'static str) {
        *self.told.lock().unwrap().entry(what).or_default() += 1;
    }

    pub(crate) async fn answer(
        self,
        route: &Route,
        request: Request<()>,
    ) -> Result<Response<Body>, &'static str> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut chance = Chance::new(self.seed.wrapping_mul(37).wrapping_add(call));
        chance.below(2);
        if chance.one_in(100) {
            // long enough for an early refresh
            std::thread::sleep(Duration::from_millis(2));
        }
        for _ in 0..chance.below(4) {
            tokio::task::yield_now().await;
        }
        if chance.one_in(60) {
            return Err("broken");
        }
        Ok(self.response(route, &request, &mut chance))
    }

    fn response(
        &self,
        route: &Route,
        request: &Request<()>,
        chance: &mut Chance,
    ) -> Response<Body> {
        let asked = request.headers();
        let path = request.uri().path().rsplit('/').next().unwrap().parse().unwrap();
        let conditional =
            asked.contains_key("if-none-match") || asked.contains_key("if-modified-since");
        let status = match chance.below(20) {
            0 => [404, 500, 503, 410, 308][chance.below(5) as usize],
            1 if asked.contains_key("range") => 206,
            2..16 if conditional => 304,
            _ => 200,
        };
        let mut headers = HeaderMap::new();
        let mut add = |name: &str, value: &str| {
            let name = HeaderName::try_from(name).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        };
        // most 304 responses do not contain a lifetime
        if chance.below(10) < if status == 304 { 4 } else { 7 } {
            let said = CACHE_CONTROL[chance.below(CACHE_CONTROL.len() as u64) as usize];
            // a field that a 304 omits keeps its stored value, so a path has either the one or the other
            let targeted = path == 3;
            let field = if targeted { "tower-mysql-cache-control" } else { "cache-control" };
            add(field, said);
        }
        // versions change rarely, so that validators often agree
        let validator = etag_of(path, chance.below(10) / 9);
        match (chance.below(10), asked.get("if-none-match")) {
            (0..7, Some(asked)) if status == 304 => add("etag", asked.to_str().unwrap()),
            (0..7, _) => add("etag", &validator),
            (7, _) => add("etag", &format!("W/{validator}")),
            (8, _) => add("last-modified", MODIFIED),
            _ => {}
        }
        if chance.one_in(8) {
            add("vary", ["x-lang", "cookie", "*"][chance.below(3) as usize]);
        }
        // each path either varies on the site or does not
        let varies = path % 2 == 0;
        if varies {
            add("vary", "origin");
        }
        let site = asked.get("origin").filter(|_| chance.one_in(2) && !route.strict);
        if let Some(site) = site {
            add("access-control-allow-origin", site.to_str().unwrap());
        }
        let sets = if chance.one_in(8) { 1 + chance.below(2) } else { 0 };
        let names = ["seen", "sid"];
        let overrides = (status != 304 && chance.one_in(20))
            .then(|| CacheOverride::new().ttl(Duration::from_secs(chance.below(2))).tag("t"));
        let cookies: Vec<_> = (0..sets).map(|_| names[chance.below(2) as usize]).collect();
        let for_everyone = request.extensions().get::<Session>().is_none()
            && (site.is_none() || varies)
            && is_for_everyone(route, asked, &headers, &cookies, status);
        let number = asked["x-request"].to_str().unwrap().to_owned();
        let whose = credentials::identity(route, asked).unwrap_or_else(|| number.clone());
        let mark = if for_everyone { "all".to_owned() } else { format!("{ONLY}{whose}") };
        if status == 304 || request.method() == Method::HEAD {
            self.tell(match for_everyone {
                true => "confirmed for everyone",
                false => "confirmed for one client",
            });
        }
        let mut add = |name: &str, value: &str| {
            let name = HeaderName::try_from(name).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        };
        for name in FIELDS {
            match chance.below(4) {
                0 => add(name, &mark),
                1 if chance.one_in(3) => {
                    add(name, &mark);
                    add(name, &mark);
                }
                _ => {}
            }
        }
        if path != 3 && headers.contains_key("cache-control") {
            headers.append("cache-control", format!("for=\"{mark}\"").parse().unwrap());
        }
        for name in cookies {
            // a cookie is for its own client; in strict mode, that of a stored 200 is for everyone
            let everyones = route.strict && for_everyone && status != 304;
            let everyones = everyones && request.method() != Method::HEAD;
            let mark = if everyones { "all".to_owned() } else { format!("{ONLY}{number}") };
            headers.append("set-cookie", format!("{name}={mark}; Path=/").parse().unwrap());
        }
        let mut response = Response::new(body(&mark, status, request.method(), chance));
        *response.status_mut() = status.try_into().unwrap();
        if request.method() == Method::HEAD && status == 200 && chance.one_in(2) {
            headers.insert("content-length", LENGTH.into());
        }
        let mut answers = self.answers.lock().unwrap();
        if answers.len() > 10_000 {
            answers.clear();
        }
        let (uri, asked) = (request.uri().clone(), asked.clone());
        answers.insert(number, (uri, asked, status, headers.clone(), overrides.clone()));
        drop(answers);
        *response.headers_mut() = headers;
        if let Some(overrides) = overrides {
            response.extensions_mut().insert(overrides);
        }
        response
    }
}

/// Whether the response would be stored for everyone as far as privacy is concerned, assuming that it is a 200 to the
/// same request.
fn is_for_everyone(
    route: &Route,
    asked: &HeaderMap,
    headers: &HeaderMap,
    cookies: &[&str],
    status: u16,
) -> bool {
    let lines = |name| {
        let lines = headers.get_all(name).iter().map(|line| line.to_str().unwrap());
        lines.collect::<Vec<_>>().join(", ")
    };
    let targeted = lines("tower-mysql-cache-control");
    let said = if targeted.is_empty() { lines("cache-control") } else { targeted };
    let says = |what: &str| said.split(", ").any(|directive| directive == what);
    let asks = |what: &str| asked.get_all("cache-control").iter().any(|line| line == what);
    if says("private") || says("no-store") || asks("no-store") || status == 206 {
        return false;
    }
    let sets = cookies.iter().any(|name| Some(*name) != route.stripped);
    if sets && !route.strict {
        return false;
    }
    let shared = says("public") || says("s-maxage=1") || (route.strict && says("must-revalidate"));
    if credentials::are_left(route, asked) {
        return shared;
    }
    // a response under a key with credentials is for everyone who has these credentials
    credentials::identity(route, asked).is_none()
}

fn body(mark: &str, status: u16, method: &Method, chance: &mut Chance) -> Body {
    if status == 304 || *method == Method::HEAD {
        return Full::default().boxed_unsync();
    }
    let text = Bytes::from(format!("{mark:-<LENGTH$}"));
    if chance.one_in(4) {
        let halves = [text.slice(..LENGTH / 2), text.slice(LENGTH / 2..)];
        let halves = futures_util::stream::unfold(halves.into_iter(), |mut halves| async move {
            tokio::task::yield_now().await;
            let half = halves.next()?;
            Some((Ok::<_, Infallible>(Frame::data(half)), halves))
        });
        return StreamBody::new(halves).boxed_unsync();
    }
    Full::from(text).boxed_unsync()
}
