use http::HeaderValue;
use http::header::ETAG;
use proptest::prelude::*;

use super::super::testing::{NOW_MS, at, headers};
use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const SAFE_AND_STRICT: [Mode; 2] = [Mode::Safe, Mode::Strict];

/// The careful choices, and those that permit whatever RFC 9111 permits.
#[derive(Clone, Copy, Debug)]
enum Mode {
    Safe,
    Strict,
}

fn ttl(lifetime: Duration) -> Instructions {
    Instructions { lifetime: Some(lifetime), ..Instructions::default() }
}

impl Instructions {
    fn shared(self) -> Self {
        Self { shared: true, ..self }
    }

    fn with_set_cookie(self) -> Self {
        Self { set_cookie: true, ..self }
    }
}

/// A GET answered with 200 and these fields, at once.
struct Case {
    method: Method,
    request: HeaderMap,
    credentials: Credentials,
    status: u16,
    headers: HeaderMap,
    mode: Mode,
    default_lifetime: Option<Duration>,
    instructions: Instructions,
    sets_cookie: bool,
    delay_ms: u64,
    max_lifetime: Duration,
}

fn case(fields: &[(&str, &str)]) -> Case {
    Case {
        method: Method::GET,
        request: HeaderMap::new(),
        credentials: Credentials::None,
        status: 200,
        headers: headers(fields),
        mode: Mode::Safe,
        default_lifetime: None,
        instructions: Instructions::default(),
        sets_cookie: false,
        delay_ms: 0,
        max_lifetime: Duration::MAX,
    }
}

fn cc(value: &str) -> Case {
    case(&[("cache-control", value)])
}

impl Case {
    fn mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    fn ttl(self, ttl: Duration) -> Self {
        Self { default_lifetime: Some(ttl), ..self }
    }

    fn instructed(self, instructions: Instructions) -> Self {
        Self { instructions, ..self }
    }

    fn by(self, credentials: Credentials) -> Self {
        Self { credentials, ..self }
    }

    fn set_cookie(self) -> Self {
        Self { sets_cookie: true, ..self }
    }

    fn validatable(mut self) -> Self {
        self.headers.insert(ETAG, HeaderValue::from_static("\"a\""));
        self
    }

    fn decide(&self) -> Result<Storable, NotStorable> {
        Candidate {
            method: &self.method,
            request: &RequestDirectives::parse(&self.request),
            credentials: self.credentials,
            status: StatusCode::from_u16(self.status).unwrap(),
            headers: &self.headers,
            directives: &ResponseDirectives::parse(&self.headers),
            options: Options {
                heuristics: matches!(self.mode, Mode::Strict),
                must_revalidate_shares: matches!(self.mode, Mode::Strict),
                set_cookie: matches!(self.mode, Mode::Strict),
                default_lifetime: self.default_lifetime,
                max_lifetime: self.max_lifetime,
            },
            instructions: self.instructions,
            sets_cookie: self.sets_cookie,
            useful_stale: false,
            requested_ms: NOW_MS - self.delay_ms,
            received_ms: NOW_MS,
        }
        .decide()
    }

    /// The lifetime in seconds.
    fn lifetime(&self) -> Result<u64, NotStorable> {
        self.decide().map(|storable| storable.lifetime.as_secs())
    }
}

// RFC 9111 3
#[test]
fn only_responses_to_get_are_stored() {
    for method in ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "QUERY"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let case = Case { method, ..cc("max-age=60") };
        assert_eq!(case.decide(), Err(NotStorable::Method));
    }
    assert_eq!(cc("max-age=60").lifetime(), Ok(60));
}

// RFC 9111 3
#[test]
fn interim_responses_are_not_stored() {
    for status in [100, 102, 103, 199] {
        assert_eq!(cc("max-age=60").status(status).decide(), Err(NotStorable::Status), "{status}");
    }
    assert_eq!(cc("max-age=60").status(101).decide(), Err(NotStorable::Upgrade));
}

// RFC 9111 3
#[test]
fn a_206_and_a_304_are_not_stored() {
    let forced = ttl(MINUTE).shared();
    for mode in SAFE_AND_STRICT {
        for (status, reason) in [(206, NotStorable::Partial), (304, NotStorable::Status)] {
            let case = cc("max-age=60, public").status(status).mode(mode);
            assert_eq!(case.decide(), Err(reason));
            assert_eq!(case.instructed(forced).decide(), Err(reason));
        }
    }
}

// RFC 9111 3
#[test]
fn any_final_status_is_stored_with_explicit_freshness() {
    for mode in SAFE_AND_STRICT {
        for status in [
            200, 201, 202, 203, 204, 205, 299, 302, 307, 399, 400, 404, 418, 499, 500, 503, 599,
            999,
        ] {
            assert_eq!(cc("max-age=60").status(status).mode(mode).lifetime(), Ok(60), "{status}");
            let expires = case(&[("expires", &at(60))]).status(status).mode(mode);
            assert_eq!(expires.lifetime(), Ok(60), "{status}");
        }
    }
}

// RFC 9111 5.2.2.3
#[test]
fn must_understand_stores_known_statuses_only_and_ignores_no_store() {
    for mode in SAFE_AND_STRICT {
        for value in ["no-store, must-understand, max-age=60", "must-understand, max-age=60"] {
            assert_eq!(cc(value).mode(mode).lifetime(), Ok(60), "{value}");
            assert_eq!(cc(value).mode(mode).status(404).lifetime(), Ok(60), "{value}");
            for status in [299, 499, 599] {
                let unknown = cc(value).mode(mode).status(status).decide();
                assert_eq!(unknown, Err(NotStorable::MustUnderstand), "{value}");
            }
        }
        let malformed = cc("no-store, must-understand=1, max-age=60").mode(mode);
        assert_eq!(malformed.decide(), Err(NotStorable::NoStore));
    }
}

// RFC 9111 5.2.2.5
#[test]
fn a_no_store_response_is_not_stored() {
    for mode in SAFE_AND_STRICT {
        for value in ["no-store", "No-Store, max-age=60", "s-maxage=60, public, NO-STORE"] {
            let case = cc(value).mode(mode).ttl(MINUTE);
            assert_eq!(case.decide(), Err(NotStorable::NoStore), "{value}");
            assert_eq!(case.validatable().decide(), Err(NotStorable::NoStore), "{value}");
        }
    }
}

// RFC 9111 5.2.1.5
#[test]
fn a_response_to_a_no_store_request_is_not_stored() {
    for mode in SAFE_AND_STRICT {
        let request = headers(&[("cache-control", "no-store")]);
        let case = Case { request, ..cc("max-age=60, public") }.mode(mode);
        assert_eq!(case.decide(), Err(NotStorable::RequestNoStore));
        let forced = case.instructed(ttl(MINUTE).shared());
        assert_eq!(forced.decide(), Err(NotStorable::RequestNoStore));
    }
}

// RFC 9111 5.2.2.7
#[test]
fn a_private_response_is_not_stored() {
    for mode in SAFE_AND_STRICT {
        for value in ["private", "private, max-age=60", "public, private, s-maxage=60"] {
            let case = cc(value).mode(mode).ttl(MINUTE);
            assert_eq!(case.decide(), Err(NotStorable::Private), "{value}");
        }
        // a qualified one takes out fields only
        assert_eq!(cc("private=\"x-user\", max-age=60").mode(mode).lifetime(), Ok(60));
    }
}

// RFC 9111 3.5
#[test]
fn a_response_to_authorization_is_stored_only_when_it_says_so() {
    for (value, in_safe, in_strict) in [
        ("max-age=60", false, false),
        ("max-age=60, public", true, true),
        ("s-maxage=60", true, true),
        ("max-age=60, s-maxage=0", false, false),
        ("max-age=60, s-maxage=x", false, false),
        ("max-age=60, must-revalidate", false, true),
        ("max-age=60, proxy-revalidate", false, false),
    ] {
        for (mode, stored) in [(Mode::Safe, in_safe), (Mode::Strict, in_strict)] {
            let case = || cc(value).mode(mode).instructed(ttl(MINUTE));
            let result = case().by(Credentials::Authorization).decide();
            match stored {
                true => assert!(result.unwrap().shared, "{value} {mode:?}"),
                false => assert_eq!(result, Err(NotStorable::Credentials), "{value} {mode:?}"),
            }
            // without credentials it is stored, and remembered whether it may be shared
            assert_eq!(case().decide().unwrap().shared, stored, "{value} {mode:?}");
        }
    }
}

// RFC 9111 7.3
#[test]
fn a_cookie_stores_only_what_says_that_it_is_for_everyone() {
    for mode in SAFE_AND_STRICT {
        let case = |value| cc(value).by(Credentials::Other).mode(mode);
        assert_eq!(case("max-age=60").decide(), Err(NotStorable::Credentials), "{mode:?}");
        // RFC 9111 3.5 lets this one in for `Authorization`, and says nothing of cookies
        let revalidated = case("max-age=60, must-revalidate");
        assert_eq!(revalidated.decide(), Err(NotStorable::Credentials), "{mode:?}");
        assert_eq!(case("x").ttl(MINUTE).decide(), Err(NotStorable::Credentials), "{mode:?}");
        assert_eq!(case("max-age=60, public").lifetime(), Ok(60), "{mode:?}");
        assert_eq!(case("s-maxage=60").lifetime(), Ok(60), "{mode:?}");
        let shared = case("max-age=60").instructed(Instructions::default().shared());
        assert_eq!(shared.lifetime(), Ok(60), "{mode:?}");
    }
}

// RFC 9111 7.3
#[test]
fn in_safe_mode_a_response_that_sets_a_cookie_is_not_stored() {
    for value in ["max-age=60", "max-age=60, public", "s-maxage=60"] {
        let case = cc(value).set_cookie();
        assert_eq!(case.decide(), Err(NotStorable::SetCookie), "{value}");
        assert_eq!(case.mode(Mode::Strict).lifetime(), Ok(60), "{value}");
    }
}

// RFC 9111 4.1
#[test]
fn a_response_that_varies_on_everything_is_not_stored() {
    for vary in ["*", "accept, *", "not a name"] {
        for mode in SAFE_AND_STRICT {
            let case = case(&[("cache-control", "max-age=60"), ("vary", vary)]).mode(mode);
            assert_eq!(case.decide(), Err(NotStorable::VaryAny), "{vary}");
            let forced = case.instructed(ttl(MINUTE).shared()).validatable();
            assert_eq!(forced.decide(), Err(NotStorable::VaryAny), "{vary}");
        }
    }
    assert!(case(&[("cache-control", "max-age=60"), ("vary", "accept")]).decide().is_ok());
}

// RFC 9111 3
#[test]
fn without_any_sign_of_freshness_nothing_is_stored() {
    let modified = at(-1000);
    for mode in SAFE_AND_STRICT {
        for value in ["public", "must-revalidate", "foo", "no-transform, immutable"] {
            assert_eq!(cc(value).mode(mode).decide(), Err(NotStorable::NoFreshness), "{value}");
        }
        assert_eq!(case(&[]).mode(mode).decide(), Err(NotStorable::NoFreshness));
    }
    // heuristics are for the strict mode
    let case = case(&[("last-modified", &modified)]);
    assert_eq!(case.decide(), Err(NotStorable::NoFreshness));
    assert_eq!(case.mode(Mode::Strict).lifetime(), Ok(100));
}

// RFC 9111 4.2.2
#[test]
fn statuses_without_heuristics_need_public() {
    let modified = at(-1000);
    for status in [201, 202, 403, 502, 503, 504, 599] {
        let plain = case(&[("last-modified", &modified)]).mode(Mode::Strict).status(status);
        assert_eq!(plain.decide(), Err(NotStorable::NoFreshness), "{status}");
        assert_eq!(plain.validatable().decide(), Err(NotStorable::NoFreshness), "{status}");
        let public = case(&[("last-modified", &modified), ("cache-control", "public")]);
        assert_eq!(public.mode(Mode::Strict).status(status).lifetime(), Ok(100), "{status}");
    }
}

// RFC 9111 4.2.1
#[test]
fn an_override_comes_first_then_the_response_then_the_policy_then_heuristics() {
    let fields = [("cache-control", "max-age=30"), ("last-modified", &*at(-1000))];
    let full = || case(&fields).mode(Mode::Strict).ttl(MINUTE);
    assert_eq!(full().instructed(ttl(Duration::from_secs(7))).lifetime(), Ok(7));
    assert_eq!(full().lifetime(), Ok(30));
    assert_eq!(case(&fields[1..]).mode(Mode::Strict).ttl(MINUTE).lifetime(), Ok(60));
    assert_eq!(case(&fields[1..]).mode(Mode::Strict).lifetime(), Ok(100));
    let zero = cc("max-age=0").ttl(MINUTE);
    assert_eq!(zero.decide(), Err(NotStorable::StaleOnArrival));
    assert_eq!(zero.instructed(ttl(MINUTE)).lifetime(), Ok(60));
    let expired = case(&[("expires", "0")]).ttl(MINUTE);
    assert_eq!(expired.decide(), Err(NotStorable::StaleOnArrival));
}

#[test]
fn no_store_private_cookies_and_credentials_win_over_the_policy() {
    for (case, reason) in [
        (cc("no-store"), NotStorable::NoStore),
        (cc("private"), NotStorable::Private),
        (cc("no-cache"), NotStorable::NoCache),
        (case(&[]).set_cookie(), NotStorable::SetCookie),
        (case(&[]).by(Credentials::Other), NotStorable::Credentials),
        (case(&[]).by(Credentials::Authorization), NotStorable::Credentials),
    ] {
        assert_eq!(case.ttl(MINUTE).decide(), Err(reason));
    }
}

#[test]
fn only_an_override_that_shares_lifts_them() {
    let minute = ttl(MINUTE);
    for (case, reason) in [
        (|| cc("no-store"), NotStorable::NoStore),
        (|| cc("private"), NotStorable::Private),
        (|| case(&[]).by(Credentials::Other), NotStorable::Credentials),
        (|| case(&[]).by(Credentials::Authorization), NotStorable::Credentials),
    ] as [(fn() -> Case, NotStorable); 4]
    {
        assert_eq!(case().instructed(minute).decide(), Err(reason));
        assert_eq!(case().instructed(minute.with_set_cookie()).decide(), Err(reason));
        let shared = case().instructed(minute.shared()).decide().unwrap();
        assert!(shared.shared && shared.lifetime == MINUTE);
        assert!(case().ttl(MINUTE).instructed(Instructions::default().shared()).decide().is_ok());
    }
    let sets_cookie = || case(&[]).set_cookie();
    assert_eq!(sets_cookie().instructed(minute.shared()).decide(), Err(NotStorable::SetCookie));
    assert_eq!(sets_cookie().instructed(minute.with_set_cookie()).lifetime(), Ok(60));
}

#[test]
fn an_override_forbids_storing_too() {
    let never = Instructions { no_store: true, ..Instructions::default() };
    assert_eq!(cc("public, max-age=60").instructed(never).decide(), Err(NotStorable::Instructed));
    let zero = ttl(Duration::ZERO).shared();
    assert_eq!(cc("max-age=60").instructed(zero).decide(), Err(NotStorable::Instructed));
    assert_eq!(
        cc("max-age=60").validatable().instructed(zero).decide(),
        Err(NotStorable::Instructed)
    );
}

// RFC 9111 5.2.2.4
#[test]
fn a_no_cache_response_is_stored_only_to_be_validated() {
    for mode in SAFE_AND_STRICT {
        for value in ["no-cache", "no-cache, max-age=60", "s-maxage=60, no-cache"] {
            assert_eq!(cc(value).mode(mode).decide(), Err(NotStorable::NoCache), "{value}");
            let kept = cc(value).mode(mode).validatable().decide().unwrap();
            assert_eq!(kept.lifetime, Duration::ZERO, "{value}");
            assert!(kept.fresh_until_ms <= NOW_MS, "{value}");
        }
        assert_eq!(cc("no-cache=\"x\", max-age=60").mode(mode).lifetime(), Ok(60));
    }
    assert_eq!(cc("no-cache").instructed(ttl(MINUTE)).lifetime(), Ok(60));
}

// RFC 9111 4.2, 4.2.3
#[test]
fn a_response_that_is_stale_when_it_comes_is_stored_only_to_be_validated() {
    for (age, delay_ms, fresh) in [
        ("59", 0, true),
        ("60", 0, false),
        ("59", 999, true),
        ("59", 1000, false),
        ("99999", 0, false),
    ] {
        let aged = || Case { delay_ms, ..case(&[("cache-control", "max-age=60"), ("age", age)]) };
        assert_eq!(aged().decide().is_ok(), fresh, "{age} {delay_ms}");
        if !fresh {
            assert_eq!(aged().decide(), Err(NotStorable::StaleOnArrival));
            assert!(aged().validatable().decide().unwrap().fresh_until_ms <= NOW_MS);
        }
    }
}

#[test]
fn a_strict_cache_keeps_for_validation_what_has_no_lifetime() {
    let kept = case(&[]).mode(Mode::Strict).validatable().decide().unwrap();
    assert!(kept.lifetime.is_zero() && kept.fresh_until_ms <= NOW_MS);
    assert_eq!(case(&[]).validatable().decide(), Err(NotStorable::NoFreshness));
}

// RFC 9111 4.2.3
#[test]
fn the_age_on_arrival_shortens_the_time_in_the_store() {
    let aged = Case { delay_ms: 1_500, ..case(&[("cache-control", "max-age=60"), ("age", "20")]) };
    let storable = aged.decide().unwrap();
    assert_eq!(storable.initial_age_ms, 21_500);
    assert_eq!(storable.fresh_until_ms, NOW_MS + 38_500);
}

// RFC 9111 1.2.2
#[test]
fn no_lifetime_exceeds_the_limit() {
    let limited = |case: Case| Case { max_lifetime: MINUTE, ..case }.lifetime();
    assert_eq!(limited(cc("max-age=3600")), Ok(60));
    assert_eq!(limited(case(&[]).ttl(MINUTE * 2)), Ok(60));
    assert_eq!(limited(case(&[]).instructed(ttl(Duration::MAX))), Ok(60));
    assert_eq!(case(&[]).ttl(Duration::MAX).lifetime(), Ok(1 << 31));
    assert_eq!(cc("max-age=99999999999999").lifetime(), Ok(1 << 31));
}

#[test]
fn endless_streams_are_not_stored() {
    for media_type in [
        "text/event-stream",
        "Text/Event-Stream; charset=utf-8",
        "multipart/x-mixed-replace;boundary=x",
        "application/grpc",
        "application/grpc-web+proto",
    ] {
        let stream = case(&[("content-type", media_type), ("cache-control", "max-age=60")]);
        assert_eq!(stream.decide(), Err(NotStorable::Streaming), "{media_type}");
    }
    assert!(
        case(&[("content-type", "text/html"), ("cache-control", "max-age=60")]).decide().is_ok()
    );
}

fn cache_control() -> impl Strategy<Value = String> {
    let directives = prop::sample::select(vec![
        "max-age=60",
        "max-age=0",
        "max-age=x",
        "s-maxage=60",
        "public",
        "private",
        "no-store",
        "no-cache",
        "must-revalidate",
        "must-understand",
        "foo=\"no-store\"",
        "private=\"x\"",
    ]);
    prop::collection::vec(directives, 0..5).prop_map(|directives| directives.join(", "))
}

proptest! {
    /// Whatever else is said: these are never stored without a word of the application.
    #[test]
    fn nothing_forbidden_is_ever_stored(
        value in cache_control(), strict: bool, status in 100u16..1000, ttl in prop::option::of(1u64..100),
        credentials in 0..3usize, sets_cookie: bool, validatable: bool, delay_ms in 0u64..100_000,
    ) {
        let mode = if strict { Mode::Strict } else { Mode::Safe };
        let credentials = [Credentials::None, Credentials::Other, Credentials::Authorization][credentials];
        let case = Case {
            sets_cookie, delay_ms, credentials, status, mode,
            default_lifetime: ttl.map(Duration::from_secs), ..cc(&value)
        };
        let case = if validatable { case.validatable() } else { case };
        let has = |name: &str| value.split(", ").any(|directive| directive == name);
        if let Ok(storable) = case.decide() {
            prop_assert!(status >= 200 && status != 206 && status != 304);
            prop_assert!(!has("no-store") || has("must-understand"));
            prop_assert!(!has("private"));
            prop_assert!(strict || !sets_cookie);
            prop_assert!(credentials != Credentials::Authorization || storable.shared);
            prop_assert!(strict || credentials == Credentials::None || has("public") || has("s-maxage=60"));
            let fresh = storable.fresh_until_ms > NOW_MS;
            prop_assert!(fresh || validatable);
            prop_assert!(!fresh || !has("no-cache"));
            prop_assert!(storable.fresh_until_ms <= NOW_MS + 100_000);
            let lifetime_ms = storable.lifetime.as_millis() as u64;
            // what the response itself says is held against its age, what the policy says is not
            prop_assert!(fresh || lifetime_ms <= storable.initial_age_ms);
            prop_assert!(!fresh || lifetime_ms > storable.initial_age_ms || ttl.is_some());
        }
    }
}
